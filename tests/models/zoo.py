"""Tiny models of many architectures of transformers, with random weights, and what is expected of each.

`python tests/models/zoo.py` writes the table of docs/architectures.md.
"""

import copy
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from transformers import AutoConfig, AutoModel

from cka_tools.documents import Document
from cka_tools.errors import UserError
from cka_tools.extraction.extract import prepare
from cka_tools.models import LoadedModel, load_model
from cka_tools.models.model import DTYPES
from cka_tools.settings import Settings
from cka_tools.store.cached_extraction import extract_cached

VOCABULARY = 125
LONGEST = 48

#: What configs call their sizes; each takes those that it knows.
_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
}


@dataclass(frozen=True)
class Animal:
    """One architecture.

    Attributes:
        model_type: as transformers names it.
        config: beyond the common sizes; a size that is None is left to the config.
        result: `works` in padded batches, `unpadded` in batches of equal length, or `refused`.
        branches: layers whose attention and MLP can be taken, all of them by default.
        says: words of the refusal.
        stack: as `--stack` takes it.
        name: where the model type alone does not tell.
        dtype: some experts do not compute in float64.
    """

    model_type: str
    config: dict[str, Any] = field(default_factory=dict)
    result: Literal["works", "unpadded", "refused"] = "works"
    branches: tuple[int, ...] = (0, 1, 2)
    says: str = ""
    stack: str | None = None
    name: str | None = None
    dtype: str = "float64"

    @property
    def label(self) -> str:
        """Its name in tests and in the table."""
        return (self.name or self.model_type) + (f" (--stack {self.stack})" if self.stack else "")


_PLAIN = dict.fromkeys(("num_key_value_heads", "head_dim"))
_FEW = _PLAIN | {"num_hidden_layers": None}
_POSITIONS = _PLAIN | {"max_position_embeddings": 66}  # behind a padding index
_D_MODEL = dict.fromkeys(_SIZES) | {"vocab_size": VOCABULARY, "d_model": 32, "pad_token_id": 1}
_SEQ2SEQ = {
    "encoder_layers": 3,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
_T5 = {"d_kv": 8, "d_ff": 48, "num_layers": 3, "num_decoder_layers": 2, "num_heads": 4}
_MOE = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_MAMBA = dict.fromkeys(_SIZES) | {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 3, "state_size": 8}
_VISION = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": 8,
    "patch_size": 4,
}
_DUAL = dict.fromkeys(_SIZES) | {
    "text_config": {name: value for name, value in _SIZES.items() if name not in _PLAIN},
    "vision_config": _VISION,
}
_CAMERA = dict.fromkeys(_SIZES) | _VISION
_SOUND = {"conv_dim": [8, 8], "conv_stride": [2, 2], "conv_kernel": [3, 3], "num_feat_extract_layers": 2}
_SPEECH = _CAMERA | {"image_size": None, "patch_size": None} | _SOUND

