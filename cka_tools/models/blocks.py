"""The transformer blocks of any encoder or decoder, and the modules whose outputs are their branches."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from cka_tools.errors import UserError

OTHERS = "give an architecture that docs/architectures.md lists as one that works"
"""What to do where an architecture does not fit."""

# Where known families keep their blocks, below the base model.
_BLOCK_LISTS = (
    "layers",  # ModernBERT and its decoder, Llama, Gemma 1 to 3, GPT-NeoX
    "encoder.layer",  # BERT, RoBERTa, and what was built on them
    "transformer.layer",  # DistilBERT
    "h",  # GPT-2
    "decoder.layers",  # OPT
    "encoder.layers",
    "language_model.layers",  # text half of a multimodal model
)

_SHARED_LIST = ("encoder.albert_layer_groups", "albert_layers")
"""ALBERT: groups of blocks, each of which runs several times; where its blocks are in a group."""

# Branches as they are *added to the residual*: attention (or what mixes tokens in its place), mlp, and the two
# norms of a post-norm block. The first row that the check at load can prove is taken (check.py); the first
# whose modules are there is the guess before that.
_BRANCHES = (
    # The contribution is what leaves a norm behind the branch: Gemma 2 and 3, OLMo 2; AFMoE; GLM-4; LFM2; …
    ("post_attention_layernorm", "post_feedforward_layernorm"),
    ("post_self_attn_layernorm", "post_mlp_layernorm"),
    ("post_operator_norm", "post_ffn_norm"),
    ("post_norm1", "post_norm2"),
    # BERT, RoBERTa: `output` holds dropout, residual and norm too, so the dense map is the branch.
    ("attention.output.dense", "output.dense", "attention.output.LayerNorm", "output.LayerNorm"),
    ("attention.attn.o", "output.dense", "attention.LayerNorm", "output.LayerNorm"),  # MPNet
    ("attention.dense", "ffn_output", "attention.LayerNorm", "full_layer_layer_norm"),  # ALBERT
    ("fourier.self", "output.dense", "fourier.output.LayerNorm", "output.LayerNorm"),  # FNet
    ("attention", "ffn", "sa_layer_norm", "output_layer_norm"),  # DistilBERT
    ("self_attn", "mlp", "post_attention_layernorm", "post_mlp_layernorm"),  # NomicBERT, GTE
    ("post_attention_layernorm", "post_mlp_layernorm"),  # AFMoE
    ("self_attn", "fc2", "self_attn_layer_norm", "final_layer_norm"),  # BART's encoder
    ("attn", "mlp", "ln_1", "ln_2"),  # the first GPT
    ("attention.output.dense", "output.dense"),  # BERT with its norms in front: Megatron, XLM-R-XL
    ("self_attn", "fc2"),  # OPT, XGLM, BioGPT; BART's descendants with their norms in front
    ("attn", "mlp"),  # ModernBERT and its decoder, GPT-2
    ("self_attn", "mlp"),  # Llama, Gemma
    ("linear_attn", "mlp"),  # Qwen3-Next
    ("attention", "mlp"),  # GPT-NeoX
    ("self_attention", "mlp"),  # Falcon, JetMoE
    ("self_attn", "feed_forward"),  # Llama 4
    ("conv", "feed_forward"),  # LFM2's short convolutions
    ("self_attn", "block_sparse_moe"),
    ("attention", "feed_forward"),  # RWKV
    ("multi_head_attention", "ffn"),  # CTRL
    # The residual is added inside the branch's module.
    ("self_attention.dense", "mlp.dense_4h_to_h"),  # Bloom
    ("attn", "ffn.down_proj"),  # MPT
    ("layer.0.SelfAttention", "layer.1.DenseReluDense"),  # T5
)

_SCOPES = {"full_attention": "global", "sliding_attention": "local"}


@dataclass
class Block:
    """One transformer block.

    Paths are relative to the base model. `attention` and `mlp` name the module whose output is the branch's
    contribution as it is added to the residual, or are None where no such module is known.
    `norms` are the two norms of a post-norm block. `candidates` are what these may be: (attention, mlp) or
    (attention, mlp, norm, norm); the first one counts until the check at load picks one or none, which also fills
    in `width`.
    A module may run several times in a forward pass, as a layer each time (ALBERT): this layer is call `call` of its
    `calls`.
    `scope` is "global" or "local" where the config says which (`window` then in tokens), else None.
    """

    index: int
    path: str
    module: nn.Module = field(repr=False)
    attention: str | None = None
    mlp: str | None = None
    norms: tuple[str, ...] | None = None
    scope: str | None = None
    window: int | None = None
    width: int | None = None
    call: int = 0
    calls: int = 1
    candidates: list[tuple[str, ...]] = field(default_factory=list, repr=False)

    @property
    def kind(self) -> str:
        """Class name of the block."""
        return type(self.module).__name__

    def take_branches(self, paths: Sequence[str] | None) -> None:
        """Set `attention`, `mlp` and `norms` to one of the candidates, or to None."""
        attention, mlp, *norms = paths or (None, None)
        self.attention, self.mlp, self.norms = attention, mlp, tuple(map(str, norms)) or None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: what can be hooked here, without the module."""
        names = ("index", "path", "call", "width", "attention", "mlp", "scope", "window")
        return {"block": self.kind} | {name: getattr(self, name) for name in names}


