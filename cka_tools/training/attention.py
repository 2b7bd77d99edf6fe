"""Attention within documents: the masks of both objectives, and a blocked kernel for a CPU."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from transformers import AttentionInterface, PreTrainedModel

from cka_tools.errors import UserError

FULL = "full_attention"
SLIDING = "sliding_attention"
BLOCKED = "blocked"
IMPLEMENTATIONS = ("sdpa", "eager", BLOCKED)


def boolean_masks(document_ids: Tensor, *, causal: bool, sliding_window: int) -> dict[str, Tensor]:
    """Return the masks of the global and of the local layers; True where a query may see a key.

    A token sees the tokens of its own document; in CLM none that come after it; in local layers none further
    away than `sliding_window`, both ends included. The causal local mask is thus the bidirectional one cut at
    the diagonal.

    Args:
        document_ids: (batch, length) integers, equal for the tokens of one document and for no others.
        causal: True for CLM, False for MLM.
        sliding_window: how far a local layer sees to each side, in tokens; see `reach`.

    Returns:
        Boolean tensors (batch, 1, query, key) under "full_attention" and "sliding_attention", never None:
        left without a mask ModernBERT attends in both directions and across documents, without an error.
    """
    position = torch.arange(document_ids.shape[1], device=document_ids.device)
    offset = position[:, None] - position[None, :]
    seen = document_ids[:, None, :, None] == document_ids[:, None, None, :]
    if causal:
        seen = seen & (offset >= 0)
    return {FULL: seen, SLIDING: seen & (offset.abs() <= sliding_window)}


def reach(model: PreTrainedModel) -> int:
    """Return how far a local layer sees to each side, in tokens.

    `ModernBertDecoder` counts the token itself into its window and so sees one token less far back; it keeps
    its own window, in both directions when it is trained by MLM.
    """
    return int(model.config.sliding_window) - (model.config.model_type == "modernbert-decoder")


def attention_masks(
    model: PreTrainedModel, document_ids: Tensor, *, causal: bool
) -> dict[str, Tensor] | dict[str, BlockedMask]:
    """Return `boolean_masks` in the form that the model's attention implementation takes.

    Both classes take such a dict as it is: the encoder in place of its bidirectional masks, the decoder in
    place of its causal ones. SDPA takes booleans. Eager attention *adds* its mask to the scores, so a
    boolean one would hide nothing: it gets 0 and the dtype's lowest value. Blocked attention takes the same
    masks cut to the blocks that it computes. No row is empty, as every token sees itself.

    Raises:
        UserError: another attention implementation, whose masks these are not.
    """
    implementation = model.config._attn_implementation
    if implementation not in IMPLEMENTATIONS:
        raise UserError(
            f"attention implementation {implementation!r} is not offered for training: "
            f"load the model with one of {', '.join(IMPLEMENTATIONS)}"
        )
    if implementation == BLOCKED:
        windows = {FULL: None, SLIDING: reach(model)}
        return {k: BlockedMask.of(document_ids, causal=causal, window=w) for k, w in windows.items()}
    masks = boolean_masks(document_ids, causal=causal, sliding_window=reach(model))
    if implementation == "sdpa":
        return masks
    lowest = torch.finfo(model.dtype).min
    return {
        kind: torch.zeros(mask.shape, dtype=model.dtype, device=mask.device).masked_fill(~mask, lowest)
        for kind, mask in masks.items()
    }


QUERIES = 128
"""Queries of a block: measured on sequences of 512; 64 and 256 took up to twice as long."""


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
        blocks = spans(length, causal=causal, window=window)
        seen = []
        for span in blocks:
            queries, keys = slice(span.begin, span.end), slice(span.first, span.last)
            offset = position[queries, None] - position[None, keys]
            mask = document_ids[:, None, queries, None] == document_ids[:, None, None, keys]
            if causal:
                mask = mask & (offset >= 0)
            if window is not None:
                mask = mask & (offset.abs() <= window)
            seen.append(mask)
        return cls(blocks, seen)

    def biases(self, dtype: torch.dtype) -> list[Tensor]:
        """Return what is added to the scores of each block: 0 or −inf, (batch, 1, queries, keys)."""
        if dtype not in self._biases:
            self._biases[dtype] = [
                torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, -torch.inf)
                for mask in self.seen
            ]
        return self._biases[dtype]


class _BlockedAttention(torch.autograd.Function):
    """softmax(scale · q kᵀ + bias) v by blocks; the weights are kept for the backward pass."""

    @staticmethod
    def forward(ctx: FunctionCtx, q: Tensor, k: Tensor, v: Tensor, mask: BlockedMask, scale: float) -> Tensor:
        out = torch.empty_like(q)
        weights = []
        for span, bias in zip(mask.spans, mask.biases(q.dtype), strict=True):
            queries, keys = slice(span.begin, span.end), slice(span.first, span.last)
            scores = torch.matmul(q[:, :, queries], k[:, :, keys].transpose(-1, -2))
            # The softmax of bfloat16 scores is computed in float32 inside the kernel.
            weight = torch._softmax(scores.mul_(scale).add_(bias), -1, False)
            out[:, :, queries] = torch.matmul(weight, v[:, :, keys])
            weights.append(weight)
        ctx.save_for_backward(q, k, v, *weights)
        cast(Any, ctx).spans, cast(Any, ctx).scale = mask.spans, scale
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (d_out,) = gradients
        q, k, v, *weights = ctx.saved_tensors
        # Blocks overlap in their keys: those gradients are summed in float32.
        d_q, d_k, d_v = torch.empty_like(q), *(torch.zeros_like(x, dtype=torch.float32) for x in (k, v))
        for span, weight in zip(ctx.spans, weights, strict=True):
            queries, keys = slice(span.begin, span.end), slice(span.first, span.last)
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
    out = cast(
        Tensor,
        _BlockedAttention.apply(query, key.to(dtype), value.to(dtype), attention_mask, scale),
    )
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register(BLOCKED, blocked_attention)