ZOO = (
    # Encoders with norms behind the residual.
    Animal("bert", _PLAIN),
    Animal("bert", _PLAIN | {"chunk_size_feed_forward": 3}, name="bert (feed-forward in pieces)"),
    Animal("roberta", _POSITIONS),
    Animal("xlm-roberta", _POSITIONS),
    Animal("camembert", _POSITIONS),
    Animal("electra", _PLAIN | {"embedding_size": 16}),
    Animal("distilbert", _FEW | {"n_layers": 3, "dim": 32, "n_heads": 4, "hidden_dim": 48}),
    Animal("mpnet", _POSITIONS),
    Animal("deberta", _PLAIN | {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}),
    Animal("deberta-v2", _PLAIN | {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}),
    Animal("roformer", _PLAIN | {"embedding_size": 32}),
    Animal("ibert", _POSITIONS),
    Animal("longformer", _POSITIONS | {"attention_window": 16}),
    Animal("big_bird", _PLAIN | {"block_size": 4, "num_random_blocks": 1}, "unpadded"),
    Animal("mobilebert", _PLAIN | {"embedding_size": 32, "intra_bottleneck_size": 16}, "unpadded", ()),
    Animal("nystromformer", _PLAIN | {"num_landmarks": 8, "segment_means_seq_len": 8}, "unpadded"),
    Animal("yoso", _PLAIN, "unpadded"),
    Animal("convbert", _PLAIN | {"embedding_size": 32}, "unpadded"),
    Animal("fnet", _PLAIN, "unpadded"),
    # In pieces of eight tokens, but for documents that are no longer than one.
    Animal("reformer", _PLAIN | {"axial_pos_embds": False, "attention_head_size": 8, "lsh_attn_chunk_length": 8,
                                 "local_attn_chunk_length": 8, "attn_layers": ["local", "lsh", "local"],
                                 "feed_forward_size": 48, "num_buckets": 4, "hash_seed": 0}, "unpadded", ()),
    # Layers that share weights.
    Animal("albert", _PLAIN | {"embedding_size": 16}),
    Animal("albert", _PLAIN | {"embedding_size": 16, "num_hidden_groups": 2}, name="albert (two groups)"),
    Animal("nomic_bert", _PLAIN),
    Animal("gte", _PLAIN),
    # Encoders with norms in front of the branches.
    Animal("modernbert", {"local_attention": 8, "global_attn_every_n_layers": 2, "cls_token_id": 0, "sep_token_id": 2}),
    Animal("roberta-prelayernorm", _POSITIONS),
    Animal("megatron-bert", _PLAIN),
    Animal("xlm-roberta-xl", _POSITIONS),
    Animal("eurobert"),
    Animal("neomme", {"head_dim": 16, "num_attention_heads": 2}, branches=()),  # they are scaled
    Animal("esm", _POSITIONS | {"mask_token_id": 4}),
    # Encoders of encoder-decoders, text halves.
    Animal("t5", _D_MODEL | _T5, stack="encoder"),
    Animal("umt5", _D_MODEL | _T5, stack="encoder"),
    Animal("bart", _D_MODEL | _SEQ2SEQ, stack="encoder"),
    Animal("mbart", _D_MODEL | _SEQ2SEQ, stack="encoder"),
    Animal("pegasus", _D_MODEL | _SEQ2SEQ, stack="encoder"),
    Animal("clip", _DUAL, stack="text"),
    Animal("siglip", _DUAL, stack="text"),
    # Decoders.
    Animal("openai-gpt", _PLAIN | {"n_positions": 64, "max_position_embeddings": None}),
    Animal("gpt2", _PLAIN),
    Animal("gpt_neo", _PLAIN | {"attention_types": [[["global", "local"], 1], [["global"], 1]], "window_size": 8,
                                "num_attention_heads": None, "num_heads": 4, "num_layers": 3,
                                "num_hidden_layers": None}),
    Animal("gpt_neox", _PLAIN),
    Animal("gptj", _PLAIN | {"rotary_dim": 4}),
    Animal("bloom", _PLAIN),
    Animal("opt", _PLAIN | {"word_embed_proj_dim": 32, "ffn_dim": 48}),
    Animal("opt", _PLAIN | {"word_embed_proj_dim": 16, "ffn_dim": 48, "do_layer_norm_before": False},
           name="opt (projected, as OPT-350m)"),
    Animal("mpt", _D_MODEL | {"n_layers": 3, "n_heads": 4, "max_seq_len": 64}),
    Animal("falcon", _PLAIN | {"max_position_embeddings": 64, "head_dim": None}),
    Animal("ctrl", _PLAIN | {"n_embd": 32, "dff": 48, "hidden_size": None}),
    Animal("llama"),
    Animal("mistral", {"sliding_window": 8}),
    Animal("qwen2"),
    Animal("phi", {"num_key_value_heads": 4}),
    Animal("olmo2"),
    Animal("gemma3_text", {"sliding_window": 8, "sliding_window_pattern": 2}),
    Animal("cohere"),
    Animal("glm4", {"partial_rotary_factor": 0.5}),
    Animal("mixtral", _MOE, dtype="float32"),
    Animal("llama4_text", _MOE | {"intermediate_size_mlp": 48}),
    # Without attention, or with little of it.
    Animal("mamba", _MAMBA, branches=()),
    Animal("mamba2", _MAMBA | {"num_heads": 8, "head_dim": 8, "n_groups": 2, "chunk_size": 8}, branches=()),
    Animal("rwkv", _PLAIN | {"attention_hidden_size": 32, "context_length": 64}, branches=(1, 2)),
    Animal("rwkv", _PLAIN | {"attention_hidden_size": 32, "rescale_every": 2}, branches=(1, 2), name="rwkv (rescaled)"),
    Animal("jamba", _MOE | {"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 8, "mamba_dt_rank": 4,
                            "use_mamba_kernels": False, "num_experts": 2}, branches=(1,), dtype="float32"),
    Animal("lfm2", {"layer_types": ["conv", "full_attention", "conv"]}),
    # What cannot be hooked, or reads no text.
    Animal("xlm", _PLAIN | {"emb_dim": 32, "n_layers": 3, "n_heads": 4, "hidden_size": None}, "refused",
           says="several lists of modules could be"),
    Animal("xlnet", _D_MODEL | {"n_layer": 3, "n_head": 4, "d_inner": 48}, "refused", says="layer 0 .* returns"),
    Animal("funnel", _D_MODEL | {"architectures": ["FunnelModel"], "block_sizes": [1, 1, 1], "n_head": 4,
                                 "d_head": 8, "d_inner": 48}, "refused",
           says="3 blocks were found, but 7 hidden states"),
    Animal("canine", _PLAIN | {"num_hash_buckets": 16, "local_transformer_stride": 8}, "refused",
           says="3 blocks were found, but 8 hidden states"),
    Animal("t5", _D_MODEL | _T5, "refused", says="--stack encoder"),
    Animal("clip", _DUAL, "refused", says="--stack text"),
    Animal("vit", _CAMERA, "refused", says="reads pixel_values, not text"),
    Animal("wav2vec2", _SPEECH, "refused", says="reads input_values, not text"),
)  # fmt: skip


