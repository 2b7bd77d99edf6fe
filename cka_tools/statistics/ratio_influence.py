"""What two documents together do to the logarithm of a ratio of divergences: its second-order variance.

With W and V the linearised kernels of the pair's and of the control's CKA (see `influence`), and d and e the
divergences, that of log(d/e) is −W/d + V/e. Both share the features of B, so their second orders depend on
each other and cannot be taken from two comparisons made apart.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from cka_tools.statistics.divergence import mean_divergence
from cka_tools.statistics.feature_comparison import FeatureComparison, hsic_of_pairs
from cka_tools.statistics.feature_set import FeatureSet
from cka_tools.statistics.gram import upper_tiles
from cka_tools.statistics.influence import INFLUENCE_TILE, LinearisedCKA, second_order
from cka_tools.statistics.ratio import ROUNDING, SecondOrder, usable_members

Features = Sequence[np.ndarray | Tensor]


def ratio_second_order(
    features_a: Features,
    features_control: Features,
    features_b: Features,
    pair: FeatureComparison,
    control: FeatureComparison,
    *,
    device: torch.device | str = "cpu",
) -> SecondOrder:
    """ζ₂ of the log ratio, for each layer pair and for the means over all and over the early ones.

    Args:
        features_a, features_control, features_b: by layer (n, p) or (K, n, p), as the two comparisons of A
            and of the control with B were made from.
        pair, control: those comparisons, position by position over the same layers of B.

    Returns:
        By positions that a mean is over; groups without an interval or without a ratio are not there.

    Time O(n² Σp), memory of one tile a group.
    """
    some = pair.left_out if len(pair.left_out) < pair.n else None
    a, c, b = (
        FeatureSet(f, device=device, documents=some) for f in (features_a, features_control, features_b)
    )
    return second_order_of_ratio(a, c, b, pair, control)


def second_order_of_ratio(
    a: FeatureSet, c: FeatureSet, b: FeatureSet, pair: FeatureComparison, control: FeatureComparison
) -> SecondOrder:
    """`ratio_second_order`, of features of the documents left out in turn alone: of A, the control and B."""
    groups = _groups(pair, control)
    if not groups:
        return {}
    members = sorted({at for group in groups for at in group})
    kernels = []
    for features, found in ((a, pair), (c, control)):
        pairs = [(found.layers[at].layer_a, found.layers[at].layer_b) for at in members]
        kernels.append(LinearisedCKA(features, b, pairs, hsic_of_pairs(features, b, pairs)["debiased"]))
    weights = [
        tuple(mean_divergence([_cka(found, at) for at in group]) for found in (pair, control))
        for group in groups
    ]
    n = a.n
    squares = torch.zeros(len(groups), dtype=torch.float64, device=a.device)
    sums = torch.zeros(len(groups), n, dtype=torch.float64, device=a.device)
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
            sums[g, rows_i] += tile.sum(1)
            if rows_i != rows_j:
                sums[g, rows_j] += tile.sum(0)
    first = sums / (n - 1)
    return {group: float(second_order(squares[g], first[g], n)) for g, group in enumerate(groups)}


def _groups(pair: FeatureComparison, control: FeatureComparison) -> list[tuple[int, ...]]:
    """Positions of each layer alone, of all, and of the early ones, where both divergences are above 0."""
    asked = [[at] for at in range(len(pair.layers))]
    asked += [list(range(len(pair.layers))), pair.early_positions]
    found: dict[tuple[int, ...], None] = {}
    for positions in asked:
        group = tuple(usable_members(pair, control, positions))
        known = all(f.leave_one_out[at] is not None for f in (pair, control) for at in group)
        above = group and all(
            mean_divergence([_cka(f, at) for at in group]) > ROUNDING for f in (pair, control)
        )
        if known and above:
            found[group] = None
    return list(found)


def _cka(found: FeatureComparison, at: int) -> float:
    value = found.layers[at].debiased.value
    assert value is not None
    return value
