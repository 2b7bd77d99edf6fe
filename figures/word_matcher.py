"""A positive control for needles: an encoder of two layers, set by hand, whose CLS row says what it matched.

It reads single tokens and no order: a query's tokens look for themselves in the document, and the CLS row sees
whether one of them is missing. Where its probe is at chance, the examples or the probe would be to blame.
"""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import processors
from transformers import AutoTokenizer, BertConfig, BertModel, PreTrainedTokenizerFast

WIDTH, NAMES = 256, 250
"""Features of a token, and those of them that tell which it is."""

MISSING, QUERY, SPECIAL = 250, 252, 254
"""Channels: not found, of the query, a CLS or SEP token. The one behind each is its negative, so all means are 0."""

SIDE, MARK = 4.0, 125.0**0.5
SHARP, SINK = 60.0, 0.65
"""The logit of a token with itself, and what a token that is not there loses to, as a share of it."""


class WordMatcher(BertModel):
    """The encoder; its name is its class."""


def word_matcher(spec: str, positions: int = 1024) -> tuple[WordMatcher, PreTrainedTokenizerFast]:
    """The encoder and its tokenizer, whose second segment has a type of its own.

    Args:
        spec: the folder of a model whose byte-level tokenizer it takes.
    """
    tokenizer = AutoTokenizer.from_pretrained(spec)
    cls, sep = tokenizer.cls_token, tokenizer.sep_token
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}",
        pair=f"{cls} $A {sep} $B:1 {sep}:1",
        special_tokens=[(cls, tokenizer.cls_token_id), (sep, tokenizer.sep_token_id)],
    )
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=1,
        intermediate_size=1, max_position_embeddings=positions, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = WordMatcher(config, add_pooling_layer=False).eval()
    with torch.no_grad():
        _set_by_hand(model, _names(tokenizer), [tokenizer.cls_token_id, tokenizer.sep_token_id])
    return model, tokenizer


def _names(tokenizer: Any) -> torch.Tensor:
    """A random balanced vector of ±1 for each token, one for a word with and without the space before it."""
    generator = torch.Generator().manual_seed(0)
    words = {text.removeprefix("Ġ") for text in tokenizer.get_vocab()}
    half = torch.cat([torch.ones(NAMES // 2), -torch.ones(NAMES // 2)])
    drawn = {word: half[torch.randperm(NAMES, generator=generator)] for word in sorted(words)}
    found = torch.zeros(len(tokenizer), NAMES)
    for text, at in tokenizer.get_vocab().items():
        found[at] = drawn[text.removeprefix("Ġ")]
    return found


def _set_by_hand(model: WordMatcher, names: torch.Tensor, special: list[int]) -> None:
    for name, weights in model.named_parameters():
        weights.fill_(1.0 if name.endswith("LayerNorm.weight") else 0.0)
    words, types = model.embeddings.word_embeddings.weight, model.embeddings.token_type_embeddings.weight
    words[:, :NAMES] = names
    words[special, :NAMES] = 0
    words[special, SPECIAL], words[special, SPECIAL + 1] = MARK, -MARK
    types[0, QUERY], types[0, QUERY + 1] = SIDE, -SIDE
    types[1] = -types[0]
    # Every token has one norm, so layer norm only scales: by this once embedded.
    scale = (WIDTH / (NAMES + 2 * SIDE**2)) ** 0.5
    root = WIDTH**0.5
    first, second = (layer.attention for layer in model.encoder.layer)
    # First layer: each looks for itself in the document, or else at the SEP token there, whose mark says "missing".
    first.self.query.weight[:NAMES, :NAMES] = torch.eye(NAMES) * SHARP * root / (NAMES * scale**2)
    first.self.query.bias[QUERY] = -SHARP * root / (SIDE * scale)
    first.self.query.bias[SPECIAL] = SINK * SHARP * root / (MARK * scale)
    first.self.key.weight.copy_(torch.eye(WIDTH))
    first.self.value.weight[MISSING, SPECIAL] = 8 / (MARK * scale)
    # Second layer: all look at the query's own words, at the missing ones before the others.
    second.self.query.bias[QUERY] = 45 * root / (SIDE * scale)
    second.self.query.bias[MISSING] = 6 * root
    second.self.query.bias[SPECIAL] = -20 * root
    second.self.key.weight.copy_(torch.eye(WIDTH))
    second.self.value.weight[MISSING, MISSING] = 1.0
    for attention in (first, second):
        out = attention.output.dense.weight
        out[MISSING, MISSING], out[MISSING + 1, MISSING] = 1.0, -1.0
