"""Sizes as a user writes them: 8GiB, 512 MiB, 100000."""

from __future__ import annotations

import re

from cka_tools.errors import UserError

_UNITS = {"": 1, "b": 1, "kib": 1024, "mib": 1024**2, "gib": 1024**3, "tib": 1024**4}


def parse_bytes(size: int | str, option: str) -> int:
    """Bytes of a size with KiB, MiB, GiB or TiB behind it; a bare number is bytes.

    Raises:
        UserError: not such a size; `option` names where it was given.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", str(size))
    if match is None or match[2].lower() not in _UNITS:
        raise UserError(f"{option} {size!r} is no size: write it like 8GiB, 512MiB or 0")
    return int(float(match[1]) * _UNITS[match[2].lower()])


def size_in_words(size: float) -> str:
    """Bytes in binary units: 1536 → "1.5 KiB"."""
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
