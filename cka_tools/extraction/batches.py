"""Token lengths → batches: which documents, in which order, padded to what; fixed before anything runs."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from cka_tools.extraction.tokens import TokenTable


@dataclass(frozen=True)
class BatchPlan:
    """Batches as tuples of document rows, a pure function of token lengths and settings.

    `lengths` holds, for every batch, the longest document's tokens (the longest over tokenizers).
    """

    kind: str
    batches: tuple[tuple[int, ...], ...]
    lengths: tuple[int, ...]
    limit: int

    def shard(self, rank: int, world: int) -> "BatchPlan":
        """Every `world`-th batch from `rank` on, whole: a document's batch is the same for any world size."""
        return BatchPlan(self.kind, self.batches[rank::world], self.lengths[rank::world], self.limit)

    def record(self) -> dict[str, Any]:
        """JSON-ready summary; the hash is of members, order and lengths."""
        content = repr((self.batches, self.lengths)).encode()
        return {
            "kind": self.kind,
            "limit": self.limit,
            "batches": len(self.batches),
            "padded_tokens": sum(
                len(rows) * length for rows, length in zip(self.batches, self.lengths, strict=True)
            ),
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


def plan_corpus_order(lengths: Sequence[int] | np.ndarray, batch_size: int) -> BatchPlan:
    """Batches of `batch_size` documents in the order of the corpus (the paper's, 16)."""
    n = len(lengths)
    batches = tuple(tuple(range(start, min(start + batch_size, n))) for start in range(0, n, batch_size))
    longest = tuple(int(max(lengths[row] for row in rows)) for rows in batches)
    return BatchPlan("corpus-order", batches, longest, batch_size)


@dataclass(frozen=True)
class TokenBatch:
    """One batch on a device: `rows` of the documents, ids and mask (b, t); padding is always on the right.

    Right padding is right for every model: a causal one never sees it, a bidirectional one is told by the
    mask, and positions count from the first token on.
    """

    rows: tuple[int, ...]
    input_ids: torch.Tensor
    attention_mask: torch.Tensor


def make_batch(table: TokenTable, rows: Sequence[int], device: torch.device) -> TokenBatch:
    """Pad some documents to the longest of them."""
    lengths = table.lengths[list(rows)]
    ids = np.full((len(rows), int(lengths.max())), table.pad_id, dtype=np.int64)
    mask = np.zeros_like(ids)
    for at, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        ids[at, :length] = table.row(row)
        mask[at, :length] = 1
    return TokenBatch(tuple(rows), _to(torch.from_numpy(ids), device), _to(torch.from_numpy(mask), device))


def iterate_batches(table: TokenTable, plan: BatchPlan, device: torch.device) -> Iterator[TokenBatch]:
    """The batches of a plan, one after the other."""
    for rows in plan.batches:
        yield make_batch(table, rows, device)


def _to(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
