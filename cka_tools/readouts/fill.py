"""What masked language models put where a text says [MASK]."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from cka_tools.errors import UserError
from cka_tools.models import LoadOptions, ModelGiven, as_source, head_of
from cka_tools.models.language import vocabulary_logits

MASK = "[MASK]"
"""How a text marks what is to be filled, whatever a tokenizer's own mask token is called."""


@dataclass(frozen=True)
class Filled:
    """What one model puts in one place.

    Attributes:
        mask: which of the text's marks, from 0. tokens: the likeliest, with their probabilities, best first.
    """

    model: str
    mask: int
    tokens: list[tuple[str, float]]


def fill(models: Sequence[ModelGiven], text: str, *, top: int = 5, options: LoadOptions | None = None) -> list[Filled]:
    """The likeliest tokens at every [MASK] of a text, by each model.

    Raises:
        UserError: no model, a text without [MASK], a model without a masked-LM head.
    """
    if not models:
        raise UserError("no model is given: name one or more")
    if MASK not in text:
        raise UserError(f"text {text[:60]!r} has no {MASK}: write it where a word is missing")
    if isinstance(top, bool) or not isinstance(top, int) or top < 1:
        raise UserError(f"top {top!r} must be a whole number of at least 1")
    asked = (options or LoadOptions()).with_head()
    found = []
    for source in [as_source(one) for one in models]:
        if head_of(source, asked) != "masked":
            raise UserError(f"model {source.name!r} has a causal-LM head, which fills no {MASK}: give a masked LM")
        loaded = source.load(asked)
        tokenizer = loaded.tokenizer
        if tokenizer.mask_token is None:
            raise UserError(f"model {source.name!r}: its tokenizer has no mask token")
        limit = loaded.max_length
        ids = tokenizer(text.replace(MASK, tokenizer.mask_token), return_tensors="pt")["input_ids"].to(loaded.device)
        if limit is not None and ids.shape[1] > limit:
            raise UserError(f"the text has {ids.shape[1]} tokens, {source.name!r} takes {limit}: give a shorter one")
        places = (ids[0] == tokenizer.mask_token_id).nonzero()[:, 0]
        with loaded.evaluating():
            output = loaded.model(input_ids=ids, attention_mask=torch.ones_like(ids), return_dict=True)
            shares = vocabulary_logits(loaded, output.last_hidden_state[0, places]).float().softmax(-1)
        best = shares.topk(min(top, shares.shape[1]), dim=-1)
        for at, (values, indices) in enumerate(zip(best.values.tolist(), best.indices.tolist(), strict=True)):
            words = [tokenizer.decode([index]).strip() for index in indices]
            found.append(Filled(source.name, at, list(zip(words, values, strict=True))))
    return found
