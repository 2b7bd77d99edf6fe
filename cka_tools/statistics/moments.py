"""Additive moments of two stacks of layers: the whole of CKA in one pass, in memory constant in n."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise

import torch
from torch import Tensor

from cka_tools.statistics.hsic import CentredSums, PairSums


def offsets(dims: Sequence[int]) -> list[slice]:
    """Columns of each layer in the stack of all layers."""
    starts = [0]
    for dim in dims:
        starts.append(starts[-1] + dim)
    return [slice(a, b) for a, b in pairwise(starts)]


def norms_by_layer(stack: Tensor, layers: Sequence[slice]) -> Tensor:
    """‖x_i‖² of every row and layer: (n, P) → (n, L) float64."""
    if len({c.stop - c.start for c in layers}) == 1:
        norms = torch.linalg.vector_norm(stack.unflatten(1, (len(layers), -1)), dim=2)
    else:
        norms = torch.stack([torch.linalg.vector_norm(stack[:, c], dim=1) for c in layers], dim=1)
    return norms.to(torch.float64).square_()


def _weighted_sums(X: Tensor, weights: Tensor) -> Tensor:
    """Σ_i w_i x_i for each column of weights (n, L), and Σ_i x_i: (n, P) → (L + 1, P).

    Few rows times many columns: the transpose of this product takes several times as long.
    """
    with_ones = torch.cat([weights, torch.ones_like(weights[:, :1])], dim=1)
    return with_ones.T.to(X.dtype) @ X


@dataclass
class CrossMoments:
    """Sums over samples of two stacks X (n, P) and Y (n, Q), each after subtracting a fixed shift.

    The shift is a provisional mean and part of the state: without it a feature with a mean far above its
    spread loses every digit. P and Q are the summed widths of L_A and L_B layers.

    Attributes:
        dims_a, dims_b: width of each layer.
        shift_a, shift_b: (P,), (Q,).
        n: samples seen.
        S: Σ x yᵀ, (P, Q). s_x, s_y: Σ x, Σ y. a, b: Σ ‖x‖² by layer, (L_A,), (L_B,).
        ab: Σ ‖x‖²‖y‖², (L_A, L_B). xb: Σ x ‖y‖², (P, L_B). ay: Σ ‖x‖² y, (L_A, Q).
    """

    dims_a: list[int]
    dims_b: list[int]
    shift_a: Tensor
    shift_b: Tensor
    n: int
    S: Tensor
    s_x: Tensor
    s_y: Tensor
    a: Tensor
    b: Tensor
    ab: Tensor
    xb: Tensor
    ay: Tensor

    @classmethod
    def zeros(cls, dims_a: Sequence[int], dims_b: Sequence[int], shift_a: Tensor, shift_b: Tensor) -> CrossMoments:
        """No samples yet, about the shifts given."""
        P, Q, la, lb = sum(dims_a), sum(dims_b), len(dims_a), len(dims_b)
        z = lambda *shape: torch.zeros(*shape, dtype=torch.float64, device=shift_a.device)  # noqa: E731
        return cls(
            list(dims_a), list(dims_b), shift_a, shift_b, n=0,
            S=z(P, Q), s_x=z(P), s_y=z(Q), a=z(la), b=z(lb), ab=z(la, lb), xb=z(P, lb), ay=z(la, Q),
        )  # fmt: skip

    def add(self, X: Tensor, Y: Tensor, norms_x: Tensor, norms_y: Tensor) -> None:
        """Add rows, shift already subtracted.

        Products and sums of these rows are made in their number format; the sums they enter are float64.

        Args:
            X, Y: (n, P) and (n, Q), both float64 or both float32; Y may be X.
            norms_x, norms_y: ‖x_i‖² and ‖y_i‖² by layer, (n, L_A) and (n, L_B) float64.
        """
        self.n += X.shape[0]
        if X.dtype == torch.float64:
            self.S.addmm_(X.T, Y)
        else:
            self._add_blocks(X, Y)
        by_x = _weighted_sums(X, norms_y)
        by_y = by_x if Y is X else _weighted_sums(Y, norms_x)
        self.s_x += by_x[-1]
        self.s_y += by_y[-1]
        self.a += norms_x.sum(0)
        self.b += norms_y.sum(0)
        self.ab.addmm_(norms_x.T, norms_y)
        self.xb += by_x[:-1].T
        self.ay += by_y[:-1]

    def _add_blocks(self, X: Tensor, Y: Tensor) -> None:
        """Products of a lower precision, added to S block by block so that the block stays in a cache."""
        rows = offsets(self.dims_a)
        block = torch.empty(max(self.dims_a), Y.shape[1], dtype=Y.dtype, device=Y.device)
        for c in rows:
            part = torch.mm(X[:, c].T, Y, out=block[: c.stop - c.start])
            self.S[c] += part

    def _moved(self, delta: Tensor, epsilon: Tensor) -> dict[str, Tensor]:
        """The small sums with every x replaced by x + δ and every y by y + ε (S, the large one, apart)."""
        layers_a, layers_b = offsets(self.dims_a), offsets(self.dims_b)
        n = self.n
        d2 = norms_by_layer(delta[None], layers_a)[0]
        e2 = norms_by_layer(epsilon[None], layers_b)[0]
        dx = torch.stack([delta[c] @ self.s_x[c] for c in layers_a])
        ey = torch.stack([epsilon[c] @ self.s_y[c] for c in layers_b])
        S_eps = torch.stack([self.S[:, c] @ epsilon[c] for c in layers_b], dim=1)  # (P, L_B)
        S_delta = torch.stack([delta[c] @ self.S[c] for c in layers_a])  # (L_A, Q)
        d_S_eps = torch.stack([delta[c] @ S_eps[c] for c in layers_a])
        d_xb = torch.stack([delta[c] @ self.xb[c] for c in layers_a])
        e_ay = torch.stack([self.ay[:, c] @ epsilon[c] for c in layers_b], dim=1)
        a_moved = self.a + 2 * dx + n * d2
        b_moved = self.b + 2 * ey + n * e2
        return {
            "s_x": self.s_x + n * delta,
            "s_y": self.s_y + n * epsilon,
            "a": a_moved,
            "b": b_moved,
            "ab": (
                self.ab + 2 * e_ay + self.a[:, None] * e2 + 2 * d_xb + 4 * d_S_eps + 2 * dx[:, None] * e2
                + d2[:, None] * b_moved
            ),
            "xb": self.xb + 2 * S_eps + self.s_x[:, None] * e2 + delta[:, None] * b_moved,
            "ay": self.ay + 2 * S_delta + d2[:, None] * self.s_y + a_moved[:, None] * epsilon,
        }  # fmt: skip

    def merge(self, other: CrossMoments) -> None:
        """Add another shard's sums, re-expressed about this shift first (both stay valid)."""
        delta, epsilon = other.shift_a - self.shift_a, other.shift_b - self.shift_b
        moved = other._moved(delta, epsilon)
        self.S += other.S
        self.S.addr_(delta, other.s_y)
        self.S.addr_(moved["s_x"], epsilon)
        for name, value in moved.items():
            getattr(self, name).add_(value)
        self.n += other.n

    def centred(self) -> CentredSums:
        """The sums of HSIC about the exact mean, shape (L_A, L_B)."""
        layers_a, layers_b = offsets(self.dims_a), offsets(self.dims_b)
        mean_x, mean_y = self.s_x / self.n, self.s_y / self.n
        moved = self._moved(-mean_x, -mean_y)
        cross = torch.empty_like(self.ab)
        for i, rows in enumerate(layers_a):
            squares = torch.addr(self.S[rows], self.s_x[rows], mean_y, alpha=-1).square_().sum(0)
            cross[i] = torch.stack([squares[c].sum() for c in layers_b])
        return CentredSums(self.n, cross, moved["a"][:, None], moved["b"][None], moved["ab"])

    def feature_moments(self) -> tuple[Tensor, Tensor]:
        """Mean and variance (divisor n − 1) of each feature x, (P,), where Y is X."""
        return (self.shift_a + self.s_x / self.n, (self.S.diagonal() - self.s_x.square() / self.n) / (self.n - 1))

    def to(self, device: torch.device) -> CrossMoments:
        """The same sums on another device."""
        moved = {name: tensor.to(device) for name, tensor in self.tensors().items()}
        return CrossMoments(self.dims_a, self.dims_b, n=self.n, **moved)

    def tensors(self) -> dict[str, Tensor]:
        """Every array of the state, by name."""
        named = ((f.name, getattr(self, f.name)) for f in fields(self))
        return {name: value for name, value in named if isinstance(value, Tensor)}


