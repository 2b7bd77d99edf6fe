"""The summed loss over a batch's targets, as one module that can be wrapped for several processes."""

from typing import cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from cka_tools.errors import UserError
from cka_tools.training.attention_masks import attention_masks
from cka_tools.training.objectives import IGNORED, Batch


class TargetLoss(nn.Module):
    """A masked-LM model that computes logits at target positions only, for CLM and MLM alike.

    The MLM head serves CLM: in a causal pass it predicts the next token instead of the hidden one.

    Raises:
        UserError: the model has no LM head of ModernBERT's form.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        for part in ("model", "head", "decoder"):
            if not isinstance(getattr(model, part, None), nn.Module):
                raise UserError(
                    f"a {type(model).__name__} has no {part!r}, so it cannot be trained here: "
                    f"give a ModernBertForMaskedLM checkpoint"
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
        logits = cast(nn.Module, model.decoder)(cast(nn.Module, model.head)(hidden[at]))
        return nn.functional.cross_entropy(logits.float(), labels[at], reduction="sum")
