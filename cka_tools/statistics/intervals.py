"""Intervals over documents for CKA, its mean over layers, and ratios of divergences."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy.special import stdtrit
from torch import Tensor

LEVEL = 0.95

INTERVAL_DOCUMENTS = 30
"""Fewer documents give no interval: the influence of each is then too poorly known."""

LOW_DIMENSION = 5.0
"""Below this effective dimension a few features decide: an interval on a correlation's scale is joined."""

RANK_ONE = 2.0
"""Below this one CKA is nearly a squared correlation, whose standard error is known from below."""

CLEAR_OF_ZERO = 8.0
"""Standard errors above 0 from which an estimate has a logit."""


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
    return Interval(value, reason=f"{n} documents are fewer than the {INTERVAL_DOCUMENTS} an interval needs")


@dataclass(frozen=True)
class Variance:
    """Sampling variance of debiased CKA over n documents.

    Attributes:
        total: all of it. first_order: the part that falls with 1/n.
        degrees: degrees of freedom of the estimate, after Satterthwaite: influences with heavy tails know
            their own variance less well than as many Gaussian ones.
    """

    total: float
    first_order: float
    degrees: float


def debiased_variance(without: Tensor, second: float, n: int | None = None) -> Variance:
    """Variance from the estimates with one of m documents left out.

    The jackknife holds the second-order variance 2ζ₂/m² of a U-statistic twice; it is taken out once.

    Args:
        without: estimates with each document left out, (m,).
        second: ζ₂, the second-order component (see `influence`).
        n: documents that the estimate was made from; m by default. The first-order part is carried over.
    """
    m = len(without)
    n = n or m
    jackknife = jackknife_variance(without)
    first_order = max(jackknife.total - 4 * second / m**2, 0.0) * m / n
    if n == m:
        total = max(jackknife.total - 2 * second / m**2, 2 * second / m**2)
    else:
        total = first_order + 2 * second / n**2
    return Variance(total, first_order, jackknife.degrees)


def jackknife_variance(without: Tensor, n: int | None = None) -> Variance:
    """Plain delete-one variance: (m − 1)/m Σ (θ₍₋ᵢ₎ − mean)².

    Args:
        without: estimates with each of m documents left out, (m,).
        n: documents of the estimate; m by default.
    """
    m = len(without)
    deviations = without - without.mean()
    total = (m - 1) / m * float(deviations.square().sum()) * m / (n or m)
    return Variance(total, total, _degrees_of_freedom(deviations))


def mean_variance(influence: Tensor, n: int | None = None) -> Variance:
    """Variance of a mean of influences, each counted twice as in a U-statistic of two: 4·var(g)/n.

    Args:
        influence: g_i of m documents, (m,). n: documents of the estimate; m by default.
    """
    total = 4 * float(influence.var()) / (n or len(influence))
    return Variance(total, total, _degrees_of_freedom(influence - influence.mean()))


def _degrees_of_freedom(deviations: Tensor) -> float:
    """2m/(kurtosis − 1), at most m − 1."""
    m, second = len(deviations), float(deviations.square().mean())
    if second == 0:
        return float(m - 1)
    kurtosis = float(deviations.pow(4).mean()) / second**2
    return min(2 * m / max(kurtosis - 1, 1e-9), m - 1.0)


def t_interval(value: float, variance: Variance, level: float = LEVEL) -> Interval:
    """Estimate ± t quantile × standard error."""
    half = quantile(variance, level) * math.sqrt(max(variance.total, 0.0))
    return Interval(value, value - half, value + half)


def clear_of_zero(value: float, variance: Variance) -> bool:
    """Whether an estimate lies far enough above 0, and below 1, for an interval on its logit."""
    return CLEAR_OF_ZERO * math.sqrt(variance.total) < value < 1


def logit_interval(value: float, variance: Variance) -> Interval:
    """Interval on logit CKA: the standard error grows with the distance from 0 and from 1.

    On the plain scale it is taken as constant, and samples with a small estimate are given too short a one.
    """
    centre = math.log(value / (1 - value))
    half = quantile(variance) * math.sqrt(variance.total) / (value * (1 - value))
    return Interval(value, 1 / (1 + math.exp(half - centre)), 1 / (1 + math.exp(-half - centre)))


def quantile(variance: Variance, level: float = LEVEL) -> float:
    """Student's t at the level, two-sided, by the variance's degrees of freedom."""
    return float(stdtrit(variance.degrees, 0.5 + level / 2))


def correlation_interval(value: float, biased: float, variance: Variance, n: int, *, rank_one: bool) -> Interval:
    """Interval on atanh √CKA, the scale on which a squared correlation is nearly normal.

    The centre is the biased estimate, which a single feature makes an exact squared correlation and which is
    never negative. Where one feature is all there is (`rank_one`), the standard error is at least that of
    Fisher's z, 1/√(n − 3): at a sample correlation near 0 the estimated one vanishes.

    Args:
        value: debiased CKA. biased: biased CKA. variance: of the debiased one.
    """
    centre = math.atanh(math.sqrt(min(max(biased, 1e-12), 1 - 1e-12)))
    on_scale = variance.first_order / (4 * max(biased, 1e-12) * max(1 - biased, 1e-12) ** 2)
    if rank_one:
        on_scale = max(on_scale, 1 / (n - 3))
    half = quantile(variance) * math.sqrt(on_scale)
    return Interval(value, math.tanh(max(centre - half, 0.0)) ** 2, math.tanh(centre + half) ** 2)


def union(a: Interval, b: Interval) -> Interval:
    """The shortest interval that holds both; both are of one estimate."""
    lows = [i.ci_low for i in (a, b) if i.ci_low is not None]
    highs = [i.ci_high for i in (a, b) if i.ci_high is not None]
    return Interval(a.value, min(lows), max(highs))
