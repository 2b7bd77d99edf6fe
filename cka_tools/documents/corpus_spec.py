"""From a corpus spec, a path or what is in memory to an open corpus."""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from itertools import chain
from pathlib import Path
from typing import Any

from cka_tools.bundled import bundled_data
from cka_tools.documents.document import Corpus, Document
from cka_tools.documents.hub import open_biomed_enriched, open_hub_dataset, open_pubmed
from cka_tools.documents.open_file import (
    COMPRESSIONS,
    STANDARD_INPUT,
    bare_name,
    check_compression,
    kind_of_input,
    standard_input,
)
from cka_tools.documents.pubmed_xml import read_pubmed_xml
from cka_tools.documents.text_files import READERS, id_column, plain_columns, row_document, text_columns
from cka_tools.errors import UserError
from cka_tools.settings import Reading


def open_in_memory(corpus: Any, reading: Reading) -> Corpus:
    """Open a `datasets.Dataset` (ids: its id column or `row:N`, N from 0), or a sequence of strings or of
    mappings (ids: their id field or `item:N`).

    Raises:
        UserError: another type, or an item that is neither a string nor a mapping with a text.
    """
    datasets = sys.modules.get("datasets")  # whoever holds a Dataset has imported it
    if datasets is not None and isinstance(corpus, datasets.Dataset):
        return _open_dataset(corpus, reading)
    if datasets is not None and isinstance(corpus, datasets.DatasetDict):
        splits = ", ".join(map(repr, corpus))
        raise UserError(f"corpus: a DatasetDict of splits {splits}; give one of its splits")
    if isinstance(corpus, Sequence) and not isinstance(corpus, str | bytes | bytearray):
        kind = "rows" if any(isinstance(item, Mapping) for item in corpus) else "strings"
        return Corpus(f"list of {len(corpus)} {kind}", _read_items(corpus, reading), source={"kind": "list"})
    raise UserError(
        f"corpus: a {type(corpus).__name__}; give a spec or path (str), a list of strings or "
        "mappings, or a datasets.Dataset"
    )


def _read_items(items: Sequence[Any], reading: Reading) -> Iterator[Document]:
    for number, item in enumerate(items):
        where = f"corpus item {number}"
        if isinstance(item, Mapping):
            names = [name for name in item if isinstance(name, str)]
            columns = text_columns(names, where, reading.column)
            yield row_document(item, columns, id_column(names), f"item:{number}", where)
        elif isinstance(item, str):
            yield Document(f"item:{number}", item)
        else:
            found = f"{str(item)[:40]!r} is a {type(item).__name__}"
            raise UserError(f"{where}: {found}; give strings, or mappings with text")


def _open_dataset(dataset: Any, reading: Reading) -> Corpus:
    names, kind = dataset.column_names, "datasets.Dataset"
    columns, id_name = text_columns(names, kind, reading.column), id_column(names)
    # An iteration over these columns alone: the others may hold images or audio, which would be decoded.
    plain = {*columns, id_name, *plain_columns(dataset.features.arrow_schema)}
    rows = enumerate(dataset.select_columns([name for name in names if name in plain]))
    documents = (row_document(row, columns, id_name, f"row:{at}", f"Dataset row {at}") for at, row in rows)
    return Corpus(kind, documents, source={"kind": kind, "column": " + ".join(columns)})


XML = ".xml"
SUFFIXES = (*READERS, XML)
KNOWN = ("sample", "pubmed", "biomed-enriched")
"""Corpora of our own, in which there is nothing to choose."""


def open_corpus(corpus: Any, candidates: int | None = None, seed: int = 0, reading: Reading | None = None) -> Corpus:
    """Open a corpus; nothing but its existence is checked before `documents` is read.

    Args:
        corpus: a spec, a path, `-` for standard input, a sequence of strings or mappings, or a
            `datasets.Dataset`.
        candidates: for a draw, the number of documents it will keep: a hub reader then reads a seeded part
            that is large enough. None reads all.
        seed: of that part.
        reading: which columns and units are its text.

    Raises:
        UserError: no such corpus, or one in which there is nothing to choose of what is asked for.
    """
    reading = reading or Reading()
    if not isinstance(corpus, str | os.PathLike):
        _check_unit(reading, f"a {type(corpus).__name__}", [])
        return open_in_memory(corpus, reading)
    spec = os.fspath(corpus)
    if not isinstance(spec, str):
        raise UserError(f"corpus {spec!r}: a path of bytes; give it as text")
    name = spec.partition(":")[0]
    if not isinstance(corpus, str) or (spec not in KNOWN and name not in ("hf", KNOWN[-1])) or spec == f"{KNOWN[-1]}:":
        return _open_path(spec, reading)
    if name != "hf" and reading.column is not None:
        raise UserError(f"column {reading.column!r}: the text of {spec!r} is known; leave --column out")
    _check_unit(reading, repr(spec), [])
    if spec == "sample":
        return _open_sample(reading)
    if spec == "pubmed":
        return open_pubmed(candidates, seed)
    if name == "hf":
        return open_hub_dataset(spec, candidates, seed, reading=reading)
    return open_biomed_enriched(spec, candidates, seed)


