"""Temporary files without a name, for what outgrows memory: gone when the process is, however that ends."""

from __future__ import annotations

import errno
import os
import tempfile
from typing import Any

from cka_tools.errors import UserError
from cka_tools.formatting import size_in_words


def nameless_file(what: str, size: int = 0, folder: str | None = None) -> Any:
    """An unbuffered binary file in the temporary folder.

    Args:
        what: what it is for, as the error says it. size: bytes that are taken at once, not when they are
            written. folder: instead of the temporary one.

    Raises:
        UserError: the folder cannot be written to, or has no such space.
    """
    try:
        file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - lives as long as its content
        if size and hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        elif size:
            file.truncate(size)
    except OSError as error:
        raise disk_error(error, what, size, folder) from None
    return file


def write_at(file: Any, place: int, content: Any, what: str, size: int) -> None:
    """Write all of `content`, a contiguous buffer: a write without a buffer may stop in the middle of it.

    Args:
        place: in the file. what, size: as the error says them, the bytes of all content.

    Raises:
        UserError: the disk is full.
    """
    left = memoryview(content)
    # An empty array has no bytes to cast.
    left = left.cast("B") if left.nbytes else memoryview(b"")
    try:
        file.seek(place)
        while left:
            left = left[file.write(left) :]
    except OSError as error:
        raise disk_error(error, what, size) from None


def disk_error(error: OSError, what: str, size: int, folder: str | None = None) -> UserError:
    """The line for a temporary file that could not be made (size 0: of unknown size) or written."""
    place = folder or tempfile.gettempdir()
    reason = "no space is left" if error.errno == errno.ENOSPC else str(error.strerror or error)
    needed = size_in_words(size) if size else "a file"
    return UserError(
        f"{what} need {needed} in {place!r} ({reason}): point TMPDIR at a larger disk, or take fewer "
        "documents or layers"
    )
