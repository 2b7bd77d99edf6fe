"""The summed loss over a batch's targets, as one module that can be wrapped for several processes."""

from typing import cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from cka_tools.errors import UserError
from cka_tools.training.attention_masks import attention_masks
from cka_tools.training.linear_cross_entropy import linear_cross_entropy
from cka_tools.training.objectives import IGNORED, Batch


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
