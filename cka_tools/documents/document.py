"""A document, and where one is read from."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

DEFAULT_DOCUMENTS = 500
"""How many documents are drawn unless a number is given; the paper's protocol draws as many."""

MINIMUM_DOCUMENTS = 4
"""The debiased HSIC divides by n(n - 3): with fewer documents it does not exist."""


@dataclass(frozen=True)
class Document:
    """One text, the independent unit of every statistic, and the name it has in its corpus."""

    id: str
    text: str


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
    """

    name: str
    documents: Iterator[Document] = field(default_factory=lambda: iter(()))
    counts: Counter[str] = field(default_factory=Counter)
    source: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def set_aside(self, reason: str) -> None:
        """Count a record that is no document."""
        self.counts["read"] += 1
        self.counts[reason] += 1
