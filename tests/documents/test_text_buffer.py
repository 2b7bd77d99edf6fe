"""Drawn documents beyond memory: the same draw from a file."""

import tempfile

import pytest

from cka_tools.documents import Document, draw, draw_documents
from cka_tools.documents.draw import TextBuffer
from cka_tools.errors import UserError

resource = pytest.importorskip("resource", reason="a limit on the size of files needs POSIX")

ROWS = [
    {"id": f"é{number}", "text": f"document number {number} é", "year": 1990 + number % 9, "mesh": ["a", "é"]}
    for number in range(300)
]


@pytest.mark.parametrize("limit", [0, 500])
def test_a_draw_is_the_same_in_memory_and_on_disk(monkeypatch, limit):
    kept = draw_documents(ROWS, 120)
    assert isinstance(kept.documents, list)
    monkeypatch.setattr(draw, "TEXT_IN_MEMORY", limit)
    spilled = draw_documents(ROWS, 120)
    assert not isinstance(spilled.documents, list)
    assert list(spilled.documents) == kept.documents
    assert spilled.documents[10:13] == kept.documents[10:13]
    assert spilled.documents[-1] == kept.documents[-1]
    assert len(spilled.documents) == 120
    assert {spilled.documents[0].metadata[name] is not None for name in ("year", "mesh")} == {True}
    assert (spilled.fingerprint, spilled.counts) == (kept.fingerprint, kept.counts)
    with pytest.raises(IndexError):
        spilled.documents[120]


def test_memory_is_given_back_by_what_is_dropped():
    kept = TextBuffer(limit=10)
    first = kept.put(Document("1", "0123456789"))
    assert isinstance(kept.put(Document("2", "x")), int)
    kept.drop(first)
    assert isinstance(kept.put(Document("3", "y")), Document)


def test_metadata_counts_as_memory():
    kept = TextBuffer(limit=10)
    first = Document("1", "01234", {"journal": "01234"})
    assert kept.put(first) is first
    assert isinstance(kept.put(Document("2", "x")), int)
    kept.drop(first)
    assert isinstance(kept.put(Document("3", "0123456789")), Document)


def test_an_id_and_metadata_of_any_characters_come_back():
    kept = TextBuffer(limit=0)
    document = Document("half \ud800 pair", "text", {"a": [1, 2.5, None, True, "\udfff"], "b": "\n"})
    assert kept.get(kept.put(document)) == document


def test_a_full_disk_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    kept = TextBuffer(limit=0)
    kept.put(Document("1", "text"))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        with pytest.raises(UserError, match=r"drawn documents need .* in .*: point TMPDIR at") as error:
            kept.put(Document("2", "text" * 1000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(error.value)
