"""Documents → token ids of one tokenizer, in memory or beyond a limit in a spill file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol

import numpy as np

from cka_tools.errors import UserError
from cka_tools.models.model import LoadedModel
from cka_tools.processes import all_gather, this_process
from cka_tools.settings import DEFAULT_MAX_LENGTH
from cka_tools.spill_file import SpillFile

IN_MEMORY = 2**29
"""Bytes of an array of tokens that are kept in memory."""


class GrowingArray:
    """One array of tokens, appended part by part; beyond `limit` bytes in a spill file."""

    def __init__(self, dtype: type[Any], limit: int | None = None) -> None:
        self._dtype = np.dtype(dtype)
        self._limit = IN_MEMORY if limit is None else limit
        self._parts: list[np.ndarray] = []
        self._bytes = 0
        self._file: SpillFile | None = None

    def append(self, part: np.ndarray) -> None:
        """Add a part at the end.

        Raises:
            UserError: the disk is full.
        """
        self._parts.append(np.ascontiguousarray(part, dtype=self._dtype))
        self._bytes += self._parts[-1].nbytes
        if self._bytes > self._limit:
            self._file = self._file or SpillFile("token ids")
            for kept in self._parts:
                self._file.write(kept)
            self._parts = []

    def finish(self) -> np.ndarray:
        """The whole array: mapped, and read-only, where it is on disk."""
        if self._file is not None:
            return self._file.map(self._dtype)
        return np.concatenate(self._parts) if self._parts else np.empty(0, dtype=self._dtype)


# Documents tokenized at once: the tokenizer's own objects take about 100 bytes a token while they live.
_CHUNK = 256

_BLOCK = 65_536
"""Documents whose tokens are counted at once."""


class TextDocument(Protocol):
    """What is read of a document."""

    @property
    def id(self) -> str: ...
    @property
    def text(self) -> str: ...
    @property
    def query(self) -> str | None: ...


@dataclass(frozen=True)
class TokenTable:
    """Token ids of n documents under one tokenizer.

    Attributes:
        ids: (tokens,) int32, one document after the other; many are in a spill file, as are `ordinary`'s.
        ordinary: (tokens,) bool, False on special tokens.
        offsets: (n + 1,) int64; document i is `ids[offsets[i]:offsets[i + 1]]`.
        pad_id: id to fill batches with; always masked.
        truncated: documents that were cut.
        types: (tokens,) int8, the segment that each token is of, as the tokenizer counts them; None where all
            are of segment 0.
    """

    ids: np.ndarray
    ordinary: np.ndarray
    offsets: np.ndarray
    pad_id: int
    truncated: int
    types: np.ndarray | None = None

    @property
    def lengths(self) -> np.ndarray:
        """(n,) tokens of each document, special ones too."""
        return np.diff(self.offsets)

    def row(self, index: int) -> np.ndarray:
        """Ids of one document."""
        return self.ids[self.offsets[index] : self.offsets[index + 1]]

    def ordinary_positions(self, index: int) -> np.ndarray:
        """Positions of one document's tokens that are not special."""
        return np.flatnonzero(self.ordinary[self.offsets[index] : self.offsets[index + 1]])

    def ordinary_counts(self) -> np.ndarray:
        """(n,) tokens of each document that are not special."""
        counts = np.empty(len(self.offsets) - 1, dtype=np.int64)
        for start in range(0, len(counts), _BLOCK):
            offsets = self.offsets[start : start + _BLOCK + 1]
            total = np.concatenate([[0], np.cumsum(self.ordinary[offsets[0] : offsets[-1]])])
            at = offsets - offsets[0]
            counts[start : start + _BLOCK] = total[at[1:]] - total[at[:-1]]
        return counts

    def take(self, rows: np.ndarray) -> TokenTable:
        """The table of some documents only."""
        ids, ordinary, types = _growing()
        for row in rows:
            place = slice(self.offsets[row], self.offsets[row + 1])
            ids.append(self.ids[place])
            ordinary.append(self.ordinary[place])
            if self.types is not None:
                types.append(self.types[place])
        offsets = np.concatenate([[0], np.cumsum(self.lengths[rows])]).astype(np.int64)
        segments = None if self.types is None else types.finish()
        return TokenTable(ids.finish(), ordinary.finish(), offsets, self.pad_id, self.truncated, segments)


def resolve_max_length(models: Sequence[LoadedModel], asked: int | None) -> tuple[int, list[str]]:
    """The length documents are cut to, and notes on it.

    Raises:
        UserError: an explicit length above what a model takes.
    """
    limits = {model.name: model.max_length for model in models}
    wanted = DEFAULT_MAX_LENGTH if asked is None else asked
    notes = []
    for name, limit in limits.items():
        if limit is None or wanted <= limit:
            continue
        if asked is not None:
            raise UserError(
                f"max-length {asked} is above what model {name!r} takes ({limit} tokens): ask for {limit} or less"
            )
        notes.append(f"Documents are cut to {limit} tokens, the most that {name} takes, not to {wanted}.")
        wanted = limit
    return wanted, notes


