"""Models made of two: parts of one in the other, and the points on the straight line between them.

Parameters are copied in memory; no file is written.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from cka_tools.errors import UserError
from cka_tools.formatting import layers_in_words
from cka_tools.models.folder import hash_json
from cka_tools.models.language import HeadKind
from cka_tools.models.load import finish
from cka_tools.models.model import LoadedModel, ModelOutline
from cka_tools.models.parts import check_fit, check_heads, check_parts, put, select, tensors_of
from cka_tools.models.source import LoadOptions, ModelGiven, ModelSource, as_source, head_of


def graft(
    base: ModelGiven, donor: ModelGiven, layers: Sequence[int] | None = None, parts: Sequence[str] = ("all",)
) -> "GraftSource":
    """A model that is `base` with parts of `donor`, as a model source: any analysis takes it as a model.

    Args:
        layers: blocks whose parts are taken, None for all.
        parts: of those blocks "attention", "mlp", "norms" or "all" of a block; by name also "embeddings",
            "final-norm" and "head", which belong to no block. None at all leaves the base.

    Raises:
        UserError: an unknown part. On `outline` and `load`: other shapes, architectures, vocabularies, tied
            weights of which the half would be copied, quantised models.
    """
    chosen = None if layers is None else tuple(sorted(set(layers)))
    return GraftSource(as_source(base), as_source(donor), chosen, check_parts(parts))


def interpolate(a: ModelGiven, b: ModelGiven, alpha: float) -> "InterpolatedSource":
    """The model at (1 − alpha) · a + alpha · b, every parameter, as a model source.

    Raises:
        UserError: alpha outside 0 to 1. On `outline` and `load`: as `graft`.
    """
    if not (math.isfinite(alpha) and 0 <= alpha <= 1):
        raise UserError(f"alpha {alpha!r} is not between 0 (the first model) and 1 (the second)")
    return InterpolatedSource(as_source(a), as_source(b), float(alpha))


def parts_in_words(layers: Sequence[int] | None, parts: Sequence[str]) -> str:
    """What is grafted: "layers 0–7", "mlp of all layers", "attention of layers 8–14, head"."""
    of_blocks = [part for part in parts if part not in ("embeddings", "final-norm", "head")]
    beyond = [part for part in parts if part not in of_blocks]
    where = "all layers" if layers is None else layers_in_words(layers)
    named = [] if not of_blocks else [where] if "all" in of_blocks else [f"{' and '.join(of_blocks)} of {where}"]
    return ", ".join([*named, *beyond]) or "nothing"


@dataclass(frozen=True)
class _OfTwo:
    """What sources made of two models share: all but the weights is the first one's."""

    base: ModelSource
    donor: ModelSource

    @property
    def name(self) -> str:
        raise NotImplementedError

    @property
    def folder(self) -> None:
        """None: it lies in memory."""

    def recipe(self) -> dict[str, Any]:
        """How it is made of the two; JSON-ready."""
        raise NotImplementedError

    def fingerprint(self) -> dict[str, Any] | None:
        """The first one's, with a hash of what it is made of in the place of its weights'."""
        own, other = self.base.fingerprint(), self.donor.fingerprint()
        if own is None or other is None:
            return None
        made = [own["weights_sha256"], other["weights_sha256"], own.get("mask"), other.get("mask"), self.recipe()]
        return own | {"weights_sha256": hash_json(made)}

    def outline(self, options: LoadOptions) -> ModelOutline:
        """The first one's, once it is clear that the two fit."""
        base, donor = self.base.outline(options), self.donor.outline(options)
        check_fit(base, donor)
        return self.outline_of(base)

    def outline_of(self, base: ModelOutline) -> ModelOutline:
        """Its outline from that of its base, where the two are known to fit."""
        origin = {k: v for k, v in base.provenance.items() if k != "weights_sha256"}
        return replace(base, name=self.name, in_memory=False, provenance=origin | self._origin())

    def head(self, options: LoadOptions) -> HeadKind:
        """That of both.

        Raises:
            UserError: one has none, or they differ.
        """
        kinds = [head_of(one, options) for one in (self.base, self.donor)]
        if kinds[0] != kinds[1]:
            both = f"{self.base.name!r} and {self.donor.name!r}"
            raise UserError(f"models {both} have heads of different kinds ({kinds[0]}, {kinds[1]}): give two alike")
        return kinds[0]

    def load(self, options: LoadOptions) -> LoadedModel:
        """Both loaded, the first one changed and checked anew; models in memory are copied first."""
        base, donor = load_two(self.base, self.donor, options)
        root = copy.deepcopy(base.root) if base.in_memory else base.root
        inner = root if base.language_model is None else root.base_model
        whole = None if base.language_model is None else root
        loaded = replace(base, name=self.name, model=inner, language_model=whole, in_memory=False)
        tensors = self.tensors(base, donor)
        # A donor in memory goes on living: nothing is shared with it.
        put(root, copied(tensors) if donor.in_memory else tensors)
        loaded.provenance = {k: v for k, v in base.provenance.items() if k != "weights_sha256"} | self._origin()
        return finish(loaded)

    def tensors(self, base: LoadedModel, donor: LoadedModel) -> Mapping[str, Tensor]:
        """What stands in the place of the first one's own tensors, by name."""
        raise NotImplementedError

    def _origin(self) -> dict[str, Any]:
        made_of = [self.base.name, self.donor.name]
        return {"spec": self.name, "kind": "made", "made_of": made_of, **self.recipe(), **(self.fingerprint() or {})}


