"""Two groups of checkpoints, every pair compared: are groups further apart than their own members are?

B is the mean divergence of the pairs between the groups, W the mean over the two groups of each one's mean
over its own pairs, C = B − W and R = B / W. A checkpoint is in many pairs, so their spread is no standard
error: chance over training seeds is what leaving one checkpoint out changes, chance over documents what
leaving one document out of all pairs changes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np
import torch

from cka_tools.statistics.intervals import Interval, Variance, jackknife_variance, t_interval, too_few
from cka_tools.statistics.ratio import NOT_ABOVE_0, ROUNDING, divisor_refusal, from_logarithm

MOST_RELABELINGS = 10_000
"""More distinct relabelings than these are sampled."""

FEWEST_SEEDS = 3
"""Checkpoints a group needs for an interval over seeds: of two, leaving one out leaves no pair."""

TIED = 1e-9
"""Statistics closer than this, in standard deviations over the relabelings, are equal but for rounding."""

UNDEFINED = "no variance in this layer of a model, so a divergence is undefined"


@dataclass(frozen=True)
class GroupContrast:
    """What one layer, or a mean over layers, says of two groups.

    Attributes:
        between, within, difference, ratio: B, W, C and R with their intervals; the ratio is None with its
            reason where W is not clear of 0.
        p: of the one-sided permutation test of C; among layers it is adjusted for their number (step-down
            maximum statistic of Westfall and Young). p_single: without that.
        seed_share: the part of C's variance that is due to training seeds; None where it is not known.
    """

    between: Interval
    within: Interval
    difference: Interval
    ratio: Interval
    p: float | None = None
    p_single: float | None = None
    seed_share: float | None = None


@dataclass(frozen=True)
class ContrastTest:
    """All layers of two groups of checkpoints.

    Attributes:
        layers: one entry a layer. mean, early: of the divergence averaged over layers.
        early_to_rest: R of the early layers over R of the others, with its interval: above 1 where the groups'
            mark stands out there, as a multiple of what runs differ by anyway.
        relabelings: that were compared, the observed one among them. exact: whether these are all there are.
        no_seeds: why the intervals are over documents alone; None where they hold training seeds as well.
    """

    layers: list[GroupContrast]
    mean: GroupContrast
    early: GroupContrast
    early_to_rest: Interval
    relabelings: int
    exact: bool
    no_seeds: str | None

    @property
    def smallest_p(self) -> float:
        """The smallest p that this design can give."""
        return 1 / self.relabelings


def pair_positions(checkpoints: int) -> list[tuple[int, int]]:
    """All pairs of checkpoints, in the order of every array of pairs here."""
    return list(combinations(range(checkpoints), 2))


def contrast_groups(
    divergence: np.ndarray,
    without: np.ndarray | None,
    sizes: tuple[int, int],
    early_layers: Sequence[int],
    n: int,
    *,
    paired: bool = False,
    seed: int = 42,
    most: int = MOST_RELABELINGS,
) -> ContrastTest:
    """Contrast two groups of checkpoints.

    Args:
        divergence: of each pair (see `pair_positions`) in each layer, (pairs, layers); NaN where undefined.
            The first `sizes[0]` checkpoints are the first group.
        without: the same without each of m documents in turn, (pairs, layers, m); None gives no intervals.
        early_layers: positions of the layers that count as early.
        n: documents.
        paired: checkpoint i of one group and i of the other share something that other checkpoints do not:
            these pairs are not counted, labels are exchanged within them, and they are left out together.
        seed: of the relabelings, where there are more than `most`.
    """
    design = _Design(sizes, paired)
    usable = [at for at in range(divergence.shape[1]) if np.isfinite(divergence[:, at]).all()]
    early = [at for at in usable if at in early_layers]
    rest = [at for at in usable if at not in early_layers]
    groups = [[at] for at in usable] + [usable, early, rest]
    rows = [divergence[:, group].mean(1) if group else None for group in groups]
    labels, exact = relabelings(sizes, paired=paired, seed=seed, most=most)
    between, within = design.weights(labels)
    scores = [None if row is None else _standardised((between - within) @ row) for row in rows]
    single = [None if one is None else _p(one) for one in scores]
    adjusted = _step_down(np.array(scores[: len(usable)])) if usable else []
    found = []
    for at, (group, row) in enumerate(zip(groups, rows, strict=True)):
        if row is None:
            found.append(_undefined("no layer with variance to average over"))
            continue
        left = None if without is None else without[:, group].mean(1)
        p = adjusted[at] if at < len(usable) else single[at]
        found.append(_contrast(design, row, left, n, p, single[at]))
    layers = [_undefined(UNDEFINED)] * divergence.shape[1]
    for at, one in zip(usable, found, strict=False):
        layers[at] = one
    refused = [one.ratio.reason for one in found[-2:] if one.ratio.value is None]
    if refused or rows[-2] is None or rows[-1] is None:
        share = Interval(None, reason=refused[0])
    else:
        left_out = None if without is None else (without[:, early].mean(1), without[:, rest].mean(1))
        share = _ratio_of_ratios(design, rows[-2], rows[-1], left_out, n)
    return ContrastTest(layers, found[-3], found[-2], share, len(labels), exact, design.no_seeds)


def relabelings(
    sizes: tuple[int, int], *, paired: bool = False, seed: int = 42, most: int = MOST_RELABELINGS
) -> tuple[np.ndarray, bool]:
    """Which checkpoints are called the first group: every distinct way, or a seeded sample.

    Two ways that differ by exchanging the groups' names alone are one where the groups are of equal size.

    Returns:
        (ways, checkpoints) bool, the observed way first; and whether these are all. A sample holds the
        observed way and `most` drawn ones, so that the share of ways as extreme is the add-one p.
    """
    first, second = sizes
    count = first + second
    observed = np.arange(count) < first
    rng = np.random.default_rng(seed)
    if paired:
        if 2 ** (first - 1) <= most:
            swaps = np.array([(False, *rest) for rest in product((False, True), repeat=first - 1)])
            exact = True
        else:
            swaps = np.vstack([np.zeros((1, first), bool), rng.random((most, first)) < 0.5])
            exact = False
        return np.hstack([~swaps, swaps]), exact
    equal = first == second
    if math.comb(count, first) // (2 if equal else 1) <= most:
        chosen = np.array([way for way in combinations(range(count), first) if not equal or way[0] == 0])
        ways = np.zeros((len(chosen), count), bool)
        np.put_along_axis(ways, chosen, True, axis=1)
        return ways, True
    drawn = rng.permuted(np.tile(observed, (most, 1)), axis=1)
    return np.vstack([observed, drawn]), False


def _standardised(differences: np.ndarray) -> np.ndarray:
    """C of every relabeling in standard deviations over them, so that layers are comparable."""
    spread = differences.std()
    centred = differences - differences.mean()
    return centred / spread if spread > 0 else np.zeros_like(centred)


def _p(scores: np.ndarray) -> float:
    """The share of relabelings whose score is at least the observed one, the first."""
    return float((scores >= scores[0] - TIED).mean())


def _step_down(scores: np.ndarray) -> list[float]:
    """Adjusted p of each layer from scores (layers, relabelings): Westfall and Young's step-down maximum."""
    order = np.argsort(-scores[:, 0])
    adjusted = np.zeros(len(scores))
    least = 0.0
    for place, layer in enumerate(order):
        largest = scores[order[place:]].max(axis=0)
        least = max(least, float((largest >= scores[layer, 0] - TIED).mean()))
        adjusted[layer] = least
    return adjusted.tolist()


