"""Who may attend to whom: the masks that make ModernBERT causal, and keep packed documents apart."""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from cka_tools.errors import UserError
from cka_tools.training.blocked_attention import BLOCKED, BlockedMask

FULL = "full_attention"
SLIDING = "sliding_attention"
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
