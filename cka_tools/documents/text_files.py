"""A corpus file as bytes and as numbered lines of text, decompressed on the way."""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import groupby, islice
from pathlib import Path
from typing import Any, BinaryIO

from cka_tools.documents.document import Corpus, Document, metadata_of
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
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); check the path and its rights") from error


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, line with its line end) of a UTF-8 file.

    Raises:
        UserError: a byte that is not UTF-8 text, with its line.
    """
    with open_bytes(path) as file:
        for number, raw in enumerate(file, start=1):
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


# `contents` before `content`: where a corpus has both (as those made for retrieval), `contents` is title and
# content.
TEXT_COLUMNS = ("text", "contents", "content", "abstract", "abstract_text", "body", "document", "passage", "sentence")
ID_COLUMNS = ("id", "pmid", "PMID", "doc_id", "document_id", "_id")


def text_column(columns: Iterable[str], where: str) -> str:
    """Return the first of `TEXT_COLUMNS` among the columns, exactly or but for upper case.

    Raises:
        UserError: there is none; the message names the columns found.
    """
    found = list(columns)
    for spelled in ({name: name for name in found}, {name.lower(): name for name in reversed(found)}):
        if fitting := [spelled[name] for name in TEXT_COLUMNS if name in spelled]:
            return fitting[0]
    listed = ", ".join(map(repr, found[:12])) + (", …" if len(found) > 12 else "") or "no columns"
    known = ", ".join(TEXT_COLUMNS[:4])
    raise UserError(f"{where}: no text column among {listed}; name one of them {known}")


def id_column(columns: Collection[str]) -> str | None:
    """Return the first of `ID_COLUMNS` among the columns, or None."""
    return next((name for name in ID_COLUMNS if name in columns), None)


PARQUET_ROWS = 1024
"""Rows of a parquet file that are in memory at once."""


def read_txt(path: Path, corpus: Corpus) -> Iterator[Document]:
    """Yield one document per paragraph if a blank line separates text from text, otherwise one per line.

    Ids are `line:N`, N the line a document starts in.
    """
    paragraphs = len(list(islice(_paragraphs(path), 2))) == 2
    corpus.source.setdefault("units", {})[path.name] = "paragraphs" if paragraphs else "lines"
    for lines in _paragraphs(path):
        for part in [list(lines)] if paragraphs else ([line] for line in lines):
            yield Document(f"line:{part[0][0]}", "".join(line for _, line in part).rstrip("\r\n"))


def _paragraphs(path: Path) -> Iterator[Iterator[tuple[int, str]]]:
    """Yield the numbered lines between blank ones; each iterator ends when the next is asked for."""
    for text, lines in groupby(read_lines(path), key=lambda line: bool(line[1].strip())):
        if text:
            yield lines


def read_jsonl(path: Path, corpus: Corpus) -> Iterator[Document]:
    """Yield one document per line, each line a JSON object; a text of null is an empty document.

    A row marked `"synthetic": true` marks the corpus so.

    Raises:
        UserError: a line that is not a JSON object, lacks the text column of the first row, or holds no
            string there.
    """
    column = id_name = None
    for number, line in read_lines(path):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            reason = f"{error.msg} at column {error.colno}"
            raise UserError(f"{where}: not JSON ({reason}); fix or drop the line") from error
        except RecursionError as error:
            raise UserError(f"{where}: JSON nested too deeply; give one flat object a line") from error
        if not isinstance(row, dict):
            found = repr(line.strip()[:40])
            raise UserError(f'{where}: {found} is not a JSON object; give one {{"text": …}} a line')
        if column is None:
            column, id_name = text_column(row, where), id_column(row)
            _record_column(corpus, path, column)
        if column not in row:
            raise UserError(f"{where}: no {column!r}, which the first row has; give every row that column")
        if row.get("synthetic") is True:
            corpus.source["synthetic"] = True
        yield row_document(row, column, id_name, f"line:{number}", where)


def read_csv(path: Path, corpus: Corpus) -> Iterator[Document]:
    """Yield one document per record; the first record names the columns. Ids are the id column or `row:N`.

    Raises:
        UserError: no text column, a record without it, or broken quoting.
    """
    csv.field_size_limit(2**31 - 1)  # a document may exceed the module's 128 kB
    reader = csv.reader((line for _, line in read_lines(path)), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        column = text_column(header, str(path))
        _record_column(corpus, path, column)
        index = header.index(column)
        id_name = id_column(header)
        for number, record in enumerate(reader, start=1):
            if record and len(record) <= index:
                problem = f"{len(record)} fields, {column!r} is field {index + 1}"
                raise UserError(f"{path}, line {reader.line_num}: {problem}; fix the line")
            # Of two equal names the first counts.
            row = {column: "", **dict(reversed(list(zip(header, record, strict=False))))}
            yield row_document(row, column, id_name, f"row:{number}", f"{path}, row {number}")
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: broken CSV ({error}); fix the line") from error


def read_parquet(path: Path, corpus: Corpus) -> Iterator[Document]:
    """Yield one document per row, `PARQUET_ROWS` rows in memory at a time. Ids are the id column or `row:N`.

    Raises:
        UserError: not a parquet file, no text column, or a column that holds no strings.
    """
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            column, id_name = text_column(names, str(path)), id_column(names)
            _record_column(corpus, path, column)
            plain = {column, id_name, *plain_columns(file.schema_arrow)}
            for batch in file.iter_batches(PARQUET_ROWS, columns=[name for name in names if name in plain]):
                for row in batch.to_pylist():
                    number += 1
                    yield row_document(row, column, id_name, f"row:{number}", f"{path}, row {number}")
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise UserError(f"{path}: cannot be read as parquet ({reason}); write the file again") from error


def row_document(row: Mapping[str, Any], column: str, id_name: str | None, fallback: str, where: str) -> Document:
    """Return the document of a row.

    Args:
        column: of the text. id_name: of the id, if there is one.
        fallback: the id where the row has none. where: the row, as an error names it.

    Raises:
        UserError: the text is neither a string nor null, which is an empty one.
    """
    text = "" if row[column] is None else row[column]
    if not isinstance(text, str):
        found = f"{str(text)[:40]!r} ({type(text).__name__})"
        raise UserError(f"{where}: the text is {found}, not a string; give strings")
    return Document(row_id(row, id_name, fallback), text, metadata_of(row.items(), (column, id_name)))


def row_id(row: Mapping[str, Any], id_name: str | None, fallback: str) -> str:
    """Return the id of a row, or the fallback where it has none."""
    value = row.get(id_name) if id_name else None
    return fallback if value is None or value == "" else str(value)


def plain_columns(schema: Any) -> list[str]:
    """Names of the columns of an Arrow schema that hold scalars or lists of them, not images or audio."""
    from pyarrow import BaseExtensionType, types

    others = (types.is_binary, types.is_large_binary, types.is_fixed_size_binary, types.is_nested)
    kinds = {field.name: field.type for field in schema if not isinstance(field.type, BaseExtensionType)}
    inner = {name: getattr(kind, "value_type", kind) for name, kind in kinds.items()}
    return [name for name, kind in inner.items() if not any(other(kind) for other in others)]


def _record_column(corpus: Corpus, path: Path, column: str) -> None:
    corpus.source.setdefault("columns", {})[path.name] = column
