"""Small randomly initialised models of every family, with a small tokenizer, and documents for them."""

import os
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, PreTrainedTokenizerFast

from cka_tools.documents import Document

# The workers and the commands that they start share the cores: one thread each.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)

WORDS = [f"w{number}" for number in range(120)]
SPECIALS = ["[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]"]
VOCABULARY = len(SPECIALS) + len(WORDS)

_COMMON = {
    "vocab_size": VOCABULARY,
    "num_hidden_layers": 6,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
_MODERNBERT = {"cls_token_id": 0, "sep_token_id": 2, "local_attention": 8, "global_attn_every_n_layers": 3}
_GEMMA = {"num_key_value_heads": 2, "head_dim": 8}

#: model_type and what its config needs beyond the common settings.
_ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "modernbert": ("modernbert", _MODERNBERT),
    "bert": ("bert", {}),
    # Positions of RoBERTa start behind the padding index: 66 rows hold 64 positions.
    "roberta": ("roberta", {"max_position_embeddings": 66}),
    "distilbert": ("distilbert", {"n_layers": 6, "dim": 32, "n_heads": 4, "hidden_dim": 48}),
    "gpt2": ("gpt2", {"n_inner": 48}),
    "gpt_neox": ("gpt_neox", {}),
    "llama": ("llama", {"num_key_value_heads": 2}),
    "gemma": ("gemma", _GEMMA),
    "gemma2": ("gemma2", _GEMMA | {"sliding_window": 8}),
    "gemma3": ("gemma3_text", _GEMMA | {"sliding_window": 8, "sliding_window_pattern": 3}),
    "modernbert-decoder": ("modernbert-decoder", _MODERNBERT),
}
ENCODERS = ("modernbert", "bert", "roberta", "distilbert")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """No test, nor a process it starts, touches the user's activation store."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("CKA_TOOLS_CACHE", str(folder))
        yield folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The place of an empty store that this test alone uses."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("CKA_TOOLS_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def call_cka() -> Callable[..., int]:
    """`call_cka(patch, *arguments)` → exit code of the command line, run in this process."""
    from cka_tools.terminal.app import main

    def call(patch: pytest.MonkeyPatch, *arguments: object) -> int:
        patch.setattr(sys, "argv", ["cka", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        return int(stop.value.code or 0)

    return call


@pytest.fixture
def cka(
    call_cka: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., tuple[int, str, str]]:
    """`cka(*arguments)` → exit code, standard output, standard error, in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    # How far a run is would be told on a slow machine, and not on a fast one.
    monkeypatch.setattr("cka_tools.terminal.output.SECONDS_A_LINE", float("inf"))

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()  # what making the models has said
        code = call_cka(monkeypatch, *arguments)
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture(scope="session")
def halves() -> Callable[[], list[dict[str, Any]]]:
    """Rows of a task of two classes: texts of known words, of one class with another half of them more often."""

    def rows() -> list[dict[str, Any]]:
        rng = np.random.default_rng(0)
        found = []
        for split, size in {"train": 60, "test": 40}.items():
            for at in range(size):
                words = rng.integers(0, 60, 12) + 60 * (rng.random(12) < 0.35 + 0.3 * (at % 2))
                found.append({"split": split, "text": " ".join(f"w{w}" for w in words), "label": f"half {at % 2}"})
        return found

    return rows


@pytest.fixture(params=list(_ARCHITECTURES), scope="session")
def architecture(request: pytest.FixtureRequest) -> str:
    """Every family that is supported, one after the other."""
    return str(request.param)


def make_tokenizer(*, specials: bool = True, words: list[str] = WORDS, **settings: Any) -> PreTrainedTokenizerFast:
    """A tokenizer of whole words, with [CLS] and [SEP] around them or without."""
    vocabulary = {token: index for index, token in enumerate(SPECIALS + words)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if specials:
        backend.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 0), ("[SEP]", 2)]
        )
    named = {"cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"} if specials else {}
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", **(named | settings))


def make_model(architecture: str, *, seed: int = 0, layers: int = 6, head: bool = False, **settings: Any) -> Any:
    """A model with weights large enough that layers differ and attention is not uniform."""
    model_type, needs = _ARCHITECTURES[architecture]
    depth = {"n_layers": layers} if architecture == "distilbert" else {"num_hidden_layers": layers}
    config = AutoConfig.for_model(model_type, **(_COMMON | needs | depth | settings))
    factory = AutoModel
    if head:
        factory = AutoModelForMaskedLM if architecture in ENCODERS else AutoModelForCausalLM
    torch.manual_seed(seed)
    model = factory.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                embedding = "emb" in name or "wte" in name or "wpe" in name
                parameter.normal_(std=0.5 if embedding else 1.2 / parameter.shape[-1] ** 0.5)
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`tiny_model(architecture, seed=0, layers=6, head=False)` → a directory, made once per argument list."""
    made: dict[tuple[Any, ...], Path] = {}

    def make(architecture: str = "bert", *, seed: int = 0, layers: int = 6, head: bool = False) -> Path:
        key = (architecture, seed, layers, head)
        if key not in made:
            folder = tmp_path_factory.mktemp(f"{architecture}-{seed}")
            make_model(architecture, seed=seed, layers=layers, head=head).save_pretrained(folder)
            make_tokenizer(specials=architecture in ENCODERS).save_pretrained(folder)
            made[key] = folder
        return made[key]

    return make


@pytest.fixture(scope="session")
def fresh_model() -> Callable[..., Any]:
    """`fresh_model(architecture, **config)` → a new model in memory."""
    return make_model


@pytest.fixture(scope="session")
def fresh_tokenizer() -> Callable[..., PreTrainedTokenizerFast]:
    """`fresh_tokenizer(specials=True, words=…)` → a new tokenizer in memory."""
    return make_tokenizer


@pytest.fixture(scope="session")
def tiny_documents() -> list[Document]:
    """40 documents of 3 to 60 known words, no two alike."""
    draw = random.Random(7)
    lengths = [3, 60, *(draw.randint(3, 50) for _ in range(38))]
    return [Document(f"d{i}", " ".join(draw.choices(WORDS, k=k))) for i, k in enumerate(lengths)]