def text_config(config: Any) -> Any:
    """The config of the text model (a multimodal config nests it)."""
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def setting(config: Any, name: str, layer: int | None = None) -> Any:
    """A value of a config; None where it does not say, or where layers differ and none is named."""
    try:
        return getattr(config, name, None)
    except Exception:  # no AttributeError: transformers' own, of a value that is each layer's (Gemma 4, NeoMME)
        return None if layer is None else getattr(config.per_layer_config[layer], name, None)


def find_blocks(name: str, model: nn.Module) -> list[Block]:
    """Find the blocks of a base model, in the order in which they run.

    A known place is tried first, then the one ModuleList whose length is `num_hidden_layers` of the config.

    Raises:
        UserError: a model that reads no text; no list of blocks, or several that could be it.
    """
    if not reads_text(model):
        raise no_text(name, model, f"reads {getattr(model, 'main_input_name', None)}, not text")
    config = text_config(model.config)
    depth = setting(config, "num_hidden_layers")
    if getattr(config, "is_encoder_decoder", False):  # the encoder of one: its config may count either stack
        depth = getattr(config, "encoder_layers", depth)
    paths = _shared_blocks(model, depth) or _find_list(name, model, depth)
    kinds = getattr(config, "layer_types", None)
    found: list[Block] = []
    calls, done = Counter(paths), Counter[str]()
    for index, path in enumerate(paths):
        module = model.get_submodule(path)
        block = Block(index, path, module, call=done[path], calls=calls[path])
        done[path] += 1
        block.candidates = _find_branches(block.path, module)
        block.take_branches(block.candidates[0] if block.candidates else None)
        if kinds and index < len(kinds):
            block.scope = _SCOPES.get(kinds[index], kinds[index])
            block.window = setting(config, "sliding_window", index) if block.scope == "local" else None
        found.append(block)
    return found


def _shared_blocks(model: nn.Module, depth: int | None) -> list[str]:
    """Paths of the blocks in the order in which ALBERT runs them, each as often as it does; none in other models."""
    groups = dict(model.named_modules()).get(_SHARED_LIST[0])
    if not isinstance(groups, nn.ModuleList) or depth is None:
        return []
    group_of = [int(layer / (depth / len(groups))) for layer in range(depth)]
    inside = [range(len(group.get_submodule(_SHARED_LIST[1]))) for group in groups]  # type: ignore[arg-type]
    return [f"{_SHARED_LIST[0]}.{group}.{_SHARED_LIST[1]}.{at}" for group in group_of for at in inside[group]]


