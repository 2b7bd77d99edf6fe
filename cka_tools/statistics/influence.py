"""What each document contributes to CKA: the influence that intervals are made of.

For U-centred Gram matrices K̄ and L̄ (Székely and Rizzo 2014), debiased CKA is a ratio of U-statistics, and
W_ij = K̄_ij L̄_ij / √(xx·yy) − (θ/2)(K̄_ij² / xx + L̄_ij² / yy), i ≠ j, is its kernel linearised at the
estimate θ: the row means g_i are the first-order influence, what is left of W_ij without g_i + g_j is the
second order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import torch
from torch import Tensor

from cka_tools.statistics.features import LayerPairs, ModelStatistics
from cka_tools.statistics.moments import upper_tiles

INFLUENCE_TILE = 1024
"""Rows and columns of the Gram tiles."""

PAIR_SAMPLE = 10_000
"""Pairs of documents whose second order is kept: they know ζ₂ to a few percent, and it is a correction."""

Hsic = tuple[Tensor, Tensor, Tensor]
"""HSIC_xy, HSIC_xx, HSIC_yy of D layer pairs, each (D,), averaged over the draws."""


@dataclass(frozen=True)
class Influence:
    """Per-document influence on the CKA of D layer pairs, and on means over groups of pairs.

    Attributes:
        second: ζ₂ = mean over i ≠ j of (W_ij − g_i − g_j)², (D,).
        groups: positions of the pairs of each group. group_second: ζ₂ of W averaged over each group.
        sample: W_ij − g_i − g_j of some pairs of documents i < j, (D, s), float32: which ones follows from n
            alone, so that the samples of comparisons over the same documents add. The mean of squares is ζ₂.
        first_biased: influence on the biased CKA, (D, n).
        without: debiased CKA with one document left out, (D, n).
    """

    second: Tensor
    groups: list[list[int]]
    group_second: list[float]
    sample: Tensor
    first_biased: Tensor
    without: Tensor


def add_row_sums(sums: Tensor, tile: Tensor, rows_i: slice, rows_j: slice) -> None:
    """Add the row sums (n,) of a symmetric n × n matrix that is seen in upper tiles."""
    sums[rows_i] += tile.sum(1)
    if rows_i != rows_j:
        sums[rows_j] += tile.sum(0)


class LinearisedCKA:
    """The kernel W of debiased CKA of D layer pairs, in tiles.

    Args:
        a, b: features of the two models over the same n documents. pairs: layer pairs (ℓ, m).
        debiased: HSIC of these pairs on these documents.
    """

    def __init__(self, a: ModelStatistics, b: ModelStatistics, pairs: LayerPairs, debiased: Hsic) -> None:
        self.a, self.b, self.pairs = a, b, pairs
        off_diagonal = (a.n - 3) / (a.n - 1)  # HSIC's 1/(n(n−3)) to a mean over i ≠ j
        xy, xx, yy = (h * off_diagonal for h in debiased)
        theta = xy / (xx * yy).sqrt()
        self.weights = 1 / (xx * yy).sqrt(), theta / (2 * xx), theta / (2 * yy)
        self.norms_a = [a.norms(i) for i, _ in pairs]
        self.norms_b = [b.norms(j) for _, j in pairs]

    def tile(
        self, d: int, rows_i: slice, rows_j: slice, seen: Callable[[int, Tensor, Tensor], None] | None = None
    ) -> Tensor:
        """A tile of W of pair d, averaged over the draws, (rows, columns).

        Args:
            seen: called for each draw with its number and the tiles of K̃ and L̃ (diagonal zero), which it
                may overwrite.
        """
        i, j = self.pairs[d]
        w_xy, w_xx, w_yy = (w[d] for w in self.weights)
        tile: Tensor | None = None
        for draw in range(self.a.draws):
            K, K_bar = _gram_tile(self.a, draw, i, rows_i, rows_j, self.norms_a[d][draw])
            L, L_bar = _gram_tile(self.b, draw, j, rows_i, rows_j, self.norms_b[d][draw])
            if seen is not None:
                seen(draw, K, L)
            part = (K_bar * L_bar).mul_(w_xy)
            part -= K_bar.square_().mul_(w_xx)
            part -= L_bar.square_().mul_(w_yy)
            tile = part if tile is None else tile.add_(part)
        assert tile is not None
        return tile.div_(self.a.draws)


def influence(
    a: ModelStatistics,
    b: ModelStatistics,
    pairs: LayerPairs,
    debiased: Hsic,
    biased: Hsic,
    groups: Sequence[Sequence[int]] = (),
) -> Influence:
    """One pass over the Gram tiles of the layer pairs.

    Args:
        a, b: features of the two models over the same n documents.
        pairs: D layer pairs (ℓ, m), none of them constant.
        debiased, biased: HSIC of these pairs on these documents.
        groups: sets of positions in `pairs` whose mean CKA is wanted as well.

    Time O(n² Σp), memory of one tile a group.
    """
    n, D, device, draws = a.n, len(pairs), a.device, a.draws
    kernel = LinearisedCKA(a, b, pairs, debiased)
    norms_a, norms_b = kernel.norms_a, kernel.norms_b
    sums = torch.zeros(D, n, dtype=torch.float64, device=device)
    raw = {name: torch.zeros(draws, D, n, dtype=torch.float64, device=device) for name in ("xy", "xx", "yy")}
    squares = torch.zeros(D, dtype=torch.float64, device=device)
    group_squares = torch.zeros(len(groups), dtype=torch.float64, device=device)
    at_i, at_j = (side.to(device) for side in _sampled_pairs(n))
    sample = torch.zeros(D, len(at_i), dtype=torch.float64, device=device)
    for rows_i, rows_j in upper_tiles(n, INFLUENCE_TILE):
        here = _inside(at_i, rows_i) & _inside(at_j, rows_j)
        places = at_i[here] - rows_i.start, at_j[here] - rows_j.start
        weight = 1.0 if rows_i == rows_j else 2.0
        means = [torch.zeros(()).to(squares) for _ in groups]
        for d in range(D):
            add = partial(_add_products, raw, d, rows_i, rows_j)
            tile = kernel.tile(d, rows_i, rows_j, add)
            add_row_sums(sums[d], tile, rows_i, rows_j)
            squares[d] += weight * torch.linalg.vector_norm(tile).square()
            sample[d, here] = tile[places]
            for g, members in enumerate(groups):
                if d in members:
                    means[g] = means[g] + tile / len(members)
        for g, mean in enumerate(means):
            group_squares[g] += weight * torch.linalg.vector_norm(mean).square()
    first = sums / (n - 1)
    second = torch.stack([second_order(s, g, n) for s, g in zip(squares, first, strict=True)])
    grouped = [
        float(second_order(s, first[list(members)].mean(0), n))
        for s, members in zip(group_squares, groups, strict=True)
    ]
    return Influence(
        second,
        [list(members) for members in groups],
        grouped,
        (sample - first[:, at_i] - first[:, at_j]).float(),
        _biased_influence(raw, norms_a, norms_b, biased, n),
        _leave_one_out(a, b, pairs, raw, norms_a, norms_b),
    )


@lru_cache(maxsize=4)
def _sampled_pairs(n: int) -> tuple[Tensor, Tensor]:
    """Documents i < j of at most PAIR_SAMPLE pairs, without repeats, from n alone."""
    count = n * (n - 1) // 2
    numbers = np.random.default_rng(n).choice(count, min(count, PAIR_SAMPLE), replace=False)
    # Pair number k of the upper triangle, row by row from the last row: rows of 1, 2, … pairs.
    row = ((np.sqrt(8.0 * numbers + 1) - 1) // 2).astype(np.int64)
    return torch.from_numpy(n - 2 - row), torch.from_numpy(n - 1 - (numbers - row * (row + 1) // 2))


def _inside(at: Tensor, rows: slice) -> Tensor:
    return (at >= rows.start) & (at < rows.stop)


def _add_products(raw: dict[str, Tensor], d: int, i: slice, j: slice, draw: int, K: Tensor, L: Tensor) -> None:
    """Row sums of K̃∘L̃, K̃∘K̃ and L̃∘L̃; overwrites the tiles."""
    add_row_sums(raw["xy"][draw, d], K * L, i, j)
    add_row_sums(raw["xx"][draw, d], K.square_(), i, j)
    add_row_sums(raw["yy"][draw, d], L.square_(), i, j)


def _gram_tile(
    features: ModelStatistics, draw: int, layer: int, rows_i: slice, rows_j: slice, norms: Tensor
) -> tuple[Tensor, Tensor]:
    """A tile of K̃ (diagonal zero) and of its U-centred form K̄; centred features make its row sums −a."""
    X_i = features.rows(draw, layer, rows_i)
    X_j = X_i if rows_i == rows_j else features.rows(draw, layer, rows_j)
    n = len(norms)
    K = X_i @ X_j.T
    K_bar = K + ((norms[rows_i, None] + norms[None, rows_j]) / (n - 2) - norms.sum() / ((n - 1) * (n - 2)))
    if rows_i == rows_j:
        K.fill_diagonal_(0)
        K_bar.fill_diagonal_(0)
    return K, K_bar


def u_centred_gram(features: ModelStatistics, draw: int, layer: int) -> Tensor:
    """K̄ of one draw of a layer, (n, n)."""
    rows = slice(0, features.n)
    return _gram_tile(features, draw, layer, rows, rows, features.norms(layer)[draw])[1]


def second_order(squares: Tensor, first: Tensor, n: int) -> Tensor:
    """Mean over i ≠ j of (W_ij − g_i − g_j)², from ΣW² and the row means g."""
    G = first.square().sum()
    total = squares - 4 * (n - 1) * G + 2 * (n - 2) * G + 2 * first.sum().square()
    return (total / (n * (n - 1))).clamp(min=0)


def _biased_influence(
    raw: dict[str, Tensor], norms_a: list[Tensor], norms_b: list[Tensor], biased: Hsic, n: int
) -> Tensor:
    """Row means of the biased kernel (diagonal included), (D, n)."""
    xy, xx, yy = (h * ((n - 1) / n) ** 2 for h in biased)  # HSIC's 1/(n−1)² to a mean over all i, j
    theta = xy / (xx * yy).sqrt()
    a, b = torch.stack(norms_a), torch.stack(norms_b)  # (D, K, n)
    means = {
        name: (raw[name].transpose(0, 1) + diagonal).mean(1) / n
        for name, diagonal in (("xy", a * b), ("xx", a * a), ("yy", b * b))
    }
    return means["xy"] / (xx * yy).sqrt()[:, None] - (theta / 2)[:, None] * (
        means["xx"] / xx[:, None] + means["yy"] / yy[:, None]
    )


def _leave_one_out(
    a: ModelStatistics,
    b: ModelStatistics,
    pairs: LayerPairs,
    raw: dict[str, Tensor],
    norms_a: list[Tensor],
    norms_b: list[Tensor],
) -> Tensor:
    """Debiased CKA without each document in turn, (D, n): exact, from row sums alone."""
    result = []
    for d, (i, j) in enumerate(pairs):
        xy, xx, yy = [], [], []
        for draw in range(a.draws):
            p, q = norms_a[d][draw], norms_b[d][draw]
            K_p, K_q = _off_diagonal_products(a, draw, i, p, [p, q])
            L_p, L_q = _off_diagonal_products(b, draw, j, q, [p, q])
            xy.append(_hsic_without(raw["xy"][draw, d], p, q, K_q, L_p))
            xx.append(_hsic_without(raw["xx"][draw, d], p, p, K_p, K_p))
            yy.append(_hsic_without(raw["yy"][draw, d], q, q, L_q, L_q))
        mean_xy, mean_xx, mean_yy = (torch.stack(h).mean(0) for h in (xy, xx, yy))
        result.append(mean_xy / (mean_xx * mean_yy).sqrt())
    return torch.stack(result)


def _off_diagonal_products(
    features: ModelStatistics, draw: int, layer: int, norms: Tensor, vectors: Sequence[Tensor]
) -> list[Tensor]:
    """K̃ v for each vector v (n,), through the features: X (Xᵀ v) − a ∘ v."""
    V = torch.stack(list(vectors), dim=1)
    blocks = features.blocks()
    XtV = sum((features.rows(draw, layer, r).T @ V[r] for r in blocks), torch.zeros((), device=V.device))
    KV = torch.cat([features.rows(draw, layer, r) @ XtV for r in blocks]) - norms[:, None] * V
    return list(KV.T)


def _hsic_without(row_sums: Tensor, a: Tensor, b: Tensor, K_b: Tensor, L_a: Tensor) -> Tensor:
    """Debiased HSIC (up to rounding) of the n − 1 documents left, for each one left out.

    Args: row sums of K̃∘L̃; ‖x_i‖²; ‖y_i‖²; K̃ b; L̃ a. Row sums of K̃ and L̃ are −a and −b.
    """
    n = len(a)
    trace = row_sums.sum() - 2 * row_sums
    grand = (-a.sum() + 2 * a) * (-b.sum() + 2 * b)
    rows = (a * b).sum() - a * b + K_b + L_a + row_sums
    return (trace + grand / ((n - 2) * (n - 3)) - 2 * rows / (n - 3)) / ((n - 1) * (n - 4))
