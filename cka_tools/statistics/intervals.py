"""Intervals over documents for CKA, its mean over layers, and ratios of divergences."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats
from torch import Tensor

LEVEL = 0.95

MINIMUM_DOCUMENTS = 30
"""Fewer documents give no interval: the influence of each is then too poorly known."""

LOW_DIMENSION = 5.0
"""Below this effective dimension a few features decide, and the leave-one-out interval is joined."""


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


def u_statistic_variance(first: Tensor, second: float, n: int | None = None) -> float:
    """Variance of debiased CKA over n documents, from the influence of m.

    A jackknife's 4·var(g)/m holds the second-order variance 2ζ₂/m² twice; it is taken out once. For n other
    than m, the first-order variance ζ₁ is estimated on the m documents and carried over.

    Args:
        first: influence g_i of m documents, (m,).
        second: ζ₂.
        n: documents that the estimate was made from; m by default.
    """
    m = len(first)
    jackknife = 4 * float(first.var()) / m
    if n is None or n == m:
        return max(jackknife - 2 * second / m**2, 2 * second / m**2)
    zeta_1 = max(jackknife - 4 * second / m**2, 0.0) * m / 4
    return 4 * zeta_1 / n + 2 * second / n**2


def t_interval(value: float, variance: float, n: int, level: float = LEVEL) -> Interval:
    """Estimate ± t quantile × standard error, n − 1 degrees of freedom."""
    half = float(stats.t.ppf(0.5 + level / 2, n - 1)) * math.sqrt(max(variance, 0.0))
    return Interval(value, value - half, value + half)


def leave_one_out_interval(value: float, without: Tensor, n: int | None = None, level: float = LEVEL) -> Interval:
    """Jackknife interval on atanh √CKA, where one feature's squared correlation is nearly normal.

    Args:
        value: debiased CKA; a negative one has the negative root.
        without: the estimates with one of m documents left out, (m,).
        n: documents that the estimate was made from; m by default.
    """
    m = len(without)
    point, others = _to_root(np.array(value)), _to_root(without.cpu().numpy())
    variance = (m - 1) / m * float(((others - others.mean()) ** 2).sum()) * m / (n or m)
    half = float(stats.t.ppf(0.5 + level / 2, m - 1)) * math.sqrt(variance)
    return Interval(value, _from_root(float(point) - half), _from_root(float(point) + half))


def union(a: Interval, b: Interval) -> Interval:
    """The shortest interval that holds both; both are of one estimate."""
    assert a.ci_low is not None and a.ci_high is not None and b.ci_low is not None and b.ci_high is not None
    return Interval(a.value, min(a.ci_low, b.ci_low), max(a.ci_high, b.ci_high))


def _to_root(cka: np.ndarray) -> np.ndarray:
    limit = 1 - 1e-12
    return np.arctanh(np.clip(np.sign(cka) * np.sqrt(np.abs(cka)), -limit, limit))


def _from_root(z: float) -> float:
    return math.copysign(math.tanh(z) ** 2, z)
