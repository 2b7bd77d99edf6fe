"""The cache directory: where it lies, and its locks."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

#: Names the cache directory; it wins over the platform's.
VARIABLE = "CKA_TOOLS_CACHE"


def cache_directory() -> Path:
    """`CKA_TOOLS_CACHE`, else `cka-tools` in `XDG_CACHE_HOME` or `~/.cache`. It need not exist."""
    # Read at each call, not at import, so that one process can serve several caches.
    if given := os.environ.get(VARIABLE):
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

    The operating system keeps the lock (flock; on Windows a locked byte), so one whose holder was killed is
    free at once and nothing is ever stale. Over network file systems it is as good as their flock.

    Raises:
        BlockingIOError: another holds it, and `wait` is False.
        OSError: the file cannot be made, or its file system has no locks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _acquire(file, wait)
            # The last holder removed the file while we waited: our lock is on a file nobody else can find.
            if _is_at(file, path):
                break
        except BaseException:
            os.close(file)
            raise
        os.close(file)
    try:
        yield
    finally:
        # Removed while it is held, so that nobody can lock it in between.
        with suppress(OSError):
            path.unlink()
        os.close(file)


def _is_at(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


if sys.platform == "win32":
    import msvcrt

    def _acquire(file: int, wait: bool) -> None:
        """Lock an open file."""
        while True:
            try:
                msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
                return
            except OSError:
                if not wait:
                    raise BlockingIOError from None
            time.sleep(0.1)

else:
    import fcntl

    def _acquire(file: int, wait: bool) -> None:
        """Lock an open file."""
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
