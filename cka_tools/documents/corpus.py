"""An opened corpus: documents that are read as they are asked for."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from cka_tools.documents.document import Document


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
