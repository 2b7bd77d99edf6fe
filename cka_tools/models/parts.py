"""The parts of a model: where each parameter belongs, and other parameters put in its place."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from cka_tools.errors import UserError
from cka_tools.models.blocks import text_config
from cka_tools.models.model import LoadedModel, ModelOutline

Place = tuple[int | None, str]
"""Where a parameter belongs: a block and one of `BLOCK_PARTS`, or no block and one of `BEYOND`."""

BLOCK_PARTS = ("attention", "mlp", "norms")
BEYOND = ("embeddings", "final-norm", "head")
"""What belongs to no block: all before the first, the norm behind the last, all behind the base model."""

PARTS = ("all", *BLOCK_PARTS, *BEYOND)
"""What can be grafted; "all" is all of a block."""

_UNKNOWN = "other"
_ATTENTION, _MLP = re.compile("att", re.I), re.compile("mlp|ffn|intermediate|output|feed_?forward|fc", re.I)


def places_of(loaded: LoadedModel) -> dict[str, Place]:
    """The place of every parameter and every stored buffer, by its name in the model with its head.

    A norm belongs to "norms" where it is as wide as the residual stream; one inside attention (of queries and
    keys, say) belongs to attention. A block's part that is none of the three is "other".

    Raises:
        UserError: a model whose layers share a block.
    """
    if any(block.calls > 1 for block in loaded.blocks):
        raise UserError(
            f"model {loaded.name!r}: its layers share weights, so none of them has parts of its own: give a model "
            "whose layers do not"
        )
    root = loaded.root
    modules = dict(root.named_modules())
    prefix = next(f"{name}." if name else "" for name, module in modules.items() if module is loaded.model)
    blocks = re.escape(prefix + loaded.blocks[0].path.rpartition(".")[0])
    of_block = re.compile(rf"{blocks}\.(\d+)\.(.+)")
    places: dict[str, Place] = {}
    for name, tensor in root.state_dict().items():
        if match := of_block.match(name):
            index = int(match[1])
            width = loaded.blocks[index].width or loaded.hidden_size
            norm = "norm" in type(modules[name.rpartition(".")[0]]).__name__.lower() and tensor.shape == (width,)
            places[name] = index, "norms" if norm else _block_part(match[2])
        elif loaded.final_norm is not None and name.startswith(f"{prefix}{loaded.final_norm}."):
            places[name] = None, "final-norm"
        elif not name.startswith(prefix) or "pooler" in name.split("."):
            places[name] = None, "head"
        else:
            places[name] = None, "embeddings"
    return places


def _block_part(path: str) -> str:
    first = path.split(".")[0]
    return "attention" if _ATTENTION.search(first) else "mlp" if _MLP.search(first) else _UNKNOWN


def check_parts(parts: Iterable[str]) -> tuple[str, ...]:
    """Names of parts, each once and in the order of `PARTS`.

    Raises:
        UserError: a name that is none of them.
    """
    given = list(parts)
    for name in given:
        if name not in PARTS:
            raise UserError(f"parts: {name!r} is not one of {', '.join(PARTS)}")
    return tuple(name for name in PARTS if name in given)


def select(loaded: LoadedModel, layers: Sequence[int] | None, parts: Sequence[str]) -> set[str]:
    """Names of the parameters of some parts of some blocks, and of parts that belong to no block.

    Args:
        layers: of the parts of blocks; None is all of them.

    Raises:
        UserError: a layer that the model does not have, parts of a block that are not known here, tied
            weights of which the half would be taken.
    """
    places, chosen = places_of(loaded), set(check_parts(parts))
    depth = len(loaded.blocks)
    if outside := [layer for layer in layers or () if not 0 <= layer < depth]:
        raise UserError(f"layers {outside[0]}: model {loaded.name!r} has layers 0 to {depth - 1}: choose among them")
    unknown = [name for name, (_, part) in places.items() if part == _UNKNOWN]
    if unknown and "all" not in chosen and chosen & set(BLOCK_PARTS):
        raise UserError(f"model {loaded.name!r}: {unknown[0]} is neither attention nor mlp nor norm: graft parts all")
    taken = {
        name
        for name, (block, part) in places.items()
        if (part in chosen if block is None else (layers is None or block in layers) and {part, "all"} & chosen)
    }
    for first, second in _ties(loaded.root):
        if (first in taken) != (second in taken):
            both = " and ".join(dict.fromkeys(places[name][1] for name in (first, second)))
            raise UserError(
                f"model {loaded.name!r} ties {second} to {first}: half of that pair would be copied; "
                f"give both of the parts {both}, or neither"
            )
    return taken


def _ties(root: nn.Module) -> list[tuple[str, str]]:
    """Names of one and the same tensor, each with the first of them."""
    first: dict[int, str] = {}
    pairs = []
    for name, tensor in root.state_dict(keep_vars=True).items():
        other = first.setdefault(id(tensor), name)
        if other != name:
            pairs.append((other, name))
    return pairs


def tensors_of(loaded: LoadedModel) -> dict[str, Tensor]:
    """Every parameter and stored buffer by its name, tied ones under each of theirs; nothing is copied."""
    return dict(loaded.root.state_dict(keep_vars=True))


def put(root: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Put tensors in the place of a model's own, by name, and return those that were there; nothing is copied."""
    before = {}
    for name, tensor in tensors.items():
        owner, _, key = name.rpartition(".")
        module = root.get_submodule(owner)
        held: dict[str, Any] = module._parameters if key in module._parameters else module._buffers
        before[name], held[key] = held[key], tensor
    return before


