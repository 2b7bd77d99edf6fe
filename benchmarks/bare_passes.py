"""The forward passes of an extraction alone: the floor that it is measured against."""

from collections.abc import Iterable

import torch

from cka_tools.extraction.batches import TokenBatch, make_batch
from cka_tools.extraction.extract import Prepared
from cka_tools.models import LoadedModel


def batches_of(prepared: Prepared, model: LoadedModel, at: int = 0) -> list[TokenBatch]:
    """The batches of a plan, on a model's device. Args: at: the model's place among those prepared for."""
    return [make_batch(prepared.tables[at], rows, model.device) for rows in prepared.plan.batches]


def bare_forward(model: LoadedModel, batches: Iterable[TokenBatch]) -> None:
    """Run batches through the whole base model and keep nothing."""
    with model.evaluating():
        for batch in batches:
            model.run(batch.input_ids, batch.attention_mask)
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
