"""Where a model comes from: a spec, a pair in memory, a causal view; each loads to a checked model."""

from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from cka_tools.errors import UserError
from cka_tools.models.attention import causal_view
from cka_tools.models.blocks import find_blocks, find_final_norm
from cka_tools.models.folder import ModelSpec, hash_json, hash_state_dict, hash_tokenizer, parse_spec
from cka_tools.models.load import (
    Checkpoint,
    UntrustedCode,
    describe,
    empty_model,
    finish,
    load_weights,
    open_checkpoint,
    refuse_encoder_decoder,
)
from cka_tools.models.model import LoadedModel, ModelOutline, resolve_device, resolve_dtype


@dataclass(frozen=True)
class LoadOptions:
    """How a model is loaded.

    Attributes:
        device: where it runs. dtype: its number format.
        trust_remote_code: whether code that came with it may run.
        allow_unused_weights: leave out weights inside its layers that its class does not use.
    """

    device: str | torch.device = "auto"
    dtype: str | torch.dtype = "float32"
    trust_remote_code: bool = False
    allow_unused_weights: bool = False

    def resolve(self) -> tuple[torch.device, torch.dtype]:
        """The device and the number format.

        Raises:
            UserError: as `resolve_device` and `resolve_dtype`.
        """
        place = resolve_device(self.device)
        return place, resolve_dtype(self.dtype, place)


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
    _opened: dict[bool, Checkpoint] = field(default_factory=dict, compare=False, repr=False)

    @property
    def name(self) -> str:
        """The spec as it was given."""
        return self.spec.given

    @property
    def folder(self) -> Path | None:
        """The directory, None for the hub."""
        return self.spec.folder

    def open(self, *, trust_remote_code: bool = False) -> Checkpoint:
        """Its files, config and tokenizer.

        Raises:
            UserError: as `open_checkpoint`.
        """
        if trust_remote_code not in self._opened:
            self._opened[trust_remote_code] = open_checkpoint(self.spec, trust_remote_code=trust_remote_code)
        return self._opened[trust_remote_code]

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
        opened = self.open(trust_remote_code=options.trust_remote_code)
        model = empty_model(opened, place, number)
        origin = self._origin(opened)
        return _outline(self.name, model, opened.tokenizer, place, origin, notes=list(opened.notes))

    def load(self, options: LoadOptions) -> LoadedModel:
        """The base model, without a head."""
        place, number = options.resolve()
        opened = self.open(trust_remote_code=options.trust_remote_code)
        origin = self._origin(opened)
        model = load_weights(opened, place, number, allow_unused=options.allow_unused_weights)
        if self._origin(opened) != origin:
            raise UserError(f"model {self.name!r}: its weights were written while they were read: try again")
        return finish(LoadedModel(self.name, model, opened.tokenizer, [], origin, notes=list(opened.notes)))

    def _origin(self, opened: Checkpoint) -> dict[str, Any]:
        repo = {} if self.spec.repo is None else {"repo": self.spec.repo}
        return {"spec": self.name, "kind": self.spec.kind, **repo, **opened.fingerprint()}


@dataclass(frozen=True, eq=False)
class MemorySource:
    """A transformers model and its tokenizer, used as they are: where the model has a head, its base model.

    The model is never moved, cast or switched to evaluation for longer than a forward pass.

    Raises:
        UserError: other objects, or an encoder-decoder.
    """

    model: Any
    tokenizer: Any

    def __post_init__(self) -> None:
        """Refuse what cannot be used."""
        if not isinstance(self.model, nn.Module) or not isinstance(self.tokenizer, PreTrainedTokenizerBase):
            raise _no_pair(self.model, self.tokenizer)
        if not hasattr(self.model, "config") or not hasattr(self.model, "base_model"):
            raise UserError(f"model {self.name} is not a PreTrainedModel: give one of transformers")
        refuse_encoder_decoder(self.name, self.model.config)

    def __eq__(self, other: object) -> bool:
        """Whether both hold the very same objects."""
        return isinstance(other, MemorySource) and self.model is other.model and self.tokenizer is other.tokenizer

    def __hash__(self) -> int:
        """By the identity of both objects."""
        return hash((id(self.model), id(self.tokenizer)))

    @property
    def name(self) -> str:
        """The name of the model's class."""
        return type(self.model).__name__

    @property
    def folder(self) -> None:
        """None: it lies in memory."""

    def fingerprint(self) -> None:
        """None: its objects may have been changed in any way, which hashes of its weights do not tell."""

    def outline(self, options: LoadOptions) -> ModelOutline:
        """The model itself, not yet checked."""
        base, place = self._base(options)
        origin = {"spec": self.name, "kind": "memory", "tokenizer_sha256": hash_tokenizer(self.tokenizer)}
        return _outline(self.name, base, self.tokenizer, place, origin, in_memory=True)

    def load(self, options: LoadOptions) -> LoadedModel:
        """The model itself, checked."""
        base, _ = self._base(options)
        origin = {
            "spec": self.name,
            "kind": "memory",
            "weights_sha256": hash_state_dict(base.state_dict()),
            "config_sha256": hash_json(base.config.to_dict()),
            "tokenizer_sha256": hash_tokenizer(self.tokenizer),
        }
        return finish(LoadedModel(self.name, base, self.tokenizer, [], origin, in_memory=True))

    def _base(self, options: LoadOptions) -> tuple[Any, torch.device]:
        """The base model and where it lies, which is where it must have been asked for."""
        if getattr(getattr(self.model, "active_peft_config", None), "is_prompt_learning", False):
            raise UserError(
                f"model {self.name} has a prompt adapter, whose virtual tokens are not part of its base "
                "model: give a model without it, or one tuned by LoRA"
            )
        base = self.model.base_model
        parameters = [p for p in base.parameters() if p.is_floating_point()]
        here = parameters[0].device
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

    def load(self, options: LoadOptions) -> LoadedModel:
        """The base's weights in a model that builds the causal mask itself, checked anew."""
        loaded = self.base.load(options)
        if not loaded.in_memory and loaded.model.config.model_type == "modernbert":
            # The kernels chosen for the base need not take a mask that is made here.
            loaded.model.set_attn_implementation("sdpa")
        loaded.model = causal_view(loaded.name, loaded.model)
        loaded.provenance["mask"] = "causal"
        return finish(loaded)


#: What a model may be given as: a spec, a loaded model with its tokenizer, or a source.
ModelGiven = str | PathLike[str] | tuple[Any, Any] | ModelSource


def as_source(given: ModelGiven) -> ModelSource:
    """The source of a model given in any form; a source is returned as it is.

    Raises:
        UserError: as `parse_spec`; a tuple that is not (model, tokenizer), or another object.
    """
    if isinstance(given, str | PathLike):
        return SpecSource(parse_spec(given))
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


def load_model(
    given: ModelGiven,
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "float32",
    trust_remote_code: bool = False,
    allow_unused_weights: bool = False,
) -> LoadedModel:
    """Load a model without its head, find its blocks and check that hooks on them see the residual stream.

    Raises:
        UserError: anything about the model that does not fit, in one line.
    """
    return as_source(given).load(LoadOptions(device, dtype, trust_remote_code, allow_unused_weights))


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
