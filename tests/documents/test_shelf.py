"""Drawn documents beyond memory: the same draw from a file."""

import os

import pytest

from cka_tools.documents import Document, draw_documents
from cka_tools.documents import draw as shelf
from cka_tools.documents.draw import Shelf
from cka_tools.errors import UserError

TEXTS = [f"document number {number} é" for number in range(300)]


@pytest.mark.parametrize("limit", [0, 500])
def test_a_draw_is_the_same_in_memory_and_on_disk(monkeypatch, limit):
    kept = draw_documents(TEXTS, 120)
    assert isinstance(kept.documents, list)
    monkeypatch.setattr(shelf, "TEXT_IN_MEMORY", limit)
    spilled = draw_documents(TEXTS, 120)
    assert not isinstance(spilled.documents, list)
    assert list(spilled.documents) == kept.documents
    assert spilled.documents[10:13] == kept.documents[10:13]
    assert spilled.documents[-1] == kept.documents[-1]
    assert len(spilled.documents) == 120
    assert (spilled.fingerprint, spilled.counts) == (kept.fingerprint, kept.counts)
    with pytest.raises(IndexError):
        spilled.documents[120]


def test_memory_is_given_back_by_what_is_dropped():
    kept = Shelf(limit=10)
    first = kept.put(Document("1", "0123456789"))
    assert isinstance(kept.put(Document("2", "x")), int)
    kept.drop(first)
    assert isinstance(kept.put(Document("3", "y")), Document)


def test_an_id_of_any_characters_comes_back():
    kept = Shelf(limit=0)
    document = Document("half \ud800 pair", "text")
    assert kept.get(kept.put(document)) == document


def test_a_full_disk_is_one_line(monkeypatch):
    kept = Shelf(limit=0)
    kept.put(Document("1", "text"))

    class Full:
        def seek(self, place: int) -> None: ...

        def write(self, record: bytes) -> None:
            raise OSError(28, os.strerror(28))

    monkeypatch.setattr(kept, "_file", Full())
    with pytest.raises(UserError, match="no space is left"):
        kept.put(Document("2", "text"))
