"""An extraction in several processes: each runs its batches, and the first one gathers the rows."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from cka_tools.extraction.activations import PooledForward
from cka_tools.extraction.batches import BatchPlan, WholeBatches
from cka_tools.extraction.extract import Progress, RowStore, feature_dtype
from cka_tools.processes import Crew, receive, send


@dataclass(frozen=True)
class RowShape:
    """How one model's rows of a batch are laid out: (k, b, Σp), layers side by side."""

    widths: list[int]
    draws: int
    dtype: np.dtype

    @classmethod
    def of(cls, forward: PooledForward, draws: int | None) -> RowShape:
        return cls(forward.widths, draws or 1, feature_dtype(forward.model))

    def empty(self, rows: int) -> torch.Tensor:
        return torch.from_numpy(np.empty((self.draws, rows, sum(self.widths)), self.dtype))

    def layers(self, stack: torch.Tensor) -> list[np.ndarray]:
        return np.split(stack.numpy(), np.cumsum(self.widths)[:-1], axis=2)


def sending_stores(
    batches: Sequence[Sequence[int]],
    finished: Sequence[Collection[Sequence[int]]],
    shapes: Sequence[RowShape],
) -> Sequence[RowStore]:
    """Stores of a process that is not the first: what is written to them is sent there, batch by batch.

    Args:
        batches: this process's. finished, shapes: of each model.
    """

    def take(rows: Sequence[int], values: list[list[np.ndarray] | None], split: bool) -> None:
        stacks = [
            torch.from_numpy(np.concatenate(layers, axis=2, dtype=shape.dtype))
            for layers, shape in zip(values, shapes, strict=True)
            if layers is not None
        ]
        send([torch.tensor([int(split)]), *stacks])

    return WholeBatches(batches, finished, take).sides


def own_and_gathered(
    plan: BatchPlan, crew: Crew, stores: Sequence[RowStore], shapes: Sequence[RowShape]
) -> Iterator[Sequence[int]]:
    """The first process's batches; between them, and at the end, the others' are taken in."""
    share = plan.batches[:: crew.world]
    for turn, rows in enumerate(share):
        yield rows
        # One turn late: on a GPU a batch is written when the next was launched.
        if turn:
            _take_in(plan, crew, stores, shapes, turn - 1)
    if share:
        _take_in(plan, crew, stores, shapes, len(share) - 1)


def _take_in(
    plan: BatchPlan, crew: Crew, stores: Sequence[RowStore], shapes: Sequence[RowShape], turn: int
) -> None:
    first = turn * crew.world
    for rank, rows in enumerate(plan.batches[first + 1 : first + crew.world], start=1):
        wanted = [
            (store, shape) for store, shape in zip(stores, shapes, strict=True) if rows not in store.finished
        ]
        if not wanted:
            continue
        split, stacks = torch.zeros(1, dtype=torch.int64), [shape.empty(len(rows)) for _, shape in wanted]
        receive([split, *stacks], rank)
        for (store, shape), stack in zip(wanted, stacks, strict=True):
            layers = shape.layers(stack)
            # Parts of a split batch are no batch: after an interruption it runs again.
            for part in np.array_split(np.arange(len(rows)), 2 if split.item() else 1):
                store.write(tuple(rows[i] for i in part), [layer[:, part] for layer in layers])


@dataclass(frozen=True)
class Work:
    """What one model still has to run: its place among the models, and its finished batches by number."""

    model: int
    finished: list[int]

    @classmethod
    def left(cls, model: int, store: RowStore, plan: BatchPlan) -> Work:
        done = store.finished
        return cls(model, [at for at, rows in enumerate(plan.batches) if rows in done] if done else [])

    def batches(self, plan: BatchPlan) -> frozenset[Sequence[int]]:
        return frozenset(plan.batches[at] for at in self.finished)


def scaled(progress: Progress | None, crew: Crew, documents: int) -> Progress | None:
    """Progress of all processes, judged by this one's share of the batches."""
    if progress is None or crew.world == 1:
        return progress
    return lambda done, tokens: progress(min(done * crew.world, documents), tokens * crew.world)