@dataclass(frozen=True)
class GraftSource(_OfTwo):
    """`base` with some parts of `donor`; see `graft`."""

    layers: tuple[int, ...] | None
    parts: tuple[str, ...]

    @property
    def name(self) -> str:
        """Both names and what was taken."""
        return f"{self.base.name} with {self.taken} of {self.donor.name}"

    @property
    def taken(self) -> str:
        """What is the donor's, in words."""
        return parts_in_words(self.layers, self.parts)

    def recipe(self) -> dict[str, Any]:
        """Layers and parts."""
        return {"graft": {"layers": None if self.layers is None else list(self.layers), "parts": list(self.parts)}}

    def tensors(self, base: LoadedModel, donor: LoadedModel) -> Mapping[str, Tensor]:
        """The donor's own, of the chosen parts."""
        taken = select(base, self.layers, self.parts)
        return {name: tensor for name, tensor in tensors_of(donor).items() if name in taken}


@dataclass(frozen=True)
class InterpolatedSource(_OfTwo):
    """(1 − alpha) · base + alpha · donor; see `interpolate`."""

    alpha: float

    @property
    def name(self) -> str:
        """Both names and the share of the second."""
        return f"{100 * self.alpha:g} % of the way from {self.base.name} to {self.donor.name}"

    def recipe(self) -> dict[str, Any]:
        """Alpha."""
        return {"alpha": self.alpha}

    def tensors(self, base: LoadedModel, donor: LoadedModel) -> Mapping[str, Tensor]:
        """The weighted means; the ends to the bit."""
        return interpolated(base, donor, self.alpha)


def copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies that share nothing; tied tensors are still one."""
    return copy.deepcopy({name: tensor.detach() if tensor.grad_fn else tensor for name, tensor in tensors.items()})


def interpolated(a: LoadedModel, b: LoadedModel, alpha: float) -> dict[str, Tensor]:
    """Every tensor at (1 − alpha) · a + alpha · b, tied ones still one; whole numbers are a's.

    Raises:
        UserError: whole numbers (a stored buffer) that differ.
    """
    made: dict[int, Tensor] = {}
    others = tensors_of(b)
    found = {}
    for name, tensor in tensors_of(a).items():
        if id(tensor) not in made:
            with torch.no_grad():
                if tensor.is_floating_point():
                    value = torch.lerp(tensor.detach(), others[name].detach(), alpha)
                elif torch.equal(tensor, others[name]):
                    value = tensor
                else:
                    raise UserError(f"models {a.name!r} and {b.name!r} differ in {name}, which has no values between")
            parameter = isinstance(tensor, torch.nn.Parameter) and value is not tensor
            made[id(tensor)] = torch.nn.Parameter(value, requires_grad=False) if parameter else value
        found[name] = made[id(tensor)]
    return found


def load_two(base: ModelSource, donor: ModelSource, options: LoadOptions) -> tuple[LoadedModel, LoadedModel]:
    """Two models whose parameters can stand in each other.

    Raises:
        UserError: as `check_fit`, before any weights are read, and `check_heads`.
    """
    check_fit(base.outline(options), donor.outline(options))
    found = base.load(options), donor.load(options)
    check_heads(*found)
    return found
