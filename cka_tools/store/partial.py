"""An entry under way: rows go to their place in the final file, a journal says which batches are done.

A process may be killed at any instruction. What the journal says is therefore believed only where the rows
in the file have the hash it gives; the other batches run again.
"""

import errno
import hashlib
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cka_tools.extraction.activations import PooledForward
from cka_tools.extraction.batches import BatchPlan, WholeBatches
from cka_tools.extraction.extract import Progress, RowStore, feature_dtype
from cka_tools.extraction.features import FeatureStore, ModelFeatures
from cka_tools.processes import Crew, receive, send
from cka_tools.settings import Settings
from cka_tools.store.directory import entry_folder, partial_folder
from cka_tools.store.entry import (
    FEATURES,
    DamagedEntry,
    Layout,
    features_of,
    map_features,
    map_file,
    publish,
    remove_folder,
)
from cka_tools.store.key import EntryKey

JOURNAL = "journal"

Batch = tuple[int, ...]


class PartialEntry:
    """Takes pooled rows in any order, as `FeatureStore` does, and outlives the process.

    The caller holds the entry's lock.

    Attributes:
        finished: batches that an earlier run left complete.
        problem: why the features cannot become an entry; empty while they can. They can be used all the same.
    """

    finished: Collection[Sequence[int]]

    def __init__(
        self, cache: Path, key: EntryKey, layout: Layout, plan: BatchPlan, settings: Settings
    ) -> None:
        """Take the space of the whole file now, or take up what an earlier run left.

        Raises:
            OSError: the disk is full or cannot be written.
        """
        self.cache, self.key, self.layout, self.settings = cache, key, layout, settings
        self.folder = partial_folder(cache, key.digest)
        self.problem = ""
        self._numbers = {rows: number for number, rows in enumerate(plan.batches)}
        self._fallback: FeatureStore | None = None
        self.folder.mkdir(parents=True, exist_ok=True)
        done = self._take_up()
        try:
            self._file = self._open(fresh=done is None)
        except OSError:
            if done is None:
                with suppress(OSError):
                    remove_folder(self.folder)
            raise
        self._journal = self._open_journal(done or {})
        self.finished = frozenset(done or {})
        self._written: list[Sequence[int]] = list(done or {})

    def write(self, rows: Sequence[int], values: Sequence[np.ndarray]) -> None:
        """Put pooled values, one (k, b, p) array a layer, at the documents' rows.

        Raises:
            UserError: the disk fails, and so does the place where features go that are not kept.
        """
        if self._fallback is None:
            try:
                self._put(rows, values)
            except OSError as error:
                self._go_on_without(error)
            else:
                self._written.append(rows)
                return
        assert self._fallback is not None
        self._fallback.write(rows, values)

    def finish(self, model: str) -> ModelFeatures:
        """The features, once every row is written; as an entry of the store unless there is a problem."""
        if self._fallback is not None:
            self.discard()
            return self._fallback.finish()
        # The content lives as long as the features do, even where the file is removed.
        mapped = map_file(self._file)
        if not self.problem:
            try:
                os.fsync(self._file.fileno())
                features = publish(self.cache, self.folder, self.key, self.layout, model, mapped)
            except OSError as error:
                self.problem = reason_of(error)
            else:
                self.close()
                with suppress(OSError):
                    (entry_folder(self.cache, self.key.digest) / JOURNAL).unlink()
                return features
        self.discard()
        return features_of(self.layout, mapped)

    def discard(self) -> None:
        """Close and remove what is there."""
        self.close()
        with suppress(OSError):
            remove_folder(self.folder)

    def close(self) -> None:
        """Close the files; what is finished stays for the next run."""
        self._file.close()
        self._journal.close()

    def _put(self, rows: Sequence[int], values: Sequence[np.ndarray]) -> None:
        contiguous = [np.ascontiguousarray(value, self.layout.item) for value in values]
        for at, value in enumerate(contiguous):
            width = value.shape[-1] * value.itemsize
            for draw, records in enumerate(value):
                start = self.layout.starts[at] + draw * self.layout.documents * width
                for row, record in zip(rows, records, strict=True):
                    _write_all(self._file, record.data, start + row * width)
        number = self._numbers.get(tuple(rows))
        # Half of a split batch is no batch: it runs again after an interruption.
        if number is not None:
            # A line that is lost or torn costs that batch a second run, no more.
            with suppress(OSError):
                self._journal.write(f"{number} {_hash(number, contiguous)}\n".encode())

    def _take_up(self) -> dict[Batch, str] | None:
        """Finished batches with their hashes; None where there is no file of this size and header."""
        try:
            mapped = map_features(self.folder / FEATURES)
        except (FileNotFoundError, DamagedEntry):
            return None
        header = self.layout.header
        if len(mapped) != self.layout.size or bytes(mapped[: len(header)]) != header:
            return None
        try:
            lines = (self.folder / JOURNAL).read_bytes().splitlines()
        except FileNotFoundError:
            return {}
        views = self._views(mapped)
        batches = {str(number).encode(): rows for rows, number in self._numbers.items()}
        done: dict[Batch, str] = {}
        for line in lines:
            number, _, digest = line.partition(b" ")
            rows = batches.get(number)  # None: torn by a crash
            if rows is None:
                continue
            if _hash(int(number), [view[:, list(rows)] for view in views]).encode() == digest:
                done[rows] = digest.decode()
        return done

    def _open(self, *, fresh: bool) -> Any:
        path = self.folder / FEATURES
        if not fresh:
            return path.open("rb+", buffering=0)
        # Without its journal an older file's rows count for nothing, whatever happens from here on.
        (self.folder / JOURNAL).unlink(missing_ok=True)
        file = path.open("wb+", buffering=0)
        _reserve(file, self.layout.size)
        _write_all(file, memoryview(self.layout.header), 0)
        return file

    def _open_journal(self, done: dict[Batch, str]) -> Any:
        """A journal of the finished batches alone, open for more."""
        fresh = self.folder / f"{JOURNAL}.new"
        fresh.write_text("".join(f"{self._numbers[rows]} {digest}\n" for rows, digest in done.items()))
        fresh.replace(self.folder / JOURNAL)
        return (self.folder / JOURNAL).open("ab", buffering=0)

    def _go_on_without(self, error: OSError) -> None:
        """Move what was written to where features go that are not kept."""
        self.problem = reason_of(error)
        layout, settings = self.layout, self.settings
        self._fallback = FeatureStore(
            layout.documents,
            layout.layers,
            layout.widths,
            layout.draws,
            np.dtype(layout.dtype),
            on_disk=layout.size > settings.memory_limit,
            folder=settings.spill_folder,
        )
        views = self._views(map_file(self._file))
        for rows in self._written:
            self._fallback.write(rows, [view[:, list(rows)] for view in views])

    def _views(self, mapped: np.memmap) -> list[np.ndarray]:
        """(k, n, p) arrays, one a layer."""
        return [view if self.layout.draws else view[None] for view in self.layout.views(mapped)]


