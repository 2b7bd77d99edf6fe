"""The cache directory: where it lies, its locks, and files that are replaced whole."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

from filelock import FileLock, Timeout

from cka_tools.errors import failing_as

#: Names the cache directory; it wins over the platform's.
VARIABLE = "CKA_TOOLS_CACHE"


_chosen: ContextVar[Path | None] = ContextVar("chosen", default=None)


@contextmanager
def cache_in(folder: Path | None) -> Iterator[None]:
    """Use a folder as the cache directory inside; None changes nothing."""
    token = _chosen.set(folder or _chosen.get())
    try:
        yield
    finally:
        _chosen.reset(token)


def cache_directory() -> Path:
    """The folder of `cache_in`, else `CKA_TOOLS_CACHE`, else `cka-tools` in `XDG_CACHE_HOME` or `~/.cache`.

    It need not exist.

    Raises:
        UserError: it is in the home of somebody who is not known.
    """
    if (chosen := _chosen.get()) is not None:
        return chosen
    # Read at each call, not at import, so that one process can serve several caches.
    if given := os.environ.get(VARIABLE):
        with failing_as(f"{VARIABLE} {given!r} is not a folder"):
            return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cka-tools"


def entry_folder(cache: Path, key: str) -> Path:
    """Folder of a finished entry."""
    return cache / "features" / key


def partial_folder(cache: Path, key: str) -> Path:
    """Folder of an entry under way."""
    return cache / "partial" / key


def run_folder(cache: Path, key: str) -> Path:
    """Folder of the snapshots of a streamed run."""
    return cache / "runs" / key


def lock_file(cache: Path, key: str) -> Path:
    """File whose lock says who makes an entry."""
    return cache / "locks" / f"{key}.lock"


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock of a file; wait while another process or thread holds it.

    The operating system keeps the lock, so one whose holder was killed is free at once. Over network file
    systems it is as good as their locks.

    Raises:
        BlockingIOError: another holds it, and `wait` is False.
        OSError: the file cannot be made, or its file system has no locks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # A lock that is only a file would stay when its holder is killed.
    lock = FileLock(path, thread_local=False, fallback_to_soft=False)
    try:
        lock.acquire(blocking=wait)
    except Timeout:
        raise BlockingIOError(f"{path} is locked by another process") from None
    try:
        yield
    finally:
        # Removed while it is held: who waits for a removed file finds out and makes a new one.
        with suppress(OSError):
            path.unlink()
        lock.release()


def replace_file(file: Path, write: Callable[[Path], object]) -> None:
    """Write a file in a folder of its own beside it, put it on the disk, then in place.

    A kill at any instruction leaves the old file or the new one. A library may write under names that it makes
    up before it writes under the one it is given (safetensors does): in that folder they are found again, and
    what a killed call left goes with the next one or with `clear_staging`. Callers hold a lock.

    Raises:
        OSError: it cannot be written. Whatever `write` raises.
    """
    clear_staging(file)
    fresh = _staging(file) / file.name
    try:
        fresh.parent.mkdir()
        write(fresh)
        with fresh.open("rb+") as written:
            os.fsync(written.fileno())
        fresh.replace(file)
        _sync_folder(file.parent)
    finally:
        clear_staging(file)


def clear_staging(file: Path) -> None:
    """Remove what a killed `replace_file` left."""
    shutil.rmtree(_staging(file), ignore_errors=True)


def _staging(file: Path) -> Path:
    return file.with_name(f".{file.name}.partial")


def _sync_folder(folder: Path) -> None:
    """Make a rename last; not every system can open a folder."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
