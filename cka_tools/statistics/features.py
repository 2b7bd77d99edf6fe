"""Pooled features of one model: read in centred blocks, and what they say alone."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Hashable, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from cka_tools.errors import UserError
from cka_tools.statistics.hsic import ESTIMATORS, MINIMUM_SAMPLES, ROUNDING_STEPS, CentredSums, Estimator

Layers = Sequence[np.ndarray[Any, Any] | Tensor]
LayerPairs = Sequence[tuple[int, int]]
"""Layers (ℓ, m) of two models, by position among those that are there."""

Documents = np.ndarray[Any, np.dtype[np.int64]]
"""Sorted indices of documents."""

T = TypeVar("T")

READ_ROWS = 512
"""Documents read at a time."""


class ModelStatistics:
    """Features of one model with all that depends on them alone, made once for any number of comparisons.

    L layers over the same n documents, in K draws a document (K = 1 unless tokens are drawn). Moments are
    made at once, the rest when it is first asked for.

    Args:
        layers: L arrays (n, p_ℓ) or (K, n, p_ℓ), finite.
        device: where blocks are computed on.
        rescale: divide each feature by its standard deviation (features without variance become 0).
        documents: the documents to use; all by default.
        rounding: a spread of no more than this, relative to the mean, is none; by default what rounding of
            the stored features makes. Features that were computed have that of their computation as well.

    Attributes:
        n, draws, dims: documents, draws a document, widths.
        means: L tensors (K, p_ℓ). variances: L tensors (p_ℓ,), divisor n − 1, averaged over draws,
            before any rescaling.

    Raises:
        UserError: layers of different documents or draws.
    """

    def __init__(
        self,
        layers: Layers,
        *,
        device: torch.device | str = "cpu",
        rescale: bool = False,
        documents: Documents | None = None,
        rounding: float | None = None,
    ) -> None:
        self._layers = [layer[None] if layer.ndim == 2 else layer for layer in layers]
        shapes = {layer.shape[:2] for layer in self._layers}
        if len(shapes) != 1:
            raise UserError(f"layers have {sorted(shapes)} (draws, documents): give the same documents in every layer")
        draws, available = shapes.pop()
        self.draws, self.device = int(draws), torch.device(device)
        self._documents = documents
        self.n = available if documents is None else len(documents)
        self.dims = [layer.shape[2] for layer in self._layers]
        first = torch.as_tensor(self._layers[0][0, :1])
        self.rounding = ROUNDING_STEPS * torch.finfo(first.dtype).eps if rounding is None else rounding
        moments = [self._first_two_moments(layer) for layer in range(len(self.dims))]
        self.means: list[Tensor] = [means for means, _ in moments]
        self.variances: list[Tensor] = [variance for _, variance in moments]
        self._scales = self.scales() if rescale else None
        self._made: dict[Hashable, Any] = {}

    def rescaled(self, scales: Sequence[Tensor] | None = None) -> ModelStatistics:
        """The same features, each multiplied by a scale of its own; the moments are shared.

        Args:
            scales: L tensors (p_ℓ,), such as those of a pilot; 1/σ of these documents by default.
        """
        other = copy(self)
        other._scales = [s.to(self.device, torch.float64) for s in scales or self.scales()]
        other._made = {}
        return other

    def on(self, documents: Documents) -> ModelStatistics:
        """Some of the documents, centred and rescaled by themselves; itself where it has no others."""
        if len(documents) == self.n:
            return self
        rescale = self._scales is not None
        return self._once(
            documents.tobytes(),
            lambda: ModelStatistics(
                self._layers, device=self.device, rescale=rescale, documents=documents, rounding=self.rounding
            ),
        )

    def _once(self, key: Hashable, make: Callable[[], T]) -> T:
        if key not in self._made:
            self._made[key] = make()
        found: T = self._made[key]
        return found

    def _first_two_moments(self, layer: int) -> tuple[Tensor, Tensor]:
        means, variances = [], []
        for draw in range(self.draws):
            shift: Tensor | None = None
            total = squares = torch.zeros(self.dims[layer], dtype=torch.float64, device=self.device)
            for rows in self.blocks():
                block = self._raw(draw, layer, rows)
                shift = block.mean(0) if shift is None else shift
                block = block - shift
                total, squares = total + block.sum(0), squares + block.square().sum(0)
            assert shift is not None
            means.append(shift + total / self.n)
            variances.append((squares - total.square() / self.n) / (self.n - 1))
        return torch.stack(means), torch.stack(variances).mean(0)

    def scales(self) -> list[Tensor]:
        """1/σ of each feature, 0 where the spread is no more than rounding: L tensors (p_ℓ,)."""
        found = []
        for variance, means in zip(self.variances, self.means, strict=True):
            spread = variance.clamp(min=0).sqrt()
            alive = spread > self.rounding * means.abs().amax(0)
            found.append(torch.where(alive, 1 / torch.where(alive, spread, 1.0), 0.0))
        return found

    def blocks(self) -> list[slice]:
        """Slices over the documents, in order."""
        return [slice(i, min(i + READ_ROWS, self.n)) for i in range(0, self.n, READ_ROWS)]

    def _raw(self, draw: int, layer: int, rows: slice) -> Tensor:
        array = self._layers[layer]
        chosen = rows if self._documents is None else self._documents[rows]
        block = torch.as_tensor(
            np.asarray(array[draw, chosen]) if isinstance(array, np.ndarray) else array[draw, chosen]
        )
        copy = block.to(self.device, torch.float64, copy=True)
        _release(array)
        return copy

    def rows(self, draw: int, layer: int, rows: slice) -> Tensor:
        """Centred (and, if asked, rescaled) features of some documents, (rows, p_ℓ) float64."""
        block = self._raw(draw, layer, rows) - self.means[layer][draw]
        return block if self._scales is None else block * self._scales[layer]

    def norms(self, layer: int) -> Tensor:
        """‖x_i‖² of every draw and document, (K, n)."""

        def make() -> Tensor:
            draws, blocks = range(self.draws), self.blocks()
            return torch.stack([torch.cat([self.rows(k, layer, r).square().sum(1) for r in blocks]) for k in draws])

        return self._once(("norms", layer), make)

    def own_hsic(self, layer: int) -> dict[Estimator, Tensor]:
        """HSIC of a layer with itself by estimator, averaged over the draws.

        Raises:
            UserError: fewer than four documents.
        """
        if self.n < MINIMUM_SAMPLES:
            raise UserError(f"{self.n} documents are too few for CKA: give at least {MINIMUM_SAMPLES}")
        return self._once(("own", layer), lambda: {e: h[0] for e, h in pair_hsic(self, self, [(layer, layer)]).items()})

    @property
    def own(self) -> dict[Estimator, Tensor]:
        """`own_hsic` of all layers, (L,) float64."""
        each = [self.own_hsic(layer) for layer in range(len(self.dims))]
        return {e: torch.stack([own[e] for own in each]) for e in ESTIMATORS}

    @property
    def summary(self) -> LayerSummary:
        """Which layers are constant, and how the variance of each is spread."""
        return self._once(
            "summary",
            lambda: LayerSummary.of(
                self.means, self.variances, self.own["debiased"].tolist(), self.rounding, self._scales
            ),
        )


@dataclass(frozen=True)
class Spectrum:
    """How a layer's variance is spread.

    Attributes:
        effective_dim: (tr Σ̂)² / HSIC_xx debiased, Σ̂ with divisor n − 1; the participation ratio without
            its small-sample bias.
        top_feature_share: max_j Σ̂_jj / tr Σ̂.
        top_feature: that j.
    """

    effective_dim: float
    top_feature_share: float
    top_feature: int


@dataclass(frozen=True)
class LayerSummary:
    """What the features of one model say alone: which layers have no variance, and each layer's spectrum."""

    constant: list[bool]
    spectra: list[Spectrum]

    @classmethod
    def of(
        cls,
        means: Sequence[Tensor],
        variances: Sequence[Tensor],
        own: Sequence[float],
        rounding: float,
        scales: Sequence[Tensor] | None = None,
    ) -> LayerSummary:
        """Summary of L layers.

        Args:
            means, variances: L tensors (K, p_ℓ) and (p_ℓ,), before any rescaling.
            own: debiased HSIC of each layer with itself, rescaled if it is to be.
            rounding: a spread of no more than this, relative to the mean, is none.
            scales: what each feature is multiplied by, L tensors (p_ℓ,); None is 1.
        """
        constant, spectra = [], []
        for at, (mean, spread, hsic) in enumerate(zip(means, variances, own, strict=True)):
            variance = spread.clamp(min=0)
            size = torch.linalg.vector_norm(mean, dim=1).max()
            constant.append(bool(variance.sum().sqrt() <= rounding * size))
            if scales is not None:
                variance = variance * scales[at].to(variance.device).square()
            total, top = float(variance.sum()), float(variance.max())
            defined = total > 0 and hsic > 0
            spectra.append(
                Spectrum(total**2 / hsic, top / total, int(variance.argmax()))
                if defined
                else Spectrum(float("nan"), float("nan"), 0)
            )
        return cls(constant, spectra)


