"""Token lengths → batches: which documents, in which order, padded to what; fixed before anything runs."""

import hashlib
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from cka_tools.extraction.tokens import TokenTable


@dataclass(frozen=True)
class BatchPlan:
    """Batches as tuples of document rows, a pure function of token lengths and settings.

    `lengths` holds, for every batch, the longest document's tokens (the longest over tokenizers); of a packed
    batch the tokens of all its documents.
    """

    kind: str
    batches: tuple[tuple[int, ...], ...]
    lengths: tuple[int, ...]
    limit: int

    @property
    def packed(self) -> bool:
        """Whether the documents of a batch stand in one sequence."""
        return self.kind == "packed"

    def shard(self, rank: int, world: int) -> "BatchPlan":
        """Every `world`-th batch from `rank` on, whole: a document's batch is the same for any world size."""
        return BatchPlan(self.kind, self.batches[rank::world], self.lengths[rank::world], self.limit)

    def record(self) -> dict[str, Any]:
        """JSON-ready summary; the hash is of members, order and lengths."""
        content = repr((self.batches, self.lengths) + ((self.kind,) if self.packed else ())).encode()
        rows = [1 if self.packed else len(rows) for rows in self.batches]
        return {
            "kind": self.kind,
            "limit": self.limit,
            "batches": len(self.batches),
            "padded_tokens": sum(n * length for n, length in zip(rows, self.lengths, strict=True)),
            "sha256": hashlib.sha256(content).hexdigest(),
        }


def plan_sorted(lengths: Sequence[int] | np.ndarray, batch_tokens: int) -> BatchPlan:
    """Batches of documents of like length, longest first, of at most `batch_tokens` padded tokens.

    A document longer than the budget is a batch of its own. Longest first: what does not fit in memory
    shows in the first batch. Ties keep the documents' order.
    """
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    batches: list[list[int]] = []
    longest: list[int] = []
    for row in order.tolist():
        length = int(lengths[row])
        if batches and (len(batches[-1]) + 1) * longest[-1] <= batch_tokens:
            batches[-1].append(row)
        else:
            batches.append([row])
            longest.append(length)
    return BatchPlan("sorted", tuple(map(tuple, batches)), tuple(longest), batch_tokens)


def plan_packed(lengths: Sequence[int] | np.ndarray, batch_tokens: int) -> BatchPlan:
    """Sequences of whole documents, longest first, of at most `batch_tokens` tokens: none is padded.

    A document longer than the budget is a sequence of its own.
    """
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    batches: list[list[int]] = []
    tokens: list[int] = []
    for row in order.tolist():
        length = int(lengths[row])
        if batches and tokens[-1] + length <= batch_tokens:
            batches[-1].append(row)
            tokens[-1] += length
        else:
            batches.append([row])
            tokens.append(length)
    return BatchPlan("packed", tuple(map(tuple, batches)), tuple(tokens), batch_tokens)


def plan_corpus_order(lengths: Sequence[int] | np.ndarray, batch_size: int) -> BatchPlan:
    """Batches of `batch_size` documents in the order of the corpus (the paper's, 16)."""
    n = len(lengths)
    batches = tuple(tuple(range(start, min(start + batch_size, n))) for start in range(0, n, batch_size))
    longest = tuple(int(max(lengths[row] for row in rows)) for rows in batches)
    return BatchPlan("corpus-order", batches, longest, batch_size)


