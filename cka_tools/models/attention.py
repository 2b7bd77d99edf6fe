"""Which attention kernels a model runs with."""

from __future__ import annotations

from typing import Any

import torch
from transformers import MODEL_MAPPING
from transformers.utils import is_flash_attn_2_available

from cka_tools.models.document_attention import BY_DOCUMENT

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
