"""Text, JSON, CSV and Parquet files → documents, and which columns of a table are their text."""

import codecs
import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from cka_tools.documents.document import Corpus, Document, metadata_of
from cka_tools.documents.open_file import TooLarge, open_bytes, read_lines
from cka_tools.errors import UserError
from cka_tools.settings import Reading

# `contents` before `content`: where a corpus has both (as those made for retrieval), `contents` is title and
# content.
TEXT_COLUMNS = ("text", "contents", "content", "abstract", "abstract_text", "body", "document", "passage", "sentence")
ID_COLUMNS = ("id", "pmid", "PMID", "doc_id", "document_id", "_id")
TITLE, ABSTRACTS = "title", ("abstract", "abstract_text")


def text_columns(columns: Iterable[str], where: str, asked: str | None = None) -> tuple[str, ...]:
    """Return the columns whose values are the text, joined in this order; a record is empty where the last is.

    Unless asked for it is the first of `TEXT_COLUMNS` among the columns, exactly or but for upper case, and
    before an abstract its title, if there is one.

    Args:
        asked: a name, or several with commas.

    Raises:
        UserError: they are not there, or a name is there twice; the message names the columns found.
    """
    found = list(columns)
    listed = ", ".join(map(repr, found[:12])) + (", …" if len(found) > 12 else "") or "no columns"
    if twice := [name for name, count in Counter(found).items() if count > 1]:
        raise UserError(f"{where}: {len(twice)} column names are there twice, such as {twice[0]!r}; rename one")
    if asked is not None:
        names = [asked] if asked in found else [name.strip() for name in asked.split(",")]
        if lost := [name for name in names if name not in found]:
            raise UserError(f"{where}: no column {lost[0]!r}; it has {listed}")
        return tuple(dict.fromkeys(names))
    for spelled in ({name: name for name in found}, {name.lower(): name for name in reversed(found)}):
        for name in TEXT_COLUMNS:
            if name in spelled:
                title = spelled.get(TITLE) if name in ABSTRACTS else None
                return (spelled[name],) if title is None else (title, spelled[name])
    known = ", ".join(TEXT_COLUMNS[:4])
    raise UserError(f"{where}: no text column among {listed}; name one of them {known}, or give --column NAME")


def id_column(columns: Collection[str]) -> str | None:
    """Return the first of `ID_COLUMNS` among the columns, or None."""
    return next((name for name in ID_COLUMNS if name in columns), None)


PARQUET_ROWS = 1024
"""Rows of a parquet file that are in memory at once."""


def read_txt(path: Path, corpus: Corpus, reading: Reading) -> Iterator[Document]:
    """Yield a document for each line, paragraph (between blank lines) or file.

    Unless asked for it is the paragraph if a blank line separates text from text, otherwise the line. Ids are
    `line:N`, N the line a document starts in.

    Raises:
        UserError: content of another kind than plain text, unless a unit is asked for.
    """
    limit = reading.document_bytes
    unit = reading.text_unit or _unit_of(path, limit)
    corpus.source.setdefault("units", {})[path.name] = f"{unit}s"
    if unit == "file":
        yield Document(path.name, _joined(_limited(read_lines(path, limit), path, limit)).text)
        return
    for lines in _paragraphs(path, limit):
        if unit == "paragraph":
            yield _joined(_limited(lines, path, limit))
        else:
            yield from (_joined([line]) for line in lines)


def _unit_of(path: Path, limit: int) -> str:
    for at, lines in enumerate(_paragraphs(path, limit)):
        if at == 1:
            return "paragraph"
        _check_plain(path, next(lines)[1].strip())
    return "line"


