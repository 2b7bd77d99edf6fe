"""Logits and their cross-entropy in one, a few rows at a time: the matrix of all logits is never made."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

ROWS = 512
"""Rows of logits at once: as many as stay in a processor's cache at a small vocabulary."""


class _LinearCrossEntropy(torch.autograd.Function):
    """Gradients are made in the forward pass, while the logits are there: probabilities − labels."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, dtype: torch.dtype
    ) -> Tensor:
        wanted = ctx.needs_input_grad
        low = weight.to(dtype)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        d_hidden = torch.empty_like(hidden) if wanted[0] else None
        d_weight = torch.zeros_like(weight, dtype=torch.float32) if wanted[1] else None
        d_bias = torch.zeros_like(bias, dtype=torch.float32) if bias is not None and wanted[2] else None
        for first in range(0, len(labels), ROWS):
            rows, label = hidden[first : first + ROWS].to(dtype), labels[first : first + ROWS, None]
            logits = torch.matmul(rows, low.T).float()
            if bias is not None:
                logits += bias.float()
            logits -= logits.amax(-1, keepdim=True)
            chosen = logits.gather(-1, label)
            sums = logits.exp_().sum(-1, keepdim=True)
            total += (sums.log() - chosen).sum()
            if not any(wanted[:3]):
                continue
            d_logits = logits.div_(sums)
            d_logits.scatter_add_(-1, label, torch.full_like(sums, -1))
            if d_bias is not None:
                d_bias += d_logits.sum(0)
            d_logits = d_logits.to(dtype)
            if d_hidden is not None:
                d_hidden[first : first + ROWS] = torch.matmul(d_logits, low)
            if d_weight is not None:
                d_weight += torch.matmul(d_logits.T, rows)
        ctx.save_for_backward(d_hidden, d_weight, d_bias)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (scale,) = gradients
        d_hidden, d_weight, d_bias = ctx.saved_tensors
        # Out of place: a second backward pass over a kept graph finds them as they were.
        return (
            None if d_hidden is None else d_hidden * scale,
            None if d_weight is None else d_weight * scale,
            None if d_bias is None else d_bias * scale,
            None,
            None,
        )


def linear_cross_entropy(hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor) -> Tensor:
    """Return the sum over rows of the cross-entropy of hidden @ weightᵀ + bias, in nats, float32.

    Under autocast the products are made in its dtype; logits and sums are float32 either way.

    Args:
        hidden: (rows, width).
        weight: (vocabulary, width).
        bias: (vocabulary,) or None.
        labels: (rows,) int64, each an index into the vocabulary.
    """
    kind = hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
    with torch.autocast(kind, enabled=False):
        total: Tensor = _LinearCrossEntropy.apply(hidden, weight, bias, labels, dtype)
    return total
