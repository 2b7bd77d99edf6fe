"""Point values made of CKA by layer: mean divergence, and how many times one mean divergence is another."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def mean_cka(cka: ArrayLike) -> float:
    """Mean over layers of CKA, (layers,)."""
    return float(np.mean(np.asarray(cka, dtype=np.float64)))


def mean_divergence(cka: ArrayLike) -> float:
    """Mean over layers of the divergence 1 − CKA, from CKA, (layers,)."""
    return 1 - mean_cka(cka)


def ratio_of_means(cka: ArrayLike, control_cka: ArrayLike) -> float:
    """A pair's mean divergence over a control's, from the CKA of both over the same layers, (layers,).

    A ratio of means, never a mean of ratios: layers in which the control hardly diverges would rule that.
    """
    return mean_divergence(cka) / mean_divergence(control_cka)


def layer_ratios(cka: ArrayLike, control_cka: ArrayLike) -> np.ndarray:
    """The same by layer, (layers,) float64."""
    pairs = zip(np.atleast_1d(cka), np.atleast_1d(control_cka), strict=True)
    return np.array([ratio_of_means([one], [other]) for one, other in pairs])
