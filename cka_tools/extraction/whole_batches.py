"""Rows of several models, put together again into whole batches in the order in which they run."""

from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

Take = Callable[[Sequence[int], list[list[np.ndarray] | None], bool], None]
"""Called with a batch's documents, each model's layers (k, b, p), and whether memory had split the batch.

A model that had finished the batch before has None."""


class WholeBatches:
    """Gathers what models write of some batches and hands each batch on once every model has written it.

    Models write at their own pace (a GPU one batch late) and a batch that was split in parts, but each in
    the order of the batches.

    Args:
        batches: in the order in which they run.
        finished: for each model the batches that it need not run again.
    """

    def __init__(
        self, batches: Iterable[Sequence[int]], finished: Sequence[Collection[Sequence[int]]], take: Take
    ) -> None:
        self._finished, self._take = finished, take
        self._waiting = deque(rows for rows in batches if any(rows not in done for done in finished))
        self.sides = [Side(self, done) for done in finished]

    def hand_on(self) -> None:
        """Hand on the batches that are complete."""
        while self._waiting:
            rows = self._waiting[0]
            expected = [rows not in done for done in self._finished]
            if any(e and s.ready < len(rows) for e, s in zip(expected, self.sides, strict=True)):
                return
            self._waiting.popleft()
            found = [s.pop(len(rows)) if e else None for e, s in zip(expected, self.sides, strict=True)]
            split = any(part is not None and part[1] for part in found)
            self._take(rows, [None if part is None else part[0] for part in found], split)


@dataclass
class Side:
    """Takes one model's rows; a `RowStore`."""

    whole: WholeBatches
    finished: Collection[Sequence[int]]

    def __post_init__(self) -> None:
        self._parts: deque[Sequence[np.ndarray]] = deque()
        self.ready = 0

    def write(self, rows: Sequence[int], values: Sequence[np.ndarray]) -> None:
        """Take pooled values of a batch, or of the next part of it."""
        self._parts.append(values)
        self.ready += len(rows)
        self.whole.hand_on()

    def pop(self, count: int) -> tuple[list[np.ndarray], bool]:
        """The oldest rows, `count` of them, and whether they came in parts."""
        parts = [self._parts.popleft()]
        while sum(part[0].shape[1] for part in parts) < count:
            parts.append(self._parts.popleft())
        self.ready -= count
        if len(parts) == 1:
            return list(parts[0]), False
        return [np.concatenate(layer, axis=1) for layer in zip(*parts, strict=True)], True