class _Design:
    """Which pairs are between and within, and what is left when a unit is left out.

    A unit is what chance draws anew: a checkpoint, or the two that are paired.
    """

    def __init__(self, sizes: tuple[int, int], paired: bool) -> None:
        first, count = sizes[0], sum(sizes)
        self.left, self.right = np.array(pair_positions(count)).T
        self.counted = self.right - self.left != first if paired else np.ones(len(self.left), bool)
        self.observed = np.arange(count)[None] < first
        self.between, self.within = (part[0] for part in self.weights(self.observed))
        self.no_seeds: str | None = None
        small = min(sizes)
        if small < FEWEST_SEEDS:
            self.no_seeds = f"a group of {small} says nothing of training seeds, {FEWEST_SEEDS} are needed"
            return
        units = [[at, at + first] for at in range(first)] if paired else [[at] for at in range(count)]
        kept = np.array([~(np.isin(self.left, unit) | np.isin(self.right, unit)) for unit in units])
        self.without = self.weights(np.repeat(self.observed, len(units), 0), kept)
        self.strata = [range(first)] if paired else [range(first), range(first, count)]

    def weights(self, labels: np.ndarray, kept: np.ndarray | bool = True) -> tuple[np.ndarray, np.ndarray]:
        """What each pair weighs in B and in W, (ways, pairs), for ways to label the checkpoints."""
        a, b = labels[:, self.left], labels[:, self.right]
        parts = [(part & self.counted & kept).astype(float) for part in (a != b, a & b, ~a & ~b)]
        between, one, other = (part / part.sum(1, keepdims=True) for part in parts)
        return between, (one + other) / 2

    def seed_variance(self, of_between: np.ndarray, of_within: np.ndarray) -> list[np.ndarray]:
        """Delete-one variance of B of one array + W of another over the units, for each group.

        Args:
            of_between, of_within: of the pairs, (pairs,) or (pairs, columns).
        """
        between, within = self.without
        left = between @ of_between + within @ of_within
        found = []
        for stratum in self.strata:
            own = left[list(stratum)]
            count = len(own)
            found.append((count - 1) / count * np.square(own - own.mean(0)).sum(0))
        return found


