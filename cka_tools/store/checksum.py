"""Checksum of a file of any size, several processors at once."""

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

_CHUNK = 8 * 1024**2
# Hashing leaves the interpreter free; beyond a few threads the disk is what one waits for.
_THREADS = min(4, os.cpu_count() or 1)


def checksum(buffer: Any) -> str:
    """sha256, hex, over the sha256 of each 8 MiB of a buffer, such as a mapped file."""
    view = memoryview(buffer)
    try:
        root = hashlib.sha256()
        for digest in _chunk_digests(view):
            root.update(digest)
        return root.hexdigest()
    finally:
        view.release()


def _chunk_digests(view: memoryview) -> Iterator[bytes]:
    starts = range(0, len(view), _CHUNK)
    if len(starts) < 2:
        yield from (_digest(view, start) for start in starts)
        return
    with ThreadPoolExecutor(_THREADS) as pool:
        yield from pool.map(lambda start: _digest(view, start), starts)


def _digest(view: memoryview, start: int) -> bytes:
    with view[start : start + _CHUNK] as chunk:
        return hashlib.sha256(chunk).digest()
