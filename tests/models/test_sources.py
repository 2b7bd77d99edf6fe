"""Sources of models: what they are by content, which of them are the same, and the causal view."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModel

from cka_tools.errors import UserError
from cka_tools.models import CausalSource, LoadOptions, MemorySource, ModelSource, as_source, load_model
from cka_tools.training.attention import attention_masks

CPU = LoadOptions(device="cpu")


@pytest.fixture
def copied(tiny_model: Callable[..., Path], tmp_path: Path) -> Path:
    """A tiny ModernBERT's directory that a test may change."""
    return Path(shutil.copytree(tiny_model("modernbert"), tmp_path / "model"))


@pytest.fixture
def pair(fresh_model: Callable[..., Any], fresh_tokenizer: Callable[..., Any]) -> tuple[Any, Any]:
    return fresh_model("modernbert"), fresh_tokenizer()


def refusal(given: Any) -> str:
    with pytest.raises(UserError) as caught:
        as_source(given).load(CPU)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("causal", [False, True])
def test_a_fingerprint_stands_in_the_provenance(copied: Path, causal: bool) -> None:
    source: ModelSource = as_source(copied)
    if causal:
        source = CausalSource(source)
    before = source.fingerprint()
    assert before is not None
    assert set(before) == {"weights_sha256", "config_sha256", "tokenizer_sha256"} | ({"mask"} if causal else set())
    assert before["weights_sha256"] == hashlib.sha256((copied / "model.safetensors").read_bytes()).hexdigest()
    loaded = source.load(CPU)
    assert before.items() <= loaded.provenance.items()
    assert (loaded.provenance["kind"], loaded.name) == ("local", str(copied))