def _contrast(
    design: _Design, row: np.ndarray, left: np.ndarray | None, n: int, p: float | None, single: float | None
) -> GroupContrast:
    """B, W, C and R of one row of divergences (pairs,), and of the same without each document (pairs, m)."""
    between, within = float(design.between @ row), float(design.within @ row)

    def interval(value: float, weights: tuple[float, float]) -> tuple[Interval, Variance | None, float | None]:
        if left is None:
            return too_few(value, n), None, None
        one, other = weights
        variance, share = _variance(design, (one * row, other * row), (one * left, other * left), n)
        return t_interval(value, variance), variance, share

    of_between, _, _ = interval(between, (1, 0))
    of_within, variance, _ = interval(within, (0, 1))
    difference, _, share = interval(between - within, (1, -1))
    if variance is None:
        ratio = too_few(between / within, n) if min(between, within) > ROUNDING else Interval(None, reason=NOT_ABOVE_0)
    elif (refusal := divisor_refusal("the divergence within groups", within, variance)) is not None:
        ratio = Interval(None, reason=refusal)
    elif between <= 0:
        ratio = Interval(None, reason="no logarithm: the divergence between groups is not above 0")
    else:
        log, _, _ = interval(math.log(between / within), (1 / between, -1 / within))
        ratio = from_logarithm(between / within, log)
    return GroupContrast(of_between, of_within, difference, ratio, p, single, share)


def _ratio_of_ratios(
    design: _Design, early: np.ndarray, rest: np.ndarray, left: tuple[np.ndarray, np.ndarray] | None, n: int
) -> Interval:
    """R of one row of divergences over R of another; its logarithm is linearised as that of R is."""
    weights = design.between, design.within
    (b, other_b), (w, other_w) = ([float(part @ row) for row in (early, rest)] for part in weights)
    value = b / w / (other_b / other_w)
    if left is None:
        return too_few(value, n)
    of_b, of_w = ([one / first - other / second for one, other in ((early, rest), left)]
                  for first, second in ((b, other_b), (-w, -other_w)))  # fmt: skip
    variance, _ = _variance(design, (of_b[0], of_w[0]), (of_b[1], of_w[1]), n)
    return from_logarithm(value, t_interval(math.log(value), variance))


def _variance(
    design: _Design, row: tuple[np.ndarray, np.ndarray], left: tuple[np.ndarray, np.ndarray], n: int
) -> tuple[Variance, float | None]:
    """Variance of B of one row + W of another, to first order, and the part of it that is due to seeds.

    Args:
        row: what B and what W is taken of, (pairs,) each; left: the same without each document, (pairs, m).

    Given the checkpoints, documents give V_d; given the documents, leaving checkpoints out gives V_s. What a
    document does to one checkpoint alone is in both: leaving out a checkpoint and a document together tells
    how much, and it is taken out of V_s.
    """
    documents = jackknife_variance(torch.from_numpy(design.between @ left[0] + design.within @ left[1]), n)
    if design.no_seeds is not None:
        return documents, None
    m = left[0].shape[1]
    deviations = [one - one.mean(1, keepdims=True) for one in left]
    strata = [float(part) for part in design.seed_variance(*row)]
    both = sum(float(part.sum()) for part in design.seed_variance(*deviations)) * (m - 1) / n
    seeds = max(sum(strata) - both, 0.0)
    total = documents.total + seeds
    kept = seeds / sum(strata) if sum(strata) > 0 else 0.0
    spread = documents.total**2 / documents.degrees
    spread += sum((kept * part) ** 2 / (len(stratum) - 1) for part, stratum in zip(strata, design.strata, strict=True))
    degrees = total**2 / spread if spread > 0 else documents.degrees
    return Variance(total, total, degrees), seeds / total if total > 0 else None


def _undefined(reason: str) -> GroupContrast:
    nothing = Interval(None, reason=reason)
    return GroupContrast(nothing, nothing, nothing, nothing)
