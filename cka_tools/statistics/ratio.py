"""How many times further apart two models are than a control pair: r = d(A, B) / d(B′, B)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from cka_tools.errors import UserError
from cka_tools.statistics.features import ModelStatistics
from cka_tools.statistics.influence import INFLUENCE_TILE, LinearisedCKA, add_row_sums, second_order
from cka_tools.statistics.intervals import (
    Interval,
    Variance,
    debiased_variance,
    jackknife_variance,
    t_interval,
    too_few,
)
from cka_tools.statistics.moments import upper_tiles
from cka_tools.statistics.pair import FeatureComparison, hsic_of_pairs, mean_divergence, ratio_of_means

ROUNDING = 1e-10
"""Divergences below this are rounding: features of one model twice give 1e-13."""

CLEAR_CONTROL = 3.0
"""A control divergence of fewer standard errors than this is no number to divide by."""

NOT_CLEAR = "nothing to divide by"
"""What a refusal begins with, before its numbers: readers group refusals by it."""

NOT_ABOVE_0 = f"{NOT_CLEAR}: a divergence is not above 0"
"""Of two divergences without intervals."""


SecondOrder = Mapping[tuple[int, ...], float]
"""ζ₂ of the log ratio by the positions that a mean is over; see `ratio_influence`."""


@dataclass(frozen=True)
class DivergenceRatio:
    """Ratios of debiased divergences.

    Attributes:
        layers: one interval a layer pair; None with a reason where the control cannot be divided by.
        mean, early: ratio of the mean divergences, never a mean of ratios.
        smallest, largest: range of the ratios over layers, None where no layer has one.
    """

    layers: list[Interval]
    mean: Interval
    early: Interval
    smallest: float | None
    largest: float | None


def divergence_ratio(
    pair: FeatureComparison, control: FeatureComparison, second: SecondOrder | None = None
) -> DivergenceRatio:
    """Ratio of a pair's divergence to a control's (such as two baselines of different seeds), by layer.

    The interval is on log r, from the leave-one-out values of both comparisons: documents that move both
    divergences alike do not move their ratio.

    Args:
        second: second-order components, which the leave-one-out values hold twice and which are then taken
            out once; without them the interval is wide where both CKAs are low in many dimensions.

    Raises:
        UserError: comparisons over different numbers of documents or layers.
    """
    if (pair.n, len(pair.layers)) != (control.n, len(control.layers)):
        raise UserError(
            f"the pair has {pair.n} documents and {len(pair.layers)} layer pairs, the control {control.n} "
            f"and {len(control.layers)}: compare both over the same documents and layers"
        )
    positions = range(len(pair.layers))
    second = second or {}
    layers = [_ratio(pair, control, [at], second) for at in positions]
    known = [layers[at].value for at in pair.mean_layers]
    ratios = [value for value in known if value is not None]
    return DivergenceRatio(
        layers,
        _ratio(pair, control, pair.mean_layers, second),
        _ratio(pair, control, pair.early_layers, second),
        min(ratios, default=None),
        max(ratios, default=None),
    )


def usable_members(pair: FeatureComparison, control: FeatureComparison, members: Sequence[int]) -> list[int]:
    """Positions at which both CKAs are defined."""
    return [
        at
        for at in members
        if pair.layers[at].debiased.value is not None and control.layers[at].debiased.value is not None
    ]


def _ratio(
    pair: FeatureComparison, control: FeatureComparison, members: Sequence[int], second: SecondOrder
) -> Interval:
    """Ratio of two mean divergences over some of the layer pairs."""
    usable = usable_members(pair, control, members)
    if not usable:
        return Interval(None, reason="no variance in a layer of the pair or of the control")
    cka, control_cka = (_cka(found, usable) for found in (pair, control))
    d, e = mean_divergence(cka), mean_divergence(control_cka)
    left = [_without(found, usable) for found in (pair, control)]
    if left[0] is None or left[1] is None:
        if min(d, e) > ROUNDING:
            return too_few(ratio_of_means(cka, control_cka), pair.n)
        return Interval(None, reason=NOT_ABOVE_0)
    refusal = divisor_refusal("the control's divergence", e, jackknife_variance(torch.from_numpy(left[1]), pair.n))
    if refusal is not None:
        return Interval(None, reason=refusal)
    if min(d, left[0].min()) <= 0:
        return Interval(None, reason=f"no logarithm: the pair's divergence {100 * d:.2f} % is not above 0")
    logs = torch.from_numpy(np.log(left[0]) - np.log(left[1]))
    component = second.get(tuple(usable))
    variance = jackknife_variance(logs, pair.n) if component is None else debiased_variance(logs, component, pair.n)
    return from_logarithm(ratio_of_means(cka, control_cka), t_interval(math.log(d / e), variance))


def divisor_refusal(what: str, value: float, variance: Variance) -> str | None:
    """Why a divergence is not clear enough of 0 to divide by; None where it is.

    Args:
        what: its name, at the place of a subject.
        variance: of its value.
    """
    low = t_interval(value, variance).ci_low or 0.0
    if low <= ROUNDING or value < CLEAR_CONTROL * math.sqrt(variance.total):
        by = "" if low <= ROUNDING else f" by {CLEAR_CONTROL:g} standard errors"
        return f"{NOT_CLEAR}: {what} {100 * value:.2f} % (95 % bound {100 * low:.2f} %) is not clear of 0{by}"
    return None


def from_logarithm(ratio: float, log: Interval) -> Interval:
    """A ratio with the interval of its logarithm."""
    assert log.ci_low is not None
    assert log.ci_high is not None
    return Interval(ratio, math.exp(log.ci_low), math.exp(log.ci_high))


def _cka(found: FeatureComparison, members: Sequence[int]) -> list[float]:
    """Debiased CKA at positions where it is defined."""
    values = [found.layers[at].debiased.value for at in members]
    return [v for v in values if v is not None]


def _without(found: FeatureComparison, members: Sequence[int]) -> np.ndarray | None:
    """Mean divergence over some pairs, without each document in turn."""
    parts = [found.leave_one_out[at] for at in members]
    known = [part for part in parts if part is not None]
    return None if len(known) < len(parts) else 1 - np.mean(known, axis=0)


def ratio_second_order(
    a: ModelStatistics,
    control: ModelStatistics,
    b: ModelStatistics,
    pair: FeatureComparison,
    control_pair: FeatureComparison,
) -> SecondOrder:
    """ζ₂ of the log ratio, for each layer pair and for the means over all and over the early ones.

    Args:
        a, control, b: the three models, as the comparisons of A and of the control with B were made from,
            or the documents alone that those leave out in turn.
        pair, control_pair: those comparisons, position by position over the same layers of B.

    Returns:
        By positions that a mean is over; groups without an interval or without a ratio are not there.

    Time O(n² Σp), memory of one tile a group.
    """
    groups = _groups(pair, control_pair)
    if not groups:
        return {}
    first, second, common = (side.on(pair.left_out) for side in (a, control, b))
    members = sorted({at for group in groups for at in group})
    kernels = []
    for features, found in ((first, pair), (second, control_pair)):
        pairs = [(found.layers[at].layer_a, found.layers[at].layer_b) for at in members]
        kernels.append(LinearisedCKA(features, common, pairs, hsic_of_pairs(features, common, pairs)["debiased"]))
    weights = [tuple(mean_divergence(_cka(found, group)) for found in (pair, control_pair)) for group in groups]
    n = common.n
    squares = torch.zeros(len(groups), dtype=torch.float64, device=common.device)
    sums = torch.zeros(len(groups), n, dtype=torch.float64, device=common.device)
    for rows_i, rows_j in upper_tiles(n, INFLUENCE_TILE):
        tiles = [torch.zeros(()).to(squares) for _ in groups]
        for number, at in enumerate(members):
            W, V = (kernel.tile(number, rows_i, rows_j) for kernel in kernels)
            for g, group in enumerate(groups):
                if at in group:
                    d, e = weights[g]
                    tiles[g] = tiles[g] + (V / e - W / d) / len(group)
        for g, tile in enumerate(tiles):
            squares[g] += (1.0 if rows_i == rows_j else 2.0) * torch.linalg.vector_norm(tile).square()
            add_row_sums(sums[g], tile, rows_i, rows_j)
    influence = sums / (n - 1)
    return {group: float(second_order(squares[g], influence[g], n)) for g, group in enumerate(groups)}


def _groups(pair: FeatureComparison, control: FeatureComparison) -> list[tuple[int, ...]]:
    """Positions of each layer alone, of all, and of the early ones, where both divergences are above 0."""
    asked = [[at] for at in range(len(pair.layers))]
    asked += [pair.mean_layers, pair.early_layers]
    found: dict[tuple[int, ...], None] = {}
    for positions in asked:
        group = tuple(usable_members(pair, control, positions))
        known = all(f.leave_one_out[at] is not None for f in (pair, control) for at in group)
        above = group and all(1 - cka > ROUNDING for f in (pair, control) for cka in _cka(f, group))
        if known and above:
            found[group] = None
    return list(found)
