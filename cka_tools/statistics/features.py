"""Pooled features of one model: read in centred blocks, and what they say alone."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cka_tools.errors import UserError
from cka_tools.statistics.hsic import ESTIMATORS, MINIMUM_SAMPLES, ROUNDING_STEPS, CentredSums, Estimator

Rows = slice | np.ndarray[Any, np.dtype[np.int64]]

READ_ROWS = 512
"""Documents read at a time."""

MASSIVE_SHARE = 0.5
"""One feature with more than this share of a layer's variance decides its CKA."""


class FeatureSet:
    """Features of L layers over the same n documents, in K draws a document (K = 1 unless tokens are drawn).

    Args:
        layers: L arrays (n, p_ℓ) or (K, n, p_ℓ), finite.
        device: where blocks are computed on.
        rescale: divide each feature by its standard deviation (features without variance become 0).
        scales: L tensors (p_ℓ,) to multiply each feature by instead, such as those of a pilot.
        documents: sorted indices of the documents to use; all by default.

    Attributes:
        n, draws, dims: documents, draws a document, widths.
        means: L tensors (K, p_ℓ). variances: L tensors (p_ℓ,), divisor n − 1, averaged over draws,
            before any rescaling.
        epsilon: relative rounding of the stored features.
    """

    def __init__(
        self,
        layers: Sequence[np.ndarray[Any, Any] | Tensor],
        *,
        device: torch.device | str = "cpu",
        rescale: bool = False,
        scales: Sequence[Tensor] | None = None,
        documents: np.ndarray[Any, np.dtype[np.int64]] | None = None,
    ) -> None:
        self._layers = [layer[None] if layer.ndim == 2 else layer for layer in layers]
        shapes = {layer.shape[:2] for layer in self._layers}
        if len(shapes) != 1:
            raise UserError(
                f"layers have {sorted(shapes)} (draws, documents): give the same documents in every layer"
            )
        draws, available = shapes.pop()
        self.draws, self.device = int(draws), torch.device(device)
        self._documents = documents
        self.n = available if documents is None else len(documents)
        self.dims = [layer.shape[2] for layer in self._layers]
        first = torch.as_tensor(self._layers[0][0, :1])
        self.epsilon = torch.finfo(first.dtype).eps
        self.means: list[Tensor] = []
        self.variances: list[Tensor] = []
        for layer in range(len(self.dims)):
            means, variance = self._first_two_moments(layer)
            self.means.append(means)
            self.variances.append(variance)
        self._scales: list[Tensor] | None = None
        if scales is not None:
            self._scales = [scale.to(self.device, torch.float64) for scale in scales]
        elif rescale:
            self._scales = self.scales()

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
            alive = spread > ROUNDING_STEPS * self.epsilon * means.abs().amax(0)
            found.append(torch.where(alive, 1 / torch.where(alive, spread, 1.0), 0.0))
        return found

    def blocks(self) -> list[slice]:
        """Slices over the documents, in order."""
        return [slice(i, min(i + READ_ROWS, self.n)) for i in range(0, self.n, READ_ROWS)]

    def _raw(self, draw: int, layer: int, rows: slice) -> Tensor:
        array = self._layers[layer]
        chosen: Rows = rows if self._documents is None else self._documents[rows]
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

    def constant_layers(self) -> list[bool]:
        """Which layers have no variance beyond rounding over these documents."""
        return [is_constant(m, v, self.epsilon) for m, v in zip(self.means, self.variances, strict=True)]

    def spectrum(self, layer: int, hsic_xx: float) -> Spectrum:
        """Effective dimension and top-feature share of a layer, given its debiased self-HSIC."""
        scale = None if self._scales is None else self._scales[layer]
        return spectrum_of(self.variances[layer], scale, hsic_xx)


