"""The bundled corpus: synthetic, reproducible, varied enough that draws differ."""

import gzip
import importlib.util
import json
import re
from pathlib import Path

import pytest

from cka_tools.bundled import bundled_data
from cka_tools.documents import draw_documents

GENERATOR = Path(__file__).resolve().parents[2] / "data" / "make_sample.py"


@pytest.fixture(scope="module")
def packed():
    return gzip.decompress((bundled_data() / "sample.jsonl.gz").read_bytes())


@pytest.fixture(scope="module")
def texts(packed):
    return [json.loads(line)["text"] for line in packed.splitlines()]


def test_the_generator_makes_the_file_that_ships(packed):
    spec = importlib.util.spec_from_file_location("make_sample", GENERATOR)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.sample_bytes() == packed


def test_documents_are_many_distinct_marked_and_of_the_stated_length(packed, texts):
    rows = [json.loads(line) for line in packed.splitlines()]
    assert len(set(texts)) == len(rows) >= 2400
    assert len({row["id"] for row in rows}) == len(rows)
    assert all(row["synthetic"] is True for row in rows)
    assert all(80 <= len(text.split()) <= 400 for text in texts)


def test_documents_share_little(texts):
    grams = [set(zip(*(text.split()[shift:] for shift in range(5)), strict=False)) for text in texts[:150]]
    shares = [len(a & b) / len(a | b) for number, a in enumerate(grams) for b in grams[:number]]
    assert sum(shares) / len(shares) < 0.02
    assert max(shares) < 0.3


def test_no_slot_of_the_grammar_is_left(texts):
    assert not [text for text in texts if re.search(r"[{}\[\]|~]|\(n\)|  |None", text)]


def test_draws_of_the_sample_differ_and_carry_the_mark():
    draws = [draw_documents("sample", seed=seed) for seed in (42, 43)]
    assert all(draw.source["synthetic"] is True for draw in draws)
    ids = [{document.id for document in draw.documents} for draw in draws]
    assert len(ids[0]) == 500
    assert len(ids[0] & ids[1]) < 200
    assert draws[0].notes == []
