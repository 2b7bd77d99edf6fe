"""Where a model comes from: a spec, a pair in memory, a causal view; each loads to a checked model."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedTokenizerBase

from cka_tools.errors import UserError
from cka_tools.models.adapter import AdapterSource
from cka_tools.models.attention import causal_view
from cka_tools.models.blocks import find_blocks, find_final_norm
from cka_tools.models.folder import (
    ADAPTER,
    ModelSpec,
    has_model,
    hash_json,
    hash_state_dict,
    hash_tokenizer,
    parse_spec,
    read_object,
)
from cka_tools.models.language import HeadKind, has_head, head_kind
from cka_tools.models.load import (
    Checkpoint,
    UntrustedCode,
    describe,
    empty_model,
    finish,
    load_weights,
    open_checkpoint,
    take_stack,
)
from cka_tools.models.model import LoadedModel, ModelOutline, resolve_device, resolve_dtype


@dataclass(frozen=True)
class LoadOptions:
    """How a model is loaded.

    Attributes:
        device: where it runs. dtype: its number format.
        trust_remote_code: whether code that came with it may run.
        allow_unused_weights: leave out weights inside its layers that its class does not use.
        allow_bin: read pytorch_model.bin, as tensors alone, where there are no safetensors.
        stack: "encoder" of an encoder-decoder, "text" of a model that reads images or sound as well.
        device_map: "auto" spreads a model over all devices there are.
        head: keep the language-model head, as `LoadedModel.language_model`.
    """

    device: str | torch.device = "auto"
    dtype: str | torch.dtype = "float32"
    trust_remote_code: bool = False
    allow_unused_weights: bool = False
    allow_bin: bool = False
    stack: str | None = None
    device_map: str | None = None
    head: bool = False

    def resolve(self) -> tuple[torch.device, torch.dtype]:
        """The device and the number format.

        Raises:
            UserError: as `resolve_device` and `resolve_dtype`.
        """
        place = resolve_device(self.device)
        return place, resolve_dtype(self.dtype, place)

    def with_head(self, head: bool = True) -> "LoadOptions":
        """The same, with the language-model head or without."""
        return replace(self, head=head)


@runtime_checkable
class ModelSource(Protocol):
    """Anything that loads to a checked model.

    Two sources are equal, and hash alike, where they are the same model by what was given: one spec, one pair
    of objects, the same view of equal sources.
    """

    @property
    def name(self) -> str:
        """The model as the user named it; the class's name for a model in memory."""

    @property
    def folder(self) -> Path | None:
        """The directory that was named, where a manifest of its training may lie; None for others."""

    def fingerprint(self) -> dict[str, Any] | None:
        """JSON-ready identity of the content, known without loading weights into a model.

        Every entry stands in the loaded model's provenance as well. None where only loading tells.

        Raises:
            UserError: as `outline`.
        """

    def outline(self, options: LoadOptions) -> ModelOutline:
        """Tokenizer, blocks and limits, as tokenization and a batch plan need them.

        Raises:
            UserError: as `load`, of what does not need the weights.
        """

    def load(self, options: LoadOptions) -> LoadedModel:
        """The model with its weights, checked.

        Raises:
            UserError: anything about the model that does not fit, in one line.
        """