def tokenizer_of(model: LoadedModel) -> str:
    """The content hash of a model's tokenizer."""
    return str(model.provenance["tokenizer_sha256"])


def tokenize(documents: Sequence[TextDocument], model: LoadedModel, max_length: int) -> TokenTable:
    """Tokenize documents with special tokens, cut to `max_length`, without padding.

    Those with a query are read as pairs, the query first, in the tokenizer's own way; all have one or none has.

    Raises:
        UserError: the tokenizer gives an id the model has no embedding for, or `max_length` leaves no room
            beside the special tokens.
    """
    tokenizer = model.tokenizer
    pairs = bool(documents) and documents[0].query is not None
    overhead = tokenizer.num_special_tokens_to_add(pair=pairs)
    if max_length <= overhead:
        raise UserError(
            f"max-length {max_length} leaves no token of text beside the {overhead} special tokens of model "
            f"{model.name!r}: ask for {overhead + 1} or more"
        )
    specials = _special_ids(tokenizer)
    ids, ordinary, types = _growing()
    lengths: list[np.ndarray] = []
    truncated = largest = 0
    process = this_process()
    for start in range(0, len(documents), _CHUNK * process.world):
        # Each process tokenizes a chunk and tells all: plan and key need every document's tokens.
        own = start + process.rank * _CHUNK
        chunk = documents[own : own + _CHUNK]
        queries = [document.query or "" for document in chunk] if pairs else None
        for part in all_gather(_encode(tokenizer, [document.text for document in chunk], max_length, queries)):
            ids.append(part.ids)
            if pairs:
                types.append(part.types)
            ordinary.append(~(part.added | np.isin(part.ids, specials)))
            lengths.append(part.lengths)
            largest = max(largest, int(part.ids.max(initial=0)))
            truncated += part.truncated
    if largest >= model.vocabulary:
        raise UserError(
            f"model {model.name!r}: its tokenizer gives the id {largest}, but the model has "
            f"{model.vocabulary} embeddings: the tokenizer belongs to another model"
        )
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(lengths))]) if lengths else np.zeros(1)
    segments = types.finish()
    told = segments if segments.any() else None
    return TokenTable(ids.finish(), ordinary.finish(), offsets.astype(np.int64), model.pad_id, truncated, told)


@dataclass(frozen=True)
class _Encoded:
    """Token ids of some documents, one after the other, which of them the tokenizer added, and of pairs the
    segment of each."""

    ids: np.ndarray
    added: np.ndarray
    lengths: np.ndarray
    truncated: int
    types: np.ndarray


def _encode(tokenizer: Any, texts: list[str], max_length: int, queries: list[str] | None = None) -> _Encoded:
    none = np.empty(0, np.int8)
    if not texts:  # fewer chunks than processes; a tokenizer may refuse an empty batch
        return _Encoded(np.empty(0, np.int32), np.empty(0, np.bool_), np.empty(0, np.int64), 0, none)
    encoded = tokenizer(
        *([texts] if queries is None else [queries, texts]),
        truncation=True,
        max_length=max_length,
        padding=False,
        return_attention_mask=False,
        return_token_type_ids=queries is not None,
        return_special_tokens_mask=True,
    )
    rows = encoded["input_ids"]
    return _Encoded(
        np.fromiter(chain.from_iterable(rows), dtype=np.int32),
        np.fromiter(chain.from_iterable(encoded["special_tokens_mask"]), dtype=bool),
        np.fromiter(map(len, rows), dtype=np.int64),
        _count_truncated(encoded, rows, max_length),
        none if queries is None else np.fromiter(chain.from_iterable(encoded["token_type_ids"]), dtype=np.int8),
    )


def _growing() -> tuple[GrowingArray, GrowingArray, GrowingArray]:
    """Ids, which of them are ordinary, and their segments, to be filled."""
    return GrowingArray(np.int32), GrowingArray(np.bool_), GrowingArray(np.int8)


def _special_ids(tokenizer: Any) -> np.ndarray:
    """Ids that are never text, also where the text spells them out. An unknown word is text."""
    return np.array(sorted(set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}), dtype=np.int32)


def _count_truncated(encoded: Any, rows: list[list[int]], max_length: int) -> int:
    if encoded.encodings is None:  # a slow tokenizer does not tell; a document that just fits counts as cut
        return sum(len(row) >= max_length for row in rows)
    return sum(bool(encoding.overflowing) for encoding in encoded.encodings)