@contextmanager
def holding(loaded: LoadedModel, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """The model with other tensors in the place of its own; on leaving it has its own back."""
    before = put(loaded.root, tensors)
    try:
        yield
    finally:
        put(loaded.root, before)


_NOT_FUNCTION = re.compile(
    r"_?name_or_path|architectures|transformers_version|(torch_)?dtype|.*dropout.*|initializer.*|id2label|label2id|"
    r"problem_type|output_.*|return_dict|use_cache|gradient_checkpointing|_attn_implementation.*|classifier_.*|"
    r"sparse_pred.*|reference_compile|repad_logits_with_grad|deterministic_flash_attn|chunk_size_feed_forward"
)
"""Of a config, what does not change what trained weights compute."""


def check_fit(base: ModelOutline, donor: ModelOutline) -> None:
    """Check that parameters of one model can stand in the other, before weights are read.

    Raises:
        UserError: quantised weights, another architecture, vocabulary, shape or setting of the config.
    """
    both = f"{base.name!r} and {donor.name!r}"
    for one in (base, donor):
        if getattr(one.model.config, "quantization_config", None) is not None:
            raise UserError(f"model {one.name!r} is quantised: its weights cannot be grafted; give the full one")
    kinds = [type(one.model).__name__ for one in (base, donor)]
    if kinds[0] != kinds[1]:
        raise UserError(f"models {both} are a {kinds[0]} and a {kinds[1]}: give two of one architecture")
    if base.provenance["tokenizer_sha256"] != donor.provenance["tokenizer_sha256"]:
        raise UserError(f"models {both} have different vocabularies (tokenizers): give two that share one")
    shapes = [{name: tuple(t.shape) for name, t in one.model.state_dict().items()} for one in (base, donor)]
    for name in dict.fromkeys([*shapes[0], *shapes[1]]):
        own, other = (f"is {shape[name]}" if name in shape else "is missing" for shape in shapes)
        if own != other:
            raise UserError(
                f"models {both} differ in shape: {name} {own} in the first and {other} in the second: give two of "
                "one shape"
            )
    configs = [text_config(one.model.config).to_dict() for one in (base, donor)]
    for name in dict.fromkeys([*configs[0], *configs[1]]):
        values = [config.get(name) for config in configs]
        if values[0] != values[1] and not _NOT_FUNCTION.fullmatch(name):
            raise UserError(f"models {both} differ in {name} ({values[0]} and {values[1]}): give two of one config")


def check_heads(base: LoadedModel, donor: LoadedModel) -> None:
    """Check what only loading tells: that both have the same parameters, tied alike.

    Raises:
        UserError: another name, shape or number format, or weights that only one of them ties.
    """
    own, other = ({n: (tuple(t.shape), t.dtype) for n, t in tensors_of(one).items()} for one in (base, donor))
    differ = next((name for name in dict.fromkeys([*own, *other]) if own.get(name) != other.get(name)), None)
    ties = [set(_ties(one.root)) for one in (base, donor)]
    if differ is None and ties[0] != ties[1]:
        differ = sorted(ties[0] ^ ties[1])[0][1] + ", which only one of them ties,"
    if differ is not None:
        raise UserError(f"models {base.name!r} and {donor.name!r} differ in {differ}: give two of one architecture")
