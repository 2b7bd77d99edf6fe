"""From a corpus spec, a path or what is in memory to an open corpus."""

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from cka_tools.bundled import bundled_data
from cka_tools.documents.document import Corpus, Document
from cka_tools.documents.hub import open_biomed_enriched, open_hub_dataset, open_pubmed
from cka_tools.documents.pubmed_xml import read_pubmed_xml
from cka_tools.documents.text_files import (
    id_column,
    plain_columns,
    read_csv,
    read_jsonl,
    read_parquet,
    read_txt,
    row_document,
    text_column,
)
from cka_tools.errors import UserError


def open_in_memory(corpus: Any) -> Corpus:
    """Open a `datasets.Dataset` (ids: its id column or `row:N`, N from 0), or a sequence of strings or of
    mappings (ids: their id field or `item:N`).

    Raises:
        UserError: another type, or an item that is neither a string nor a mapping with a text.
    """
    datasets = sys.modules.get("datasets")  # whoever holds a Dataset has imported it
    if datasets is not None and isinstance(corpus, datasets.Dataset):
        return _open_dataset(corpus)
    if datasets is not None and isinstance(corpus, datasets.DatasetDict):
        splits = ", ".join(map(repr, corpus))
        raise UserError(f"corpus: a DatasetDict of splits {splits}; give one of its splits")
    if isinstance(corpus, Sequence) and not isinstance(corpus, str | bytes | bytearray):
        kind = "rows" if any(isinstance(item, Mapping) for item in corpus) else "strings"
        return Corpus(f"list of {len(corpus)} {kind}", _read_items(corpus), source={"kind": "list"})
    raise UserError(
        f"corpus: a {type(corpus).__name__}; give a spec or path (str), a list of strings or "
        "mappings, or a datasets.Dataset"
    )


def _read_items(items: Sequence[Any]) -> Iterator[Document]:
    for number, item in enumerate(items):
        where = f"corpus item {number}"
        if isinstance(item, Mapping):
            names = [name for name in item if isinstance(name, str)]
            yield row_document(item, text_column(names, where), id_column(names), f"item:{number}", where)
        elif isinstance(item, str):
            yield Document(f"item:{number}", item)
        else:
            found = f"{str(item)[:40]!r} is a {type(item).__name__}"
            raise UserError(f"{where}: {found}; give strings, or mappings with text")


def _open_dataset(dataset: Any) -> Corpus:
    names, kind = dataset.column_names, "datasets.Dataset"
    column, id_name = text_column(names, kind), id_column(names)
    # An iteration over these columns alone: the others may hold images or audio, which would be decoded.
    plain = {column, id_name, *plain_columns(dataset.features.arrow_schema)}
    rows = enumerate(dataset.select_columns([name for name in names if name in plain]))
    documents = (row_document(row, column, id_name, f"row:{at}", f"Dataset row {at}") for at, row in rows)
    return Corpus(kind, documents, source={"kind": kind, "column": column})


READERS: dict[str, Callable[[Path, Corpus], Iterator[Document]]] = {
    ".txt": read_txt,
    ".jsonl": read_jsonl,
    ".csv": read_csv,
    ".parquet": read_parquet,
}
XML = ".xml"
SUFFIXES = (*READERS, XML)


def open_corpus(corpus: Any, candidates: int | None = None, seed: int = 0) -> Corpus:
    """Open a corpus; nothing but its existence is checked before `documents` is read.

    Args:
        corpus: a spec, a path, a sequence of strings or mappings, or a `datasets.Dataset`.
        candidates: for a draw, the number of documents it will keep: a hub reader then reads a seeded part
            that is large enough. None reads all.
        seed: of that part.

    Raises:
        UserError: no such corpus.
    """
    if not isinstance(corpus, str | os.PathLike):
        return open_in_memory(corpus)
    spec = os.fspath(corpus)
    if isinstance(corpus, str):
        name, _, rest = spec.partition(":")
        if spec == "sample":
            return _open_sample()
        if spec == "pubmed":
            return open_pubmed(candidates, seed)
        if name == "hf":
            return open_hub_dataset(spec, candidates, seed)
        if name == "biomed-enriched" and (rest or spec == name):
            return open_biomed_enriched(spec, candidates, seed)
    return _open_path(spec)


def _open_sample() -> Corpus:
    try:
        path = bundled_data() / "sample.jsonl.gz"
    except FileNotFoundError as error:
        raise UserError("sample: the bundled corpus is not installed; install the package again") from error
    return _open_files("sample", [path])


def _open_path(spec: str) -> Corpus:
    if not spec.strip():
        raise UserError(f"corpus {spec!r}: empty; give `sample`, `pubmed`, `biomed-enriched`, `hf:ID` or a path")
    path, known = Path(spec).expanduser(), ", ".join(SUFFIXES)
    try:
        if not path.exists():
            raise UserError(_no_such_corpus(spec))
        files = sorted(filter(Path.is_file, path.iterdir())) if path.is_dir() else [path]
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"corpus {spec[:60]!r}: not a path that can be read ({reason})") from error
    readable = [file for file in files if kind_of(file)]
    if not readable and path.is_dir():
        raise UserError(f"{spec}: a folder without {known} files; give a file or another folder")
    if not readable:
        kind = "".join(path.suffixes[-2:]) or "without suffix"
        raise UserError(
            f"{spec}: files of the kind {kind!r} are not read; give {known} (all but .parquet also with .gz)"
        )
    return _open_files(spec, readable)


def kind_of(path: Path) -> str | None:
    """Return the suffix that says how a file is read, without `.gz`; None for a file that is not read."""
    unpacked = Path(path.name.lower().removesuffix(".gz"))
    packed_parquet = unpacked.suffix == ".parquet" and path.suffix.lower() == ".gz"
    return unpacked.suffix if unpacked.suffix in SUFFIXES and not packed_parquet else None


def _open_files(name: str, files: list[Path]) -> Corpus:
    opened = Corpus(name, source={"kind": "files", "files": [file.name for file in files]})
    opened.documents = _read_files(files, opened)
    return opened


def _read_files(files: list[Path], opened: Corpus) -> Iterator[Document]:
    xml_files = [file for file in files if kind_of(file) == XML]
    for file in files:
        for document in READERS[str(kind_of(file))](file, opened) if file not in xml_files else ():
            # Line numbers name a document only together with their file.
            numbered = len(files) > 1 and document.id.startswith(("line:", "row:"))
            yield replace(document, id=f"{file.name}:{document.id}") if numbered else document
    # All PubMed files are read as one: a later one deletes and replaces records of the earlier ones.
    if xml_files:
        yield from read_pubmed_xml(xml_files, opened)


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