def reason_of(error: OSError) -> str:
    """Why a file could not be written, in a few words."""
    if error.errno == errno.ENOSPC:
        return "no space is left"
    return (error.strerror or str(error)).lower()


def _reserve(file: Any, size: int) -> None:
    """Take the space now, so that a full disk shows before anything runs."""
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(file.fileno(), 0, size)
            return
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise
    file.truncate(size)


def _hash(number: int, values: Sequence[np.ndarray]) -> str:
    digest = hashlib.sha256(str(number).encode())
    for value in values:
        digest.update(np.ascontiguousarray(value).data)
    return digest.hexdigest()


def _write_all(file: Any, data: memoryview, start: int) -> None:
    data = data.cast("B")
    file.seek(start)
    while data:
        data = data[file.write(data) :]


@dataclass(frozen=True)
class RowShape:
    """How one model's rows of a batch are laid out: (k, b, Σp), layers side by side."""

    widths: list[int]
    draws: int
    dtype: np.dtype

    @classmethod
    def of(cls, forward: PooledForward, draws: int | None) -> "RowShape":
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
    def left(cls, model: int, store: RowStore, plan: BatchPlan) -> "Work":
        done = store.finished
        return cls(model, [at for at, rows in enumerate(plan.batches) if rows in done] if done else [])

    def batches(self, plan: BatchPlan) -> frozenset[Sequence[int]]:
        return frozenset(plan.batches[at] for at in self.finished)


def scaled(progress: Progress | None, crew: Crew, documents: int) -> Progress | None:
    """Progress of all processes, judged by this one's share of the batches."""
    if progress is None or crew.world == 1:
        return progress
    return lambda done, tokens: progress(min(done * crew.world, documents), tokens * crew.world)
