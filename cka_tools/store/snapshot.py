"""Snapshots of a streamed run: one file a process, replaced whole, removed when the run's result is safe."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from cka_tools.errors import reason_of
from cka_tools.processes import Process
from cka_tools.store.directory import cache_directory, clear_staging, lock_file, locked, replace_file, run_folder
from cka_tools.store.key import EntryKey

_held: ContextVar[list[Callable[[], None]] | None] = ContextVar("held", default=None)


@contextmanager
def kept_until_saved() -> Iterator[None]:
    """Within, snapshots of finished comparisons stay; left without an exception it removes them."""
    finished: list[Callable[[], None]] = []
    token = _held.set(finished)
    try:
        yield
    finally:
        _held.reset(token)
    for remove in finished:
        remove()


class Snapshot:
    """The last state of one process's share of a run, found again by content.

    Attributes:
        notes: why it cannot be kept, in plain sentences.
    """

    def __init__(self, key: EntryKey | None, process: Process) -> None:
        """Take hold of the place; without a key, or where another process has it, nothing is kept."""
        self.notes: list[str] = []
        self._lock = ExitStack()
        self._path: Path | None = None
        if key is None:
            return
        cache = cache_directory()
        name = f"rank-{process.rank}-of-{process.world}.safetensors"
        # The first process's lock is the folder's own, by which `cka cache rm` sees that it is in use.
        lock = lock_file(cache, key.digest if process.first else f"{key.digest}-{process.rank}")
        try:
            self._lock.enter_context(locked(lock, wait=False))
            self._path = run_folder(cache, key.digest) / name
        except BlockingIOError:
            self.notes.append("Another command makes the same comparison now: no snapshots of this one were kept.")
        except OSError as error:
            self._give_up(error)

    @property
    def kept(self) -> bool:
        """Whether states are written."""
        return self._path is not None

    def read(self, expected: dict[str, Any]) -> tuple[dict[str, Tensor], int] | None:
        """The last state and how many batches it holds; None where none is there that fits."""
        if self._path is None:
            return None
        try:
            with safe_open(self._path, "pt") as file:
                record = json.loads(file.metadata()["record"])
                if {name: record.get(name) for name in expected} != expected:
                    return None
                # Tensors of the file may be views of it: what is read must not change with it.
                return {name: file.get_tensor(name).clone() for name in file.keys()}, int(record["batches"])  # noqa: SIM118
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError, ValueError, KeyError, TypeError):
            self.notes.append("A snapshot was damaged: the run was made from its beginning.")
            return None

    def write(self, state: dict[str, Tensor], batches: int, record: dict[str, Any]) -> None:
        """Replace the last state by this one; a kill at any instruction leaves one of the two."""
        if self._path is None:
            return
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
        facts = {"record": json.dumps(record | {"batches": batches})}
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)  # now: a run killed before leaves no empty folder
            replace_file(self._path, lambda fresh: save_file(tensors, fresh, facts))
        except (OSError, SafetensorError) as error:
            self._give_up(error)

    def finish(self) -> None:
        """The result is there: remove the snapshot, at once or when `kept_until_saved` is left."""
        held = _held.get()
        if held is None:
            self._remove()
        else:
            held.append(self._remove)

    def close(self) -> None:
        """Let go of the place; the snapshot stays."""
        self._lock.close()

    def _remove(self) -> None:
        if self._path is not None:
            clear_staging(self._path)
            with suppress(OSError):
                self._path.unlink(missing_ok=True)
                self._path.parent.rmdir()  # the last process finds it empty
        self._lock.close()

    def _give_up(self, error: OSError | SafetensorError) -> None:
        self._path = None
        # The library says a failed write in its own words.
        reason = reason_of(error) if isinstance(error, OSError) else str(error)
        self.notes.append(f"No snapshots were kept in {cache_directory()} ({reason}).")
