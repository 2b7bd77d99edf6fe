"""A tiny start model on disk, its packed data, and two phases: for tests and for the processes they start."""

import sys
from pathlib import Path

import torch
from transformers import (
    ModernBertConfig,
    ModernBertDecoderConfig,
    ModernBertDecoderForCausalLM,
    ModernBertForMaskedLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from cka_tools.training.packing import PackedTokens, pack_texts
from cka_tools.training.recipe import Masking, OptimizerSettings, Phase

sys.path.append(str(Path(__file__).parents[2] / "data"))
from make_demo_tokenizer import train_tokenizer

TEXTS = [f"the {word} of cell {i} is {word}" for i in range(300) for word in ("protein", "membrane")]
LENGTH, PER_STEP = 16, 5
SETTINGS = OptimizerSettings(3e-3, (0.9, 0.98), 1e-8, 1e-5, PER_STEP)
STEP = LENGTH * PER_STEP
DETOUR = Phase("detour", "clm", 12 * STEP, "warmup-constant", warmup_tokens=2 * STEP)
DECAY = Phase("decay", "mlm", 6 * STEP, "1-sqrt", Masking(0.15), floor=0.1)


def tokenizer() -> PreTrainedTokenizerBase:
    return train_tokenizer(TEXTS, vocabulary_size=300)


def tiny(vocabulary: int, *, decoder: bool = False, dropout: float = 0.0, seed: int = 0) -> PreTrainedModel:
    torch.manual_seed(seed)
    shape = {
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "local_attention": 8,
        "max_position_embeddings": 64,
        "mlp_dropout": dropout,
        "pad_token_id": 0,
        "bos_token_id": 2,
        "cls_token_id": 2,
        "eos_token_id": 3,
        "sep_token_id": 3,
        "tie_word_embeddings": True,
    }
    if decoder:
        return ModernBertDecoderForCausalLM(ModernBertDecoderConfig(**shape))
    return ModernBertForMaskedLM(ModernBertConfig(**shape))


def write_start(folder: Path, *, decoder: bool = False, dropout: float = 0.0, length: int = LENGTH) -> PackedTokens:
    """Write a start model and return data packed by its tokenizer."""
    words = tokenizer()
    tiny(len(words), decoder=decoder, dropout=dropout).save_pretrained(folder)
    words.save_pretrained(folder)
    return pack_texts(TEXTS, words, length=length, seed=1)