def is_constant(means: Tensor, variance: Tensor, epsilon: float) -> bool:
    """Whether a layer has no variance beyond rounding.

    Args:
        means: (K, p), one row a draw. variance: (p,). epsilon: relative rounding of the features.
    """
    spread = variance.clamp(min=0).sum().sqrt()
    return bool(spread <= ROUNDING_STEPS * epsilon * torch.linalg.vector_norm(means, dim=1).max())


def spectrum_of(variance: Tensor, scale: Tensor | None, hsic_xx: float) -> Spectrum:
    """Spectrum of a layer from the variance of its features, (p,).

    Args:
        scale: what each feature is multiplied by; None is 1. hsic_xx: debiased, of the features so scaled.
    """
    variance = variance.clamp(min=0)
    if scale is not None:
        variance = variance * scale.square()
    total = float(variance.sum())
    if total <= 0 or hsic_xx <= 0:
        return Spectrum(float("nan"), float("nan"), 0)
    return Spectrum(total**2 / hsic_xx, float(variance.max()) / total, int(variance.argmax()))


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


def _release(array: Any) -> None:
    """Give the pages of a mapped file back: what is on disk need not stay in memory."""
    base = array
    while isinstance(base, np.ndarray):
        if isinstance(base, np.memmap) and isinstance(base.base, mmap.mmap):
            base.base.madvise(mmap.MADV_DONTNEED)
            return
        base = base.base


Layers = Sequence[np.ndarray[Any, Any] | Tensor]


class ModelStatistics:
    """Features of one model with all that depends on them alone, made once for any number of comparisons.

    Args:
        layers, device, rescale: as `FeatureSet` takes them.

    Attributes:
        features: the features, centred when they are read.
        constant: which layers have no variance.
        own: HSIC of each layer with itself by estimator, (L,) float64.
        spectra: effective dimension and top-feature share of each layer.

    Raises:
        UserError: fewer than four documents, or layers that do not belong together.
    """

    def __init__(
        self,
        layers: Layers,
        *,
        device: torch.device | str = "cpu",
        rescale: bool = False,
    ) -> None:
        self._layers, self._rescale = layers, rescale
        self.features = FeatureSet(layers, device=device, rescale=rescale)
        if self.features.n < MINIMUM_SAMPLES:
            raise UserError(
                f"{self.features.n} documents are too few for CKA: give at least {MINIMUM_SAMPLES}"
            )
        self.constant = self.features.constant_layers()
        each = [(i, i) for i in range(len(self.features.dims))]
        self.own = pair_hsic(self.features, self.features, each)
        self.spectra: list[Spectrum] = [
            self.features.spectrum(i, float(own)) for i, own in enumerate(self.own["debiased"])
        ]
        self._parts: dict[bytes, FeatureSet] = {}

    def on(self, documents: np.ndarray[Any, np.dtype[np.int64]]) -> FeatureSet:
        """The features of some of the documents (sorted indices)."""
        if len(documents) == self.features.n:
            return self.features
        key = documents.tobytes()
        if key not in self._parts:
            self._parts[key] = FeatureSet(
                self._layers, device=self.features.device, rescale=self._rescale, documents=documents
            )
        return self._parts[key]


def pair_hsic(a: FeatureSet, b: FeatureSet, pairs: Sequence[tuple[int, int]]) -> dict[Estimator, Tensor]:
    """HSIC of D layer pairs by estimator, (D,) float64, averaged over the draws.

    Takes the features' or the Gram form, whichever costs less. Time O(n p q) a pair at most.
    """
    by_estimator: dict[Estimator, list[Tensor]] = {e: [] for e in ESTIMATORS}
    for i, j in pairs:
        sums = [_sums(a, b, draw, i, j) for draw in range(a.draws)]
        for e in ESTIMATORS:
            by_estimator[e].append(torch.stack([s.hsic(e) for s in sums]).mean())
    return {e: torch.stack(values) for e, values in by_estimator.items()}


def _sums(a: FeatureSet, b: FeatureSet, draw: int, i: int, j: int) -> CentredSums:
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
