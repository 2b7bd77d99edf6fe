"""Losses on documents that were never trained on, beside the loss of guessing by token frequency."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from cka_tools.training.loop import evaluate
from cka_tools.training.objectives import Objective, ObjectiveName
from cka_tools.training.packing import PackedTokens, pack_texts
from cka_tools.training.presets import DECAY_MASKING

SEED = 0
"""Of the order of held-out documents and of their masks: the same for every model."""


def pack_held_out(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, length: int, tokens: int | None = None
) -> PackedTokens:
    """Return held-out texts as they are packed for training."""
    return pack_texts(texts, tokenizer, length=length, seed=SEED, tokens=tokens)


def held_out_loss(
    model: PreTrainedModel, packed: PackedTokens, tokenizer: PreTrainedTokenizerBase, name: ObjectiveName
) -> float:
    """Return the mean loss in nats a target: of next tokens, or of those masked at the decay's rate."""
    masking = DECAY_MASKING if name == "mlm" else None
    objective = Objective(name, masking, tokenizer.mask_token_id, model.config.vocab_size, SEED, phase=0)
    return evaluate(model, packed, objective)


def unigram_loss(trained_on: PackedTokens, packed: PackedTokens) -> float:
    """Return the mean loss in nats of guessing ordinary tokens by their frequency in the training data.

    Every token counts once more than it was seen, so that none has no probability.
    """
    highest = int(max(trained_on.input_ids.max(), packed.input_ids.max()))
    frequency = np.bincount(trained_on.input_ids.ravel(), minlength=highest + 1) + 1.0
    ordinary = packed.input_ids[~np.isin(packed.input_ids, packed.special_ids)]
    return float(-np.log(frequency / frequency.sum())[ordinary].mean())
