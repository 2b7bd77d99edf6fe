"""Adapters of PEFT: on a base, as their directory, and in memory; what does not fit is said in one line."""

import builtins
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import IA3Config, LoraConfig, PromptTuningConfig, TaskType, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM, AutoModelForSequenceClassification, AutoTokenizer

from cka_tools.compute import compute_features
from cka_tools.errors import UserError
from cka_tools.models import as_source, load_model


def lora(folder: Path, *, seed: int = 0, head: bool = False, **settings: Any) -> Any:
    """A base with a LoRA whose weights are not zero."""
    factory = AutoModelForSequenceClassification if head else AutoModel
    torch.manual_seed(seed)
    task = {"task_type": TaskType.SEQ_CLS} if head else {}
    config = LoraConfig(target_modules=["query", "value"], init_lora_weights=False, lora_alpha=64, **task, **settings)
    return get_peft_model(factory.from_pretrained(folder), config).eval()


@pytest.fixture
def base(tiny_model: Callable[..., Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model("bert"), tmp_path / "base"))


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    """A LoRA that was trained in a classifier on the base, and saved without a tokenizer."""
    lora(base, head=True).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def refusal(given: Any, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        load_model(given, **{"device": "cpu", **options})
    assert "\n" not in str(caught.value)
    return str(caught.value)


def states(model: Any) -> list[torch.Tensor]:
    ids = torch.tensor([[0, *range(7, 20), 2]])
    with torch.no_grad():
        return list(model(input_ids=ids, output_hidden_states=True).hidden_states)


def test_base_and_adapter_compute_as_peft_does(base: Path, adapter: Path) -> None:
    expected = states(lora(base, head=True))
    plain = states(AutoModel.from_pretrained(base))
    assert float((expected[-1] - plain[-1]).abs().max()) > 0.1
    for given in (f"{base}+{adapter}", str(adapter)):
        loaded = load_model(given, device="cpu")
        for found, wanted in zip(states(loaded.model), expected, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
        assert loaded.name == given
        assert all(block.attention and block.mlp for block in loaded.blocks)
        assert loaded.provenance["base"] == str(base)


def test_the_fingerprint_covers_base_and_adapter(base: Path, adapter: Path, tmp_path: Path) -> None:
    source = as_source(f"{base}+{adapter}")
    first = source.fingerprint()
    assert first is not None
    assert first.keys() > {"weights_sha256", "adapter_sha256", "adapter_config_sha256"}
    assert first.items() <= load_model(f"{base}+{adapter}", device="cpu").provenance.items()
    lora(base, seed=1).save_pretrained(tmp_path / "other")
    written = json.loads((adapter / "adapter_config.json").read_text())
    scaled = Path(shutil.copytree(adapter, tmp_path / "scaled"))
    (scaled / "adapter_config.json").write_text(json.dumps(written | {"lora_alpha": 1}))
    found = [as_source(f"{base}+{one}").fingerprint() for one in (tmp_path / "other", scaled)]
    assert len({json.dumps(one) for one in (first, *found)}) == 3


def test_features_of_an_adapter_are_kept_apart_from_those_of_its_base(base: Path, adapter: Path, cache: Path) -> None:
    texts = [f"w{i} w{i + 1} w{2 * i}" for i in range(8)]
    given = [str(base), f"{base}+{adapter}"]
    made = compute_features(given, texts)
    again = compute_features(given, texts)
    assert [one.extraction.cache for one in again] == [["hit"], ["hit"]]
    for one, two in zip(made, again, strict=True):
        np.testing.assert_array_equal(one.layers[5], two.layers[5])
    assert np.abs(made[0].layers[5] - made[1].layers[5]).max() > 0.01
    bare = compute_features(given[1:], texts, cache=False)[0]
    np.testing.assert_array_equal(bare.layers[5], made[1].layers[5])


def test_a_wrapped_model_in_memory_runs_with_its_adapter(base: Path, fresh_tokenizer: Callable[..., Any]) -> None:
    model = lora(base, head=True)
    loaded = load_model((model, fresh_tokenizer()))
    assert type(loaded.model).__name__ == "BertModel"
    torch.testing.assert_close(states(loaded.model)[-1], states(model)[-1])


def test_an_adapter_in_float32_on_a_base_in_bfloat16(base: Path, fresh_tokenizer: Callable[..., Any]) -> None:
    torch.manual_seed(0)
    config = LoraConfig(target_modules=["query"], init_lora_weights=False)
    model = get_peft_model(AutoModel.from_pretrained(base, dtype=torch.bfloat16), config).eval()
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16, torch.float32}
    loaded = load_model((model, fresh_tokenizer()), dtype="bfloat16")
    assert loaded.dtype == torch.bfloat16


def test_an_adapter_of_an_encoder_decoder(fresh_tokenizer: Callable[..., Any], tmp_path: Path) -> None:
    sizes = {"vocab_size": 125, "d_model": 16, "d_ff": 16, "d_kv": 8, "num_layers": 2, "num_heads": 2}
    torch.manual_seed(0)
    whole = AutoModelForSeq2SeqLM.from_config(AutoConfig.for_model("t5", **sizes, pad_token_id=1)).eval()
    whole.save_pretrained(tmp_path / "base")
    fresh_tokenizer().save_pretrained(tmp_path / "base")
    config = LoraConfig(task_type=TaskType.SEQ_2_SEQ_LM, target_modules=["q", "v"], init_lora_weights=False)
    model = get_peft_model(whole, config).eval()
    model.save_pretrained(tmp_path / "adapter")
    loaded = load_model(f"{tmp_path / 'base'}+{tmp_path / 'adapter'}", device="cpu", stack="encoder")
    torch.testing.assert_close(states(loaded.model)[-1], states(model.get_base_model().get_encoder())[-1])


def test_other_adapters_that_change_layers_work(base: Path, tmp_path: Path) -> None:
    config = IA3Config(
        target_modules=["key", "output.dense"], feedforward_modules=["output.dense"], init_ia3_weights=False
    )
    torch.manual_seed(0)
    model = get_peft_model(AutoModel.from_pretrained(base), config).eval()
    model.save_pretrained(tmp_path / "ia3")
    loaded = load_model(f"{base}+{tmp_path / 'ia3'}", device="cpu")
    torch.testing.assert_close(states(loaded.model)[-1], states(model)[-1])


def test_the_adapters_own_tokenizer_is_used(base: Path, adapter: Path, fresh_tokenizer: Callable[..., Any]) -> None:
    before = as_source(str(adapter)).fingerprint()
    fresh_tokenizer(words=["x", *(f"w{i}" for i in range(119))]).save_pretrained(adapter)
    loaded = load_model(adapter, device="cpu")
    assert before is not None
    assert loaded.provenance["tokenizer_sha256"] != before["tokenizer_sha256"]
    assert "x" in loaded.tokenizer.get_vocab()


def test_an_adapter_that_does_not_fit_is_refused(
    base: Path, adapter: Path, tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    deeper = tmp_path / "short"
    AutoModel.from_pretrained(base, num_hidden_layers=4).save_pretrained(deeper)
    AutoTokenizer.from_pretrained(base).save_pretrained(deeper)
    assert "has no place for base_model.model.encoder.layer.4" in refusal(f"{deeper}+{adapter}")
    assert "does not fit" in refusal(f"{tiny_model('gpt2')}+{adapter}")
    weights = load_file(adapter / "adapter_model.safetensors")
    weights.pop(next(name for name in weights if "layer.3" in name))
    save_file(weights, adapter / "adapter_model.safetensors")
    assert "it lacks base_model.model.encoder.layer.3" in refusal(adapter)


def test_prompt_adapters_are_refused(base: Path, tmp_path: Path) -> None:
    config = PromptTuningConfig(task_type=TaskType.FEATURE_EXTRACTION, num_virtual_tokens=3)
    get_peft_model(AutoModel.from_pretrained(base), config).save_pretrained(tmp_path / "prompt")
    assert "virtual tokens" in refusal(f"{base}+{tmp_path / 'prompt'}")


def test_what_is_missing_is_named(base: Path, adapter: Path, tmp_path: Path) -> None:
    assert "it has no adapter_config.json" in refusal(f"{base}+{base}")
    assert "does not exist" in refusal(f"{base}+{tmp_path / 'none'}")
    assert "two adapters" in refusal(f"{base}+{adapter}+{adapter}")
    written = json.loads((adapter / "adapter_config.json").read_text())
    another = (str(adapter), "which is an adapter itself")
    for name, says in ((str(tmp_path / "gone"), "which is not here"), (None, "names no base"), another):
        (adapter / "adapter_config.json").write_text(json.dumps(written | {"base_model_name_or_path": name}))
        assert says in refusal(adapter)
    (adapter / "adapter_model.safetensors").unlink()
    assert "has no adapter_model.safetensors" in refusal(f"{base}+{adapter}")


def test_a_model_and_an_adapter_in_one_directory_are_refused(base: Path, adapter: Path) -> None:
    for file in adapter.iterdir():
        shutil.copy(file, base)
    assert "a model and an adapter" in refusal(base)


def test_pickled_adapters_need_the_flag(base: Path, adapter: Path) -> None:
    weights = load_file(adapter / "adapter_model.safetensors")
    expected = states(load_model(adapter, device="cpu").model)
    torch.save(weights, adapter / "adapter_model.bin")
    (adapter / "adapter_model.safetensors").unlink()
    assert "--allow-bin" in refusal(adapter)
    found = states(load_model(adapter, device="cpu", allow_bin=True).model)
    torch.testing.assert_close(found[-1], expected[-1], rtol=0, atol=0)


def test_without_peft_the_cure_is_named(base: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **options: Any) -> Any:
        if name == "peft":
            raise ImportError(name)
        return real(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    message = refusal(adapter)
    assert "pip install 'cka-tools[adapters]'" in message
    assert "merge" in message
