"""Estimates over the same documents: intervals of one, of a difference, and of a share of a gap."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from cka_tools.statistics.intervals import (
    INTERVAL_DOCUMENTS,
    LEVEL,
    Interval,
    Variance,
    debiased_variance,
    quantile,
    t_interval,
    too_few,
)
from cka_tools.statistics.pair import FeatureComparison
from cka_tools.statistics.ratio import CLEAR_CONTROL, NOT_CLEAR, ROUNDING


@dataclass(frozen=True)
class Reading:
    """What documents say of one model, or of several together: an estimate, and it without each document.

    Readings over the same documents add, subtract and scale, document by document, so what is made of them
    has a paired interval.

    Attributes:
        value: the estimate.
        without: (m,) float64, the estimate with each of m documents left out in turn.
        n: documents of the estimate; more than m where only some are left out.
        second: what pairs of documents do beyond each of the two, for the same pairs in every reading, (s,):
            the kernel of a U-statistic less its first order (`statistics.influence`). 0 for a mean, which
            has no such part. Its mean of squares is ζ₂, which `without` holds twice.
    """

    value: float
    without: np.ndarray
    n: int
    second: np.ndarray = field(default_factory=lambda: np.zeros(()))

    @classmethod
    def mean(cls, values: np.ndarray) -> Reading:
        """The mean of one number a document, (n,)."""
        x = np.asarray(values, dtype=np.float64)
        n = len(x)
        left = (x.sum() - x) / (n - 1) if n > 1 else np.full(n, np.nan)
        return cls(float(x.mean()), left, n)

    def __add__(self, other: Reading) -> Reading:
        n = min(self.n, other.n)
        return Reading(self.value + other.value, self.without + other.without, n, self.second + other.second)

    def __sub__(self, other: Reading) -> Reading:
        return self + -1.0 * other

    def __rmul__(self, factor: float) -> Reading:
        return Reading(factor * self.value, factor * self.without, self.n, factor * self.second)

    @property
    def variance(self) -> Variance:
        """Over documents, by leaving each out."""
        return debiased_variance(torch.from_numpy(self.without), float(np.mean(self.second**2)), self.n)

    def interval(self, level: float = LEVEL) -> Interval:
        """The estimate with its interval over documents; none where there are too few."""
        if len(self.without) < INTERVAL_DOCUMENTS:
            return too_few(self.value, len(self.without))
        return t_interval(self.value, self.variance, level)


def divergence_reading(found: FeatureComparison, members: Sequence[int]) -> Reading:
    """Mean debiased divergence over some layer pairs; those without variance are left out.

    Args:
        members: positions in `found.layers`.
    """
    values = {at: found.layers[at].debiased.value for at in members}
    known = [at for at in members if values[at] is not None]
    without = [one for at in known if (one := found.leave_one_out[at]) is not None]
    mean = float(np.mean([1 - (values[at] or 0.0) for at in known])) if known else math.nan
    if not without:
        return Reading(mean, np.empty(0), found.n)
    second = [one for at in known if (one := found.second_order[at]) is not None]
    return Reading(mean, 1 - np.mean(without, axis=0), found.n, -np.stack(second).mean(0, dtype=np.float64))


def share_of_gap(part: Reading, gap: Reading, what: str = "the gap") -> Interval:
    """part / gap with Fieller's interval, from the covariance of both over the same documents.

    The interval holds every share r for which part − r · gap is not told from 0. A gap that is less than
    three standard errors from 0, or told from 0 by no interval, is refused with its reason: nothing can be a
    share of it. Whichever way the gap points, 0 is the end that it starts from and 1 the end it goes to.

    Args:
        what: the gap's name, at the place of a subject.

    Source: Fieller (1954), Some Problems in Interval Estimation; here with delete-one (jackknife) moments,
    their second order taken out once, and Satterthwaite's degrees of freedom of part − r · gap.
    """
    few = len(gap.without) < INTERVAL_DOCUMENTS
    error = math.sqrt(gap.variance.total)
    half = quantile(gap.variance) * error
    needed = max(half, CLEAR_CONTROL * error)
    if abs(gap.value) <= max(ROUNDING, 0.0 if few else needed):
        bounds = "" if few else f" ({100 * LEVEL:g} % interval {gap.value - half:.3g} to {gap.value + half:.3g})"
        by = "" if few or abs(gap.value) <= half else f" by {CLEAR_CONTROL:g} standard errors"
        return Interval(None, reason=f"{NOT_CLEAR}: {what} {gap.value:.3g}{bounds} is not clear of 0{by}")
    share = part.value / gap.value
    if few:
        return too_few(share, len(gap.without))
    t = quantile((part - share * gap).variance)
    spread = t * t * _moments(part, gap)
    # r solves (gap² − s_gg) r² − 2 (part·gap − s_pg) r + (part² − s_pp) = 0
    a = gap.value**2 - spread[1, 1]
    b = part.value * gap.value - spread[0, 1]
    c = part.value**2 - spread[0, 0]
    if a <= 0:
        return Interval(None, reason=f"{NOT_CLEAR}: {what} {gap.value:.3g} is not clear of 0")
    root = math.sqrt(max(b * b - a * c, 0.0))
    return Interval(share, (b - root) / a, (b + root) / a)


def _moments(part: Reading, gap: Reading) -> np.ndarray:
    """Variances and covariance of two readings, (2, 2), as `intervals.debiased_variance` of one."""
    m, n = len(gap.without), gap.n
    moments = np.cov(part.without, gap.without, ddof=0) * (m - 1)
    second = np.stack(np.broadcast_arrays(part.second, gap.second)).reshape(2, -1)
    if not second.any():
        return moments * m / n
    component = 2 * second @ second.T / second.shape[1]
    # The jackknife holds it twice; without it what is left is a variance, and so never below 0.
    values, vectors = np.linalg.eigh(moments - 2 * component / m**2)
    first = (vectors * values.clip(min=0)) @ vectors.T
    return first * m / n + component / n**2
