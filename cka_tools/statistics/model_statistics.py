"""What the statistics of one model cost, whatever it is compared with: moments, self-HSIC, spectra."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cka_tools.errors import UserError
from cka_tools.statistics.feature_set import READ_ROWS, FeatureSet, Spectrum
from cka_tools.statistics.hsic import ESTIMATORS, MINIMUM_SAMPLES, CentredSums, Estimator

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