def make(animal: Animal) -> nn.Module:
    """A model with weights large enough that layers differ, in evaluation mode."""
    common = {name: value for name, value in _SIZES.items() if name not in animal.config}
    own = {name: value for name, value in animal.config.items() if value is not None}
    config = AutoConfig.for_model(animal.model_type, **common, **own)
    torch.manual_seed(0)
    model = AutoModel.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and "emb" in name:
                parameter.normal_(std=0.3)  # the padding token's too
            elif parameter.dim() == 2:
                parameter.normal_(std=0.7 / parameter.shape[-1] ** 0.5)
            elif parameter.dim() == 1 and "norm" in name.lower():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def documents() -> list[Document]:
    """12 documents of 3 to 46 known words, no two alike."""
    draw = random.Random(7)
    lengths = [3, LONGEST - 2, *(draw.randint(3, LONGEST - 2) for _ in range(10))]
    return [Document(f"d{i}", " ".join(f"w{draw.randint(0, 119)}" for _ in range(k))) for i, k in enumerate(lengths)]


def largest_errors(animal: Animal, tokenizer: Any) -> Iterator[tuple[str, float]]:
    """What was taken, and how far our features are from a plain loop over single documents.

    The error is relative to the largest value of a layer. Every site that can be taken with every pooling, and
    mean pooling with a tokenizer that pads on the left.
    """
    model: Any = make(animal).to(DTYPES[animal.dtype])
    # The loop has a model of its own: some keep a state between passes.
    plain = load_model((copy.deepcopy(model), tokenizer), dtype=animal.dtype, stack=animal.stack)
    loaded = load_model((model, tokenizer), dtype=animal.dtype, stack=animal.stack)
    assert loaded.needs_equal_lengths == (animal.result == "unpadded")
    assert [block.index for block in loaded.blocks if block.attention and block.mlp] == list(animal.branches)
    sites = ("residual", "attention", "mlp") if len(animal.branches) == len(loaded.blocks) else ("residual",)
    texts = documents()
    alone = [one_alone(plain, tokenizer, document.text, sites) for document in texts]
    for pooling in ("mean", "cls", "last", "token"):
        for site in sites:
            settings = Settings(
                pooling=pooling, sites=site, batch_tokens=150, max_length=LONGEST, tokens_per_document=3
            )
            prepared = prepare([loaded], texts, settings)
            found = extract_cached(loaded, texts, settings, cache=False, prepared=prepared).features[0].features
            for layer, features in enumerate(found):
                states = [document[site][layer] for document in alone]
                yield f"{site}, {pooling}", error(features, pooled(states, pooling, prepared.positions))
    tokenizer.padding_side = "left"
    found = (
        extract_cached(loaded, texts, Settings(batch_tokens=150, max_length=LONGEST), cache=False).features[0].features
    )
    tokenizer.padding_side = "right"
    for layer, features in enumerate(found):
        states = [document["residual"][layer] for document in alone]
        yield "padding on the left", error(features, pooled(states, "mean", None))