def test_a_fingerprint_needs_no_weights_that_load(copied: Path) -> None:
    weights = copied / "model.safetensors"
    save_file({"other": torch.zeros(3)}, weights, metadata={"format": "pt"})
    source = as_source(copied)
    found = source.fingerprint()
    assert found is not None
    assert found["weights_sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    with pytest.raises(UserError, match="lacks"):
        source.load(CPU)


def test_a_fingerprint_follows_a_file_that_is_written_again(copied: Path, tiny_model: Callable[..., Path]) -> None:
    source = as_source(copied)
    before = source.fingerprint()
    other = tiny_model("modernbert", seed=1) / "model.safetensors"
    shutil.copyfile(other, copied / "model.safetensors")
    after = source.fingerprint()
    assert before is not None
    assert after == before | {"weights_sha256": hashlib.sha256(other.read_bytes()).hexdigest()}
    assert source.load(CPU).provenance["weights_sha256"] == after["weights_sha256"]


def test_only_loading_tells_what_a_model_in_memory_is(pair: tuple[Any, Any]) -> None:
    assert as_source(pair).fingerprint() is None
    assert CausalSource(as_source(pair)).fingerprint() is None


def test_hashes_do_not_tell_what_own_code_does(copied: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    (copied / "homemade.py").write_text(
        "from transformers import ModernBertConfig, ModernBertModel\n"
        "class HomeConfig(ModernBertConfig):\n    model_type = 'handmade'\n"
        "class HomeModel(ModernBertModel):\n    config_class = HomeConfig\n"
    )
    config = copied / "config.json"
    auto_map = '"auto_map": {"AutoConfig": "homemade.HomeConfig", "AutoModel": "homemade.HomeModel"},'
    text = config.read_text().replace('"model_type": "modernbert"', '"model_type": "handmade"')
    config.write_text(text.replace("{", "{" + auto_map, 1))
    source = as_source(copied)
    assert source.fingerprint() is None
    with pytest.raises(UserError, match="--trust-remote-code"):
        source.load(CPU)
    source.load(LoadOptions("cpu", trust_remote_code=True))
    assert source.fingerprint() is None


def test_a_checkpoint_is_opened_once(copied: Path) -> None:
    source = as_source(copied)
    outline = source.outline(CPU)
    for file in copied.glob("tokenizer*"):
        file.unlink()
    loaded = source.load(CPU)
    assert loaded.tokenizer is outline.tokenizer
    assert [block.path for block in loaded.blocks] == [block.path for block in outline.blocks]
    assert {p.device.type for p in outline.model.parameters()} == {"meta"}


def test_sources_of_one_model_are_equal(
    pair: tuple[Any, Any], fresh_tokenizer: Callable[..., Any], copied: Path
) -> None:
    spec, memory = as_source(copied), as_source(pair)
    same = [
        (spec, as_source(str(copied))),
        (memory, MemorySource(*pair)),
        (CausalSource(spec), CausalSource(as_source(copied))),
        (CausalSource(memory), CausalSource(as_source(pair))),
    ]
    for one, other in same:
        assert one == other
        assert hash(one) == hash(other)
    apart = [spec, memory, CausalSource(spec), CausalSource(memory), as_source("org/name"),
             as_source("org/name@v1"), as_source((pair[0], fresh_tokenizer()))]  # fmt: skip
    assert len(set(apart)) == len(apart)
    assert as_source(spec) is spec


def test_what_is_no_model_is_named(pair: tuple[Any, Any]) -> None:
    assert "(ModernBertModel)" in refusal((pair[0],))
    assert "without its tokenizer" in refusal(pair[0])
    assert "cannot be given as int" in refusal(7)
    assert "cannot be given as list" in refusal([*pair])


def test_another_kind_of_source_is_loaded_like_any(pair: tuple[Any, Any]) -> None:
    class Zeroed:
        """Its first block adds nothing."""

        name = "zeroed"
        folder = None

        def fingerprint(self) -> None:
            return None

        def outline(self, options: LoadOptions) -> Any:
            return as_source(pair).outline(options)

        def load(self, options: LoadOptions) -> Any:
            torch.nn.init.zeros_(pair[0].layers[0].attn.Wo.weight)
            return as_source(pair).load(options)

    loaded = load_model(Zeroed(), device="cpu")
    assert float(loaded.model.layers[0].attn.Wo.weight.detach().abs().max()) == 0


def hidden(model: Any, ids: torch.Tensor, mask: Any) -> torch.Tensor:
    """All hidden states, (layers + 1, batch, tokens, features)."""
    with torch.no_grad():
        return torch.stack(model(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_in_the_causal_view_the_future_changes_nothing(copied: Path, dtype: str) -> None:
    view = CausalSource(as_source(copied)).load(LoadOptions("cpu", dtype)).model
    ids = torch.arange(5, 45).reshape(2, 20)
    changed = ids.clone()
    changed[:, 12:] = 7
    mask = torch.ones_like(ids)
    before, after = hidden(view, ids, mask), hidden(view, changed, mask)
    assert torch.equal(before[:, :, :12], after[:, :, :12])
    assert not torch.allclose(before[-1, :, 12:], after[-1, :, 12:])


def test_padding_changes_nothing_in_the_causal_view(copied: Path) -> None:
    view = CausalSource(as_source(copied)).load(CPU).model
    ids = torch.arange(5, 25)[None]
    padded = torch.cat([ids, torch.ones(1, 6, dtype=torch.long)], 1)
    mask = torch.cat([torch.ones_like(ids), torch.zeros(1, 6, dtype=torch.long)], 1)
    alone = hidden(view, ids, torch.ones_like(ids))
    torch.testing.assert_close(hidden(view, padded, mask)[:, :, :20], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_causal_view_has_the_masks_of_training(
    attention: str, fresh_model: Callable[..., Any], fresh_tokenizer: Callable[..., Any]
) -> None:
    model = fresh_model("modernbert", head=True)
    model.set_attn_implementation(attention)
    ids = torch.arange(5, 45).reshape(2, 20)
    plain = hidden(model.model, ids, torch.ones_like(ids))
    expected = hidden(model.model, ids, attention_masks(model, torch.zeros_like(ids), causal=True))
    view = CausalSource(as_source((model, fresh_tokenizer()))).load(CPU).model
    assert torch.equal(hidden(view, ids, torch.ones_like(ids)), expected)
    # The model that was given still sees both ways.
    assert torch.equal(hidden(model.model, ids, torch.ones_like(ids)), plain)
    assert not torch.allclose(plain[1:], expected[1:], atol=1e-3)


def test_the_causal_view_of_a_checkpoint_has_all_its_weights(copied: Path) -> None:
    loaded = CausalSource(as_source(copied)).load(CPU)
    plain = AutoModel.from_pretrained(copied).state_dict()
    found = loaded.model.state_dict()
    assert found.keys() == plain.keys()
    assert all(torch.equal(found[name], plain[name]) for name in plain)


@pytest.mark.parametrize("architecture", ["bert", "modernbert-decoder"])
def test_only_a_modernbert_encoder_is_seen_causally(architecture: str, tiny_model: Callable[..., Path]) -> None:
    assert "only a ModernBERT encoder" in refusal(CausalSource(as_source(tiny_model(architecture))))
