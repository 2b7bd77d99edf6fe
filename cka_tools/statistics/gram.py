"""HSIC's sums from Gram matrices: the cheaper form while samples are fewer than features."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from cka_tools.statistics.hsic import CentredSums, PairSums
from cka_tools.statistics.moments import norms_by_layer, offsets

CPU_TILE, DEVICE_TILE = {torch.float64: 192, torch.float32: 128}, 1024
"""Rows and columns of a tile. On a CPU a layer's tile, and its copy in float64, stay in the second-level
cache; an accelerator wants more work in one launch."""


def tile_rows(device: torch.device, dtype: torch.dtype) -> int:
    """Rows and columns of a Gram tile on a device."""
    return CPU_TILE[dtype] if device.type == "cpu" else DEVICE_TILE


def upper_tiles(n: int, rows: int) -> Iterator[tuple[slice, slice]]:
    """Tiles (I, J) of a symmetric n × n matrix, on and above its diagonal."""
    blocks = [slice(start, min(start + rows, n)) for start in range(0, n, rows)]
    for i, block_i in enumerate(blocks):
        for block_j in blocks[i:]:
            yield block_i, block_j


class _Side:
    """The centred layers of one model and the buffer of their Gram tiles."""

    def __init__(self, stack: Tensor, dims: Sequence[int], rows: int) -> None:
        n, count, dtype = len(stack), len(dims), stack.dtype
        rows = min(n, rows)
        self.layers = [stack[:, c] for c in offsets(dims)]
        # Layers of one width are one batched product, each a view of the stack.
        uniform = len(set(dims)) == 1
        self._batch = stack.view(n, count, dims[0]).transpose(0, 1) if uniform else None
        self._products = torch.empty(count * rows * rows, dtype=dtype, device=stack.device)
        self._tiles = self._products if dtype == torch.float64 else self._products.to(torch.float64, copy=True)
        self.norms = torch.empty(n, count, dtype=torch.float64, device=stack.device)
        self.own = torch.zeros(count, dtype=torch.float64, device=stack.device)

    def tile(self, rows_i: slice, rows_j: slice) -> Tensor:
        """One tile of every layer's Gram matrix, (L, |I|·|J|) float64; valid until the next call."""
        shape = len(self.layers), rows_i.stop - rows_i.start, rows_j.stop - rows_j.start
        size = shape[0] * shape[1] * shape[2]
        products = self._products[:size].view(shape)
        if self._batch is not None:
            torch.bmm(self._batch[:, rows_i], self._batch[:, rows_j].transpose(1, 2), out=products)
        else:
            for layer, product in zip(self.layers, products, strict=True):
                torch.mm(layer[rows_i], layer[rows_j].T, out=product)
        tiles = self._tiles[:size].view(shape)
        if tiles.dtype != products.dtype:
            tiles.copy_(products)
        if rows_i == rows_j:
            self.norms[rows_i] = tiles.diagonal(dim1=1, dim2=2).T
        flat = tiles.view(shape[0], -1)
        self.own += (1.0 if rows_i == rows_j else 2.0) * torch.linalg.vector_norm(flat, dim=1).square()
        return flat


def gram_sums(
    X: Tensor,
    Y: Tensor,
    dims_a: Sequence[int],
    dims_b: Sequence[int],
    means: tuple[Tensor, Tensor],
    *,
    pairs: Sequence[tuple[int, int]] | None = None,
) -> PairSums:
    """The sums of HSIC for layer pairs, from centred rows kept in memory.

    Half of each symmetric Gram matrix is computed, tile by tile, all layers at once. Its entries are
    products in the rows' number format, squared and summed in float64.

    Args:
        X: (n, P), the stack of L_A layers less their mean, float64 or float32.
        Y: (n, Q), the stack of L_B layers less theirs.
        dims_a, dims_b: width of each layer; they sum to P and Q.
        means: what was subtracted, (P,) and (Q,) float64.
        pairs: layer pairs (ℓ, m); the sums of all others are NaN. None is all.
    """
    rows = tile_rows(X.device, X.dtype)
    a, b = _Side(X, dims_a, rows), _Side(Y, dims_b, rows)
    cross = torch.zeros(len(dims_a), len(dims_b), dtype=torch.float64, device=X.device)
    for rows_i, rows_j in upper_tiles(len(X), rows):
        K, L = a.tile(rows_i, rows_j), b.tile(rows_i, rows_j)
        weight = 1.0 if rows_i == rows_j else 2.0
        if pairs is None:
            cross.addmm_(K, L.T, alpha=weight)
        else:
            for i, j in pairs:
                cross[i, j] += weight * torch.dot(K[i], L[j])
    if pairs is not None:
        wanted = torch.zeros_like(cross, dtype=torch.bool)
        wanted[tuple(torch.tensor(pairs, device=X.device).T)] = True
        cross = torch.where(wanted, cross, torch.nan)
    n, norms_x, norms_y = len(X), a.norms, b.norms
    sum_x, sum_y = norms_x.sum(0), norms_y.sum(0)
    return PairSums(
        cross=CentredSums(n, cross, sum_x[:, None], sum_y[None], norms_x.T @ norms_y),
        own_a=CentredSums(n, a.own, sum_x, sum_x, norms_x.square().sum(0)),
        own_b=CentredSums(n, b.own, sum_y, sum_y, norms_y.square().sum(0)),
        mean_norms_a=norms_by_layer(means[0][None], offsets(dims_a))[0].sqrt(),
        mean_norms_b=norms_by_layer(means[1][None], offsets(dims_b))[0].sqrt(),
    )