def one_alone(loaded: LoadedModel, tokenizer: Any, text: str, sites: tuple[str, ...]) -> dict[str, list[torch.Tensor]]:
    """Hidden states (t, d) of one document in each layer, by site, from hooks set here.

    Below the last layer the residual stream is what the model itself reports.
    """
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    seen: dict[str, list[torch.Tensor]] = {}
    modules = dict(loaded.model.named_modules())
    paths = {(site, at): block.path if site == "residual" else getattr(block, site)
             for site in sites for at, block in enumerate(loaded.blocks)}  # fmt: skip
    handles = [
        modules[path].register_forward_hook(
            lambda module, args, output, path=path: seen.setdefault(path, []).append(
                (output[0] if isinstance(output, tuple | list) else output).clone()
            )
        )
        for path in dict.fromkeys(paths.values())
    ]
    chosen = getattr(loaded.model, "attention_type", None)
    with torch.no_grad():
        # A length that a feed-forward in pieces of 3 does not take is run by nobody.
        for module in modules.values():
            module.__dict__.update({name: 0 for name in ("chunk_size_feed_forward",) if name in module.__dict__})
        reported = loaded.model(input_ids=ids, attention_mask=torch.ones_like(ids), output_hidden_states=True)
    for handle in handles:
        handle.remove()
    if chosen is not None:
        loaded.model.set_attention_type(chosen)
    length = ids.shape[1]
    assert all(len(calls) == list(paths.values()).count(path) for path, calls in seen.items())
    found: dict[str, list[torch.Tensor]] = {site: [] for site in sites}
    for (site, at), path in paths.items():
        output = seen[path].pop(0)  # a module that runs several times does so in the order of its layers
        hidden = output.reshape(-1, output.shape[-1])[:length]
        found[site].append(hidden)
        if site == "residual" and at + 1 < len(loaded.blocks):
            own = [state[0, :length] for state in reported.hidden_states[at : at + 2]]
            assert any(torch.equal(hidden, scale * state) for state in own for scale in (1, 2))
    return found


def pooled(states: list[torch.Tensor], pooling: str, positions: np.ndarray | None) -> np.ndarray:
    """(documents, features), or (draws, documents, features), pooled document by document."""
    if pooling == "mean":
        return torch.stack([state.mean(0) for state in states]).numpy()
    if pooling in ("cls", "last"):
        return torch.stack([state[0 if pooling == "cls" else -1] for state in states]).numpy()
    assert positions is not None
    drawn = [state[torch.from_numpy(at)] for state, at in zip(states, positions, strict=True)]
    return torch.stack(drawn, 1).numpy()


def error(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference, relative to the largest value."""
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.abs(expected).max())


BEGIN, END = "<!-- zoo -->\n", "<!-- end of zoo -->\n"
PAGE = Path(__file__).parents[2] / "docs" / "architectures.md"


def row(animal: Animal, largest: float | None, refusal: str = "") -> str:
    """The line of the table."""
    if animal.result == "refused":
        return f"| {animal.label} | refused | {refusal} | |\n"
    how = {"works": "works", "unpadded": "works without padding"}[animal.result]
    branches = "yes" if len(animal.branches) == 3 else "no"
    return f"| {animal.label} | {how} | {branches} | {largest:.0e} |\n"


def write_table() -> None:
    """Measure all and write the table."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from conftest import make_tokenizer

    torch.set_num_threads(1)
    tokenizer, rows = make_tokenizer(), ""
    for animal in ZOO:
        try:
            largest = max(value for _, value in largest_errors(animal, tokenizer))
        except UserError as refusal:
            rows += row(animal, None, str(refusal).split(": ", 1)[1].split(", so it")[0])
        else:
            rows += row(animal, largest)
        print(rows.splitlines()[-1], flush=True)
    page = PAGE.read_text()
    before, after = page.split(BEGIN)[0], page.split(END)[1]
    head = "| architecture | result | attention and MLP | largest error |\n|---|---|---|---|\n"
    PAGE.write_text(before + BEGIN + head + rows + END + after)


if __name__ == "__main__":
    write_table()
