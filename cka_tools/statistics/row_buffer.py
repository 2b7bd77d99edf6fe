"""Rows of two stacks of layers less a provisional mean, until they are folded or taken for Gram matrices."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cka_tools.statistics.moments import offsets

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
        raw = [self._stacked(side) for side in (layers_a, layers_b)]
        self._centred = self.shift is None
        if self.shift is None:
            self.shift = self.held((column_means(raw[0]), column_means(raw[1])))
        X, Y = (
            stack.sub_(shift.to(stack.dtype)).to(self.dtype)
            for stack, shift in zip(raw, self.shift, strict=True)
        )
        self._batches.append((X, Y))
        self.rows += len(X)

    def _stacked(self, layers: Sequence[Tensor]) -> Tensor:
        """Layers side by side, (n, P): in float64 where one of them is, else in the rows' own format."""
        exact = torch.float64 if torch.float64 in {layer.dtype for layer in layers} else self.dtype
        columns = offsets([layer.shape[1] for layer in layers])
        stack = torch.empty(len(layers[0]), columns[-1].stop, dtype=exact, device=self.device)
        for layer, c in zip(layers, columns, strict=True):
            stack[:, c] = layer
        return stack

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
            self._batches = [
                (torch.cat([x for x, _ in self._batches]), torch.cat([y for _, y in self._batches]))
            ]
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