Sides = tuple[Tensor, Tensor]
"""One tensor of model A, one of model B."""

SUM_ROWS = 256
"""Rows of float32 that are summed in float32 before the sum goes on in float64."""


class RowBuffer:
    """Batches of rows of two sides, each side's layers side by side, in the number format of their products.

    What is kept is each row less a shift, so that a mean far above the spread costs no digits. In float32
    the shift is one that float32 holds exactly: the difference of two float32 numbers is then rounded once.

    Args:
        dtype: of the rows kept. device: where they lie.
        shift: (P,) and (Q,) float64; the mean of the first batch by default.
    """

    def __init__(self, dtype: torch.dtype, device: torch.device, shift: Sides | None = None) -> None:
        self.dtype, self.device = dtype, device
        self.shift = None if shift is None else self.held(shift)
        self.rows = 0
        self._batches: list[Sides] = []
        self._centred = False

    def held(self, shift: Sides) -> Sides:
        """A shift as the rows' number format holds it, float64."""
        a, b = (side.to(self.device, self.dtype).to(torch.float64) for side in shift)
        return a, b

    def append(self, layers_a: Sequence[Tensor], layers_b: Sequence[Tensor]) -> None:
        """Add a batch: n rows of every layer, copied."""
        self._centred = self.shift is None
        stacks, shifts = zip(*(self._stacked(at, side) for at, side in enumerate((layers_a, layers_b))), strict=True)
        if self.shift is None:
            self.shift = shifts[0], shifts[1]
        X, Y = (stack.to(self.dtype) for stack in stacks)
        self._batches.append((X, Y))
        self.rows += len(X)

    def _stacked(self, side: int, layers: Sequence[Tensor]) -> Sides:
        """Layers side by side less their shift, (n, P), in float64 where one of them is, else in the rows' own
        format; and the shift.

        One layer after the other: it is still in a cache when its mean is taken and subtracted.
        """
        exact = torch.float64 if torch.float64 in {layer.dtype for layer in layers} else self.dtype
        columns = offsets([layer.shape[1] for layer in layers])
        stack = torch.empty(len(layers[0]), columns[-1].stop, dtype=exact, device=self.device)
        shift = stack.new_empty(columns[-1].stop, dtype=torch.float64) if self.shift is None else self.shift[side]
        for layer, c in zip(layers, columns, strict=True):
            part = stack[:, c]
            part.copy_(layer)
            if self.shift is None:
                shift[c] = column_means(part).to(self.dtype)
            part.sub_(shift[c].to(exact))
        return stack, shift

    def add_from(self, other: RowBuffer) -> None:
        """Add another buffer's rows, which stay as they are."""
        if other.rows == 0:
            return
        assert other.shift is not None
        if self.shift is None:
            self.shift = self.held(other.shift)
        for batch in other._batches:
            X, Y = (
                (rows.to(self.device, torch.float64) + (theirs.to(self.device) - mine)).to(self.dtype)
                for rows, theirs, mine in zip(batch, other.shift, self.shift, strict=True)
            )
            self._batches.append((X, Y))
        self.rows += other.rows
        self._centred = False

    def gathered(self) -> Sides:
        """All rows as one stack a side, (n, P) and (n, Q), uncopied where they are one already."""
        if len(self._batches) > 1:
            self._batches = [(torch.cat([x for x, _ in self._batches]), torch.cat([y for _, y in self._batches]))]
        return self._batches[0]

    def centred(self) -> tuple[Sides, Sides]:
        """All rows less their exact mean, and that mean; in float32 to a rounding step of the mean.

        What is left of a mean enters a product of two centred sides squared.
        """
        sides = self.gathered()
        assert self.shift is not None
        if not self._centred:
            a, b = (shift + column_means(S) for S, shift in zip(sides, self.shift, strict=True))
            self.move(self.held((a, b)))
            self._centred = True
        return sides, self.shift

    def move(self, shift: Sides) -> None:
        """Keep the rows, in place, less another shift, one that their number format holds."""
        assert self.shift is not None
        for stack, old, new in zip(self.gathered(), self.shift, shift, strict=True):
            if not torch.equal(old, new):
                stack.sub_((new - old).to(stack.dtype))
                self._centred = False
        self.shift = shift

    def take(self, shift: Sides) -> Sides:
        """All rows less `shift`, which is kept for rows to come; the buffer is empty then."""
        self.move(shift)
        found = self.gathered()
        self._batches, self.rows, self._centred = [], 0, False
        return found

    def put(self, X: Tensor, Y: Tensor, shift: Sides) -> None:
        """Go on from rows that another buffer gathered, and their shift."""
        self._batches, self.shift, self.rows, self._centred = [(X, Y)], shift, len(X), False


def column_means(stack: Tensor) -> Tensor:
    """Mean of every column, (n, p) → (p,) float64; of narrower rows to some rounding steps of float32."""
    if stack.dtype == torch.float64:
        return stack.mean(0)
    total = torch.zeros(stack.shape[1], dtype=torch.float64, device=stack.device)
    for rows in stack.split(SUM_ROWS):
        total += rows.sum(0, dtype=torch.float32)
    return total / len(stack)


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
