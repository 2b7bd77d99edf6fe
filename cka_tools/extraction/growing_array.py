"""A one-dimensional array that is appended to, in memory or beyond a limit in a temporary file."""

from __future__ import annotations

from typing import Any

import numpy as np

from cka_tools.nameless_file import nameless_file, write_at

IN_MEMORY = 2**29
"""Bytes of an array that are kept in memory."""


class GrowingArray:
    """Appended parts of one array.

    Args:
        what: what it holds, as an error says it. limit: bytes in memory.
    """

    def __init__(self, dtype: type[Any], what: str, limit: int | None = None) -> None:
        self._dtype, self._what = np.dtype(dtype), what
        self._limit = IN_MEMORY if limit is None else limit
        self._parts: list[np.ndarray] = []
        self._bytes = self._written = 0
        self._file: Any = None

    def append(self, part: np.ndarray) -> None:
        """Add a part at the end.

        Raises:
            UserError: the disk is full.
        """
        self._parts.append(np.ascontiguousarray(part, dtype=self._dtype))
        self._bytes += self._parts[-1].nbytes
        if self._file is not None or self._bytes > self._limit:
            self._spill()

    def _spill(self) -> None:
        if self._file is None:
            self._file = nameless_file(self._what)
        for part in self._parts:
            write_at(self._file, self._written, part.data, self._what, self._bytes)
            self._written += part.nbytes
        self._parts = []

    def finish(self) -> np.ndarray:
        """The whole array: mapped, and read-only, where it is on disk."""
        if self._file is None:
            return np.concatenate(self._parts) if self._parts else np.empty(0, dtype=self._dtype)
        return np.memmap(self._file, dtype=self._dtype, mode="r")
