"""Checksum of a file of any size, several processors at once."""

import hashlib
import mmap
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

_CHUNK = 8 * 1024**2
# Hashing leaves the interpreter free; beyond a few threads the disk is what one waits for.
_THREADS = min(4, os.cpu_count() or 1)


def checksum(mapped: np.memmap) -> str:
    """sha256, hex, over the sha256 of each 8 MiB of a mapped file of bytes. It does not stay in memory."""
    root = hashlib.sha256()
    for digest in _chunk_digests(mapped):
        root.update(digest)
    return root.hexdigest()


def _chunk_digests(mapped: np.memmap) -> Iterator[bytes]:
    starts = range(0, len(mapped), _CHUNK)
    if len(starts) < 2:
        yield from (_digest(mapped, start) for start in starts)
        return
    with ThreadPoolExecutor(_THREADS) as pool:
        yield from pool.map(lambda start: _digest(mapped, start), starts)


def _digest(mapped: np.memmap, start: int) -> bytes:
    chunk = mapped[start : start + _CHUNK]
    digest = hashlib.sha256(chunk.data).digest()
    if isinstance(mapped.base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        mapped.base.madvise(mmap.MADV_DONTNEED, start, len(chunk))
    return digest