def _find_list(name: str, model: nn.Module, depth: int | None) -> list[str]:
    """Paths of the blocks; a module that stands in several places of a list has that of the first."""
    modules = dict(model.named_modules())
    for path in _BLOCK_LISTS:
        known = modules.get(path)
        if isinstance(known, nn.ModuleList) and len(known) and depth in (None, len(known)):
            return _of_list(path, known)
    # What reads images or sound is not what reads text.
    others = tuple(f"{path}." for path, module in modules.items() if path and not reads_text(module, path))
    candidates = {
        path: module
        for path, module in modules.items()
        if isinstance(module, nn.ModuleList) and depth is not None and len(module) == depth
        if not path.startswith(others)
    }
    # A list inside a block of another list (experts, heads) is not a list of blocks.
    outer = {
        path: module
        for path, module in candidates.items()
        if not any(re.match(re.escape(other) + r"\.\d+\.", path) for other in candidates)
    }
    if len(outer) == 1:
        return _of_list(*next(iter(outer.items())))
    problem = "several lists of modules could be" if outer else "no list of modules is"
    told = ("" if depth is None else f", of which its config names {depth}") + (
        f" ({', '.join(outer)})" if outer else ""
    )
    raise UserError(
        f"model {name!r}: {problem} the blocks of {type(model).__name__}{told}, so it cannot be hooked: {OTHERS}"
    )


def _of_list(path: str, blocks: nn.ModuleList) -> list[str]:
    first = {id(block): index for index, block in reversed(list(enumerate(blocks)))}
    return [f"{path}.{first[id(block)]}" for block in blocks]


_NO_TEXT = re.compile(r"vision|visual|image|video|audio|speech", re.IGNORECASE)


def reads_text(module: nn.Module, path: str = "") -> bool:
    """Whether a model, or the part of one at some path, is not made for images or sound."""
    return getattr(module, "main_input_name", "input_ids") == "input_ids" and not _NO_TEXT.search(path)


def text_part(model: nn.Module) -> nn.Module | None:
    """The one part of a model that reads text, where other parts read images or sound; else None."""
    parts = [(name, part) for name, part in model.named_children() if hasattr(part, "main_input_name")]
    text = [part for name, part in parts if reads_text(part, name)]
    return text[0] if len(text) == 1 < len(parts) else None


def no_text(name: str, model: nn.Module, problem: str) -> UserError:
    """The error for a model that does not run on token ids."""
    cure = "give a text encoder or decoder" if text_part(model) is None else "take its text half: --stack text"
    return UserError(f"model {name!r}: {type(model).__name__} {problem}: {cure}")


def _find_branches(path: str, module: nn.Module) -> list[tuple[str, ...]]:
    """Paths of what a block's branches and norms may be, by `_BRANCHES`."""
    inside = dict(module.named_modules())
    return [tuple(f"{path}.{name}" for name in names) for names in _BRANCHES if all(name in inside for name in names)]


def find_final_norm(model: nn.Module, blocks: list[Block]) -> str | None:
    """Path of the last norm that is in no block and not among the embeddings, by its class's name.

    A guess for a model without weights; the check at load knows.
    """
    inside = tuple(f"{block.path}." for block in blocks)
    found = [
        path
        for path, module in model.named_modules()
        if "norm" in type(module).__name__.lower() and not path.startswith(inside) and "emb" not in path
    ]
    return found[-1] if found else None


def block_input(args: Any, kwargs: Any) -> Any:
    """The hidden states that a block is called with."""
    return args[0] if args else kwargs.get("hidden_states", next(iter(kwargs.values()), None))


def block_output(output: Any) -> Any:
    """The tensor of a module's output: the output itself, or the first of a tuple."""
    return output[0] if isinstance(output, tuple | list) else output


def own_tokens(hidden: Any, length: int) -> Any:
    """Hidden states (b, t, d) of the tokens that were given.

    A model may add padding on the right by itself (Longformer, BigBird), a branch put all tokens in one row
    (OPT, mixtures of experts: (b · t, d)). What is no tensor comes back as it is.
    """
    if not isinstance(hidden, torch.Tensor):
        return hidden
    whole = hidden.unflatten(0, (-1, length)) if hidden.dim() == 2 and len(hidden) % length == 0 else hidden
    return whole[:, :length] if whole.dim() == 3 else whole