@dataclass(frozen=True)
class SpecSource:
    """A checkpoint named by `demo:NAME`, a directory, `org/name` or `org/name@revision`.

    It is fetched, and its config and tokenizer are read, once.
    """

    spec: ModelSpec
    _opened: dict[tuple[bool, bool], Checkpoint] = field(default_factory=dict, compare=False, repr=False)

    @property
    def name(self) -> str:
        """The spec as it was given."""
        return self.spec.given

    @property
    def folder(self) -> Path | None:
        """The directory, None for the hub."""
        return self.spec.folder

    def open(self, *, trust_remote_code: bool = False, allow_bin: bool = False) -> Checkpoint:
        """Its files, config and tokenizer.

        Raises:
            UserError: as `open_checkpoint`.
        """
        allowed = (trust_remote_code, allow_bin)
        if allowed not in self._opened:
            trust = {"trust_remote_code": trust_remote_code, "allow_bin": allow_bin}
            self._opened[allowed] = open_checkpoint(self.spec, **trust)
        return self._opened[allowed]

    def fingerprint(self) -> dict[str, Any] | None:
        """Hashes of weights, config and tokenizer, and the hub's commit; None where its own code runs."""
        try:
            checkpoint = self._opened[max(self._opened)] if self._opened else self.open()
        except UntrustedCode:
            return None
        return None if checkpoint.has_own_code else checkpoint.fingerprint()

    def outline(self, options: LoadOptions) -> ModelOutline:
        """The model on torch's meta device."""
        place, number = options.resolve()
        opened = self.open(trust_remote_code=options.trust_remote_code, allow_bin=options.allow_bin)
        model = empty_model(opened, place, number, stack=options.stack)
        origin = self._origin(opened)
        return _outline(self.name, model, opened.tokenizer, place, origin, notes=list(opened.notes))

    def head(self, options: LoadOptions) -> HeadKind:
        """By the class that config.json names."""
        opened = self.open(trust_remote_code=options.trust_remote_code)
        return head_kind(self.name, opened.config, list(opened.written.get("architectures") or ()))

    def load(self, options: LoadOptions) -> LoadedModel:
        """The base model, without a head unless that is asked for."""
        place, number = options.resolve()
        opened = self.open(trust_remote_code=options.trust_remote_code, allow_bin=options.allow_bin)
        origin = self._origin(opened)
        head = self.head(options) if options.head else None
        model = load_weights(
            opened,
            place,
            number,
            allow_unused=options.allow_unused_weights,
            stack=options.stack,
            device_map=options.device_map,
            head=head,
        )
        if self._origin(opened) != origin:
            raise UserError(f"model {self.name!r}: its weights were written while they were read: try again")
        base, whole = (model, None) if head is None else (model.base_model, model)
        notes = list(opened.notes)
        return finish(LoadedModel(self.name, base, opened.tokenizer, [], origin, language_model=whole, notes=notes))

    def _origin(self, opened: Checkpoint) -> dict[str, Any]:
        repo = {} if self.spec.repo is None else {"repo": self.spec.repo}
        return {"spec": self.name, "kind": self.spec.kind, **repo, **opened.fingerprint()}


