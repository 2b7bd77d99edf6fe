"""Documents from .txt, .jsonl, .csv (each also .gz) and .parquet files, read row by row."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cka_tools.documents.byte_stream import read_lines
from cka_tools.documents.columns import id_column, text_column
from cka_tools.documents.corpus import Corpus
from cka_tools.documents.document import Document
from cka_tools.errors import UserError

PARQUET_ROWS = 1024
"""Rows of a parquet file that are in memory at once."""


def read_txt(path: Path, corpus: Corpus) -> Iterator[Document]:
    """Yield one document per paragraph if a blank line separates text from text, otherwise one per line.

    Ids are `line:N`, N the line a document starts in.
    """
    paragraphs = _has_paragraphs(path)
    corpus.source.setdefault("units", {})[path.name] = "paragraphs" if paragraphs else "lines"
    start, held = 0, ""
    for number, line in read_lines(path):
        if line.strip():
            start = start if held else number
            held += line
        if held and not (paragraphs and line.strip()):
            yield Document(f"line:{start}", held.rstrip("\r\n"))
            held = ""
    if held:
        yield Document(f"line:{start}", held.rstrip("\r\n"))


def _has_paragraphs(path: Path) -> bool:
    text_seen = blank_after_text = False
    for _, line in read_lines(path):
        if line.strip():
            if blank_after_text:
                return True
            text_seen = True
        else:
            blank_after_text = text_seen
    return False


def read_jsonl(path: Path, corpus: Corpus) -> Iterator[Document]:
    """Yield one document per line, each line a JSON object; a text of null is an empty document.

    A row marked `"synthetic": true` marks the corpus so.

    Raises:
        UserError: a line that is no JSON object, lacks the text column of the first row, or holds no string
            there.
    """
    column = id_name = None
    for number, line in read_lines(path):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(
                f"{where}: not JSON ({error.msg} at column {error.colno}); mend or drop the line"
            ) from error
        except RecursionError as error:
            raise UserError(f"{where}: JSON nested too deeply; give one flat object a line") from error
        if not isinstance(row, dict):
            raise UserError(
                f'{where}: {line.strip()[:40]!r} is no JSON object; give one {{"text": …}} a line'
            )
        if column is None:
            column, id_name = text_column(row, where), id_column(row)
            _record_column(corpus, path, column)
        if column not in row:
            raise UserError(f"{where}: no {column!r}, which the first row has; give every row that column")
        if row.get("synthetic") is True:
            corpus.source["synthetic"] = True
        yield Document(
            _row_id(row.get(id_name) if id_name else None, f"line:{number}"), as_text(row[column], where)
        )


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
        id_index = header.index(id_name) if id_name else None
        for number, record in enumerate(reader, start=1):
            if record and len(record) <= index:
                raise UserError(
                    f"{path}, line {reader.line_num}: {len(record)} fields, {column!r} is field "
                    f"{index + 1}; mend the line"
                )
            given = record[id_index] if id_index is not None and len(record) > id_index else None
            yield Document(_row_id(given, f"row:{number}"), record[index] if record else "")
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: broken CSV ({error}); mend the line") from error


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
            for batch in file.iter_batches(PARQUET_ROWS, columns=[column, *([id_name] if id_name else [])]):
                for row in batch.to_pylist():
                    number += 1
                    text = as_text(row[column], f"{path}, row {number}")
                    yield Document(_row_id(row[id_name] if id_name else None, f"row:{number}"), text)
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise UserError(f"{path}: cannot be read as parquet ({reason}); write the file again") from error


def as_text(value: Any, where: str) -> str:
    """Return the text of a cell: a string, or "" for null.

    Raises:
        UserError: anything else.
    """
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UserError(
            f"{where}: the text is {str(value)[:40]!r} ({type(value).__name__}), not a string; give strings"
        )
    return value


def _row_id(value: Any, fallback: str) -> str:
    return fallback if value is None or value == "" else str(value)


def _record_column(corpus: Corpus, path: Path, column: str) -> None:
    corpus.source.setdefault("columns", {})[path.name] = column
