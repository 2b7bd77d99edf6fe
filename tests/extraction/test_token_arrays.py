"""Token ids beyond memory, and tokenized by several processes: the same table."""

import tempfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cka_tools.errors import UserError
from cka_tools.extraction import tokens
from cka_tools.extraction.tokens import GrowingArray
from cka_tools.models import load_model
from cka_tools.processes import Process


@given(st.lists(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=20), max_size=8), st.integers(0, 200))
def test_parts_come_back_whole(parts, limit):
    growing = GrowingArray(np.int32, limit)
    for part in parts:
        growing.append(np.array(part, dtype=np.int32))
    expected = np.array([number for part in parts for number in part], dtype=np.int32)
    found = growing.finish()
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.int32
    assert isinstance(found, np.memmap) == (expected.nbytes > limit)


def test_a_place_that_cannot_be_written_to_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"token ids need .* in .*nowhere"):
        GrowingArray(np.int32, 0).append(np.ones(3))


@pytest.fixture
def model(tiny_model):
    return load_model(tiny_model("bert"), device="cpu")


def same(found, expected):
    for name in ("ids", "ordinary", "offsets"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    assert (found.pad_id, found.truncated) == (expected.pad_id, expected.truncated)
    np.testing.assert_array_equal(found.ordinary_counts(), expected.ordinary_counts())


def test_a_table_on_disk_is_the_one_in_memory(monkeypatch, model, tiny_documents):
    expected = tokens.tokenize(tiny_documents, model, 16)
    rows = np.array([3, 4, 9, 30])
    monkeypatch.setattr(tokens, "IN_MEMORY", 0)
    monkeypatch.setattr(tokens, "_BLOCK", 7)
    found = tokens.tokenize(tiny_documents, model, 16)
    assert isinstance(found.ids, np.memmap)
    same(found, expected)
    same(found.take(rows), expected.take(rows))


@pytest.mark.parametrize("world", [2, 3, 5])
def test_processes_share_the_work_of_tokenizing(monkeypatch, model, tiny_documents, world):
    """Every process gets every chunk; here one after the other plays them all."""
    expected = tokens.tokenize(tiny_documents, model, 16)
    monkeypatch.setattr(tokens, "_CHUNK", 9)
    given_by: dict[int, list[tokens._Encoded]] = {}
    for rank in range(world):
        given_by[rank] = own = []
        monkeypatch.setattr(tokens, "this_process", lambda rank=rank: Process(rank, world))
        monkeypatch.setattr(tokens, "all_gather", lambda part, own=own: own.append(part) or [part] * world)
        tokens.tokenize(tiny_documents, model, 16)
    rounds = iter(zip(*given_by.values(), strict=True))
    monkeypatch.setattr(tokens, "all_gather", lambda part: list(next(rounds)))
    same(tokens.tokenize(tiny_documents, model, 16), expected)
