"""A comparison whose features are not kept: sums over all documents, rows of a seeded few."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cka_tools.errors import UserError
from cka_tools.statistics.features import LayerPairs, LayerSummary, ModelStatistics
from cka_tools.statistics.hsic import MINIMUM_SAMPLES, ROUNDING_STEPS
from cka_tools.statistics.linear_cka import LinearCKA, Pairs
from cka_tools.statistics.moments import offsets
from cka_tools.statistics.pair import Choice, FeatureComparison, Whole, assemble, influence_documents, mean_hsic

Rows = Sequence[np.ndarray[Any, Any]]
"""Features of some documents: one array (K, b, p) a layer."""


@dataclass(frozen=True)
class Pilot:
    """What is fixed before the first document is counted, the same in every process.

    Attributes:
        means: of each layer of A and of B, in each of K draws: tensors (K, p), the shift of all sums.
        scales: 1/σ of each feature, tensors (p,), where rescaled values are wanted.
    """

    means: tuple[list[Tensor], list[Tensor]]
    scales: tuple[list[Tensor], list[Tensor]] | None = None

    @classmethod
    def of(cls, a: Rows, b: Rows, *, rescale: bool, rounding: float | None = None) -> Pilot:
        """Means, and if asked for scales, over the documents given; `rounding` as in `ModelStatistics`."""
        first, second = (ModelStatistics([np.asarray(layer) for layer in side], rounding=rounding) for side in (a, b))
        scales = (first.scales(), second.scales()) if rescale else None
        return cls((first.means, second.means), scales)


class StreamedComparison:
    """Sums of two models' layers over documents that come in any number of batches.

    Memory is that of `LinearCKA` for each draw (twice with rescaled values) and of the features of at most
    INFLUENCE_DOCUMENTS documents: constant in n. The documents left out in turn are those that
    `compare_features` takes, so intervals are its own; rescaled values hold the pilot's scales fixed.

    A side may hold the layers of several models one after the other, such as those of A and of a control:
    the sums of the other side with itself are then made once, and `compare` takes one model of each.

    Args:
        dims: widths of the layers of A and of B.
        n: documents there will be. draws: rows a document gives, K.
        pairs: layer pairs that are summed; all when None.
        pilot: shift and scales.
        dtype: of the features, that of the rows kept. device: where the sums lie.
        seed: chooses the documents that are left out in turn. rounding: as in `ModelStatistics`.
    """

    def __init__(
        self,
        dims: tuple[Sequence[int], Sequence[int]],
        n: int,
        pilot: Pilot,
        *,
        draws: int = 1,
        pairs: LayerPairs | None = None,
        dtype: np.dtype[Any] | type = np.float32,
        device: torch.device | str = "cpu",
        seed: int = 42,
        rounding: float | None = None,
    ) -> None:
        if n < MINIMUM_SAMPLES:
            raise UserError(f"{n} documents are too few for CKA: give at least {MINIMUM_SAMPLES}")
        self.dims, self.total, self.draws, self.pilot = dims, n, draws, pilot
        self.device = torch.device(device)
        self.rounding = ROUNDING_STEPS * float(np.finfo(dtype).eps) if rounding is None else rounding
        self.pairs = None if pairs is None else [(int(i), int(j)) for i, j in pairs]
        self.documents = influence_documents(n, seed)
        self._place = np.full(n, -1, dtype=np.int32)
        self._place[self.documents] = np.arange(len(self.documents))
        # Zeros take no memory before they are written.
        self._kept = [np.zeros((draws, len(self.documents), sum(side)), dtype) for side in dims]
        self._filled = np.zeros(len(self.documents), dtype=bool)
        first, second = pilot.means
        shifts = [([means[draw] for means in first], [means[draw] for means in second]) for draw in range(draws)]
        zero = [torch.zeros(p) for p in dims[0]], [torch.zeros(p) for p in dims[1]]
        self._stats = {
            "plain": [self._sums(shift) for shift in shifts],
            "rescaled": [self._sums(zero) for _ in shifts if pilot.scales],
        }

    def _sums(self, shift: tuple[list[Tensor], list[Tensor]] | None = None) -> LinearCKA:
        """Sums of these layers and pairs over no documents yet."""
        pairs: Pairs = "all" if self.pairs is None else self.pairs
        return LinearCKA(*self.dims, pairs=pairs, device=self.device, gram=False, shift=shift)

    def _named(self) -> Iterator[tuple[str, LinearCKA]]:
        for name, stats in self._stats.items():
            yield from ((f"{name}.{draw}.", stat) for draw, stat in enumerate(stats))

    @property
    def n(self) -> int:
        """Documents seen."""
        return self._stats["plain"][0].n

    def update(self, rows: Sequence[int], a: Rows, b: Rows) -> None:
        """Add documents: their places among the n, and their features under both models."""
        at = self._place[list(rows)]
        chosen = np.flatnonzero(at >= 0)
        self._filled[at[chosen]] = True
        for kept, side in zip(self._kept, (a, b), strict=True):
            if len(chosen):
                kept[:, at[chosen]] = np.concatenate([layer[:, chosen] for layer in side], axis=2)
        for draw, stat in enumerate(self._stats["plain"]):
            first, second = (
                [torch.as_tensor(np.asarray(layer[draw])).to(self.device) for layer in side] for side in (a, b)
            )
            stat.update(first, second)
            if self._stats["rescaled"]:
                self._stats["rescaled"][draw].update(self._scaled(first, 0, draw), self._scaled(second, 1, draw))

    def _scaled(self, features: list[Tensor], side: int, draw: int) -> list[Tensor]:
        assert self.pilot.scales is not None
        means, scales = self.pilot.means[side], self.pilot.scales[side]
        return [
            (x.to(torch.float64) - mean[draw].to(x.device)) * scale.to(x.device)
            for x, mean, scale in zip(features, means, scales, strict=True)
        ]

    def state(self) -> dict[str, Tensor]:
        """All that was seen, as named arrays; `load` and `merge` take it."""
        state = {"filled": torch.from_numpy(np.flatnonzero(self._filled))}
        for name, kept in zip("ab", self._kept, strict=True):
            state[f"kept_{name}"] = torch.from_numpy(kept[:, self._filled])
        for name, stat in self._named():
            state |= {name + key: value for key, value in stat.state().items()}
        return state

    def load(self, state: dict[str, Tensor]) -> None:
        """Go on from a state; bit for bit as if nothing had come between.

        Raises:
            KeyError, ValueError: a state of other layers, draws or scales.
        """
        self._filled[:] = False
        self._take_kept(state)
        for name, stat in self._named():
            stat.load(part_of(state, name))

    def merge(self, state: dict[str, Tensor]) -> None:
        """Add what another process has seen."""
        self._take_kept(state)
        for name, stat in self._named():
            other = self._sums()
            other.load(part_of(state, name))
            stat.merge(other)

    def _take_kept(self, state: dict[str, Tensor]) -> None:
        filled = state["filled"].numpy()
        self._filled[filled] = True
        for name, kept in zip("ab", self._kept, strict=True):
            kept[:, filled] = state[f"kept_{name}"].numpy()

    def compare(
        self,
        pairs: LayerPairs,
        early_layers: Sequence[int],
        mean_layers: Sequence[int] | None = None,
        *,
        rescale: bool = False,
        sides: tuple[str, str] = ("A", "B"),
        layers: tuple[slice, slice] = (slice(None), slice(None)),
        choose: Choice | None = None,
    ) -> FeatureComparison:
        """What `compare_features` would say of the documents seen, all n of them.

        Args:
            rescale: values of the features as the pilot scaled them.
            sides: what the two models are called in reasons.
            layers: which layers of side A and of side B the two models have; pairs count within these.
            mean_layers, choose: as in `assemble`.

        Raises:
            UserError: not all of the n documents were seen.
        """
        if self.n != self.total or not self._filled.all():
            raise UserError(f"{self.n} of {self.total} documents were seen: add the others before comparing")
        hsic = mean_hsic(self._stats["rescaled" if rescale else "plain"])
        moments = [stat.feature_moments() for stat in self._stats["plain"]]
        summaries = []
        for side, of in enumerate(layers):
            by_layer = list(zip(*(draw[side][of] for draw in moments), strict=True))
            means = [torch.stack([mean for mean, _ in layer]) for layer in by_layer]
            variances = [torch.stack([variance for _, variance in layer]).mean(0) for layer in by_layer]
            own = hsic["debiased"][1 + side][of].tolist()
            summaries.append(LayerSummary.of(means, variances, own, self.rounding, self._scales(side, of, rescale)))
        rows, columns = layers
        chosen = {e: (xy[rows, columns], xx[rows], yy[columns]) for e, (xy, xx, yy) in hsic.items()}
        whole = Whole(self.total, chosen, (summaries[0], summaries[1]))
        left_out = partial(self.left_out, rescale=rescale, layers=layers)
        return assemble(whole, self.documents, left_out, pairs, early_layers, mean_layers, sides=sides, choose=choose)

    def _scales(self, side: int, of: slice, rescale: bool) -> list[Tensor] | None:
        return self.pilot.scales[side][of] if rescale and self.pilot.scales else None

    def left_out(
        self, *, rescale: bool = False, layers: tuple[slice, slice] = (slice(None), slice(None))
    ) -> tuple[ModelStatistics, ModelStatistics]:
        """Features of A and of B of the documents that are left out in turn; arguments as in `compare`."""
        sets = []
        for side, (kept, dims, of) in enumerate(zip(self._kept, self.dims, layers, strict=True)):
            rows = [kept[:, :, columns] for columns in offsets(dims)[of]]
            features = ModelStatistics(rows, device=self.device, rounding=self.rounding)
            scales = self._scales(side, of, rescale)
            sets.append(features if scales is None else features.rescaled(scales))
        return sets[0], sets[1]


def part_of(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The arrays whose names begin with a prefix, without it."""
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
