"""Attention within documents in training: its masks, a blocked kernel for a CPU, and PyTorch's flex attention."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from transformers import AttentionInterface, PreTrainedModel

from cka_tools.errors import UserError
from cka_tools.models.attention import FULL, SLIDING, dense_masks, reach

BLOCKED = "blocked"
FLEX = "flex"
ANYWHERE = ("sdpa", "eager", BLOCKED)
IMPLEMENTATIONS = (*ANYWHERE, FLEX)
"""Flex attention has a backward pass on a GPU alone."""


def attention_masks(
    model: PreTrainedModel, document_ids: Tensor, *, causal: bool
) -> dict[str, Tensor] | dict[str, BlockedMask] | dict[str, BlockMask]:
    """Return the masks of both kinds of layers in the form that the model's attention implementation takes.

    Blocked attention takes the masks of `dense_masks` cut to the blocks that it computes, flex attention the
    blocks in which anything is seen.

    Raises:
        UserError: an attention implementation that is not offered for training.
    """
    implementation = model.config._attn_implementation
    if implementation not in IMPLEMENTATIONS:
        raise UserError(
            f"attention implementation {implementation!r} is not offered for training: "
            f"load the model with one of {', '.join(IMPLEMENTATIONS)}"
        )
    windows = {FULL: None, SLIDING: reach(model)}
    if implementation == BLOCKED:
        return {k: BlockedMask.of(document_ids, causal=causal, window=w) for k, w in windows.items()}
    if implementation == FLEX:
        return {k: flex_mask(document_ids, causal=causal, window=w) for k, w in windows.items()}
    return dense_masks(model, document_ids, causal=causal)


QUERIES = 128
"""Queries of a block: measured on sequences of 512; 64 and 256 took up to twice as long."""

KEPT = 1024
"""Tokens of a sequence up to which the weights of all blocks wait in memory for the backward pass; it computes those
of longer ones again, block by block."""


@dataclass(frozen=True)
class Span:
    """Queries [begin, end) and the keys [first, last) that they can reach."""

    begin: int
    end: int
    first: int
    last: int


def spans(length: int, *, causal: bool, window: int | None) -> list[Span]:
    """Cut a sequence into blocks of queries with the keys within reach.

    Args:
        window: how far a token sees to each side; None for as far as the sequence goes.
    """
    found = []
    for begin in range(0, length, QUERIES):
        end = min(begin + QUERIES, length)
        first = 0 if window is None else max(0, begin - window)
        last = end if causal else length if window is None else min(length, end + window)
        found.append(Span(begin, end, first, last))
    return found


@dataclass
class BlockedMask:
    """Who may see whom within each block: document, direction and window, all of them."""

    spans: list[Span]
    seen: list[Tensor]
    _biases: dict[torch.dtype, list[Tensor]] = field(default_factory=dict)

    @classmethod
    def of(cls, document_ids: Tensor, *, causal: bool, window: int | None) -> BlockedMask:
        """Return the mask of sequences whose tokens belong to these documents, (batch, length) integers."""
        length = document_ids.shape[1]
        position = torch.arange(length, device=document_ids.device)
        cut, seen = [], []
        for span in spans(length, causal=causal, window=window):
            queries, keys = slice(span.begin, span.end), slice(span.first, span.last)
            offset = position[queries, None] - position[None, keys]
            mask = document_ids[:, None, queries, None] == document_ids[:, None, None, keys]
            if causal:
                mask = mask & (offset >= 0)
            if window is not None:
                mask = mask & (offset.abs() <= window)
            if length > KEPT:  # of keys within reach most are those of other documents
                reached = mask.any((0, 1, 2)).nonzero()
                begin, end = int(reached[0]), int(reached[-1]) + 1
                span, mask = Span(span.begin, span.end, span.first + begin, span.first + end), mask[..., begin:end]
            cut.append(span)
            seen.append(mask)
        return cls(cut, seen)

    def biases(self, dtype: torch.dtype) -> list[Tensor]:
        """Return what is added to the scores of each block: 0 or −inf, (batch, 1, queries, keys)."""
        if dtype not in self._biases:
            self._biases[dtype] = [
                torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, -torch.inf)
                for mask in self.seen
            ]
        return self._biases[dtype]


def _weights(q: Tensor, k: Tensor, span: Span, bias: Tensor, scale: float) -> Tensor:
    """softmax(scale · q kᵀ + bias) of one block."""
    scores = torch.matmul(q[:, :, span.begin : span.end], k[:, :, span.first : span.last].transpose(-1, -2))
    # The softmax of bfloat16 scores is computed in float32 inside the kernel.
    return torch._softmax(scores.mul_(scale).add_(bias), -1, False)


class _BlockedAttention(torch.autograd.Function):
    """softmax(scale · q kᵀ + bias) v by blocks."""

    @staticmethod
    def forward(ctx: FunctionCtx, q: Tensor, k: Tensor, v: Tensor, mask: BlockedMask, scale: float) -> Tensor:
        out = torch.empty_like(q)
        v = v.contiguous()  # once here, not for every block: it is a part of a wider matrix
        weights = []
        for span, bias in zip(mask.spans, mask.biases(q.dtype), strict=True):
            weight = _weights(q, k, span, bias, scale)
            out[:, :, span.begin : span.end] = torch.matmul(weight, v[:, :, span.first : span.last])
            if q.shape[2] <= KEPT:
                weights.append(weight)
        ctx.save_for_backward(q, k, v, *weights)
        cast(Any, ctx).mask, cast(Any, ctx).scale = mask, scale
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        d_out = gradients[0].contiguous()
        q, k, v, *kept = ctx.saved_tensors
        # Blocks overlap in their keys: those gradients are summed in float32.
        d_q, d_k, d_v = torch.empty_like(q), *(torch.zeros_like(x, dtype=torch.float32) for x in (k, v))
        for at, (span, bias) in enumerate(zip(ctx.mask.spans, ctx.mask.biases(q.dtype), strict=True)):
            queries, keys = slice(span.begin, span.end), slice(span.first, span.last)
            weight = kept[at] if kept else _weights(q, k, span, bias, ctx.scale)
            block = d_out[:, :, queries]
            d_v[:, :, keys] += torch.matmul(weight.transpose(-1, -2), block)
            d_weight = torch.matmul(block, v[:, :, keys].transpose(-1, -2))
            d_scores = torch._softmax_backward_data(d_weight, weight, -1, weight.dtype).mul_(ctx.scale)
            d_q[:, :, queries] = torch.matmul(d_scores, k[:, :, keys])
            d_k[:, :, keys] += torch.matmul(d_scores.transpose(-1, -2), q[:, :, queries])
        return d_q, d_k.to(k.dtype), d_v.to(v.dtype), None, None


def blocked_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: BlockedMask,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: object,
) -> tuple[Tensor, None]:
    """Return (batch, length, heads, width) of three (batch, heads, length, width), as transformers calls it.

    Raises:
        ValueError: attention dropout, which is not offered here.
    """
    if dropout:
        raise ValueError(f"attention dropout of {dropout} is not offered by blocked attention: use sdpa")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    dtype = query.dtype
    out = cast(Tensor, _BlockedAttention.apply(query, key.to(dtype), value.to(dtype), attention_mask, scale))
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register(BLOCKED, blocked_attention)


FLEX_BLOCK = 128
"""Queries, and keys, of a block of flex attention: what its kernels are made for."""


def flex_mask(document_ids: Tensor, *, causal: bool, window: int | None) -> BlockMask:
    """Return who may see whom as flex attention takes it: blocks that are left out, taken whole, or looked into.

    No tensor of queries by keys is made, so that memory grows with the sequence and not with its square.

    Args:
        document_ids: (batch, length) integers, equal for the tokens of one document and for no others.
        window: how far a token sees to each side; None for as far as the sequence goes.
    """
    batch, length = document_ids.shape
    blocks = -(-length // FLEX_BLOCK)
    # The last id again up to the end of the last block: it changes neither the least nor the greatest there.
    padded = torch.cat([document_ids, document_ids[:, -1:].expand(batch, blocks * FLEX_BLOCK - length)], dim=1)
    least, greatest = padded.view(batch, blocks, FLEX_BLOCK).aminmax(dim=-1)
    begin = torch.arange(blocks, device=document_ids.device) * FLEX_BLOCK
    end = (begin + FLEX_BLOCK).clamp(max=length) - 1
    # Ids of two blocks whose ranges do not meet differ all; of one document each, they are all equal.
    some = (least[:, :, None] <= greatest[:, None, :]) & (least[:, None, :] <= greatest[:, :, None])
    every = some & (least == greatest)[:, :, None] & (least == greatest)[:, None, :]
    query, key = (begin[:, None], end[:, None]), (begin[None, :], end[None, :])
    if causal:
        some, every = some & (key[0] <= query[1]), every & (key[1] <= query[0])
    if window is not None:
        nearest = torch.maximum(query[0] - key[1], key[0] - query[1])
        furthest = torch.maximum(query[1] - key[0], key[1] - query[0])
        some, every = some & (nearest <= window), every & (furthest <= window)
    whole = end - begin + 1 == FLEX_BLOCK
    every = every & whole[:, None] & whole[None, :]
    return BlockMask.from_kv_blocks(
        *_listed(some & ~every),
        *_listed(every),
        BLOCK_SIZE=FLEX_BLOCK,
        mask_mod=_sees(document_ids, causal, window),
        seq_lengths=(length, length),
    )


def _listed(chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Of each block of queries how many blocks of keys are chosen, and which: these first. For all heads."""
    order = chosen.to(torch.int8).argsort(dim=-1, descending=True, stable=True)
    return chosen.sum(-1, dtype=torch.int32)[:, None], order.to(torch.int32)[:, None]


def _sees(document_ids: Tensor, causal: bool, window: int | None) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        seen = document_ids[batch, query] == document_ids[batch, key]
        if causal:
            seen = seen & (key <= query)
        if window is not None:
            seen = seen & ((query - key).abs() <= window)
        return seen

    return sees


@cache
def _compiled_flex() -> Any:
    return torch.compile(flex_attention, dynamic=False)


def flex_within_documents(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: BlockMask,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: object,
) -> tuple[Tensor, None]:
    """Return (batch, length, heads, width) of three (batch, heads, length, width), as transformers calls it.

    Compiled on a GPU; on a CPU, where PyTorch offers no backward pass of it, as it is.

    Raises:
        ValueError: attention dropout, which flex attention does not offer.
    """
    if dropout:
        raise ValueError(f"attention dropout of {dropout} is not offered by flex attention: use sdpa")
    attend = _compiled_flex() if query.is_cuda else flex_attention
    dtype = query.dtype
    out = attend(query, key.to(dtype), value.to(dtype), block_mask=attention_mask, scale=scaling)
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register(FLEX, flex_within_documents)