@dataclass(frozen=True, eq=False)
class MemorySource:
    """A transformers model and its tokenizer, used as they are: where the model has a head, its base model.

    What `torch.compile`, DataParallel or DistributedDataParallel wrap is used without the wrapper, with a note.
    The model is never moved, cast or switched to evaluation for longer than a forward pass.

    Raises:
        UserError: other objects.
    """

    model: Any
    tokenizer: Any

    def __post_init__(self) -> None:
        """Refuse what cannot be used."""
        if not isinstance(self.model, nn.Module) or not isinstance(self.tokenizer, PreTrainedTokenizerBase):
            raise _no_pair(self.model, self.tokenizer)
        if not hasattr(self._bare, "config") or not hasattr(self._bare, "base_model"):
            raise UserError(f"model {self.name} is not a PreTrainedModel: give one of transformers")

    @property
    def _unwrapped(self) -> list[Any]:
        """The object, what it wraps, and so on to the model itself."""
        found = [self.model]
        while (inner := _wrapped(found[-1])) is not None:
            found.append(inner)
        return found

    @property
    def _bare(self) -> Any:
        return self._unwrapped[-1]

    def __eq__(self, other: object) -> bool:
        """Whether both hold the very same objects."""
        return isinstance(other, MemorySource) and self.model is other.model and self.tokenizer is other.tokenizer

    def __hash__(self) -> int:
        """By the identity of both objects."""
        return hash((id(self.model), id(self.tokenizer)))

    @property
    def name(self) -> str:
        """The name of the model's class."""
        return type(self._bare).__name__

    @property
    def folder(self) -> None:
        """None: it lies in memory."""

    def fingerprint(self) -> None:
        """None: its objects may have been changed in any way, which hashes of its weights do not tell."""

    @cached_property
    def _tokenizer_sha256(self) -> str:
        """Hashed once: a source lives as long as one run."""
        return hash_tokenizer(self.tokenizer)

    def outline(self, options: LoadOptions) -> ModelOutline:
        """The model itself, not yet checked."""
        base, place = self._base(options)
        origin = {"spec": self.name, "kind": "memory", "tokenizer_sha256": self._tokenizer_sha256}
        return _outline(self.name, base, self.tokenizer, place, origin, in_memory=True, notes=self._notes())

    def head(self, options: LoadOptions) -> HeadKind:
        """By the model's class."""
        names = [type(self._bare).__name__] if has_head(self._bare) else []
        return head_kind(self.name, self._bare.config, names)

    def load(self, options: LoadOptions) -> LoadedModel:
        """The model itself, checked."""
        base, _ = self._base(options)
        whole = self._bare if options.head and self.head(options) else None
        origin = {
            "spec": self.name,
            "kind": "memory",
            "weights_sha256": hash_state_dict(base.state_dict()),
            "config_sha256": hash_json(base.config.to_dict()),
            "tokenizer_sha256": self._tokenizer_sha256,
        }
        loaded = LoadedModel(self.name, base, self.tokenizer, [], origin, in_memory=True, language_model=whole)
        loaded.notes += self._notes()
        return finish(loaded)

    def _notes(self) -> list[str]:
        kinds = ", ".join(type(one).__name__ for one in self._unwrapped[:-1])
        return [f"{self.name} was given inside {kinds}: the model itself runs."] if kinds else []

    def _base(self, options: LoadOptions) -> tuple[Any, torch.device]:
        """The base model and where it lies, which is where it must have been asked for."""
        model = self._bare
        if getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False):
            raise UserError(
                f"model {self.name} has a prompt adapter, whose virtual tokens are not part of its base "
                "model: give a model without it, or one tuned by LoRA"
            )
        # An adapter's layers lie inside the model that it was put on.
        base = take_stack(self.name, getattr(model, "get_base_model", lambda: model)().base_model, options.stack)
        # PEFT keeps an adapter in float32 beside a base in 16 bits.
        adapters = tuple(f".{name}" for name in getattr(model, "peft_config", ()))
        named = [(name, p) for name, p in base.named_parameters() if p.is_floating_point()]
        parameters = [p for name, p in named if not any(part in name for part in adapters)]
        here = parameters[0].device
        if any(p.device.type == "meta" for p in parameters):
            problem = "has weights that are not in memory"
            raise UserError(f"model {self.name} {problem}: give its directory, with device_map='auto' if it is large")
        if str(options.device) != "auto" and resolve_device(options.device).type != here.type:
            problem = f"lies on {here}, asked for {options.device}: move it, or pass device='auto'"
            raise UserError(f"model {self.name} {problem}")
        asked = resolve_dtype(options.dtype, here)
        others = sorted({str(p.dtype).removeprefix("torch.") for p in parameters if p.dtype != asked})
        if others:
            short = str(asked).removeprefix("torch.")
            problem = f"is in {', '.join(others)}, asked for {short}: cast it, or pass"
            raise UserError(f"model {self.name} {problem} dtype={others[0]!r}")
        return base, here


@dataclass(frozen=True)
class CausalSource:
    """A ModernBERT encoder seen under the causal mask of training: a token sees what came before it.

    Raises:
        UserError: on `outline` and `load`, of a base that is not a ModernBERT encoder.
    """

    base: ModelSource

    @property
    def name(self) -> str:
        """The base's name."""
        return self.base.name

    @property
    def folder(self) -> Path | None:
        """The base's."""
        return self.base.folder

    def fingerprint(self) -> dict[str, Any] | None:
        """That of the base, and the mask."""
        own = self.base.fingerprint()
        return None if own is None else own | {"mask": "causal"}

    def outline(self, options: LoadOptions) -> ModelOutline:
        """That of the base: the mask changes neither tokens nor blocks."""
        outline = self.base.outline(options)
        outline.provenance |= {"mask": "causal", "attention": "sdpa"}
        return outline

    def head(self, options: LoadOptions) -> HeadKind:
        """None that fits: the base's head was trained for its own mask, and would run under that."""
        raise UserError(f"model {self.name!r} is seen causally, where its head cannot be read: give the model itself")

    def load(self, options: LoadOptions) -> LoadedModel:
        """The base's weights in a model that builds the causal mask itself, checked anew."""
        if options.head:
            self.head(options)
        loaded = self.base.load(options)
        if not loaded.in_memory and loaded.model.config.model_type == "modernbert":
            # The kernels chosen for the base need not take a mask that is made here.
            loaded.model.set_attn_implementation("sdpa")
        loaded.model = causal_view(loaded.name, loaded.model)
        loaded.provenance["mask"] = "causal"
        return finish(loaded)


