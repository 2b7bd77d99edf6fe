"""Documents one behind the other in a sequence, none padded: positions restart, attention stays within a document.

A model that asks transformers for its masks and its attention by name is run so without a change of its own: for
the time of a pass both names are ours, and what is asked of a mask is asked at each token's place in its own
document. Whether that gives a model's own hidden states is proven (`check.can_pack`), never assumed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface

from cka_tools.models.attention import QUERIES, Block, document_attention

PACKED = "packed"

TOGETHER = 128
"""Tokens of short documents whose scores are one product: those between documents are thrown away."""

_lengths: ContextVar[tuple[int, ...]] = ContextVar("lengths of the packed documents")


@dataclass(frozen=True)
class PackedMask:
    """Who sees whom in a sequence of documents.

    Attributes:
        lengths: tokens of each document.
        sees: places of some queries and of some keys, each in its document, → (queries, keys) bool.
        device: where masks are wanted.
    """

    lengths: tuple[int, ...]
    sees: Callable[[Tensor, Tensor], Tensor]
    device: torch.device

    @cached_property
    def documents(self) -> list[list[Block]]:
        """All blocks of the one sequence, as attention by document takes them."""
        place = place_in_document(self.lengths)
        blocks = []
        for begin, end, document in _groups(self.lengths):
            own = place[begin:end]
            if document is not None:
                hidden = ~(self.sees(own, own) & (document[:, None] == document[None, :]))
                blocks.append(Block(begin, end, begin, end, hidden.to(self.device)))
                continue
            for start in range(0, end - begin, QUERIES):
                seen = self.sees(own[start : start + QUERIES], own)
                keys = seen.any(0).nonzero()
                first, last = int(keys[0]), int(keys[-1]) + 1
                part = seen[:, first:last]
                unseen = None if bool(part.all()) else (~part).to(self.device)
                blocks.append(Block(begin + start, begin + start + len(seen), begin + first, begin + last, unseen))
        return [blocks]

    @cached_property
    def window(self) -> tuple[int, int]:
        """How far a token sees to the left and to the right; −1 for as far as its document goes."""
        longest = max(self.lengths)
        place = torch.arange(longest)
        right, left = (int(self.sees(place[one], place).sum()) for one in (slice(0, 1), slice(longest - 1, None)))
        return -1 if left == longest else left - 1, -1 if right == longest else right - 1


def place_in_document(lengths: Sequence[int]) -> Tensor:
    """(tokens,) of each token of a pack its place in its document, from 0."""
    return torch.cat([torch.arange(length) for length in lengths])


def packed_mask(
    *, mask_function: Callable[..., Tensor], device: torch.device, use_vmap: bool = False, **_: Any
) -> PackedMask:
    """What transformers asks a mask of, for the documents that `packed` runs.

    Raises:
        ValueError: a mask that is not a function of two places alone.
    """
    if use_vmap:
        raise ValueError("its mask depends on more than the places of two tokens")
    zero = torch.zeros(1, 1, 1, 1, dtype=torch.long)

    def sees(queries: Tensor, keys: Tensor) -> Tensor:
        found = mask_function(zero, zero, queries[None, None, :, None], keys[None, None, None, :])
        return found.expand(1, 1, len(queries), len(keys))[0, 0]

    return PackedMask(_lengths.get(), sees, torch.device(device))


def _groups(lengths: Sequence[int]) -> Iterator[tuple[int, int, Tensor | None]]:
    """[begin, end) of each long document, and of short ones together with which token is whose."""
    starts = [0, *accumulate(lengths)]
    at = 0
    while at < len(lengths):
        first = at
        while at < len(lengths) and (at == first or starts[at + 1] - starts[first] <= TOGETHER):
            at += 1
        few = torch.tensor(lengths[first:at])
        document = torch.repeat_interleave(torch.arange(at - first), few) if at - first > 1 else None
        yield starts[first], starts[at], document


def packed_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: PackedMask, **options: Any
) -> tuple[Tensor, None]:
    """(1, t, heads, d) of three (1, heads, t, d), as transformers calls it.

    On a GPU in a format of 16 bits by `torch.nn.attention.varlen`; else block by block, in float32 and float64
    by PyTorch's fused attention, in formats of 16 bits by plain products (see `attention`).

    Raises:
        ValueError: attention that is more than softmax(scale · q kᵀ) v under a mask.
    """
    if not isinstance(attention_mask, PackedMask):
        raise ValueError("it makes its masks by itself")
    odd = [name for name in ("softcap", "position_bias", "s_aux", "head_mask") if options.get(name) is not None]
    if odd or options.get("dropout"):
        raise ValueError(f"its attention has {', '.join(odd) or 'dropout'}")
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (side.repeat_interleave(groups, dim=1) for side in (key, value))
    scale = options.get("scaling")
    if query.dtype.itemsize < 4:
        if query.device.type == "cuda":
            return _varlen(query, key, value, attention_mask, scale), None
        return document_attention(module, query, key, value, attention_mask, scale)  # type: ignore[arg-type]
    out = query.new_empty(1, query.shape[2], query.shape[1], value.shape[3])
    for block in attention_mask.documents[0]:
        queries, keys = slice(block.begin, block.end), slice(block.first, block.last)
        seen = None if block.hidden is None else ~block.hidden
        part = scaled_dot_product_attention(
            query[:, :, queries], key[:, :, keys], value[:, :, keys], attn_mask=seen, scale=scale
        )
        out[:, queries] = part.transpose(1, 2)
    return out, None


def _varlen(query: Tensor, key: Tensor, value: Tensor, mask: PackedMask, scale: float | None) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    ends = torch.tensor([0, *accumulate(mask.lengths)], dtype=torch.int32, device=query.device)
    longest = max(mask.lengths)
    q, k, v = (side[0].transpose(0, 1).contiguous() for side in (query, key, value))
    found = varlen_attn(q, k, v, ends, ends, longest, longest, scale=scale, window_size=mask.window)
    assert isinstance(found, Tensor)
    return found.unsqueeze(0)


AttentionInterface.register(PACKED, packed_attention)
AttentionMaskInterface.register(PACKED, packed_mask)


@contextmanager
def packed(model: nn.Module, lengths: Sequence[int]) -> Iterator[None]:
    """Within it the model's attention stays within documents of these lengths; its configs are put back."""
    configs = {id(one.config): one.config for one in model.modules() if hasattr(one, "config")}
    asked = [
        (config, config._attn_implementation) for config in configs.values() if hasattr(config, "_attn_implementation")
    ]
    token = _lengths.set(tuple(map(int, lengths)))
    try:
        for config, _ in asked:
            config._attn_implementation = PACKED
        yield
    finally:
        for config, before in asked:
            config._attn_implementation = before
        _lengths.reset(token)
