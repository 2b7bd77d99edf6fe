"""Where the store lies."""

import os
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
