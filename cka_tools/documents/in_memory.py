"""Documents that are in memory already: a sequence of strings or a `datasets.Dataset`."""

import sys
from collections.abc import Iterator, Sequence
from typing import Any

from cka_tools.documents.columns import id_column, text_column
from cka_tools.documents.corpus import Corpus
from cka_tools.documents.document import Document
from cka_tools.documents.text_files import as_text
from cka_tools.errors import UserError


def open_in_memory(corpus: Any) -> Corpus:
    """Open a sequence of strings (ids `item:N`) or a `datasets.Dataset` (ids its id column or `row:N`), N
    from 0.

    Raises:
        UserError: another type, or an item that is not a string.
    """
    datasets = sys.modules.get("datasets")  # whoever holds a Dataset has imported it
    if datasets is not None:
        if isinstance(corpus, datasets.Dataset):
            return _open_dataset(corpus)
        if isinstance(corpus, dict) and isinstance(corpus, datasets.DatasetDict):
            raise UserError(
                f"corpus: a DatasetDict of splits {', '.join(map(repr, corpus))}; give one of its splits"
            )
    if isinstance(corpus, Sequence) and not isinstance(corpus, str | bytes | bytearray):
        opened = Corpus(f"list of {len(corpus)} strings", source={"kind": "list"})
        opened.documents = _read_strings(corpus)
        return opened
    raise UserError(
        f"corpus: a {type(corpus).__name__}; give a spec or path (str), a list of strings, or a "
        "datasets.Dataset"
    )


def _read_strings(texts: Sequence[Any]) -> Iterator[Document]:
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise UserError(
                f"corpus item {number}: {str(text)[:40]!r} is a {type(text).__name__}; give strings"
            )
        yield Document(f"item:{number}", text)


def _open_dataset(dataset: Any) -> Corpus:
    column, id_name = text_column(dataset.column_names, "datasets.Dataset"), id_column(dataset.column_names)
    opened = Corpus("datasets.Dataset", source={"kind": "datasets.Dataset", "column": column})

    def read() -> Iterator[Document]:
        # An iteration over these columns alone: the others may hold images or audio, which would be decoded.
        for number, row in enumerate(dataset.select_columns([column, *([id_name] if id_name else [])])):
            given = row[id_name] if id_name else None
            yield Document(
                f"row:{number}" if given in (None, "") else str(given),
                as_text(row[column], f"Dataset row {number}"),
            )

    opened.documents = read()
    return opened
