"""A comparison whose features are not kept: sums over all documents, rows of a seeded few."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cka_tools.errors import UserError
from cka_tools.statistics.features import FeatureSet, is_constant, spectrum_of
from cka_tools.statistics.hsic import ESTIMATORS, MINIMUM_SAMPLES
from cka_tools.statistics.linear_cka import LinearCKA, Pairs, restore, state_of
from cka_tools.statistics.moments import offsets
from cka_tools.statistics.pair import (
    FeatureComparison,
    Whole,
    assemble,
    average,
    influence_documents,
)

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
    def of(cls, a: Rows, b: Rows, *, rescale: bool) -> Pilot:
        """Means, and if asked for scales, over the documents given."""
        first, second = (FeatureSet([np.asarray(layer) for layer in side]) for side in (a, b))
        scales = (first.scales(), second.scales()) if rescale else None
        return cls((first.means, second.means), scales)


class StreamedComparison:
    """Sums of two models' layers over documents that come in any number of batches.

    Memory is that of `LinearCKA` for each draw (twice with rescaled values) and of the features of at most
    INFLUENCE_DOCUMENTS documents: constant in n. The documents left out in turn are those that
    `compare_features` takes, so intervals are its own; rescaled values hold the pilot's scales fixed.

    Args:
        dims: widths of the layers of A and of B.
        n: documents there will be. draws: rows a document gives, K.
        pairs: layer pairs that are summed; all when None.
        pilot: shift and scales.
        dtype: of the features, that of the rows kept. device: where the sums lie.
        seed: chooses the documents that are left out in turn.
    """

    def __init__(
        self,
        dims: tuple[Sequence[int], Sequence[int]],
        n: int,
        pilot: Pilot,
        *,
        draws: int = 1,
        pairs: Sequence[tuple[int, int]] | None = None,
        dtype: np.dtype[Any] | type = np.float32,
        device: torch.device | str = "cpu",
        seed: int = 42,
    ) -> None:
        if n < MINIMUM_SAMPLES:
            raise UserError(f"{n} documents are too few for CKA: give at least {MINIMUM_SAMPLES}")
        self.dims, self.total, self.draws, self.pilot = dims, n, draws, pilot
        self.device = torch.device(device)
        self.pairs = None if pairs is None else [(int(i), int(j)) for i, j in pairs]
        self.documents = influence_documents(n, seed)
        self._place = np.full(n, -1, dtype=np.int32)
        self._place[self.documents] = np.arange(len(self.documents))
        # Zeros take no memory before they are written.
        self._kept = [np.zeros((draws, len(self.documents), sum(side)), dtype) for side in dims]
        self._filled = np.zeros(len(self.documents), dtype=bool)
        self._plain = [self._sums(shift=self._shift(draw)) for draw in range(draws)]
        zero = tuple([torch.zeros(p) for p in side] for side in dims)
        self._rescaled = [self._sums(shift=(zero[0], zero[1])) for _ in range(draws if pilot.scales else 0)]

    def _sums(self, shift: tuple[Sequence[Tensor], Sequence[Tensor]] | None = None) -> LinearCKA:
        """Sums of these layers and pairs over no documents yet."""
        pairs: Pairs = "all" if self.pairs is None else self.pairs
        return LinearCKA(*self.dims, pairs=pairs, device=self.device, gram=False, shift=shift)

    def _shift(self, draw: int) -> tuple[list[Tensor], list[Tensor]]:
        first, second = ([means[draw] for means in side] for side in self.pilot.means)
        return first, second

    @property
    def n(self) -> int:
        """Documents seen."""
        return self._plain[0].n

    def update(self, rows: Sequence[int], a: Rows, b: Rows) -> None:
        """Add documents: their places among the n, and their features under both models."""
        at = self._place[list(rows)]
        chosen = np.flatnonzero(at >= 0)
        self._filled[at[chosen]] = True
        for kept, side in zip(self._kept, (a, b), strict=True):
            if len(chosen):
                kept[:, at[chosen]] = np.concatenate([layer[:, chosen] for layer in side], axis=2)
        for draw, stat in enumerate(self._plain):
            first, second = (self._on_device(side, draw) for side in (a, b))
            stat.update(first, second)
            if self._rescaled:
                self._rescaled[draw].update(
                    *(self._scaled(x, s, draw) for s, x in enumerate((first, second)))
                )

    def _on_device(self, side: Rows, draw: int) -> list[Tensor]:
        return [torch.as_tensor(np.asarray(layer[draw])).to(self.device) for layer in side]

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
        for name, stats in (("plain", self._plain), ("rescaled", self._rescaled)):
            for draw, stat in enumerate(stats):
                state |= {f"{name}.{draw}.{key}": value for key, value in state_of(stat).items()}
        return state

    def load(self, state: dict[str, Tensor]) -> None:
        """Go on from a state; bit for bit as if nothing had come between.

        Raises:
            KeyError, ValueError: a state of other layers, draws or scales.
        """
        self._filled[:] = False
        self._take_kept(state)
        for name, stats in (("plain", self._plain), ("rescaled", self._rescaled)):
            for draw, stat in enumerate(stats):
                restore(stat, part_of(state, f"{name}.{draw}."))

    def merge(self, state: dict[str, Tensor]) -> None:
        """Add what another process has seen."""
        self._take_kept(state)
        for name, stats in (("plain", self._plain), ("rescaled", self._rescaled)):
            for draw, stat in enumerate(stats):
                other = self._sums()
                restore(other, part_of(state, f"{name}.{draw}."))
                stat.merge(other)

    def _take_kept(self, state: dict[str, Tensor]) -> None:
        filled = state["filled"].numpy()
        self._filled[filled] = True
        for name, kept in zip("ab", self._kept, strict=True):
            kept[:, filled] = state[f"kept_{name}"].numpy()

    def compare(
        self,
        pairs: Sequence[tuple[int, int]],
        early: Sequence[int],
        *,
        rescale: bool = False,
        sides: tuple[str, str] = ("A", "B"),
    ) -> FeatureComparison:
        """What `compare_features` would say of the documents seen, all n of them.

        Args:
            rescale: values of the features as the pilot scaled them.
            sides: what the two models are called in reasons.

        Raises:
            UserError: not all of the n documents were seen.
        """
        if self.n != self.total or not self._filled.all():
            raise UserError(f"{self.n} of {self.total} documents were seen: add the others before comparing")
        stats = self._rescaled if rescale else self._plain
        scales = self.pilot.scales if rescale else None
        hsic = {e: average([stat.hsic(e) for stat in stats]) for e in ESTIMATORS}
        moments = [stat.feature_moments() for stat in self._plain]
        epsilon = torch.finfo(torch.from_numpy(self._kept[0]).dtype).eps
        constant, spectra = [], []
        for side in (0, 1):
            own = hsic["debiased"][1 + side]
            means = [torch.stack(m) for m in zip(*([x for x, _ in m[side]] for m in moments), strict=True)]
            variances = [
                torch.stack(v).mean(0) for v in zip(*([x for _, x in m[side]] for m in moments), strict=True)
            ]
            constant.append([is_constant(m, v, epsilon) for m, v in zip(means, variances, strict=True)])
            spectra.append(
                [
                    spectrum_of(v, None if scales is None else scales[side][at].to(v.device), float(own[at]))
                    for at, v in enumerate(variances)
                ]
            )
        whole = Whole(self.total, hsic, (constant[0], constant[1]), (spectra[0], spectra[1]))
        return assemble(
            whole, self.documents, lambda: self.left_out(rescale=rescale), pairs, early, sides=sides
        )

    def left_out(self, *, rescale: bool = False) -> tuple[FeatureSet, FeatureSet]:
        """Features of A and of B of the documents that are left out in turn."""
        sets = []
        for side, (kept, dims) in enumerate(zip(self._kept, self.dims, strict=True)):
            scales = self.pilot.scales[side] if rescale and self.pilot.scales else None
            layers = [kept[:, :, columns] for columns in offsets(dims)]
            sets.append(FeatureSet(layers, device=self.device, scales=scales))
        return sets[0], sets[1]


def part_of(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The arrays whose names begin with a prefix, without it."""
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
