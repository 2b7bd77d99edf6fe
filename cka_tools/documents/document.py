"""A document, and where one is read from."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, time
from decimal import Decimal
from typing import Any

DEFAULT_DOCUMENTS = 500
"""How many documents are drawn unless a number is given; the paper's protocol draws as many."""

MINIMUM_DOCUMENTS = 4
"""The debiased HSIC divides by n(n - 3): with fewer documents it does not exist."""


@dataclass(frozen=True)
class Document:
    """One text, the independent unit of every statistic.

    Attributes:
        id: the name it has in its corpus.
        text: what the models read.
        metadata: what else its corpus says of it (labels, a group, a date), JSON-ready: by name a string,
            number, boolean or None, or a list of these. Nothing that is drawn or hashed depends on it.
        query: what a model reads before the text, as the first segment of a pair; None is no pair.
    """

    id: str
    text: str
    metadata: Mapping[str, Any] = field(default_factory=dict, hash=False)
    query: str | None = None


def metadata_of(row: Iterable[tuple[str, Any]], taken: Iterable[str | None] = ()) -> dict[str, Any]:
    """Return the fields of a row as a document's metadata: dates as ISO text, NumPy's numbers as Python's.

    Left out are nested and binary values and the fields `taken`, those of text and id.
    """
    found = {str(name): _plain(value) for name, value in row if name not in taken}
    parts = {name: value if isinstance(value, list) else [value] for name, value in found.items()}
    return {name: value for name, value in found.items() if all(map(_is_scalar, parts[name]))}


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):  # an array of NumPy's, or one of its numbers
        value = value.tolist()
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, Decimal):
        return float(value)
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _is_scalar(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float)


@dataclass(frozen=True)
class DocumentDraw:
    """The documents drawn from a corpus, and what a reader needs in order to draw them again.

    Attributes:
        documents: the drawn documents, in an order that depends on texts and seed alone.
        corpus: the corpus as it was given; for one in memory, its kind and size.
        fingerprint: sha256 (hex) over the drawn texts in order and the counts: contents only, no path, no
            time.
        seed: the seed of the draw.
        counts: `read` = `empty` + `duplicates` + `usable` + what a reader sets aside (`no_abstract`,
            `deleted`, `replaced`); `drawn` of the usable ones.
        source: what the reader recorded: files, text column, hub revision, parts, `synthetic`.
        notes: sentences for the user, one for each thing that is not as a reader might assume.
    """

    documents: Sequence[Document]
    corpus: str
    fingerprint: str
    seed: int
    counts: dict[str, int]
    source: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass
class Corpus:
    """A corpus being read.

    `counts`, `source` and `notes` belong to the reader, which may fill them until `documents` ends.
    A reader counts only the records that never become a document; each such record also counts as `read`.
    `classes` holds, by column, the names that its numbers stand for, where the data say them.
    `parts` are those of `documents`, in their order, where each can be read by itself (files of a folder).
    """

    name: str
    documents: Iterator[Document] = field(default_factory=lambda: iter(()))
    parts: list[Iterator[Document]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    source: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    classes: dict[str, list[str]] = field(default_factory=dict)

    def set_aside(self, reason: str) -> None:
        """Count a record that does not become a document."""
        self.counts["read"] += 1
        self.counts[reason] += 1
