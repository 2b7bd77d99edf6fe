"""A corpus file as bytes and as numbered lines of text, decompressed on the way; standard input as a file."""

import atexit
import gzip
import io
import os
import shutil
import sys
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from cka_tools.errors import UserError, reason_of
from cka_tools.formatting import size_in_words

STANDARD_INPUT = "-"
COMPRESSIONS = {".gz": b"\x1f\x8b", ".zst": b"\x28\xb5\x2f\xfd"}
"""By suffix the bytes that such a file begins with, which decide, whatever its name."""


class TooLarge(UserError):  # noqa: N818 - it says what the document is
    """A document beyond the limit."""

    def __init__(self, where: str, limit: int) -> None:
        allowed = f"{size_in_words(limit)}, the most a document may have"
        super().__init__(f"{where}: longer than {allowed}; cut it, or raise the limit by --document-limit 1GiB")


def bare_name(path: Path) -> str:
    """The name of a file without what says that it is compressed."""
    return path.stem if path.suffix.lower() in COMPRESSIONS else path.name


@contextmanager
def open_bytes(path: Path) -> Iterator[BinaryIO]:
    """Open a file, through gzip or zstd where it begins as such a file does, or its name says so.

    Raises:
        UserError: the file cannot be opened, is empty, or its compression is broken (also while it is being
            read).
    """
    packed = ""
    try:
        if path.stat().st_size == 0:
            raise UserError(f"{path}: the file is empty; give a file with documents in it")
        with path.open("rb") as file:
            packed = _compression(file, path)
            if packed == ".gz":
                with gzip.GzipFile(fileobj=file) as unpacked:
                    yield io.BufferedReader(unpacked)  # 8 kB reads, not single lines
            elif packed == ".zst":
                import pyarrow

                with pyarrow.CompressedInputStream(pyarrow.PythonFile(file, mode="r"), "zstd") as stream:
                    yield io.BufferedReader(stream)
            else:
                yield file
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise UserError(f"{path}: broken gzip ({error}); fetch or compress the file again") from error
    except OSError as error:
        if packed == ".zst" and error.errno is None:
            raise UserError(f"{path}: broken zstd ({error}); fetch or compress the file again") from error
        raise UserError(f"{path}: cannot be read ({reason_of(error)}); check the path and its rights") from error


def _compression(file: BinaryIO, path: Path) -> str:
    start = file.read(4)
    file.seek(0)
    suffix = path.suffix.lower()
    found = (kind for kind, magic in COMPRESSIONS.items() if start.startswith(magic))
    return next(found, suffix if suffix in COMPRESSIONS else "")


def check_compression(path: Path) -> None:
    """Read a compressed file to its end: broken compression gives wrong text before it is noticed.

    Raises:
        UserError: it is broken.
    """
    with path.open("rb") as file:
        packed = _compression(file, path)
    if packed:
        with open_bytes(path) as unpacked:
            while unpacked.read(1 << 20):
                pass


def read_lines(path: Path, limit: int) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, line with its line end) of a UTF-8 file.

    Args:
        limit: bytes of a line.

    Raises:
        UserError: a byte that is not UTF-8 text, or a line beyond the limit, with the line.
    """
    with open_bytes(path) as file:
        number = 0
        while raw := file.readline(limit + 1):
            number += 1
            if len(raw) > limit:
                raise TooLarge(f"{path}, line {number}", limit)
            if b"\0" in raw:
                raise UserError(
                    f"{path}: not text: a zero byte in line {number}; give UTF-8 text (.txt, .jsonl, .csv), or .parquet"
                )
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                place = f"byte 0x{raw[error.start]:02x} at position {error.start + 1} of line {number}"
                raise UserError(f"{path}: not UTF-8 text: {place}; convert the file to UTF-8") from error
            yield number, line


@cache
def standard_input(stream: Any = None) -> Path:
    """What is piped to standard input as a file that can be read again; it is gone when the process is.

    Raises:
        UserError: nothing is piped, several processes would share it, or the disk is full.
    """
    given: Any = stream or sys.stdin
    if given is None or given.closed or given.isatty():
        raise UserError("corpus '-' is standard input, to which nothing is piped: pipe a corpus, or give a path")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("corpus '-' is standard input, which several processes cannot share: give a path")
    handle, name = tempfile.mkstemp(prefix="standard-input-")
    atexit.register(Path(name).unlink, missing_ok=True)
    try:
        with os.fdopen(handle, "wb") as file:
            shutil.copyfileobj(getattr(given, "buffer", given), file)
    except OSError as error:
        where = f"{tempfile.gettempdir()!r} ({reason_of(error)})"
        raise UserError(f"corpus '-': standard input cannot be kept in {where}; point TMPDIR elsewhere") from error
    return Path(name)


def kind_of_input(path: Path) -> str:
    """The suffix that what is piped would have, by its first letter: `.json`, `.jsonl`, `.xml` or `.txt`."""
    with open_bytes(path) as file:
        start = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
    return {b"{": ".jsonl", b"[": ".json", b"<": ".xml"}.get(start[:1], ".txt")