def _check_unit(reading: Reading, what: str, kinds: Sequence[str]) -> None:
    """Refuse what is asked for where there is nothing to choose."""
    if reading.text_unit is not None and ".txt" not in kinds:
        raise UserError(f"text-unit {reading.text_unit!r} is for .txt files, and {what} has none: leave it out")
    if reading.column is not None and kinds and not set(kinds) - {".txt", XML}:
        raise UserError(f"column {reading.column!r}: {what} has no columns; leave --column out")


def _open_sample(reading: Reading) -> Corpus:
    try:
        path = bundled_data() / "sample.jsonl.gz"
    except FileNotFoundError as error:
        raise UserError("sample: the bundled corpus is not installed; install the package again") from error
    return _open_files("sample", {path: ".jsonl"}, reading)


def _open_path(spec: str, reading: Reading) -> Corpus:
    if not spec.strip():
        raise UserError(f"corpus {spec!r}: empty; give `sample`, `pubmed`, `biomed-enriched`, `hf:ID` or a path")
    if spec == STANDARD_INPUT:
        piped = standard_input()
        if not piped.stat().st_size:
            raise UserError("corpus '-': nothing came through standard input: pipe a corpus, or give a path")
        return _open_files("standard input", {piped: kind_of_input(piped)}, reading)
    known = ", ".join(SUFFIXES)
    try:
        path = Path(spec).expanduser()
        if not path.exists():
            raise UserError(_no_such_corpus(spec))
        files = sorted(filter(Path.is_file, path.iterdir())) if path.is_dir() else [path]
    except (OSError, RuntimeError, ValueError) as error:  # no such home; a zero byte
        if isinstance(error, UserError):
            raise
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"corpus {spec[:60]!r}: not a path that can be read ({reason})") from error
    readable = {file: kind for file in files if (kind := kind_of(file))}
    if not readable and path.is_dir():
        raise UserError(f"{spec}: a folder without {known} files; give a file or another folder")
    if not readable:
        kind = "".join(path.suffixes[-2:]) or "without suffix"
        raise UserError(
            f"{spec}: files of the kind {kind!r} are not read; give {known} (all but .parquet also with .gz or .zst)"
        )
    if len(set(readable.values()) - {".json"}) > 0:  # beside other files it describes them
        readable = {file: kind for file, kind in readable.items() if kind != ".json"}
    if reading.text_unit is None and list(readable.values()).count(".txt") > 1:
        reading = replace(reading, text_unit="file")
    return _open_files(spec, readable, reading)


def kind_of(path: Path) -> str | None:
    """Return the suffix that says how a file is read, without `.gz` or `.zst`; None for a file that is not."""
    kind = Path(bare_name(path).lower()).suffix
    packed_parquet = kind == ".parquet" and path.suffix.lower() in COMPRESSIONS
    return kind if kind in SUFFIXES and not packed_parquet else None


def _open_files(name: str, files: Mapping[Path, str], reading: Reading) -> Corpus:
    _check_unit(reading, repr(name), list(files.values()))
    opened = Corpus(name, source={"kind": "files", "files": [file.name for file in files]})
    xml_files = [file for file, kind in files.items() if kind == XML]
    opened.parts = [_read_file(file, kind, files, opened, reading) for file, kind in files.items() if kind != XML]
    if xml_files:
        # All PubMed files are read as one: a later one deletes and replaces records of the earlier ones.
        opened.parts.append(_sound(read_pubmed_xml(xml_files, opened, reading), xml_files))
    opened.documents = chain.from_iterable(opened.parts)
    return opened


def _read_file(
    file: Path, kind: str, files: Mapping[Path, str], opened: Corpus, reading: Reading
) -> Iterator[Document]:
    for document in _sound(READERS[kind](file, opened, reading), [file]):
        # Line numbers name a document only together with their file.
        numbered = len(files) > 1 and document.id.startswith(("line:", "row:", "item:"))
        yield replace(document, id=f"{file.name}:{document.id}") if numbered else document


def _sound(documents: Iterator[Document], files: Sequence[Path]) -> Iterator[Document]:
    """The documents; what is wrong with a text may come of broken compression, whose checksum is at the end."""
    try:
        yield from documents
    except UserError:
        for file in files:
            check_compression(file)
        raise


def _no_such_corpus(spec: str) -> str:
    known = ["sample", "pubmed", "biomed-enriched", "hf:ID"]
    close = get_close_matches(spec.lower(), known, n=1)
    parts = spec.split("/")
    if close:
        advice = f"did you mean `{close[0]}`?"
    elif len(parts) == 2 and all(parts) and not Path(spec).suffix and not spec.startswith((".", "~")):
        advice = f"for the hub's dataset of that name write `hf:{spec}`"
    else:
        advice = f"give a path that exists, or one of {', '.join(known)}"
    return f"corpus {spec!r}: no such file or folder; {advice}"
