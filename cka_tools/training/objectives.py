"""CLM and MLM: inputs and labels of packed sequences, and the loss of a model on them.

Logits and their cross-entropy are made in one, a few rows at a time: the matrix of all logits is never made.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from cka_tools.errors import UserError
from cka_tools.training.attention import attention_masks
from cka_tools.training.packing import PackedTokens
from cka_tools.training.recipe import Masking, ObjectiveName

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
        # Out of place: a second backward pass over a kept graph finds them as they were.
        return *(None if kept is None else kept * scale for kept in ctx.saved_tensors), None, None


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


IGNORED = -100


def clm_labels(input_ids: np.ndarray, document_ids: np.ndarray) -> np.ndarray:
    """Return label[t] = input[t + 1] within a document, and `IGNORED` elsewhere; shapes (…, length), int64.

    The separator that ends a document is a target; what follows a separator is none, nor is there one at the
    last position of a sequence.
    """
    labels = np.full(input_ids.shape, IGNORED, dtype=np.int64)
    same = document_ids[..., 1:] == document_ids[..., :-1]
    labels[..., :-1] = np.where(same, input_ids[..., 1:], IGNORED)
    return labels


def mlm_inputs_and_labels(
    input_ids: np.ndarray,
    masking: Masking,
    *,
    mask_id: int,
    special_ids: tuple[int, ...],
    vocabulary_size: int,
    seed: int,
    phase: int,
    sequence: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the corrupted inputs and the labels of one sequence (length,), both int64.

    A pure function of its arguments: the draw depends on (seed, phase, sequence) and not on what was drawn
    before, so neither batching, resuming nor the number of processes changes it.
    """
    draw = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, phase, sequence])))
    chosen, replaced = draw.random((2, len(input_ids)))
    ordinary = _ordinary_ids(vocabulary_size, (*special_ids, mask_id))
    random_ids = ordinary[draw.integers(len(ordinary), size=len(input_ids))]

    target = (chosen < masking.rate) & ~np.isin(input_ids, special_ids)
    inputs = input_ids.astype(np.int64)
    inputs[target & (replaced < masking.mask)] = mask_id
    at_random = target & (replaced >= masking.mask) & (replaced < masking.mask + masking.random)
    inputs[at_random] = random_ids[at_random]
    return inputs, np.where(target, input_ids, IGNORED).astype(np.int64)


@lru_cache(maxsize=8)
def _ordinary_ids(vocabulary_size: int, special_ids: tuple[int, ...]) -> np.ndarray:
    return np.setdiff1d(np.arange(vocabulary_size), special_ids)


@dataclass(frozen=True)
class Batch:
    """Some sequences as a model takes them; every array (batch, length) int64."""

    input_ids: np.ndarray
    labels: np.ndarray
    document_ids: np.ndarray
    position_ids: np.ndarray
    causal: bool

    @property
    def targets(self) -> int:
        return int((self.labels != IGNORED).sum())


@dataclass(frozen=True)
class Objective:
    """CLM or MLM, bound to a vocabulary and to the run's seed.

    Args:
        name: "clm" or "mlm".
        masking: MLM's corruption; None in CLM.
        mask_id: the id of [MASK]; may be None in CLM.
        seed, phase: two of the three numbers that fix the masks; the third is the sequence's index.

    Raises:
        UserError: MLM without a masking or without a [MASK] token.
    """

    name: ObjectiveName
    masking: Masking | None
    mask_id: int | None
    vocabulary_size: int
    seed: int
    phase: int

    def __post_init__(self) -> None:
        if self.name == "mlm" and (self.masking is None or self.mask_id is None):
            raise UserError(
                f"masking {self.masking} and mask token {self.mask_id}: masked language modelling needs a "
                f"masking rate and a tokenizer with a [MASK] token"
            )

    def batch(self, data: PackedTokens, sequences: range) -> Batch:
        """Return inputs and labels of these sequences of the packed data."""
        rows = slice(sequences.start, sequences.stop)
        input_ids = data.input_ids[rows].astype(np.int64)
        if self.name == "clm":
            labels = clm_labels(input_ids, data.document_ids[rows])
        else:
            assert self.masking is not None
            assert self.mask_id is not None
            pairs = [
                mlm_inputs_and_labels(
                    data.input_ids[i],
                    self.masking,
                    mask_id=self.mask_id,
                    special_ids=data.special_ids,
                    vocabulary_size=self.vocabulary_size,
                    seed=self.seed,
                    phase=self.phase,
                    sequence=i,
                )
                for i in sequences
            ]
            input_ids = np.stack([inputs for inputs, _ in pairs])
            labels = np.stack([label for _, label in pairs])
        return Batch(
            input_ids,
            labels,
            data.document_ids[rows].astype(np.int64),
            data.part(sequences).position_ids.astype(np.int64),
            causal=self.name == "clm",
        )


class TargetLoss(nn.Module):
    """A ModernBERT with an LM head that computes logits at target positions only, for CLM and MLM alike.

    The one head serves both: in CLM it predicts the next token, in MLM the hidden one. As labels sit where
    the prediction is made, the decoder's own shift of labels is never used.

    Raises:
        UserError: the model has no LM head of ModernBERT's form.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        parts = (getattr(model, "model", None), prediction_head(model), getattr(model, "decoder", None))
        for name, part in zip(("model", "prediction head", "decoder"), parts, strict=True):
            if not isinstance(part, nn.Module):
                raise UserError(
                    f"a {type(model).__name__} has no {name!r}, so it cannot be trained here: "
                    f"give a ModernBertForMaskedLM or ModernBertDecoderForCausalLM checkpoint"
                )
        self.language_model = model

    def forward(self, batch: Batch) -> Tensor:
        """Return the sum of the cross-entropies in nats over the batch's targets, float32."""
        model = self.language_model
        device = model.device
        document_ids = torch.from_numpy(batch.document_ids).to(device)
        labels = torch.from_numpy(batch.labels).to(device)
        hidden = cast(nn.Module, model.model)(
            input_ids=torch.from_numpy(batch.input_ids).to(device),
            attention_mask=attention_masks(model, document_ids, causal=batch.causal),
            position_ids=torch.from_numpy(batch.position_ids).to(device),
        ).last_hidden_state
        at = labels != IGNORED
        decoder = cast(nn.Linear, model.decoder)
        predicted = cast(nn.Module, prediction_head(model))(hidden[at])
        return linear_cross_entropy(predicted, decoder.weight, decoder.bias, labels[at])


def prediction_head(model: nn.Module) -> object:
    """Return what lies between the last norm and the vocabulary, or None where nothing does.

    It is `head` in the encoder and `lm_head` in the decoder.
    """
    return getattr(model, "lm_head", None) or getattr(model, "head", None)
