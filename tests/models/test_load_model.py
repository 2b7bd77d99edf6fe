"""What loading gives, what it leaves alone, and what it says when it cannot load."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig, AutoModel

from cka_tools import bundled
from cka_tools.errors import UserError
from cka_tools.models import demo_models, load_model, resolve_device
from cka_tools.models.folder import hash_tokenizer


@pytest.fixture
def copied(tiny_model: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """A tiny model's directory that a test may damage."""

    def copy(architecture: str = "bert", **options: Any) -> Path:
        return Path(shutil.copytree(tiny_model(architecture, **options), tmp_path / "model"))

    return copy


def edit_config(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def refusal(spec: Any, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        load_model(spec, **{"device": "cpu", **options})
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_local_model_says_where_it_came_from(tiny_model: Callable[..., Path]) -> None:
    folder = tiny_model("modernbert")
    loaded = load_model(str(folder), device="cpu")
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert loaded.name == str(folder)
    assert loaded.provenance["weights_sha256"] == digest
    assert loaded.provenance["architecture"] == "ModernBertModel"
    assert loaded.provenance["layers"] == 6
    assert json.dumps(loaded.provenance)
    assert not loaded.model.training


def test_the_head_of_a_checkpoint_is_left_out(tiny_model: Callable[..., Path]) -> None:
    for architecture in ("bert", "gpt2", "modernbert"):
        loaded = load_model(tiny_model(architecture, head=True), device="cpu")
        assert type(loaded.model).__name__ in {"BertModel", "GPT2Model", "ModernBertModel"}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
def test_weights_are_loaded_in_the_dtype_asked_for(dtype: str, tiny_model: Callable[..., Path]) -> None:
    loaded = load_model(tiny_model("modernbert"), device="cpu", dtype=dtype)
    assert {p.dtype for p in loaded.model.parameters()} == {getattr(torch, dtype)}


def test_sdpa_is_used_where_supported_else_eager(tiny_model: Callable[..., Path]) -> None:
    assert load_model(tiny_model("llama"), device="cpu").provenance["attention"] == "sdpa"
    assert load_model(tiny_model("gemma2"), device="cpu").provenance["attention"] == "eager"


def test_a_model_in_memory_is_left_as_it_was(
    fresh_model: Callable[..., Any], fresh_tokenizer: Callable[..., Any]
) -> None:
    whole = fresh_model("bert", head=True)
    whole.train()
    whole.bert.encoder.layer[2].eval()
    whole.bert.embeddings.word_embeddings.weight.requires_grad_(False)
    training = {name: module.training for name, module in whole.named_modules()}
    loaded = load_model((whole, fresh_tokenizer()))
    assert loaded.model is whole.bert
    assert loaded.name == "BertForMaskedLM"
    assert {name: module.training for name, module in whole.named_modules()} == training
    assert not whole.bert.embeddings.word_embeddings.weight.requires_grad
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in whole.modules())
    assert not hasattr(whole.bert, "_output_capturing_hooks_installed")
    whole(input_ids=torch.tensor([[0, 5, 2]])).logits.sum().backward()


def test_the_hash_of_a_model_in_memory_follows_its_weights(
    fresh_model: Callable[..., Any], fresh_tokenizer: Callable[..., Any]
) -> None:
    model, tokenizer = fresh_model("bert"), fresh_tokenizer()
    first = load_model((model, tokenizer)).provenance["weights_sha256"]
    assert load_model((fresh_model("bert"), tokenizer)).provenance["weights_sha256"] == first
    with torch.no_grad():
        model.encoder.layer[5].output.dense.bias[0] += 1e-3
    assert load_model((model, tokenizer)).provenance["weights_sha256"] != first


def test_tokenizers_are_told_apart_by_content(fresh_tokenizer: Callable[..., Any]) -> None:
    one, same = fresh_tokenizer(), fresh_tokenizer()
    one(["w1 w2"], truncation=True, max_length=3, padding="max_length")
    assert hash_tokenizer(one) == hash_tokenizer(same)
    assert hash_tokenizer(one) != hash_tokenizer(fresh_tokenizer(specials=False))
    assert hash_tokenizer(one) != hash_tokenizer(fresh_tokenizer(words=["x", *(f"w{i}" for i in range(119))]))


@pytest.mark.parametrize(("architecture", "limit"), [("bert", 64), ("roberta", 64), ("gpt2", 64), ("llama", 64)])
def test_the_longest_sequence_is_the_models(architecture: str, limit: int, tiny_model: Callable[..., Path]) -> None:
    assert load_model(tiny_model(architecture), device="cpu").max_length == limit


def test_demo_names_are_listed(tmp_path: Path, copied: Callable[..., Path], monkeypatch: Any) -> None:
    copied().rename(tmp_path / "models-one")
    (tmp_path / "data" / "models").mkdir(parents=True)
    (tmp_path / "models-one").rename(tmp_path / "data" / "models" / "one")
    monkeypatch.setattr(bundled, "PACKAGE", tmp_path)
    assert demo_models() == ["one"]
    assert load_model("demo:one", device="cpu").provenance["kind"] == "demo"
    assert "demo:one" in refusal("demo:two")
    assert "'demo:two'" in refusal("demo:two")


def test_a_directory_that_does_not_exist_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "nothing"
    for spec in (missing, str(missing), "./nothing"):
        assert "does not exist" in refusal(spec)
        assert str(spec).split("/")[-1] in refusal(spec)
    assert "organisation" in refusal("gpt2")


def test_a_file_is_not_a_model(tiny_model: Callable[..., Path]) -> None:
    assert "is a file" in refusal(tiny_model() / "config.json")


def test_a_directory_without_config_is_refused(copied: Callable[..., Path]) -> None:
    folder = copied()
    (folder / "config.json").unlink()
    assert "no config.json" in refusal(folder)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "cannot be read"),
        ("[]", "JSON object"),
        ("{}", "model_type"),
        ('{"model_type": "nosuch"}', "'nosuch'"),
        ('{"model_type": "bert", "num_hidden_layers": "many"}', "config.json"),
    ],
)
def test_a_broken_config_is_refused(content: str, says: str, copied: Callable[..., Path]) -> None:
    folder = copied()
    (folder / "config.json").write_text(content)
    assert says in refusal(folder)


