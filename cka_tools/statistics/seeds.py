"""Means over training seeds: intervals that say which kinds of chance they hold."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cka_tools.statistics.intervals import LEVEL, Interval, Variance, t_interval
from cka_tools.statistics.paired import Reading

ONE_SEED = "one seed tells nothing of the chance of seeds"


def over_seeds(values: Sequence[float], level: float = LEVEL, *, share: bool = False) -> Interval:
    """The mean of one number a seed ± Student's t (K − 1 degrees of freedom) × s / √K.

    It holds the chance of seeds alone: documents of test are as they are.

    Args:
        share: whether the numbers are shares; the interval of few seeds, often wider, is then cut at 0 and 1.
    """
    if len(values) < 2:
        return Interval(float(np.mean(values)), reason=ONE_SEED)
    found = t_interval(float(np.mean(values)), seed_variance(values), level)
    if not share:
        return found
    low, high = (float(np.clip(end, 0, 1)) for end in (found.ci_low, found.ci_high) if end is not None)
    return Interval(found.value, low, high)


def seed_variance(values: Sequence[float]) -> Variance:
    """Of a mean over K seeds: s² / K with K − 1 degrees of freedom."""
    total = float(np.var(values, ddof=1)) / len(values)
    return Variance(total, total, len(values) - 1.0)


def over_seeds_and_documents(tasks: Sequence[Sequence[Reading]], level: float = LEVEL) -> Interval:
    """The mean over tasks and seeds of an estimate over documents, with an interval over seeds and documents.

    The variance is a sum: that of seeds, s² / K, and of each task's documents, by leaving each out of every seed's
    estimate at once. Both hold what is of one seed on one document, so the interval is wider than need be by that
    share. Degrees of freedom are Satterthwaite's.

    Args:
        tasks: of each task one estimate a seed, over the same documents, in one order of seeds; differences of
            two models are paired in both. Documents of two tasks are independent.
    """
    means = [mean_reading(one) for one in tasks]
    by_seed = [float(np.mean([one[at].value for one in tasks])) for at in range(len(tasks[0]))]
    value = float(np.mean(by_seed))
    lacking = [found.reason for one in means if (found := one.interval(level)).ci_low is None]
    if len(by_seed) < 2 or lacking:
        return Interval(value, reason=ONE_SEED if len(by_seed) < 2 else lacking[0])
    share = 1 / len(tasks) ** 2
    parts = [Variance(share * one.variance.total, 0.0, one.variance.degrees) for one in means]
    return t_interval(value, _sum([*parts, seed_variance(by_seed)]), level)


def mean_reading(readings: Sequence[Reading]) -> Reading:
    """The mean over seeds, document by document."""
    total = readings[0]
    for one in readings[1:]:
        total = total + one
    return (1 / len(readings)) * total


def _sum(parts: Sequence[Variance]) -> Variance:
    """Of independent parts."""
    total = sum(one.total for one in parts)
    below = sum(one.total**2 / one.degrees for one in parts)
    return Variance(total, total, total**2 / below if below > 0 else min(one.degrees for one in parts))