def _check_plain(path: Path, first: str) -> None:
    kinds = {
        ".xml": first.startswith(("<?xml", "<!DOCTYPE", "<PubmedArticle")),
        ".json": first in ("[", "{") or re.match(r"\[\s*\{", first) is not None,
    }
    if first.startswith("{"):
        try:
            kinds[".jsonl"] = isinstance(json.loads(first), dict)
        except (ValueError, RecursionError):
            kinds[".jsonl"] = False
    for kind in filter(kinds.__getitem__, kinds):
        raise UserError(
            f"{path}: begins as a {kind} file does ({first[:40]!r}); name it {kind}, or give --text-unit to read "
            "it as plain text"
        )


def _joined(lines: Iterable[tuple[int, str]]) -> Document:
    numbers, texts = zip(*lines, strict=True)
    return Document(f"line:{numbers[0]}", "".join(texts).rstrip("\r\n"))


def _limited(lines: Iterable[tuple[int, str]], path: Path, limit: int) -> Iterator[tuple[int, str]]:
    """The lines of one document, whose letters are counted."""
    letters, first = 0, 0
    for number, line in lines:
        letters, first = letters + len(line), first or number
        if letters > limit:
            raise TooLarge(f"{path}, from line {first} on", limit)
        yield number, line


def _paragraphs(path: Path, limit: int) -> Iterator[Iterator[tuple[int, str]]]:
    """Yield the numbered lines between blank ones; each iterator ends when the next is asked for."""
    for text, lines in groupby(read_lines(path, limit), key=lambda line: bool(line[1].strip())):
        if text:
            yield lines


def read_jsonl(path: Path, corpus: Corpus, reading: Reading) -> Iterator[Document]:
    """Yield one document per line, each line a JSON object; a text of null is an empty document.

    A row marked `"synthetic": true` marks the corpus so.

    Raises:
        UserError: a line that is not a JSON object, lacks the text column of the first row, or holds no
            string there.
    """
    lines = ((number, line) for number, line in read_lines(path, reading.document_bytes) if line.strip())
    rows = ((f"line:{number}", f"{path}, line {number}", _parsed(path, number, line)) for number, line in lines)
    return _json_documents(path, rows, corpus, reading)


def _parsed(path: Path, number: int, line: str) -> Any:
    try:
        return json.loads(line, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}, line {number}: {_why_not_json(error)}; fix or drop the line") from error


