"""Exact linear CKA of layer pairs over any number of samples, in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from cka_tools.errors import UserError
from cka_tools.statistics.hsic import (
    CentredSums,
    Estimator,
    PairSums,
    check_estimator,
    normalise,
    product_dtype_on,
    spread_is_rounding,
)
from cka_tools.statistics.moments import CrossMoments, RowBuffer, gram_sums, norms_by_layer, offsets

ArrayLike = Tensor | np.ndarray[Any, Any]
Pairs = Literal["all", "diagonal"] | Sequence[tuple[int, int]]

FOLD_ROWS = 512
"""Rows gathered before they are folded into the moments: thin updates of a large matrix are slow."""

BUFFER_BYTES = 512 * 2**20
"""Rows kept for the Gram form may take so much, or as much as the moments that they put off."""

FLOAT64 = torch.float64

T = TypeVar("T")


def as_matrix(features: ArrayLike, name: str) -> Tensor:
    """Features as a floating tensor (n, p); no copy where none is needed.

    Raises:
        UserError: not two-dimensional, complex, or not finite.
    """
    tensor = torch.as_tensor(features).detach()
    if tensor.ndim != 2:
        raise UserError(f"{name} has shape {tuple(tensor.shape)}: give a matrix (n, p), one row a sample")
    if tensor.is_complex():
        raise UserError(f"{name} is complex ({tensor.dtype}): give real features")
    if not tensor.is_floating_point():
        tensor = tensor.to(FLOAT64)
    # A finite sum says it of every value, many times faster; one that is not may be an overflow.
    if not (torch.isfinite(tensor.sum()) or torch.isfinite(tensor).all()):
        raise UserError(f"{name} holds a value that is not finite: CKA is not defined on NaN or infinity")
    return tensor


class LinearCKA:
    """Additive sufficient statistics of linear CKA for layer pairs of two models.

    `update` takes batches of any size, `merge` the statistics of another shard or process, `compute` gives
    the estimate over all samples seen. Rows are buffered while the Gram form costs less, then folded into
    moments about a fixed shift; both give the same answer to rounding.

    Args:
        dims_a, dims_b: feature width of each of the L_A layers of model A, and of the L_B of model B.
        pairs: "all" for L_A × L_B, "diagonal" for (ℓ, ℓ) of two models of one depth, or a list of pairs
            (ℓ, m) where only those are needed.
        device: where sums are kept and computed; it must know float64.
        shift: provisional means of A's and of B's layers (two lists of vectors), so that processes share one;
            otherwise the mean of the first rows that are folded.
        gram: whether rows may be kept for the Gram form; without it they are folded FOLD_ROWS at a time, and
            memory is that of the moments.
        product_dtype: float64 holds 1e-10; torch.float32 makes blocks of products in float32 from shifted
            rows and sums them in float64, in half the time, and moved CKA of float32 features by up to 3e-7
            (benchmarks/kernels.py). By default float32 on a GPU whose float64 is slow, else float64.

    Attributes:
        switch: rows from which moments take the place of the Gram form.

    Example:
        >>> import torch
        >>> X = torch.randn(50, 8, dtype=torch.float64)
        >>> stat = LinearCKA([8], [8])
        >>> stat.update([X[:20]], [X[:20]])
        >>> stat.update([X[20:]], [X[20:]])
        >>> round(stat.compute("debiased").item(), 6)
        1.0

    Raises:
        UserError: widths, row counts or numbers of layers that do not fit.
    """

    def __init__(
        self,
        dims_a: Sequence[int],
        dims_b: Sequence[int],
        *,
        pairs: Pairs = "all",
        device: torch.device | str = "cpu",
        shift: tuple[Sequence[ArrayLike], Sequence[ArrayLike]] | None = None,
        gram: bool = True,
        product_dtype: torch.dtype | None = None,
    ) -> None:
        self.dims_a, self.dims_b = [int(d) for d in dims_a], [int(d) for d in dims_b]
        la, lb = len(self.dims_a), len(self.dims_b)
        if min([la, lb, *self.dims_a, *self.dims_b]) < 1:
            raise UserError(f"dims {self.dims_a} and {self.dims_b}: give a layer of width 1 or more on each side")
        self.pairs: list[tuple[int, int]] | None = None if pairs == "all" else _checked(pairs, la, lb)
        self.device = torch.device(device)
        if product_dtype is None:
            product_dtype = product_dtype_on(self.device)
        if product_dtype not in (FLOAT64, torch.float32):
            raise UserError(f"product_dtype {product_dtype} is not known: choose torch.float64 or torch.float32")
        self.product_dtype = product_dtype
        if self.device.type == "mps":
            raise UserError("device 'mps' has no float64: keep the statistics on 'cpu'")
        self._columns = offsets(self.dims_a), offsets(self.dims_b)
        # Each moment is of some layers of one side with some of one side; all pairs are one product.
        one = [slice(at, at + 1) for at in range(max(la, lb))]
        cross = [(slice(0, la), slice(0, lb))]
        if self.pairs is not None:
            cross = [(one[i], one[j]) for i, j in self.pairs]
        self._parts: list[tuple[int, slice, int, slice]] = [(0, i, 1, j) for i, j in cross]
        self._parts += [(0, at, 0, at) for at in one[:la]] + [(1, at, 1, at) for at in one[:lb]]
        self._given_shift = None if shift is None else self._stack_shift(shift)
        P, Q = sum(self.dims_a), sum(self.dims_b)
        crossed = P * Q if self.pairs is None else sum(self.dims_a[i] * self.dims_b[j] for i, j in self.pairs)
        feature_cost = crossed + sum(d * d for d in self.dims_a + self.dims_b)
        gram_cost = P + Q + la * lb
        affordable = max(BUFFER_BYTES, 8 * feature_cost) // (8 * (P + Q))
        folded_from = max(feature_cost // gram_cost, FOLD_ROWS) if gram else FOLD_ROWS
        self.switch = max(1, min(folded_from, affordable))
        self.reset()

    def _stack_shift(self, shift: tuple[Sequence[ArrayLike], Sequence[ArrayLike]]) -> tuple[Tensor, Tensor]:
        sides = []
        for given, dims in zip(shift, (self.dims_a, self.dims_b), strict=True):
            vectors = [torch.as_tensor(v).to(self.device, FLOAT64).reshape(-1) for v in given]
            if [len(v) for v in vectors] != dims:
                raise UserError(f"shift has widths {[len(v) for v in vectors]}: the layers have {dims}")
            sides.append(torch.cat(vectors))
        return sides[0], sides[1]

    def reset(self) -> None:
        """Forget all samples."""
        self._buffer = RowBuffer(self.product_dtype, self.device, self._given_shift)
        self._known_sums: PairSums | None = None
        self._shift: tuple[Tensor, Tensor] | None = None
        self._moments: list[CrossMoments] = []
        self._epsilon = (torch.finfo(FLOAT64).eps, torch.finfo(FLOAT64).eps)

    @property
    def n(self) -> int:
        """Samples seen."""
        return self._buffer.rows + (self._moments[0].n if self._moments else 0)

    def update(self, features_a: Sequence[ArrayLike], features_b: Sequence[ArrayLike]) -> None:
        """Add n samples: a matrix (n, p_ℓ) for each layer of A, one (n, q_m) for each of B."""
        sides = []
        for side, features, dims in (("a", features_a, self.dims_a), ("b", features_b, self.dims_b)):
            matrices = [as_matrix(f, f"features_{side}[{i}]") for i, f in enumerate(features)]
            widths = [m.shape[1] for m in matrices]
            if widths != dims:
                raise UserError(f"features_{side} have widths {widths}: the statistics were made for {dims}")
            sides.append(matrices)
        counts = sorted({m.shape[0] for m in sides[0] + sides[1]})
        if len(counts) != 1:
            raise UserError(f"the layers have {counts} rows: a batch needs the same samples in every layer")
        eps = [max(torch.finfo(m.dtype).eps for m in side) for side in sides]
        self._epsilon = (max(self._epsilon[0], eps[0]), max(self._epsilon[1], eps[1]))
        if counts[0]:
            self._known_sums = None
            self._buffer.append(*sides)
            self._fold_if_full()

    def _fold_if_full(self) -> None:
        if self._buffer.rows >= (FOLD_ROWS if self._moments else self.switch):
            self._fold()

    def _fold(self) -> None:
        """Move the buffered rows into the moments."""
        if not self._buffer.rows:
            return
        if self._shift is None:
            self._begin(self._given_shift or self._buffer.centred()[1])
        assert self._shift is not None
        stacks = self._buffer.take(self._shift)
        norms = [norms_by_layer(stack, columns) for stack, columns in zip(stacks, self._columns, strict=True)]
        for moments, (s, some, t, others) in zip(self._moments, self._parts, strict=True):
            X, norms_x = stacks[s][:, self._span(s, some)], norms[s][:, some]
            own = s == t
            Y, norms_y = (X, norms_x) if own else (stacks[t][:, self._span(t, others)], norms[t][:, others])
            moments.add(X, Y, norms_x, norms_y)

    def _span(self, side: int, layers: slice) -> slice:
        """Columns of consecutive layers of a side."""
        columns = self._columns[side][layers]
        return slice(columns[0].start, columns[-1].stop)

    def _begin(self, shift: tuple[Tensor, Tensor]) -> None:
        """Start the moments about a shift, which stays."""
        shift = self._shift = self._buffer.held(shift)
        dims = self.dims_a, self.dims_b
        self._moments = [
            CrossMoments.zeros(
                dims[s][some], dims[t][others], shift[s][self._span(s, some)], shift[t][self._span(t, others)]
            )
            for s, some, t, others in self._parts
        ]

    def merge(self, other: LinearCKA) -> None:
        """Add the samples of another shard; `other` is left as it is.

        Raises:
            UserError: statistics of other layers or pairs.
        """
        if (self.dims_a, self.dims_b, self.pairs) != (other.dims_a, other.dims_b, other.pairs):
            raise UserError(
                f"cannot merge statistics of widths {other.dims_a} × {other.dims_b} "
                f"into {self.dims_a} × {self.dims_b}: "
                "make both for the same layers and pairs"
            )
        self._epsilon = (max(self._epsilon[0], other._epsilon[0]), max(self._epsilon[1], other._epsilon[1]))
        if other._shift is not None:
            self._known_sums = None
            self._fold()
            if self._shift is None:
                self._begin(self._given_shift or (other._shift[0].to(self.device), other._shift[1].to(self.device)))
            for mine, theirs in zip(self._moments, other._moments, strict=True):
                mine.merge(theirs.to(self.device))
        if other._buffer.rows:
            self._known_sums = None
            self._buffer.add_from(other._buffer)
            self._fold_if_full()

    def _by_kind(self, values: Sequence[T]) -> tuple[Sequence[T], Sequence[T], Sequence[T]]:
        """Something of every moment: of A with B, of A's layers with themselves, of B's."""
        la, lb = len(self.dims_a), len(self.dims_b)
        return values[: -la - lb], values[-la - lb : -lb], values[-lb:]

    def feature_moments(self) -> tuple[list[tuple[Tensor, Tensor]], list[tuple[Tensor, Tensor]]]:
        """Mean (p,) and variance (p,), divisor n − 1, of every feature: one pair a layer, for A and for B.

        Raises:
            UserError: fewer than two samples.
        """
        if self.n < 2:
            raise UserError(f"{self.n} samples have no variance: give at least two")
        if self._buffer.rows:
            self._known_sums = None
            self._fold()
        _, *own = self._by_kind(self._moments)
        first, second = ([m.feature_moments() for m in side] for side in own)
        return first, second

    def sums(self) -> PairSums:
        """The sums that HSIC is made of, about the exact mean of all samples; made once for both estimators.

        Raises:
            UserError: no samples yet.
        """
        if self.n == 0:
            raise UserError("no samples yet: call update before compute")
        if self._known_sums is None:
            self._known_sums = self._make_sums()
        return self._known_sums

    def _make_sums(self) -> PairSums:
        if self._shift is None:
            (X, Y), shift = self._buffer.centred()
            return gram_sums(X, Y, self.dims_a, self.dims_b, shift, pairs=self.pairs)
        self._fold()
        crossed, *sides = self._by_kind([m.centred() for m in self._moments])
        own = [_flat(side) for side in sides]
        _, *layers = self._by_kind(self._moments)
        means = [torch.stack([torch.linalg.vector_norm(m.shift_a + m.s_x / m.n) for m in side]) for side in layers]
        cross = crossed[0] if self.pairs is None else _placed(crossed, self.pairs, own[0], own[1])
        return PairSums(cross, own[0], own[1], means[0], means[1])

    def hsic(self, estimator: Estimator) -> tuple[Tensor, Tensor, Tensor]:
        """HSIC_xy (L_A, L_B), HSIC_xx (L_A,), HSIC_yy (L_B,); the last two are 0 without variance."""
        check_estimator(estimator)
        sums = self.sums()
        own = []
        for layer, means, eps in (
            (sums.own_a, sums.mean_norms_a, self._epsilon[0]),
            (sums.own_b, sums.mean_norms_b, self._epsilon[1]),
        ):
            own.append(torch.where(spread_is_rounding(layer, means, eps), 0.0, layer.hsic(estimator)))
        return sums.cross.hsic(estimator), own[0], own[1]

    def compute(self, estimator: Estimator = "debiased") -> Tensor:
        """CKA of every pair, (L_A, L_B) float64 on the CPU; NaN without variance, or for a pair not asked.

        A debiased value may be slightly negative; nothing is clamped.

        Raises:
            UserError: an unknown estimator, or fewer than four samples.
        """
        xy, xx, yy = self.hsic(estimator)
        return normalise(xy, xx[:, None], yy[None]).cpu()

    def state(self) -> dict[str, Tensor]:
        """Every array and number of the state, rows not yet folded among them, uncopied; `load` takes it."""
        state = {"epsilon": torch.tensor(self._epsilon, dtype=FLOAT64)}
        if self._buffer.rows:
            assert self._buffer.shift is not None
            for side, rows, shift in zip("ab", self._buffer.gathered(), self._buffer.shift, strict=True):
                state |= {f"rows_{side}": rows, f"rows_shift_{side}": shift}
        if self._shift is not None:
            state |= {"shift_a": self._shift[0], "shift_b": self._shift[1]}
            state["n"] = torch.tensor(self._moments[0].n)
            for at, moments in enumerate(self._moments):
                state |= {f"{at}.{name}": tensor for name, tensor in _sums_of(moments).items()}
        return state

    def load(self, state: dict[str, Tensor]) -> None:
        """Go on from a state of the same layers and pairs, bit for bit as if nothing had come between.

        Raises:
            KeyError: a part of the state is missing.
            ValueError: an array has another shape than these layers have.
        """

        def both(name: str) -> tuple[Tensor, Tensor]:
            # Copies: an array out of a file need not lie in memory as one that was made here.
            a, b = (state[f"{name}_{side}"].to(self.device, copy=True).contiguous() for side in "ab")
            return a, b

        self.reset()
        epsilon = state["epsilon"].tolist()
        self._epsilon = (epsilon[0], epsilon[1])
        if "n" in state:
            self._begin(both("shift"))
            for at, moments in enumerate(self._moments):
                moments.n = int(state["n"])
                for name, mine in _sums_of(moments).items():
                    theirs = state[f"{at}.{name}"]
                    if mine.shape != theirs.shape:
                        raise ValueError(f"{name} has shape {tuple(theirs.shape)}, not {tuple(mine.shape)}")
                    mine.copy_(theirs)
        if "rows_a" in state:
            self._buffer.put(*both("rows"), both("rows_shift"))


def _checked(pairs: str | Sequence[tuple[int, int]], la: int, lb: int) -> list[tuple[int, int]]:
    if pairs == "diagonal":
        if la != lb:
            raise UserError(f"pairs='diagonal' needs models of one depth, not {la} and {lb} layers: list the pairs")
        return [(i, i) for i in range(la)]
    if isinstance(pairs, str):
        raise UserError(f"pairs={pairs!r} is not known: give 'all', 'diagonal' or a list of layer pairs")
    listed = [(int(i), int(j)) for i, j in pairs]
    wrong = [p for p in listed if not (0 <= p[0] < la and 0 <= p[1] < lb)]
    if wrong or not listed:
        raise UserError(f"pairs {wrong or listed} do not fit {la} × {lb} layers: count from 0")
    return listed


def _flat(sums: Sequence[CentredSums]) -> CentredSums:
    """1 × 1 sums of single layers as one vector."""
    parts = [torch.stack([getattr(s, name).reshape(()) for s in sums]) for name in _SUM_FIELDS]
    return CentredSums(sums[0].n, *parts)


def _placed(
    sums: Sequence[CentredSums], pairs: list[tuple[int, int]], own_a: CentredSums, own_b: CentredSums
) -> CentredSums:
    """1 × 1 sums of single pairs in a matrix that is NaN elsewhere."""
    cross = torch.full((len(own_a.cross), len(own_b.cross)), torch.nan, dtype=FLOAT64, device=own_a.cross.device)
    products = cross.clone()
    for (i, j), pair in zip(pairs, sums, strict=True):
        cross[i, j], products[i, j] = pair.cross.reshape(()), pair.norm_products.reshape(())
    return CentredSums(sums[0].n, cross, own_a.norms_a[:, None], own_b.norms_a[None], products)


_SUM_FIELDS = ("cross", "norms_a", "norms_b", "norm_products")


def _sums_of(moments: CrossMoments) -> dict[str, Tensor]:
    # The shift of a part is a part of the shift.
    return {name: t for name, t in moments.tensors().items() if not name.startswith("shift")}