def test_pickled_weights_are_never_loaded(copied: Callable[..., Path]) -> None:
    folder = copied()
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "safetensors" in refusal(folder)
    (folder / "pytorch_model.bin").unlink()
    assert "no weights" in refusal(folder)


def test_damaged_weights_are_refused(copied: Callable[..., Path]) -> None:
    folder = copied()
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    assert "cannot be loaded" in refusal(folder)


def test_remote_code_needs_the_flag(copied: Callable[..., Path]) -> None:
    folder = copied()
    edit_config(folder, model_type="homemade", auto_map={"AutoModel": "modeling.Homemade"})
    assert "--trust-remote-code" in refusal(folder)


def test_remote_code_runs_with_the_flag(copied: Callable[..., Path], monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = copied()
    (folder / "homemade.py").write_text(
        "from transformers import BertConfig, BertModel\n"
        "class HomeConfig(BertConfig):\n    model_type = 'homemade'\n"
        "class HomeModel(BertModel):\n    config_class = HomeConfig\n"
    )
    auto_map = {"AutoConfig": "homemade.HomeConfig", "AutoModel": "homemade.HomeModel"}
    edit_config(folder, model_type="homemade", auto_map=auto_map)
    loaded = load_model(folder, device="cpu", trust_remote_code=True)
    assert type(loaded.model).__name__ == "HomeModel"


def test_a_missing_tokenizer_is_refused(copied: Callable[..., Path]) -> None:
    folder = copied()
    (folder / "tokenizer.json").unlink()
    assert "tokenizer" in refusal(folder)
    (folder / "tokenizer_config.json").unlink()
    assert "no tokenizer" in refusal(folder)


def test_missing_weights_are_refused_but_a_pooler_may_be_missing(copied: Callable[..., Path]) -> None:
    folder = copied()
    weights = load_file(folder / "model.safetensors")
    without_pooler = {k: v for k, v in weights.items() if "pooler" not in k}
    save_file(without_pooler, folder / "model.safetensors", metadata={"format": "pt"})
    load_model(folder, device="cpu")
    without_pooler.pop("encoder.layer.4.output.dense.weight")
    save_file(without_pooler, folder / "model.safetensors", metadata={"format": "pt"})
    assert "lacks 1 weights" in refusal(folder)
    assert "encoder.layer.4.output.dense.weight" in refusal(folder)


@pytest.mark.parametrize("head", [False, True])
def test_a_config_with_fewer_layers_than_the_weights_is_refused(head: bool, copied: Callable[..., Path]) -> None:
    folder = copied("bert", head=head)
    edit_config(folder, num_hidden_layers=4)
    assert "beyond the 4" in refusal(folder)


def test_an_encoder_decoder_is_refused(tmp_path: Path, fresh_tokenizer: Callable[..., Any]) -> None:
    config = AutoConfig.for_model("t5", vocab_size=125, d_model=16, d_ff=16, num_layers=1, num_heads=2, d_kv=8)
    AutoModel.from_config(config).save_pretrained(tmp_path)
    fresh_tokenizer().save_pretrained(tmp_path)
    assert "encoder-decoder (t5)" in refusal(tmp_path)


def test_an_architecture_without_a_list_of_blocks_is_refused(
    fresh_model: Callable[..., Any], fresh_tokenizer: Callable[..., Any]
) -> None:
    model = fresh_model("bert")
    model.config.num_hidden_layers = 7
    with pytest.raises(UserError, match="no list of modules is the blocks of BertModel, of which its config names 7"):
        load_model((model, fresh_tokenizer()))


def test_a_model_in_memory_in_another_dtype_is_refused(
    fresh_model: Callable[..., Any], fresh_tokenizer: Callable[..., Any]
) -> None:
    model = fresh_model("bert").to(torch.bfloat16)
    assert "dtype='bfloat16'" in refusal((model, fresh_tokenizer()))
    load_model((model, fresh_tokenizer()), dtype="bfloat16")


def test_a_model_with_virtual_tokens_is_refused(
    fresh_model: Callable[..., Any], fresh_tokenizer: Callable[..., Any]
) -> None:
    class Prompted(nn.Module):
        """As PEFT wraps a model for prompt tuning: the base model, and tokens of its own before the text."""

        def __init__(self, base: Any, *, prompt: bool) -> None:
            super().__init__()
            self.base_model, self.config = base, base.config
            self.active_peft_config = SimpleNamespace(is_prompt_learning=prompt)

    base, tokenizer = fresh_model("bert"), fresh_tokenizer()
    assert "virtual tokens" in refusal((Prompted(base, prompt=True), tokenizer))
    assert load_model((Prompted(base, prompt=False), tokenizer)).model is base


def test_things_that_are_no_model_are_refused(fresh_tokenizer: Callable[..., Any]) -> None:
    assert "(Linear, str)" in refusal((nn.Linear(2, 2), "x"))
    assert "PreTrainedModel" in refusal((nn.Linear(2, 2), fresh_tokenizer()))


def test_unknown_devices_and_dtypes_are_refused(tiny_model: Callable[..., Path]) -> None:
    assert "'tpu'" in refusal(tiny_model(), device="tpu")
    assert "'cuda:99'" in refusal(tiny_model(), device="cuda:99")
    assert "bfloat16" in refusal(tiny_model(), dtype="int8")
    assert resolve_device("auto").type in {"cpu", "cuda", "mps"}