#: What a model may be given as: a spec, a loaded model with its tokenizer, or a source.
ModelGiven = str | PathLike[str] | tuple[Any, Any] | ModelSource


def _wrapped(model: Any) -> nn.Module | None:
    """What `torch.compile` or data parallelism wraps, if anything."""
    if isinstance(model, nn.DataParallel | DistributedDataParallel):
        return model.module
    return getattr(model, "_orig_mod", None)


def as_source(given: ModelGiven) -> ModelSource:
    """The source of a model given in any form; a source is returned as it is.

    Raises:
        UserError: as `parse_spec`; an adapter whose base is not known; a tuple that is not (model, tokenizer), or
            another object.
    """
    if isinstance(given, str | PathLike):
        return _of_text(given)
    if isinstance(given, tuple):
        if len(given) != 2:
            raise _no_pair(*given)
        return MemorySource(*given)
    if isinstance(given, ModelSource) and not isinstance(given, nn.Module):
        return given
    kind = type(given).__name__
    if isinstance(given, nn.Module):
        raise UserError(f"model {kind} is given without its tokenizer: give (model, tokenizer)")
    kinds = "demo:NAME, a directory, org/name or (model, tokenizer)"
    raise UserError(f"a model cannot be given as {kind}: give {kinds}")


def _of_text(given: str | PathLike[str]) -> ModelSource:
    """The source of a spec, of BASE+ADAPTER, or of an adapter's directory, whose config names the base."""
    text = fspath(given)
    folder = Path(text).expanduser()
    if not folder.is_dir() and "+" in text:
        base, _, adapter = text.rpartition("+")
        on = as_source(base)
        if isinstance(on, AdapterSource):
            raise UserError(f"model {text!r} names two adapters: put one on its base, merge it, and give BASE+ADAPTER")
        return AdapterSource(text, on, parse_spec(adapter))
    spec = parse_spec(given)
    if spec.folder is None or not (spec.folder / ADAPTER).is_file() or has_model(spec.folder):
        return SpecSource(spec)
    written = read_object(spec.folder / ADAPTER, text)
    named, revision = written.get("base_model_name_or_path"), written.get("revision")
    if not isinstance(named, str) or not named:
        raise UserError(f"model {text!r} is an adapter that names no base: give it as BASE+{text}")
    below = Path(named).expanduser()
    if (below / ADAPTER).is_file() and not has_model(below):  # it may even be this one
        raise UserError(
            f"model {text!r} is an adapter on {named!r}, which is an adapter itself: put one on its base, merge "
            "it, and give BASE+ADAPTER"
        )
    try:
        source = as_source(f"{named}@{revision}" if revision and not Path(named).is_dir() else named)
    except UserError as error:
        raise UserError(
            f"model {text!r} is an adapter on {named!r}, which is not here: give it as BASE+{text}"
        ) from error
    return AdapterSource(text, source, spec)


def head_of(source: ModelSource, options: LoadOptions) -> HeadKind:
    """The kind of a model's language-model head, known before weights are read.

    Raises:
        UserError: it has none.
    """
    found = getattr(source, "head", None)
    if found is None:
        raise UserError(f"model {source.name!r} comes without a language-model head: give a checkpoint that has one")
    kind: HeadKind = found(options)
    return kind


def load_model(given: ModelGiven, **options: Any) -> LoadedModel:
    """Load a model without its head, find its blocks and check that hooks on them see the residual stream.

    Args:
        options: fields of `LoadOptions`.

    Raises:
        UserError: anything about the model that does not fit, in one line.
    """
    return as_source(given).load(LoadOptions(**options))


def _outline(
    name: str, model: Any, tokenizer: Any, place: torch.device, origin: dict[str, Any], **others: Any
) -> ModelOutline:
    blocks = find_blocks(name, model)
    norm = find_final_norm(model, blocks)
    outline = ModelOutline(name, model, tokenizer, blocks, origin, place=place, final_norm=norm, **others)
    outline.provenance |= describe(outline)
    return outline


def _no_pair(*given: object) -> UserError:
    kinds = ", ".join(type(part).__name__ for part in given)
    return UserError(f"a model in memory is given as (model, tokenizer) of transformers; this is ({kinds})")
