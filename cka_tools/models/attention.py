"""Who sees whom: masks within documents, a causal view of an encoder, and attention by document.

In bfloat16 on a CPU, PyTorch's fused attention is no faster than in float32, while plain matrix products are
twice as fast. In attention by document scores are plain products of one document at a time, which stay in a
cache, and neither padding nor keys beyond a window are multiplied.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import MODEL_MAPPING, AttentionInterface, AttentionMaskInterface, ModernBertModel, PreTrainedModel
from transformers.masking_utils import sdpa_mask
from transformers.utils import is_flash_attn_2_available

from cka_tools.errors import UserError

FULL = "full_attention"
SLIDING = "sliding_attention"


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


def dense_masks(model: PreTrainedModel, document_ids: Tensor, *, causal: bool) -> dict[str, Tensor]:
    """Return `boolean_masks` in the form that SDPA or eager attention takes.

    Both ModernBERT classes take such a dict as it is: the encoder in place of its bidirectional masks, the
    decoder in place of its causal ones. SDPA takes booleans. Eager attention *adds* its mask to the scores,
    so a boolean one would hide nothing: it gets 0 and the dtype's lowest value. No row is empty, as every
    token sees itself.

    Raises:
        UserError: another attention implementation, whose masks these are not.
    """
    implementation = model.config._attn_implementation
    if implementation not in ("sdpa", "eager"):
        raise UserError(
            f"attention implementation {implementation!r} does not take a mask made here: load the model "
            "with attn_implementation='sdpa'"
        )
    masks = boolean_masks(document_ids, causal=causal, sliding_window=reach(model))
    if implementation == "sdpa":
        return masks
    lowest = torch.finfo(model.dtype).min
    return {
        kind: torch.zeros(mask.shape, dtype=model.dtype, device=mask.device).masked_fill(~mask, lowest)
        for kind, mask in masks.items()
    }


class CausalModernBertModel(ModernBertModel):
    """ModernBERT under the causal `dense_masks`; pad tokens see and are seen by pads alone."""

    def forward(self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None, **options: Any) -> Any:
        """As `ModernBertModel`, of token ids (batch, length) and a mask of the same shape."""
        assert input_ids is not None
        tokens = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        masks = dense_masks(self, tokens, causal=True)
        return super().forward(input_ids=input_ids, attention_mask=masks, **options)


def causal_view(name: str, model: nn.Module) -> CausalModernBertModel:
    """A model that shares the modules of a ModernBERT encoder and sees causally; the encoder stays as it is.

    Raises:
        UserError: another class; a `ModernBertDecoder` is causal by itself.
    """
    if type(model) is not ModernBertModel:
        raise UserError(f"model {name!r} is a {type(model).__name__}: only a ModernBERT encoder can be seen causally")
    with torch.device("meta"):  # transformers has to know the class to report its hidden states
        view = CausalModernBertModel(model.config)
    view.__dict__.update(vars(model))
    return view


BY_DOCUMENT = "by_document"

QUERIES = 256
"""Queries of a block: scores of a long document do not lie in memory as a whole."""


@dataclass(frozen=True)
class Block:
    """Queries [begin, end) and the keys [first, last) that some of them see; `hidden` (queries, keys) from
    which, None where all see all."""

    begin: int
    end: int
    first: int
    last: int
    hidden: Tensor | None


@dataclass(frozen=True)
class DocumentMask:
    """The blocks of each document of a batch; padding is in none."""

    documents: list[list[Block]]


def document_mask(*args: Any, **options: Any) -> DocumentMask:
    """What transformers asks a mask of, as blocks: the dense mask of SDPA, read once for all layers."""
    options |= {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
    dense = sdpa_mask(*args, **options)
    return DocumentMask([_blocks(document[0]) for document in dense])


def _blocks(seen: Tensor) -> list[Block]:
    """Blocks of one document, from who sees whom, (t, t) bool; padding, on the right, is seen by none."""
    length = int(seen.any(0).sum())
    found = []
    for begin in range(0, length, QUERIES):
        end = min(begin + QUERIES, length)
        keys = seen[begin:end].any(0).nonzero()
        first, last = int(keys[0]), int(keys[-1]) + 1
        part = seen[begin:end, first:last]
        found.append(Block(begin, end, first, last, None if bool(part.all()) else ~part))
    return found


def document_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: DocumentMask,
    scaling: float | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """(b, t, heads, d) of three (b, heads, t, d), as transformers calls it; padding gets zeros."""
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    batch, heads, length, width = query.shape
    out = query.new_zeros(batch, length, heads, width)
    for at, blocks in enumerate(attention_mask.documents):
        end = blocks[-1].end
        q, k, v = query[at, :, :end] * scale, key[at, :, :end].contiguous(), value[at, :, :end].contiguous()
        for block in blocks:
            scores = torch.bmm(q[:, block.begin : block.end], k[:, block.first : block.last].transpose(1, 2))
            if block.hidden is not None:
                scores.masked_fill_(block.hidden, torch.finfo(scores.dtype).min)
            # The softmax of bfloat16 scores is computed in float32 inside the kernel.
            seen = torch.bmm(torch.softmax(scores, -1), v[:, block.first : block.last])
            out[at, block.begin : block.end] = seen.transpose(0, 1)
    return out, None


AttentionInterface.register(BY_DOCUMENT, document_attention)
AttentionMaskInterface.register(BY_DOCUMENT, document_mask)


FLASH = "flash_attention_2"

FLASH_CAPABILITY = (8, 0)
"""The first compute capability that FlashAttention-2 runs on."""

BY_DOCUMENT_MODELS = frozenset({"bert", "modernbert", "roberta", "xlm-roberta"})
"""Model types for which a test shows that attention by document gives what SDPA gives."""


def attention_for(config: Any, device: torch.device, dtype: torch.dtype) -> str | None:
    """The fastest kernels that the model, the machine and the number format have.

    - On a GPU in a format of 16 bits FlashAttention-2, which leaves padding out, where its package is there,
      the GPU runs it and the architecture takes it.
    - On a CPU in bfloat16 attention by document, for the architectures that it was tested on.
    - None elsewhere: transformers itself picks SDPA where the architecture supports it, else eager.
    """
    if device.type == "cpu" and dtype == torch.bfloat16:
        return BY_DOCUMENT if getattr(config, "model_type", None) in BY_DOCUMENT_MODELS else None
    if device.type != "cuda" or dtype not in (torch.float16, torch.bfloat16):
        return None
    if torch.cuda.get_device_capability(device) < FLASH_CAPABILITY or not is_flash_attn_2_available():
        return None
    architecture = MODEL_MAPPING.get(type(config), None)
    return FLASH if getattr(architecture, "_supports_flash_attn", False) else None
