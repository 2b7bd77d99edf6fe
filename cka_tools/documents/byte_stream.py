"""A corpus file as bytes and as numbered lines of text, decompressed on the way."""

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from cka_tools.errors import UserError


@contextmanager
def open_bytes(path: Path) -> Iterator[BinaryIO]:
    """Open a file, through gzip where its name ends in `.gz`.

    Raises:
        UserError: the file cannot be opened, is empty, or its compression is broken (also while it is being
            read).
    """
    try:
        if path.stat().st_size == 0:
            raise UserError(f"{path}: the file is empty; give a file with documents in it")
        with path.open("rb") as file:
            if path.suffix.lower() == ".gz":
                with gzip.GzipFile(fileobj=file) as unpacked:
                    yield io.BufferedReader(unpacked)  # 8 kB reads, not single lines
            else:
                yield file
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise UserError(f"{path}: broken gzip ({error}); fetch or compress the file again") from error
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror or error}); check the path and its rights"
        ) from error


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, line with its line end) of a UTF-8 file.

    Raises:
        UserError: a byte that is not UTF-8 text, with its line.
    """
    with open_bytes(path) as file:
        for number, raw in enumerate(file, start=1):
            if b"\0" in raw:
                raise UserError(
                    f"{path}: not text: a zero byte in line {number}; give UTF-8 text (.txt, .jsonl, "
                    ".csv), or .parquet"
                )
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{path}: not UTF-8 text: byte 0x{error.object[error.start]:02x} at position "
                    f"{error.start + 1} "
                    f"of line {number}; convert the file to UTF-8"
                ) from error
            yield number, line