def plan_equal_lengths(lengths: Sequence[int] | np.ndarray, batch_tokens: int) -> BatchPlan:
    """Batches of documents of one length, longest first, of at most `batch_tokens` tokens: none is padded.

    Args:
        lengths: (n,) or (tokenizers, n): documents of one batch are as long under each of the tokenizers.
    """
    by_length: dict[tuple[int, ...], list[int]] = {}
    for row, key in enumerate(np.atleast_2d(lengths).T.tolist()):
        by_length.setdefault(tuple(key), []).append(row)
    batches, longest = [], []
    for key in sorted(by_length, key=lambda key: (-max(key), key)):
        rows, size = by_length[key], max(1, batch_tokens // max(key))
        parts = [tuple(rows[start : start + size]) for start in range(0, len(rows), size)]
        batches += parts
        longest += [max(key)] * len(parts)
    return BatchPlan("equal-length", tuple(batches), tuple(longest), batch_tokens)


@dataclass(frozen=True)
class TokenBatch:
    """One batch on a device: `rows` of the documents, ids and mask (b, t); padding is always on the right.

    `token_type_ids` (b, t) are there for pairs of segments whose tokenizer counts them.

    Right padding is right for every model: a causal one never sees it, a bidirectional one is told by the
    mask, and positions count from the first token on. A pack is one row (1, t) of documents of `lengths`.
    """

    rows: tuple[int, ...]
    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    lengths: tuple[int, ...] | None = None
    token_type_ids: torch.Tensor | None = None


def make_batch(table: TokenTable, rows: Sequence[int], device: torch.device) -> TokenBatch:
    """Pad some documents to the longest of them."""
    lengths = table.lengths[list(rows)]
    ids = np.full((len(rows), int(lengths.max())), table.pad_id, dtype=np.int64)
    mask, types = np.zeros_like(ids), np.zeros_like(ids)
    for at, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        ids[at, :length] = table.row(row)
        mask[at, :length] = 1
        if table.types is not None:
            types[at, :length] = table.types[table.offsets[row] : table.offsets[row + 1]]
    segments = None if table.types is None else to_device(types, device)
    return TokenBatch(tuple(rows), to_device(ids, device), to_device(mask, device), token_type_ids=segments)


def make_pack(table: TokenTable, rows: Sequence[int], device: torch.device) -> TokenBatch:
    """Put some documents one behind the other."""
    ids = np.concatenate([table.row(row) for row in rows]).astype(np.int64)[None]
    lengths = tuple(table.lengths[list(rows)].tolist())
    segments = None
    if table.types is not None:
        parts = [table.types[table.offsets[row] : table.offsets[row + 1]] for row in rows]
        segments = to_device(np.concatenate(parts).astype(np.int64)[None], device)
    return TokenBatch(tuple(rows), to_device(ids, device), to_device(np.ones_like(ids), device), lengths, segments)


def to_device(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """An array as a tensor on a device. A GPU is not waited for: it may still be at the batch before."""
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


class WholeBatches:
    """Gathers what models write of some batches and hands each batch on once every model has written it.

    Models write at their own pace (a GPU one batch late) and a batch that was split in parts, but each in
    the order of the batches.

    Args:
        batches: in the order in which they run. models: how many there are.
        take: called with a batch's documents and each model's layers (k, b, p).
    """

    def __init__(
        self,
        batches: Iterable[Sequence[int]],
        models: int,
        take: Callable[[Sequence[int], list[list[np.ndarray]]], None],
    ) -> None:
        self._take, self._waiting = take, deque(batches)
        self.sides = [Side(self._hand_on) for _ in range(models)]

    def _hand_on(self) -> None:
        while self._waiting and all(side.ready >= len(self._waiting[0]) for side in self.sides):
            rows = self._waiting.popleft()
            self._take(rows, [side.pop(len(rows)) for side in self.sides])


class Side:
    """Takes one model's rows; a `RowStore`."""

    finished: Collection[Sequence[int]] = ()

    def __init__(self, hand_on: Callable[[], None]) -> None:
        self._hand_on = hand_on
        self._parts: deque[Sequence[np.ndarray]] = deque()
        self.ready = 0

    def write(self, rows: Sequence[int], values: Sequence[np.ndarray]) -> None:
        """Take pooled values of a batch, or of the next part of it."""
        self._parts.append(values)
        self.ready += len(rows)
        self._hand_on()

    def pop(self, count: int) -> list[np.ndarray]:
        """The oldest rows, `count` of them."""
        parts = [self._parts.popleft()]
        while sum(part[0].shape[1] for part in parts) < count:
            parts.append(self._parts.popleft())
        self.ready -= count
        return [np.concatenate(layer, axis=1) for layer in zip(*parts, strict=True)]