class _Twice(ValueError):  # noqa: N818 - a condition
    """A name that an object has twice: which value is meant is not known."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        name = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise _Twice(f"the name {name[:40]!r} is given twice in one object")
    return found


def _why_not_json(error: ValueError | RecursionError) -> str:
    if isinstance(error, RecursionError):
        return "JSON nested too deeply"
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON ({error.msg} at column {error.colno})"
    return str(error) if isinstance(error, _Twice) else "a number of too many digits"


def _json_documents(
    path: Path, rows: Iterable[tuple[str, str, Any]], corpus: Corpus, reading: Reading
) -> Iterator[Document]:
    """The documents of rows, each given with its id, unless it has one, and its place."""
    columns: tuple[str, ...] = ()
    id_name = None
    for fallback, where, row in rows:
        if not isinstance(row, dict):
            found = repr(json.dumps(row)[:40])
            raise UserError(f'{where}: {found} is not a JSON object; give {{"text": …}} for each document')
        if not columns:
            columns, id_name = text_columns(row, where, reading.column), id_column(row)
            _record_columns(corpus, path, columns)
        if columns[-1] not in row:
            raise UserError(f"{where}: no {columns[-1]!r}, which the first row has; give every row that column")
        if row.get("synthetic") is True:
            corpus.source["synthetic"] = True
        yield row_document(row, columns, id_name, fallback, where, reading.document_bytes)


JSON_BYTES = 1 << 18
"""Read at once of a JSON array."""


def read_json(path: Path, corpus: Corpus, reading: Reading) -> Iterator[Document]:
    """Yield one document per item of a JSON array of objects, or of JSON lines under another name.

    Ids are the id field or `item:N`, N from 0.

    Raises:
        UserError: as `read_jsonl`.
    """
    with open_bytes(path) as file:
        start = file.read(JSON_BYTES).removeprefix(b"\xef\xbb\xbf").lstrip()
    if start[:1] == b"[":
        rows = ((f"item:{at}", f"{path}, item {at}", row) for at, row in _items(path, reading.document_bytes))
        return _json_documents(path, rows, corpus, reading)
    first = start.partition(b"\n")[0].strip()
    if not (first.startswith(b"{") and first.endswith(b"}")):
        raise UserError(f"{path}: neither a JSON array of objects nor one object a line; give one of these")
    return read_jsonl(path, corpus, reading)


def _items(path: Path, limit: int) -> Iterator[tuple[int, Any]]:
    """Yield (number from 0, item) of a JSON array; no more than an item is in memory."""
    decoder = json.JSONDecoder(object_pairs_hook=_object)
    text, at, number = "", 0, 0

    with open_bytes(path) as file:
        pieces = _decoded(file, path)

        def more() -> bool:
            nonlocal text, at
            piece = next(pieces, "")
            text, at = text[at:] + piece, 0
            return bool(piece)

        def next_letter() -> str:
            nonlocal at
            while True:
                while at < len(text) and text[at].isspace():
                    at += 1
                if at < len(text):
                    return text[at]
                if not more():
                    raise UserError(f"{path}: the JSON array has no end; fetch the file again")

        next_letter()
        at += 1  # the bracket
        while next_letter() != "]":
            try:
                item, end = decoder.raw_decode(text, at)
            except (ValueError, RecursionError) as error:
                held = len(text) - at
                if isinstance(error, json.JSONDecodeError) and _may_go_on(error, text):
                    if held > limit:
                        raise TooLarge(f"{path}, item {number}", limit) from error
                    while len(text) - at < 2 * held and more():
                        pass
                    if len(text) - at > held:
                        continue
                raise UserError(f"{path}, item {number}: {_why_not_json(error)}; fix the item") from error
            yield number, item
            at, number = end, number + 1
            if next_letter() == ",":
                at += 1
            elif text[at] != "]":
                raise UserError(f"{path}: {text[at : at + 20]!r} behind item {number - 1} of the JSON array; fix it")


def _may_go_on(error: json.JSONDecodeError, text: str) -> bool:
    """Whether what is wrong may only be that the text ends here; the longest word of JSON has 9 letters."""
    return error.msg.startswith("Unterminated") or error.pos > len(text) - 10


def _decoded(file: Any, path: Path) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    try:
        while piece := file.read(JSON_BYTES):
            if text := decoder.decode(piece):
                yield text
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text; convert the file to UTF-8") from error


def read_csv(path: Path, corpus: Corpus, reading: Reading) -> Iterator[Document]:
    """Yield one document per record; the first record names the columns. Ids are the id column or `row:N`."""
    return _read_table(path, corpus, reading, ",")


def read_tsv(path: Path, corpus: Corpus, reading: Reading) -> Iterator[Document]:
    """As `read_csv`, with tabs between fields and the same quotes."""
    return _read_table(path, corpus, reading, "\t")


def _read_table(path: Path, corpus: Corpus, reading: Reading, delimiter: str) -> Iterator[Document]:
    """Read CSV.

    Raises:
        UserError: no text column, a record without it or with more fields than the header, or broken quoting.
    """
    limit = reading.document_bytes
    csv.field_size_limit(min(limit, 2**31 - 1))  # the module's own is 128 kB
    lines = (line for _, line in read_lines(path, limit))
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        columns = text_columns(header, str(path), reading.column)
        _record_columns(corpus, path, columns)
        index, id_name = header.index(columns[-1]), id_column(header)
        for number, record in enumerate(reader, start=1):
            where = f"{path}, line {reader.line_num}"
            if record and len(record) <= index:
                raise UserError(f"{where}: {len(record)} fields, {columns[-1]!r} is field {index + 1}; fix the line")
            if len(record) > len(header) and any(record[len(header) :]):
                between = "comma" if delimiter == "," else "tab"
                problem = f"{len(record)} fields, the header has {len(header)}"
                raise UserError(f"{where}: {problem}; put a text with a {between} in it in double quotes")
            row = {columns[-1]: "", **dict(zip(header, record, strict=False))}
            yield row_document(row, columns, id_name, f"row:{number}", f"{path}, row {number}", limit)
    except csv.Error as error:
        where = f"{path}, line {reader.line_num}"
        if "field larger" in str(error):
            raise TooLarge(where, limit) from error
        raise UserError(f"{where}: broken CSV ({error}); fix the line") from error


def read_parquet(path: Path, corpus: Corpus, reading: Reading) -> Iterator[Document]:
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
            columns, id_name = text_columns(names, str(path), reading.column), id_column(names)
            _record_columns(corpus, path, columns)
            corpus.classes |= _names_in_parquet(file.schema_arrow)
            plain = {*columns, id_name, *plain_columns(file.schema_arrow)}
            for batch in file.iter_batches(PARQUET_ROWS, columns=[name for name in names if name in plain]):
                for row in batch.to_pylist():
                    number += 1
                    where = f"{path}, row {number}"
                    yield row_document(row, columns, id_name, f"row:{number}", where, reading.document_bytes)
    except (pyarrow.ArrowException, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise UserError(f"{path}: cannot be read as parquet ({reason}); write the file again") from error


READERS: dict[str, Callable[[Path, Corpus, Reading], Iterator[Document]]] = {
    ".txt": read_txt,
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".json": read_json,
    ".csv": read_csv,
    ".tsv": read_tsv,
    ".parquet": read_parquet,
}
"""How files of a kind are read, by suffix."""


def row_document(
    row: Mapping[str, Any],
    columns: tuple[str, ...],
    id_name: str | None,
    fallback: str,
    where: str,
    limit: int | None = None,
) -> Document:
    """Return the document of a row.

    Args:
        columns: of the text, joined with line ends; it is empty where the last one is. A list of strings is
            words, joined by spaces, and kept as metadata.
        id_name: of the id, if there is one.
        fallback: the id where the row has none. where: the row, as an error names it.
        limit: bytes of a document.

    Raises:
        UserError: a text is neither a string, nor words, nor null, which is an empty one; or it is too long.
    """
    parts = ["" if row.get(name) is None else row[name] for name in columns]
    words = [name for name, part in zip(columns, parts, strict=True) if _is_words(part)]
    parts = [" ".join(part) if _is_words(part) else part for part in parts]
    for part in parts:
        if not isinstance(part, str):
            found = f"{str(part)[:40]!r} ({type(part).__name__})"
            raise UserError(f"{where}: the text is {found}, not a string; give strings")
    text = "\n".join(filter(None, parts)) if parts[-1].strip() else ""
    if limit is not None and len(text) > limit:
        raise TooLarge(where, limit)
    taken = (*(name for name in columns if name not in words), id_name)
    return Document(row_id(row, id_name, fallback), text, metadata_of(row.items(), taken))


def _is_words(part: Any) -> bool:
    return isinstance(part, list) and all(isinstance(word, str) for word in part)


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


def class_names(features: Mapping[str, Any]) -> dict[str, list[str]]:
    """By column the names that its numbers stand for, where a data set of `datasets` says them.

    Args:
        features: as `Features.to_dict` gives them, and parquet files keep them.
    """
    inner = {name: one.get("feature", one) for name, one in features.items() if isinstance(one, Mapping)}
    return {
        name: list(one["names"])
        for name, one in inner.items()
        if isinstance(one, Mapping) and one.get("_type") == "ClassLabel" and one.get("names")
    }


def _names_in_parquet(schema: Any) -> dict[str, list[str]]:
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return class_names(features)
    except (KeyError, ValueError, TypeError, AttributeError):  # written by something else
        return {}


def _record_columns(corpus: Corpus, path: Path, columns: tuple[str, ...]) -> None:
    corpus.source.setdefault("columns", {})[path.name] = " + ".join(columns)
