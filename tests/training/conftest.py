"""A tiny ModernBERT (3 layers: global, local, local; window ±4) and random packed tokens."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from transformers import ModernBertConfig, ModernBertDecoderConfig, ModernBertDecoderForCausalLM, ModernBertForMaskedLM

from cka_tools.training.packing import PackedTokens, pack_tokens

VOCABULARY = 32
SEPARATOR, MASK = 3, 4
SPECIAL = (0, 1, 2, 3, 4)
WINDOW = 4


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "local_attention": 2 * WINDOW,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "cls_token_id": 2,
    "eos_token_id": SEPARATOR,
    "sep_token_id": SEPARATOR,
}


@pytest.fixture
def tiny_model() -> Callable[..., ModernBertForMaskedLM]:
    def build(implementation: str = "sdpa", seed: int = 0) -> ModernBertForMaskedLM:
        torch.manual_seed(seed)
        config = ModernBertConfig(**SHAPE)
        return ModernBertForMaskedLM._from_config(config, attn_implementation=implementation).eval()

    return build


@pytest.fixture
def tiny_decoder() -> Callable[..., ModernBertDecoderForCausalLM]:
    def build(implementation: str = "sdpa") -> ModernBertDecoderForCausalLM:
        torch.manual_seed(0)
        config = ModernBertDecoderConfig(**SHAPE)
        return ModernBertDecoderForCausalLM._from_config(config, attn_implementation=implementation).eval()

    return build


@pytest.fixture
def pack() -> Callable[..., PackedTokens]:
    def build(documents: list[int], length: int, seed: int = 0) -> PackedTokens:
        """Pack random documents of the given token counts, each with its separator on top."""
        draw = np.random.default_rng(seed)
        tokens = [draw.integers(5, VOCABULARY, size=n).tolist() for n in documents]
        return pack_tokens(tokens, length=length, separator=SEPARATOR, special_ids=SPECIAL)

    return build
