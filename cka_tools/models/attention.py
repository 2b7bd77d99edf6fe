"""Attention of a padded batch, one document after the other, over the keys that its mask lets it see.

In bfloat16 on a CPU, PyTorch's fused attention is no faster than in float32, while plain matrix products are
twice as fast. Here scores are plain products of one document at a time, which stay in a cache, and neither
padding nor keys beyond a window are multiplied.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import MODEL_MAPPING, AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask
from transformers.utils import is_flash_attn_2_available

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
            weights = torch.softmax(scores, -1)
            out[at, block.begin : block.end] = torch.bmm(weights, v[:, block.first : block.last]).transpose(
                0, 1
            )
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
