"""An extraction in several processes: each runs its share of the batches, the first gathers their rows."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np

from cka_tools.extraction.activations import PooledForward
from cka_tools.extraction.batches import BatchPlan
from cka_tools.extraction.extract import Prepared, Progress, RowStore, run_batches
from cka_tools.extraction.tokens import TextDocument
from cka_tools.processes import gather, this_process


def run_share(
    forwards: Sequence[PooledForward],
    stores: Sequence[RowStore],
    prepared: Prepared,
    documents: Sequence[TextDocument],
    progress: Progress,
    batches: Iterator[Sequence[int]] | Sequence[Sequence[int]],
) -> list[dict[str, Any]]:
    """As `run_batches` with this process's share of the batches; the first one gets the splits of all.

    Args:
        progress: is told what all have done, judged by this one's share.
    """
    world, n = this_process().world, len(prepared.kept)
    own = run_batches(
        forwards,
        stores,
        prepared,
        documents,
        lambda done, tokens: progress(min(done * world, n), tokens * world),
        batches,
    )
    return [split for part in gather(own) for split in part]


class GatheredRows:
    """Takes one process's rows, and between its batches hands them to the first process's store.

    All processes go through `batches` together, and call `hand_over` once after it.

    Args:
        store: of the first process; None in the others.
        finished: batches that need not run again, the same in all processes.
    """

    def __init__(self, plan: BatchPlan, store: RowStore | None, finished: Collection[Sequence[int]]) -> None:
        self._plan, self._store, self.finished = plan, store, finished
        self._written: list[tuple[Sequence[int], Sequence[np.ndarray]]] = []

    def batches(self) -> Iterator[Sequence[int]]:
        """This process's batches; every process comes to as many hand-overs."""
        process, batches = this_process(), self._plan.batches
        for start in range(process.rank, process.rank + len(batches), process.world):
            yield from batches[start : start + 1]
            self.hand_over()

    def write(self, rows: Sequence[int], values: Sequence[np.ndarray]) -> None:
        """Take pooled values of a batch, or of a part of one that was split."""
        self._written.append((rows, values))

    def hand_over(self) -> None:
        """Hand on what was written since the last time."""
        for parts in gather(self._written):
            for rows, values in parts:
                assert self._store is not None
                self._store.write(rows, values)
        self._written = []
