"""HSIC and CKA from sums over centred samples, and the number format of the products in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from cka_tools.errors import UserError

FAST_FLOAT64 = frozenset({(6, 0), (7, 0), (8, 0), (9, 0), (10, 0)})
"""Compute capabilities of NVIDIA GPUs whose float64 rate is half of float32's or more (the CUDA C++
Programming Guide's table of arithmetic throughput); on all others it is 1/32 or 1/64."""


def product_dtype_on(device: torch.device) -> torch.dtype:
    """float64; float32 on a GPU that makes float64 products at a fraction of float32's rate."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) in FAST_FLOAT64:
        return torch.float64
    return torch.float32


Estimator = Literal["biased", "debiased"]
ESTIMATORS: tuple[Estimator, ...] = get_args(Estimator)

MINIMUM_SAMPLES = 4
"""The U-statistic divides by n(n−3)."""


def check_estimator(estimator: str) -> None:
    """Raise UserError for a name that is not an estimator."""
    if estimator not in ESTIMATORS:
        raise UserError(f"estimator {estimator!r} is not known: choose one of {', '.join(ESTIMATORS)}")


ROUNDING_STEPS = 4
"""A spread of so many rounding steps of the mean is no variance."""


@dataclass(frozen=True)
class CentredSums:
    """Sums over n samples of centred features, for any number of pairs at once (shapes broadcast).

    Attributes:
        n: number of samples.
        cross: C = ‖Xᵀ Y‖_F².
        norms_a, norms_b: Σ_i ‖x_i‖² and Σ_i ‖y_i‖².
        norm_products: Σ_i ‖x_i‖²‖y_i‖².
    """

    n: int
    cross: Tensor
    norms_a: Tensor
    norms_b: Tensor
    norm_products: Tensor

    def hsic(self, estimator: Estimator) -> Tensor:
        """HSIC of every pair, float64.

        "biased" is tr(KHLH)/(n−1)² (Gretton et al. 2005, eq. 9). "debiased" is the U-statistic
        [tr(K̃L̃) + (1ᵀK̃1)(1ᵀL̃1)/((n−1)(n−2)) − 2·1ᵀK̃L̃1/(n−2)] / (n(n−3)) (Song et al. 2012, eq. 5).

        Raises:
            UserError: an unknown estimator, or fewer than four samples.
        """
        check_estimator(estimator)
        n = self.n
        if n < MINIMUM_SAMPLES:
            raise UserError(f"{n} samples are too few for CKA: give at least {MINIMUM_SAMPLES}")
        if estimator == "biased":
            return self.cross / (n - 1) ** 2
        trace = self.cross - self.norm_products
        grand = self.norms_a * self.norms_b / ((n - 1) * (n - 2))
        rows = 2 * self.norm_products / (n - 2)
        return (trace + grand - rows) / (n * (n - 3))


@dataclass(frozen=True)
class PairSums:
    """Everything CKA needs of the layers of two models.

    Attributes:
        cross: sums of A's layers with B's, shape (L_A, L_B); NaN for pairs that were not asked for.
        own_a, own_b: sums of each layer with itself, shapes (L_A,) and (L_B,).
        mean_norms_a, mean_norms_b: ‖mean feature vector‖ of each layer, the scale that rounding is judged by.
    """

    cross: CentredSums
    own_a: CentredSums
    own_b: CentredSums
    mean_norms_a: Tensor
    mean_norms_b: Tensor


def spread_is_rounding(own: CentredSums, mean_norms: Tensor, epsilon: float) -> Tensor:
    """Which layers have no variance beyond what rounding to a relative `epsilon` makes, shape (L,), bool."""
    spread = torch.sqrt(own.norms_a / own.n)
    return spread <= ROUNDING_STEPS * epsilon * mean_norms


def normalise(hsic_xy: Tensor, hsic_xx: Tensor, hsic_yy: Tensor) -> Tensor:
    """CKA = HSIC_xy / √(HSIC_xx HSIC_yy) (Kornblith et al. 2019, eq. 2); never clamped, NaN where undefined.

    Shapes broadcast. A self-HSIC that is NaN or not positive leaves no scale to divide by.
    """
    scale = torch.sqrt(hsic_xx.clamp(min=0)) * torch.sqrt(hsic_yy.clamp(min=0))
    return torch.where(scale > 0, hsic_xy / scale, torch.nan)
