"""The draw: a function of the set of texts and the seed."""

import gzip
import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import datasets
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cka_tools.documents import DEFAULT_DOCUMENTS, Document, draw_documents, stream_documents
from cka_tools.errors import UserError

HELD_OUT = Path(__file__).resolve().parents[2].parent / "shared" / "corpora" / "pubmed_heldout.jsonl.gz"
TEXTS = [f"document number {number}" for number in range(1000)]


def drawn_texts(corpus, documents=None, seed=42):
    return [document.text for document in draw_documents(corpus, documents, seed).documents]


@settings(max_examples=30, deadline=None)
@given(st.permutations(TEXTS[:60]), st.integers(0, 2**63 - 1), st.integers(4, 60))
def test_draw_does_not_depend_on_the_order_of_the_corpus(shuffled, seed, documents):
    assert drawn_texts(shuffled, documents, seed) == drawn_texts(TEXTS[:60], documents, seed)


def test_draw_does_not_depend_on_the_container(tmp_path):
    rows = "".join(json.dumps({"id": text[-3:], "text": text}) + "\n" for text in TEXTS)
    (tmp_path / "a.jsonl").write_text(rows)
    with gzip.open(tmp_path / "b.jsonl.gz", "wt") as file:
        file.write(rows)
    draws = [draw_documents(corpus, 50) for corpus in (tmp_path / "a.jsonl", str(tmp_path / "b.jsonl.gz"), TEXTS)]
    assert len({draw.fingerprint for draw in draws}) == 1
    assert draws[0].documents == draws[1].documents


def test_a_larger_draw_begins_with_the_smaller_one():
    assert drawn_texts(TEXTS, 100)[:10] == drawn_texts(TEXTS, 10)


def test_every_text_is_drawn_about_equally_often_and_draws_of_seeds_are_independent():
    draws = [set(drawn_texts(TEXTS[:40], 10, seed)) for seed in range(400)]
    times = Counter(text for draw in draws for text in draw)
    # Binomial with 400 trials of 1/4: mean 100, standard deviation 8.7; five of them on either side.
    assert min(times[text] for text in TEXTS[:40]) > 56
    assert max(times.values()) < 144
    overlaps = [len(first & second) for first, second in pairwise(draws)]
    assert sum(overlaps) / len(overlaps) == pytest.approx(10 * 10 / 40, abs=0.35)


def test_duplicates_and_empty_documents_are_dropped_counted_and_told():
    draw = draw_documents([*TEXTS[:600], *TEXTS[:7], "", " \n\t", "\u00a0"], 500)
    assert draw.counts == {"read": 610, "empty": 3, "duplicates": 7, "usable": 600, "drawn": 500}
    assert any("3 of 610" in note and "white space" in note for note in draw.notes)
    assert any("7 of 610" in note and "duplicates" in note for note in draw.notes)


def test_fingerprint_follows_texts_seed_and_counts_but_not_ids_or_path():
    base = draw_documents(TEXTS, 20)
    assert draw_documents(tuple(TEXTS), 20).fingerprint == base.fingerprint
    assert draw_documents(TEXTS, 20, seed=43).fingerprint != base.fingerprint
    assert draw_documents([*TEXTS, TEXTS[0]], 20).fingerprint != base.fingerprint


def test_default_takes_what_there_is_and_says_so():
    draw = draw_documents(TEXTS[:300])
    assert len(draw.documents) == 300
    assert draw.notes == ["asked for 500 documents by default, the corpus holds 300: all were taken"]
    assert len(draw_documents(TEXTS).documents) == DEFAULT_DOCUMENTS
    assert draw_documents(TEXTS).notes == []


@pytest.mark.parametrize(
    ("corpus", "documents", "message"),
    [
        (TEXTS[:300], 301, "301 documents were asked for, it gives 300"),
        ([*TEXTS[:3], "", ""], None, "3 usable documents of 5 read .2 empty., at least 4"),
        ([*TEXTS[:3], TEXTS[0]], 4, "3 usable documents of 4 read .1 exact duplicates."),
        ([], None, "no document"),
        (TEXTS, 3, "at least 4"),
        (TEXTS, -1, "at least 4"),
        (TEXTS, True, "whole number"),
        (TEXTS, 5.0, "whole number"),
        ([*TEXTS, 7], None, "corpus item 1000: '7' is a int"),
        ([*TEXTS, None], None, "corpus item 1000"),
        ([*TEXTS, "half \ud800 pair"], None, "half a surrogate pair"),
        (b"bytes", None, "a bytes; give a spec"),
        (12, None, "a int; give a spec"),
        (None, None, "a NoneType; give a spec"),
    ],
)
def test_a_corpus_that_does_not_do_is_a_user_error_in_one_line(corpus, documents, message):
    with pytest.raises(UserError, match=message) as error:
        draw_documents(corpus, documents)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("seed", [-1, 2**63, 1.0, "42", True])
def test_a_seed_that_is_no_seed_is_refused(seed):
    with pytest.raises(UserError, match="seed"):
        draw_documents(TEXTS, 10, seed=seed)


def test_items_of_a_list_are_numbered():
    draw = draw_documents(TEXTS, 10)
    assert draw.corpus == "list of 1000 strings"
    assert all(TEXTS[int(document.id.removeprefix("item:"))] == document.text for document in draw.documents)


def test_a_dataset_of_the_datasets_library_draws_as_a_list_does():
    columns = {"label": list(range(1000)), "content": TEXTS, "pmid": list(range(1000, 2000))}
    draw = draw_documents(datasets.Dataset.from_dict(columns), 50)
    assert [document.text for document in draw.documents] == drawn_texts(TEXTS, 50)
    assert draw.corpus == "datasets.Dataset"
    assert draw.source["column"] == "content"
    assert all(TEXTS[int(document.id) - 1000] == document.text for document in draw.documents)


def test_a_dataset_without_text_or_with_splits_is_refused():
    dataset = datasets.Dataset.from_dict({"label": [1, 2], "score": [1, 2]})
    with pytest.raises(UserError, match="no text column among 'label', 'score'"):
        draw_documents(dataset)
    with pytest.raises(UserError, match="splits 'train', 'test'"):
        draw_documents(datasets.DatasetDict({"train": dataset, "test": dataset}))
    with pytest.raises(UserError, match=r"the text is '1' \(int\)"):
        draw_documents(datasets.Dataset.from_dict({"text": [1, 2]}))


def test_stream_keeps_the_order_and_the_duplicates_and_leaves_out_the_empty():
    texts = ["b", "a", "", "b"]
    assert list(stream_documents(texts)) == [Document("item:0", "b"), Document("item:1", "a"), Document("item:3", "b")]
    with pytest.raises(UserError, match="no document"):
        list(stream_documents(["", " "]))


@pytest.mark.skipif(not HELD_OUT.exists(), reason="the shared corpora are not beside the project")
def test_real_abstracts_are_drawn_with_their_pmids():
    draw = draw_documents(HELD_OUT)
    assert draw.counts["read"] == 2852
    assert draw.counts["drawn"] == 500
    assert all(document.id.isdigit() for document in draw.documents)
