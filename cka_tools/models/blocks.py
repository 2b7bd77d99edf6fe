"""The transformer blocks of any encoder or decoder, and the modules whose outputs are their branches."""

import re
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from cka_tools.errors import UserError

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

# Branches as they are *added to the residual*, first match wins; each is checked at load (check.py).
# Attention, mlp, and the two norms of a post-norm block.
_BRANCHES = (
    # Gemma 2 and 3, OLMo 2: the contribution is what leaves the post-norm.
    ("post_attention_layernorm", "post_feedforward_layernorm"),
    # BERT, RoBERTa: `output` holds dropout, residual and norm too, so the dense map is the branch.
    ("attention.output.dense", "output.dense", "attention.output.LayerNorm", "output.LayerNorm"),
    ("attention", "ffn", "sa_layer_norm", "output_layer_norm"),  # DistilBERT
    ("attn", "mlp"),  # ModernBERT and its decoder, GPT-2
    ("self_attn", "mlp"),  # Llama, Gemma
    ("attention", "mlp"),  # GPT-NeoX
)

_SCOPES = {"full_attention": "global", "sliding_attention": "local"}


@dataclass
class Block:
    """One transformer block.

    Paths are relative to the base model. `attention` and `mlp` name the module whose output is the branch's
    contribution as it is added to the residual, or are None where no such module is known.
    `norms` are the two norms of a post-norm block. `width` is filled in by the check at load.
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

    @property
    def kind(self) -> str:
        """Class name of the block."""
        return type(self.module).__name__

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: what can be hooked here, without the module."""
        names = ("index", "path", "width", "attention", "mlp", "scope", "window")
        return {"block": self.kind} | {name: getattr(self, name) for name in names}


def text_config(config: Any) -> Any:
    """The config of the text model (a multimodal config nests it)."""
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def find_blocks(name: str, model: nn.Module) -> list[Block]:
    """Find the blocks of a base model, in the order in which they run.

    A known place is tried first, then the one ModuleList whose length is `config.num_hidden_layers`.

    Raises:
        UserError: no list of blocks, or several that could be it.
    """
    config = text_config(model.config)
    path, blocks = _find_list(name, model, getattr(config, "num_hidden_layers", None))
    kinds = getattr(config, "layer_types", None)
    found = []
    for index, module in enumerate(blocks):
        block = Block(index, f"{path}.{index}", module, *_find_branches(f"{path}.{index}", module))
        if kinds and index < len(kinds):
            block.scope = _SCOPES.get(kinds[index], kinds[index])
            block.window = getattr(config, "sliding_window", None) if block.scope == "local" else None
        found.append(block)
    return found


def _find_list(name: str, model: nn.Module, depth: int | None) -> tuple[str, nn.ModuleList]:
    modules = dict(model.named_modules())
    for path in _BLOCK_LISTS:
        known = modules.get(path)
        if isinstance(known, nn.ModuleList) and len(known) and depth in (None, len(known)):
            return path, known
    candidates = {
        path: module
        for path, module in modules.items()
        if isinstance(module, nn.ModuleList) and depth is not None and len(module) == depth
    }
    # A list inside a block of another list (experts, heads) is not a list of blocks.
    outer = {
        path: module
        for path, module in candidates.items()
        if not any(re.match(re.escape(other) + r"\.\d+\.", path) for other in candidates)
    }
    if len(outer) == 1:
        return next(iter(outer.items()))
    problem = "several lists could be" if outer else "no list of modules is"
    raise UserError(
        f"model {name!r}: {problem} the blocks of {type(model).__name__} ({depth} layers by its config"
        f"{': ' + ', '.join(outer) if outer else ''}): this architecture cannot be hooked"
    )


def _find_branches(path: str, module: nn.Module) -> tuple[str, str, tuple[str, ...] | None] | tuple[()]:
    """Paths of a block's `attention`, `mlp` and `norms`; nothing where it has no known branches."""
    inside = dict(module.named_modules())
    for names in _BRANCHES:
        if all(name in inside for name in names):
            attention, mlp, *norms = (f"{path}.{name}" for name in names)
            return attention, mlp, tuple(norms) or None
    return ()


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
    return args[0] if args else kwargs.get("hidden_states")


def block_output(output: Any) -> Any:
    """The tensor of a module's output: the output itself, or the first of a tuple."""
    return output[0] if isinstance(output, tuple | list) else output