def _release(array: Any) -> None:
    """Give the pages of a mapped file back: what is on disk need not stay in memory."""
    base = array
    while isinstance(base, np.ndarray):
        if isinstance(base, np.memmap) and isinstance(base.base, mmap.mmap):
            base.base.madvise(mmap.MADV_DONTNEED)
            return
        base = base.base


def pair_hsic(a: ModelStatistics, b: ModelStatistics, pairs: LayerPairs) -> dict[Estimator, Tensor]:
    """HSIC of D layer pairs by estimator, (D,) float64, averaged over the draws.

    Takes the features' or the Gram form, whichever costs less. Time O(n p q) a pair at most.
    """
    by_estimator: dict[Estimator, list[Tensor]] = {e: [] for e in ESTIMATORS}
    for i, j in pairs:
        sums = [_sums(a, b, draw, i, j) for draw in range(a.draws)]
        for e in ESTIMATORS:
            by_estimator[e].append(torch.stack([s.hsic(e) for s in sums]).mean())
    return {e: torch.stack(values) for e, values in by_estimator.items()}


def _sums(a: ModelStatistics, b: ModelStatistics, draw: int, i: int, j: int) -> CentredSums:
    """The sums of HSIC for layer i of A and layer j of B."""
    same = a is b and i == j
    gram = a.n <= READ_ROWS and a.n < min(a.dims[i], b.dims[j])
    cross = torch.zeros((), dtype=torch.float64, device=a.device)
    S = torch.zeros(() if gram else (a.dims[i], b.dims[j]), dtype=torch.float64, device=a.device)
    norms_x, norms_y = [], []
    for rows in a.blocks():
        X = a.rows(draw, i, rows)
        Y = X if same else b.rows(draw, j, rows)
        norms_x.append(X.square().sum(1))
        norms_y.append(norms_x[-1] if same else Y.square().sum(1))
        if gram:
            K = X @ X.T
            cross = (K * (K if same else Y @ Y.T)).sum()
        else:
            S.addmm_(X.T, Y)
    if not gram:
        cross = S.square().sum()
    x, y = torch.cat(norms_x), torch.cat(norms_y)
    return CentredSums(a.n, cross, x.sum(), y.sum(), (x * y).sum())
