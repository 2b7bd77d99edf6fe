"""From what a user writes for a corpus to an opened corpus.

| spec | corpus |
|---|---|
| `sample` | the synthetic documents that ship with the package |
| `pubmed` | `MedRAG/pubmed` on the hub: seeded parts, seeded lines within them |
| `biomed-enriched[:commercial\\|noncommercial]` | `almanach/Biomed-Enriched`; `commercial` unless said |
| `hf:ID[:config[:split[:column]]]` | any dataset on the hub that needs no code of its own |
| a file | `.txt`, `.jsonl`, `.csv`, `.xml` (MEDLINE/PubMed), each also `.gz`, and `.parquet` |
| a folder | all files of these kinds in it, in the order of their names (not those in folders below) |

A name in this table goes before a file of that name; write `./sample` for the file.
"""

import os
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from cka_tools.bundled import bundled_data
from cka_tools.documents.corpus import Corpus
from cka_tools.documents.document import Document
from cka_tools.documents.in_memory import open_in_memory
from cka_tools.documents.pubmed_xml import read_pubmed_xml
from cka_tools.documents.text_files import read_csv, read_jsonl, read_parquet, read_txt
from cka_tools.errors import UserError

READERS: dict[str, Callable[[Path, Corpus], Iterator[Document]]] = {
    ".txt": read_txt,
    ".jsonl": read_jsonl,
    ".csv": read_csv,
    ".parquet": read_parquet,
}
XML = ".xml"
SUFFIXES = (".txt", ".jsonl", ".csv", ".xml", ".parquet")


def open_corpus(corpus: Any, candidates: int | None = None, seed: int = 0) -> Corpus:
    """Open a corpus; nothing but its existence is checked before `documents` is read.

    Args:
        corpus: a spec, a path, a sequence of strings or a `datasets.Dataset`.
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
            from cka_tools.documents.hub_pubmed import open_pubmed

            return open_pubmed(candidates, seed)
        if name in ("biomed-enriched", "hf"):
            from cka_tools.documents.hub_datasets import open_biomed_enriched, open_hub_dataset

            if name == "hf":
                return open_hub_dataset(spec, candidates, seed)
            if rest or spec == name:
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
        raise UserError(
            f"corpus {spec!r}: empty; give `sample`, `pubmed`, `biomed-enriched`, `hf:ID` or a path"
        )
    path = Path(spec).expanduser()
    try:
        exists, is_folder = path.exists(), path.is_dir()
    except (OSError, ValueError) as error:
        raise UserError(
            f"corpus {spec[:60]!r}: not a path ({error}); give a spec or the path of a file"
        ) from error
    if not exists:
        raise UserError(_no_such_corpus(spec))
    if is_folder:
        try:
            files = sorted(child for child in path.iterdir() if child.is_file() and kind_of(child))
        except OSError as error:
            raise UserError(
                f"{spec}: cannot be listed ({error.strerror}); check the folder's rights"
            ) from error
        if not files:
            raise UserError(
                f"{spec}: a folder without {', '.join(SUFFIXES)} files; give a file or another folder"
            )
        return _open_files(spec, files)
    if not kind_of(path):
        raise UserError(
            f"{spec}: files of the kind {''.join(path.suffixes[-2:]) or 'without suffix'!r} are not read; "
            f"give {', '.join(SUFFIXES)} (all but .parquet also with .gz)"
        )
    return _open_files(spec, [path])


def kind_of(path: Path) -> str | None:
    """Return the suffix that says how a file is read, without `.gz`; None for a file that is not read."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if len(suffixes) > 1 and suffixes[-1] == ".gz":
        return suffixes[-2] if suffixes[-2] in SUFFIXES and suffixes[-2] != ".parquet" else None
    return suffixes[-1] if suffixes and suffixes[-1] in SUFFIXES else None


def _open_files(name: str, files: list[Path]) -> Corpus:
    opened = Corpus(name, source={"kind": "files", "files": [file.name for file in files]})
    opened.documents = _read_files(files, opened)
    return opened


def _read_files(files: list[Path], opened: Corpus) -> Iterator[Document]:
    for file in files:
        kind = kind_of(file)
        if kind is None or kind == XML:
            continue
        for document in READERS[kind](file, opened):
            # Line numbers name a document only together with their file.
            numbered = len(files) > 1 and document.id.startswith(("line:", "row:"))
            yield Document(f"{file.name}:{document.id}", document.text) if numbered else document
    # All PubMed files are read as one: a later one deletes and replaces records of the earlier ones.
    xml_files = [file for file in files if kind_of(file) == XML]
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
