"""Sentences of words → the hidden state of each word's first piece, in every layer."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import numpy as np

from cka_tools.errors import UserError
from cka_tools.extraction.activations import PooledForward, resolve_layers
from cka_tools.extraction.extract import Prepared, Progress, layout_of, run_batches, without_packing, without_padding
from cka_tools.extraction.features import FeatureStore, ModelFeatures
from cka_tools.extraction.tokens import TextDocument
from cka_tools.models.model import LoadedModel
from cka_tools.settings import Settings

CHUNK = 256
"""Sentences that are tokenized at once."""


@dataclass(frozen=True)
class Pieces:
    """Where the words of a sentence begin in its tokens.

    Attributes:
        first: (words,) position of each word's first token, special ones counted; -1 for a word without one.
        cut: of those without, words beyond the length that sentences are cut to; the others hold no token.
    """

    first: np.ndarray
    cut: int


def first_pieces(model: LoadedModel, sentences: Sequence[Sequence[str]], max_length: int) -> list[Pieces]:
    """The first piece of each word of sentences, whose text is the words joined by spaces.

    The text is tokenized as any other (`tokenize`) and the tokens' places in it say whose they are: words that
    are given one by one lose the space before them in byte-level tokenizers, which models have then never seen.
    A token that two words share is the first piece of both.

    Raises:
        UserError: a slow tokenizer, which does not say where its tokens are.
    """
    need_places(model)
    found = []
    for start in range(0, len(sentences), CHUNK):
        chunk = sentences[start : start + CHUNK]
        encoded = model.tokenizer(
            [" ".join(words) for words in chunk],
            truncation=True,
            max_length=max_length,
            padding=False,
            return_offsets_mapping=True,
        )
        rows = zip(chunk, encoded["offset_mapping"], encoded.encodings, strict=True)
        found += [_pieces(words, np.asarray(places), bool(one.overflowing)) for words, places, one in rows]
    return found


def need_places(model: LoadedModel) -> None:
    """Raise a UserError for a tokenizer that does not say where in a text its tokens are."""
    if not model.tokenizer.is_fast:
        raise UserError(
            f"model {model.name!r} has a slow tokenizer, which does not say where words begin: save it with a "
            "fast one (tokenizer.json)"
        )


def _pieces(words: Sequence[str], places: np.ndarray, overflowing: bool) -> Pieces:
    """Args: places: (tokens, 2) first letter and the one behind the last; (0, 0) for special tokens."""
    ends = np.array(list(accumulate(len(word) + 1 for word in words))) - 1
    begins = ends - [len(word) for word in words]
    tokens = np.flatnonzero(places[:, 1] > places[:, 0])
    # The first token that ends behind a word's begin, if it begins before the word's end.
    at = np.searchsorted(np.maximum.accumulate(places[tokens, 1]), begins, side="right")
    inside = at < len(tokens)
    known = tokens[np.minimum(at, len(tokens) - 1)] if len(tokens) else np.zeros(len(words), dtype=np.int64)
    first = np.where(inside & (places[known, 0] < ends), known, -1)
    last = int(places[tokens, 1].max(initial=0))
    return Pieces(first, int(((first < 0) & (begins >= last)).sum()) if overflowing else 0)


@dataclass(frozen=True)
class WordRows:
    """Which row of features each word of sentences has.

    Attributes:
        rows: of each sentence (words,), -1 for a word without a token.
        positions: of each document of the batch plan the tokens whose states are kept, in the rows' order.
        cut, lost: words beyond the length, and others without a token.
    """

    rows: list[np.ndarray]
    positions: list[np.ndarray]
    cut: int
    lost: int

    @property
    def starts(self) -> np.ndarray:
        """(documents + 1,) the first row of each document."""
        return np.cumsum([0, *map(len, self.positions)])


def word_rows(
    model: LoadedModel, prepared: Prepared, documents: Sequence[TextDocument], sentences: Sequence[Sequence[str]]
) -> WordRows:
    """Place the words of sentences among the documents that hold their texts.

    Args:
        documents: all that were drawn, of which `prepared` keeps those with a token of text.

    Raises:
        UserError: as `first_pieces`.
    """
    place = {documents[row].text: at for at, row in enumerate(prepared.kept.tolist())}
    pieces = first_pieces(model, sentences, prepared.max_length)
    found = [place.get(" ".join(words)) for words in sentences]
    wanted: list[set[int]] = [set() for _ in prepared.kept]
    for at, one in zip(found, pieces, strict=True):
        if at is not None:
            wanted[at] |= set(one.first[one.first >= 0].tolist())
    positions = [np.array(sorted(one), dtype=np.int64) for one in wanted]
    starts = np.cumsum([0, *map(len, positions)])
    rows = []
    for at, one in zip(found, pieces, strict=True):
        if at is None:
            rows.append(np.full(len(one.first), -1))
        else:
            rows.append(np.where(one.first >= 0, starts[at] + np.searchsorted(positions[at], one.first), -1))
    cut = sum(one.cut for one in pieces)
    return WordRows(rows, positions, cut, sum(int((one < 0).sum()) for one in rows) - cut)


class Positions:
    """Token positions of documents as `Prepared` holds them, (b, k) where k is the most that one of b has."""

    def __init__(self, of: Sequence[np.ndarray]) -> None:
        self._of = of

    def __getitem__(self, rows: Sequence[int]) -> np.ndarray:
        chosen = [self._of[row] for row in rows]
        found = np.zeros((len(rows), max(1, *map(len, chosen))), dtype=np.int64)
        for at, one in enumerate(chosen):
            found[at, : len(one)] = one
        return found


class _WordStore:
    """Takes the states of documents' words, (k, b, p) a layer, and keeps one row a word."""

    finished: Collection[Sequence[int]] = ()

    def __init__(self, words: WordRows, store: FeatureStore) -> None:
        self._counts = np.diff(words.starts)
        self._starts, self._store = words.starts, store

    def write(self, rows: Sequence[int], values: Sequence[np.ndarray]) -> None:
        counts = self._counts[list(rows)]
        document = np.repeat(np.arange(len(rows)), counts)
        within = np.concatenate([np.arange(count) for count in counts])
        places = np.repeat(self._starts[list(rows)], counts) + within
        self._store.write(places.tolist(), [value[within, document][None] for value in values])


def word_features(
    model: LoadedModel,
    prepared: Prepared,
    documents: Sequence[TextDocument],
    words: WordRows,
    settings: Settings,
    layers: Sequence[int] | None = None,
    progress: Progress | None = None,
) -> ModelFeatures:
    """One pass of a model: the hidden state of each word's first piece, (words, p) a layer.

    Beyond `settings.memory_limit` the features are in a spill file. The activation store has no part in it.

    Raises:
        UserError: as `run_batches`; the disk is full.
    """
    prepared = without_packing(without_padding(prepared, [model]))
    forward = PooledForward(model, settings.sites, resolve_layers(model, layers), "token")
    whole = layout_of(forward, prepared, settings)
    layout = replace(whole, documents=int(words.starts[-1]), draws=None)
    store = FeatureStore(layout, settings.memory_limit, settings.spill_folder)
    placed: Any = Positions(words.positions)
    run_batches(
        [forward],
        [_WordStore(words, store)],
        replace(prepared, positions=placed),
        documents,
        progress,
        prepared.plan.batches,
    )
    return store.finish()
