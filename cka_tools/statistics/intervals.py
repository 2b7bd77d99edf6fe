"""Intervals over documents for CKA, its mean over layers, and ratios of divergences."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy import stats
from torch import Tensor

LEVEL = 0.95

MINIMUM_DOCUMENTS = 30
"""Fewer documents give no interval: the influence of each is then too poorly known."""

LOW_DIMENSION = 5.0
"""Below this effective dimension a few features decide, and an interval on the scale of a correlation is joined."""

RANK_ONE = 2.0
"""Below this one CKA is nearly the squared correlation of one feature, whose standard error is known from below."""


@dataclass(frozen=True)
class Interval:
    """An estimate and its interval; `reason` says why one that is None cannot be given."""

    value: float | None
    ci_low: float | None = None
    ci_high: float | None = None
    reason: str | None = None

    def complement(self) -> Interval:
        """The interval of 1 − value."""
        flip = lambda v: None if v is None else 1.0 - v  # noqa: E731
        return Interval(flip(self.value), flip(self.ci_high), flip(self.ci_low), self.reason)


def too_few(value: float | None, n: int) -> Interval:
    """The estimate without an interval."""
    return Interval(value, reason=f"{n} documents are fewer than the {MINIMUM_DOCUMENTS} an interval needs")


@dataclass(frozen=True)
class Variance:
    """Sampling variance of debiased CKA over n documents: all of it, and its first-order part."""

    total: float
    first_order: float


def debiased_variance(without: Tensor, second: float, n: int | None = None) -> Variance:
    """Variance from the estimates with one of m documents left out.

    The jackknife holds the second-order variance 2ζ₂/m² of a U-statistic twice; it is taken out once.

    Args:
        without: estimates with each document left out, (m,).
        second: ζ₂, the second-order component (see `influence`).
        n: documents that the estimate was made from; m by default. The first-order part is carried over to it.
    """
    m = len(without)
    n = n or m
    jackknife = (m - 1) / m * float((without - without.mean()).square().sum())
    first_order = max(jackknife - 4 * second / m**2, 0.0) * m / n
    if n == m:
        return Variance(max(jackknife - 2 * second / m**2, 2 * second / m**2), first_order)
    return Variance(first_order + 2 * second / n**2, first_order)


def t_interval(value: float, variance: float, n: int, level: float = LEVEL) -> Interval:
    """Estimate ± t quantile × standard error, n − 1 degrees of freedom."""
    half = float(stats.t.ppf(0.5 + level / 2, n - 1)) * math.sqrt(max(variance, 0.0))
    return Interval(value, value - half, value + half)


def correlation_interval(
    value: float, biased: float, first_order: float, n: int, *, rank_one: bool, level: float = LEVEL
) -> Interval:
    """Interval on atanh √CKA, the scale on which a squared correlation is nearly normal.

    The centre is the biased estimate, which a single feature makes an exact squared correlation and which is
    never negative. Where one feature is all there is (`rank_one`), the standard error is at least that of
    Fisher's z, 1/√(n − 3): at a sample correlation near 0 the estimated one vanishes.

    Args:
        value: debiased CKA. biased: biased CKA. first_order: first-order variance of the debiased one.
    """
    centre = math.atanh(math.sqrt(min(max(biased, 1e-12), 1 - 1e-12)))
    variance = first_order / (4 * max(biased, 1e-12) * max(1 - biased, 1e-12) ** 2)
    if rank_one:
        variance = max(variance, 1 / (n - 3))
    half = float(stats.t.ppf(0.5 + level / 2, n - 1)) * math.sqrt(variance)
    return Interval(value, math.tanh(max(centre - half, 0.0)) ** 2, math.tanh(centre + half) ** 2)


def union(a: Interval, b: Interval) -> Interval:
    """The shortest interval that holds both; both are of one estimate."""
    assert a.ci_low is not None and a.ci_high is not None and b.ci_low is not None and b.ci_high is not None
    return Interval(a.value, min(a.ci_low, b.ci_low), max(a.ci_high, b.ci_high))
