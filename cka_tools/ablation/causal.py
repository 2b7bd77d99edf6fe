"""A ModernBERT that was trained causally, seen causally: the mask of its training, for the comparison."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import ModernBertModel

from cka_tools.ablation.starts import load_tokenizer
from cka_tools.models import LoadedModel, load_model
from cka_tools.models.folder import weight_files
from cka_tools.models.hash import hash_weight_files
from cka_tools.training.attention_masks import attention_masks
from cka_tools.training.start_model import check_start, quiet_transformers


class CausalModernBertModel(ModernBertModel):
    """ModernBERT under the masks of `attention_masks`, causal; pad tokens see and are seen by pads alone."""

    def forward(
        self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None, **options: Any
    ) -> Any:
        assert input_ids is not None
        tokens = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        masks = attention_masks(self, tokens, causal=True)
        return super().forward(input_ids=input_ids, attention_mask=masks, **options)


def load_seen(folder: Path, *, causal: bool, device: str | torch.device = "auto") -> LoadedModel:
    """Load a checkpoint as it is to be compared: under the causal mask, or as its class sees by itself.

    A `ModernBertDecoder` is causal by itself.

    Raises:
        UserError: as `load_model`.
    """
    if not causal or check_start(folder) != "ModernBertForMaskedLM":
        return load_model(folder, device=device)
    plain = load_model(folder, device=device)
    with quiet_transformers():
        model = CausalModernBertModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")
    loaded = load_model((model.to(plain.device).eval(), load_tokenizer(folder)), device=plain.device)
    loaded.name = str(folder)
    loaded.in_memory = False
    loaded.provenance |= {
        "spec": str(folder),
        "kind": "local",
        "mask": "causal",
        "weights_sha256": hash_weight_files(weight_files(folder)),
    }
    return loaded
