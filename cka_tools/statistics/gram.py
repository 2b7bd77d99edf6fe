"""HSIC's sums from Gram matrices: the cheaper form while samples are fewer than features."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from cka_tools.statistics.hsic import CentredSums, PairSums
from cka_tools.statistics.moments import norms_by_layer, offsets

TILE_BYTES = 128 * 2**20
"""Memory for one tile of every layer's Gram matrix."""


def tile_rows(layers: int, tile_bytes: int = TILE_BYTES) -> int:
    """Rows and columns of a tile, so that one tile of every layer fits the budget."""
    return max(64, int((tile_bytes / (8 * max(layers, 1))) ** 0.5) // 64 * 64)


def upper_tiles(n: int, rows: int) -> Iterator[tuple[slice, slice]]:
    """Tiles (I, J) of a symmetric n × n matrix, on and above its diagonal."""
    blocks = [slice(start, min(start + rows, n)) for start in range(0, n, rows)]
    for i, block_i in enumerate(blocks):
        for block_j in blocks[i:]:
            yield block_i, block_j


def gram_sums(X: Tensor, Y: Tensor, dims_a: Sequence[int], dims_b: Sequence[int]) -> PairSums:
    """The sums of HSIC for all layer pairs, from rows kept in memory.

    Args:
        X: (n, P), the stack of L_A layers, float64.
        Y: (n, Q), the stack of L_B layers, float64.
        dims_a, dims_b: width of each layer; they sum to P and Q.
    """
    layers_a, layers_b = offsets(dims_a), offsets(dims_b)
    n, mean_x, mean_y = X.shape[0], X.mean(0), Y.mean(0)
    X, Y = X - mean_x, Y - mean_y
    norms_x, norms_y = norms_by_layer(X, layers_a), norms_by_layer(Y, layers_b)
    cross = torch.zeros(len(dims_a), len(dims_b), dtype=torch.float64, device=X.device)
    own_a, own_b = torch.zeros_like(cross[:, 0]), torch.zeros_like(cross[0])
    for rows_i, rows_j in upper_tiles(n, tile_rows(len(dims_a) + len(dims_b))):
        K = torch.stack([(X[rows_i, c] @ X[rows_j, c].T).flatten() for c in layers_a])
        L = torch.stack([(Y[rows_i, c] @ Y[rows_j, c].T).flatten() for c in layers_b])
        weight = 1.0 if rows_i == rows_j else 2.0
        cross.addmm_(K, L.T, alpha=weight)
        own_a += weight * torch.linalg.vector_norm(K, dim=1).square()
        own_b += weight * torch.linalg.vector_norm(L, dim=1).square()
    a, b = norms_x.sum(0), norms_y.sum(0)
    return PairSums(
        cross=CentredSums(n, cross, a[:, None], b[None], norms_x.T @ norms_y),
        own_a=CentredSums(n, own_a, a, a, norms_x.square().sum(0)),
        own_b=CentredSums(n, own_b, b, b, norms_y.square().sum(0)),
        mean_norms_a=norms_by_layer(mean_x[None], layers_a)[0].sqrt(),
        mean_norms_b=norms_by_layer(mean_y[None], layers_b)[0].sqrt(),
    )
