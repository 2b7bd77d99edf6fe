"""An entry under way: rows go to their place in the final file, a journal says which batches are done.

A process may be killed at any instruction. What the journal says is therefore believed only where the rows
in the file have the hash it gives; the other batches run again.
"""

import hashlib
import os
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from cka_tools.errors import reason_of
from cka_tools.extraction.batches import BatchPlan
from cka_tools.extraction.features import FeatureStore, Layout, ModelFeatures
from cka_tools.settings import Settings
from cka_tools.spill_file import reserve, write_all
from cka_tools.store.directory import entry_folder, partial_folder
from cka_tools.store.entry import FEATURES, JOURNAL, DamagedEntry, map_features, publish, remove_folder
from cka_tools.store.key import EntryKey

Batch = tuple[int, ...]


class PartialEntry:
    """Takes pooled rows in any order, as `FeatureStore` does, and outlives the process.

    The caller holds the entry's lock.

    Attributes:
        finished: batches that an earlier run left complete.
        problem: why the features cannot become an entry; empty while they can. They can be used all the same.
    """

    finished: Collection[Sequence[int]]

    def __init__(self, cache: Path, key: EntryKey, layout: Layout, plan: BatchPlan, settings: Settings) -> None:
        """Take the space of the whole file now, or resume what an earlier run left.

        Raises:
            OSError: the disk is full or cannot be written.
        """
        self.cache, self.key, self.layout, self.settings = cache, key, layout, settings
        self.folder = partial_folder(cache, key.digest)
        self.problem = ""
        self._numbers = {rows: number for number, rows in enumerate(plan.batches)}
        self._fallback: FeatureStore | None = None
        self.folder.mkdir(parents=True, exist_ok=True)
        done = self._resume()
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
        mapped = map_features(self._file)
        if not self.problem:
            try:
                os.fsync(self._file.fileno())
                publish(self.cache, self.folder, self.key, self.layout, model, mapped)
            except OSError as error:
                self.problem = reason_of(error)
        if self.problem:
            self.discard()
        else:
            self.close()
            with suppress(OSError):
                (entry_folder(self.cache, self.key.digest) / JOURNAL).unlink()
        return self.layout.features(mapped)

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
        for start, record in self.layout.places(rows, values):
            write_all(self._file, start, record)
        number = self._numbers.get(tuple(rows))
        # Half of a split batch is no batch: it runs again after an interruption.
        if number is not None:
            # A line that is lost or torn costs that batch a second run, no more.
            with suppress(OSError):
                self._journal.write(f"{number} {_hash(number, values, self.layout)}\n".encode())

    def _resume(self) -> dict[Batch, str] | None:
        """Finished batches with their hashes; None where there is no file of this size and header."""
        try:
            mapped = map_features(self.folder / FEATURES)
        except (FileNotFoundError, DamagedEntry):
            return None
        if not self.layout.fits(mapped):
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
            if _hash(int(number), [view[:, list(rows)] for view in views], self.layout).encode() == digest:
                done[rows] = digest.decode()
        return done

    def _open(self, *, fresh: bool) -> Any:
        path = self.folder / FEATURES
        if not fresh:
            return path.open("rb+", buffering=0)
        # Without its journal an older file's rows count for nothing, whatever happens from here on.
        (self.folder / JOURNAL).unlink(missing_ok=True)
        file = path.open("wb+", buffering=0)
        reserve(file, self.layout.size)
        write_all(file, 0, self.layout.header)
        return file

    def _open_journal(self, done: dict[Batch, str]) -> Any:
        """A journal of the finished batches alone, open for more."""
        fresh = self.folder / f"{JOURNAL}.new"
        fresh.write_bytes("".join(f"{self._numbers[rows]} {digest}\n" for rows, digest in done.items()).encode())
        fresh.replace(self.folder / JOURNAL)
        return (self.folder / JOURNAL).open("ab", buffering=0)

    def _go_on_without(self, error: OSError) -> None:
        """Move what was written to where features go that are not kept."""
        self.problem = reason_of(error)
        self._fallback = FeatureStore(self.layout, self.settings.memory_limit, self.settings.spill_folder)
        views = self._views(map_features(self._file))
        for rows in self._written:
            self._fallback.write(rows, [view[:, list(rows)] for view in views])

    def _views(self, mapped: np.memmap) -> list[np.ndarray]:
        """(k, n, p) arrays, one a layer."""
        return [view if self.layout.draws else view[None] for view in self.layout.views(mapped)]


def _hash(number: int, values: Sequence[np.ndarray], layout: Layout) -> str:
    digest = hashlib.sha256(str(number).encode())
    for value in values:
        digest.update(np.ascontiguousarray(value, layout.item).data)
    return digest.hexdigest()
