"""Directories as people have them: pickled or quantized weights, one stack of two, and what is no model."""

import json
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig, AutoModel, BitsAndBytesConfig, T5EncoderModel
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from cka_tools.compute import compute_features
from cka_tools.documents import Document
from cka_tools.errors import UserError
from cka_tools.models import LoadedModel, load_model
from cka_tools.models.load import finish
from cka_tools.store.cached_extraction import extract_cached

SEQ2SEQ = {"vocab_size": 125, "d_model": 16, "pad_token_id": 1}
T5 = SEQ2SEQ | {"d_ff": 16, "d_kv": 8, "num_layers": 3, "num_decoder_layers": 2, "num_heads": 2}
BART = SEQ2SEQ | {
    "encoder_layers": 3,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16,
    "max_position_embeddings": 64,
}


@pytest.fixture
def copied(tiny_model: Callable[..., Path], tmp_path: Path) -> Path:
    """A tiny model's directory that a test may damage."""
    return Path(shutil.copytree(tiny_model("bert"), tmp_path / "model"))


def refusal(given: Any, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        load_model(given, **{"device": "cpu", **options})
    assert "\n" not in str(caught.value)
    return str(caught.value)


def last_layer(model: Any) -> torch.Tensor:
    ids = torch.tensor([[0, *range(7, 20), 2]])
    with torch.no_grad():
        return model(input_ids=ids).last_hidden_state


def edit_config(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize("classes", ["BertModel", 3, True, [1], {"a": 1}])
def test_architectures_that_are_no_list_of_names_are_refused(copied: Path, classes: object) -> None:
    edit_config(copied, architectures=classes)
    assert "architectures in config.json is" in refusal(copied)


@pytest.mark.parametrize("classes", [None, []])
def test_a_config_may_name_no_architecture(copied: Path, classes: object) -> None:
    edit_config(copied, architectures=classes)
    assert load_model(copied, device="cpu").blocks


def test_an_unknown_activation_is_named(copied: Path) -> None:
    edit_config(copied, hidden_act="nope")
    assert refusal(copied).endswith("cannot be loaded as its config.json says: there is no 'nope'")


def test_a_tokenizer_that_panics_is_refused_in_one_line(copied: Path) -> None:
    """Which Rust does beyond `Exception`: here at a text, as a special token is not in the table of them."""
    file = copied / "tokenizer.json"
    written = json.loads(file.read_text())
    written["post_processor"] = {
        "type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}], "pair": [],
        "special_tokens": {},
    }  # fmt: skip
    file.write_text(json.dumps(written))
    assert "its tokenizer cannot be loaded, write it with tokenizer.save_pretrained" in refusal(copied)


def test_weights_quantized_by_an_unknown_method_are_refused(copied: Path) -> None:
    """They would else be read as if their numbers were the weights."""
    edit_config(copied, quantization_config={"quant_method": "of-our-own", "bits": 8})
    message = refusal(copied)
    assert "its weights are quantized (of-our-own): install what reads them" in message
    assert "does not know this method" in message


# Pickled weights.


def pickle_weights(folder: Path, *, shards: int = 1) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    if shards == 1:
        torch.save(weights, folder / "pytorch_model.bin")
        return
    names = {name: f"pytorch_model-{1 + at % shards:05}-of-{shards:05}.bin" for at, name in enumerate(weights)}
    for file in set(names.values()):
        torch.save({name: weights[name] for name in names if names[name] == file}, folder / file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))


@pytest.mark.parametrize("shards", [1, 2])
def test_pickled_tensors_are_read_if_that_is_allowed(shards: int, copied: Path) -> None:
    expected = last_layer(load_model(copied, device="cpu").model)
    pickle_weights(copied, shards=shards)
    assert "--allow-bin" in refusal(copied)
    loaded = load_model(copied, device="cpu", allow_bin=True)
    torch.testing.assert_close(last_layer(loaded.model), expected, rtol=0, atol=0)
    digest = loaded.provenance["weights_sha256"]
    file = next(copied.glob("*.bin"))
    weights = torch.load(file, weights_only=True)
    weights[next(iter(weights))] += 1
    torch.save(weights, file)
    assert load_model(copied, device="cpu", allow_bin=True).provenance["weights_sha256"] != digest


def test_safetensors_are_read_where_both_are_there(copied: Path) -> None:
    before = load_model(copied, device="cpu").provenance["weights_sha256"]
    torch.save({}, copied / "pytorch_model.bin")
    assert load_model(copied, device="cpu", allow_bin=True).provenance["weights_sha256"] == before


class Evil:
    ran: ClassVar[list[int]] = []

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Evil.ran.append, (1,)


def test_code_in_a_pickle_does_not_run(copied: Path) -> None:
    pickle_weights(copied)
    torch.save({"embeddings.word_embeddings.weight": Evil()}, copied / "pytorch_model.bin")
    assert "cannot be loaded" in refusal(copied, allow_bin=True)
    assert Evil.ran == []


def test_other_pickles_are_not_read(copied: Path) -> None:
    pickle_weights(copied)
    (copied / "pytorch_model.bin").rename(copied / "model.pt")
    assert "only pickled weights" in refusal(copied, allow_bin=True)
    edit_config(copied, transformers_weights="model.pt")
    assert "model.pt, which is not safetensors" in refusal(copied, allow_bin=True)


# Quantized weights.


def test_quantized_weights_name_what_reads_them(copied: Path) -> None:
    edit_config(copied, quantization_config={"quant_method": "gptq", "bits": 4, "group_size": 128})
    message = refusal(copied)
    assert "its weights are quantized (gptq)" in message
    assert "install" in message


@pytest.mark.skipif(find_spec("bitsandbytes") is not None, reason="bitsandbytes is here")
def test_the_package_that_reads_quantized_weights_is_named_where_it_lacks(copied: Path) -> None:
    edit_config(copied, quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True})
    assert "pip install -U bitsandbytes" in refusal(copied)


@pytest.mark.parametrize("how", [{"load_in_8bit": True}, {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}])
def test_features_of_quantized_weights_are_those_of_the_package(
    how: dict[str, Any], tmp_path: Path, fresh_model: Callable[..., Any], fresh_tokenizer: Callable[..., Any]
) -> None:
    version = pytest.importorskip("bitsandbytes").__version__
    full, folder = tmp_path / "full", tmp_path / "quantized"
    fresh_model("bert", hidden_size=64, intermediate_size=64, num_hidden_layers=3).save_pretrained(full)
    config = BitsAndBytesConfig(**how)
    AutoModel.from_pretrained(full, quantization_config=config, device_map={"": "cpu"}).save_pretrained(folder)
    for each in (full, folder):
        fresh_tokenizer().save_pretrained(each)
    whole = load_model(full, device="cpu")
    loaded = load_model(folder, device="cpu")
    assert loaded.provenance["quantization"]["method"] == "bitsandbytes"
    assert loaded.provenance["quantization"]["packages"]["bitsandbytes"] == version
    assert loaded.provenance["parameters"] == whole.provenance["parameters"]
    assert any("are quantized (bitsandbytes)" in note for note in loaded.notes)
    plain = AutoModel.from_pretrained(folder, device_map={"": "cpu"}).eval()
    texts = ["w1 w2 w3", "w4 w5 w6 w7 w8 w9", "w3 w1"]
    documents = [Document(text, text) for text in texts]
    found, of_whole = (extract_cached(one, documents, cache=False).features[0].features[1] for one in (loaded, whole))
    for at, text in enumerate(texts):
        ids = torch.tensor([fresh_tokenizer()(text)["input_ids"]])
        with torch.no_grad():
            states = plain(input_ids=ids, output_hidden_states=True).hidden_states
        np.testing.assert_allclose(found[at], states[2][0].float().mean(0), atol=2e-3)
    assert np.abs(found - of_whole).max() > 1e-4


def test_a_quantizer_that_is_installed_is_used(copied: Path) -> None:
    @register_quantization_config("doubled")
    class Doubled(QuantizationConfigMixin):
        def __init__(self, **options: Any) -> None:
            self.quant_method = "doubled"  # type: ignore[assignment]

    @register_quantizer("doubled")
    class Doubler(HfQuantizer):
        requires_calibration = False
        is_serializable = True
        is_trainable = False

        def _process_model_after_weight_loading(self, model: Any, **options: Any) -> Any:
            model.embeddings.word_embeddings.weight.data.mul_(2)
            return model

    plain = load_model(copied, device="cpu")
    edit_config(copied, quantization_config={"quant_method": "doubled"})
    found = load_model(copied, device="cpu")
    expected = 2 * plain.model.embeddings.word_embeddings.weight
    torch.testing.assert_close(found.model.embeddings.word_embeddings.weight, expected, rtol=0, atol=0)
    assert found.provenance["quantization"]["method"] == "doubled"
    assert "quantization" not in plain.provenance


# One stack of two.


@pytest.fixture(params=[("t5", T5), ("bart", BART)], ids=["t5", "bart"])
def seq2seq(request: pytest.FixtureRequest, fresh_tokenizer: Callable[..., Any], tmp_path: Path) -> Path:
    kind, sizes = request.param
    torch.manual_seed(0)
    AutoModel.from_config(AutoConfig.for_model(kind, **sizes)).save_pretrained(tmp_path)
    fresh_tokenizer().save_pretrained(tmp_path)
    return tmp_path


def test_the_encoder_of_an_encoder_decoder(seq2seq: Path) -> None:
    assert "--stack encoder" in refusal(seq2seq)
    loaded = load_model(seq2seq, device="cpu", stack="encoder")
    assert len(loaded.blocks) == 3
    whole = AutoModel.from_pretrained(seq2seq).eval()
    torch.testing.assert_close(last_layer(loaded.model), last_layer(whole.get_encoder()), rtol=0, atol=0)
    memory = load_model((whole, loaded.tokenizer), stack="encoder")
    torch.testing.assert_close(last_layer(memory.model), last_layer(loaded.model), rtol=0, atol=0)
    assert "--stack encoder" in refusal((whole, loaded.tokenizer))


def test_its_features_are_kept(seq2seq: Path, cache: Path) -> None:
    texts = [f"w{i} w{i + 1} w{2 * i}" for i in range(8)]
    for state in ("made", "hit"):
        (found,) = compute_features([seq2seq], texts, stack="encoder")
        assert found.extraction.cache == [state]
        assert {one.shape for one in found.layers.values()} == {(8, 16)}


def test_a_checkpoint_of_the_encoder_alone(fresh_tokenizer: Callable[..., Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = T5EncoderModel(AutoConfig.for_model("t5", **T5)).eval()
    encoder.save_pretrained(tmp_path)
    fresh_tokenizer().save_pretrained(tmp_path)
    edit_config(tmp_path, is_encoder_decoder=True)  # as published ones say
    assert "--stack encoder" in refusal(tmp_path)
    loaded = load_model(tmp_path, device="cpu", stack="encoder")
    torch.testing.assert_close(last_layer(loaded.model), last_layer(encoder), rtol=0, atol=0)
    assert len(load_model((encoder, fresh_tokenizer())).blocks) == 3
    weights = load_file(tmp_path / "model.safetensors")
    weights.pop("encoder.block.1.layer.0.SelfAttention.q.weight")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert "lacks 1 weights of T5Stack" in refusal(tmp_path, stack="encoder")


def test_weights_that_the_encoder_does_not_use_are_found(seq2seq: Path) -> None:
    weights = load_file(seq2seq / "model.safetensors")
    name = next(name for name in weights if name.startswith("encoder.") and ".1." in name)
    weights[f"{name}_extra"] = torch.zeros(3)
    save_file(weights, seq2seq / "model.safetensors", metadata={"format": "pt"})
    assert f"{name}_extra" in refusal(seq2seq, stack="encoder")


def test_a_model_of_one_stack_is_taken_as_it_is(copied: Path) -> None:
    assert len(load_model(copied, device="cpu", stack="encoder").blocks) == 6


# In wrappers.


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile, lambda model: nn.DataParallel(torch.compile(model))])
def test_wrappers_are_taken_off_with_a_note(
    wrap: Callable[..., Any], fresh_model: Callable[..., Any], fresh_tokenizer: Callable[..., Any]
) -> None:
    model, tokenizer = fresh_model("bert", head=True), fresh_tokenizer()
    loaded = load_model((wrap(model), tokenizer))
    assert loaded.model is model.bert
    assert loaded.name == "BertForMaskedLM"
    assert len(loaded.notes) == 1
    assert "the model itself runs" in loaded.notes[0]
    assert load_model((model, tokenizer)).notes == []


def test_a_model_that_was_compiled_in_place_runs_as_it_was(
    fresh_model: Callable[..., Any], fresh_tokenizer: Callable[..., Any]
) -> None:
    model = fresh_model("bert")
    model._compiled_call_impl = lambda *args, **options: pytest.fail("the compiled graph ran")
    load_model((model, fresh_tokenizer()))
    assert model._compiled_call_impl is not None


# On several devices.


def test_a_device_map_gives_the_same_features(copied: Path) -> None:
    texts = [f"w{i} w{i + 1} w{2 * i}" for i in range(8)]
    (plain,) = compute_features([copied], texts, cache=False)
    (spread,) = compute_features([copied], texts, device_map="auto")
    assert spread.extraction.cache == ["made"]  # not taken for the plain one's
    for layer, values in plain.layers.items():
        assert (spread.layers[layer] == values).all()


def test_layers_whose_weights_are_elsewhere_are_taken(copied: Path, tmp_path: Path) -> None:
    from accelerate import disk_offload

    expected = load_model(copied, device="cpu")
    model = AutoModel.from_pretrained(copied).eval()
    disk_offload(model, str(tmp_path / "offload"), execution_device="cpu", offload_buffers=False)
    assert "not in memory" in refusal((model, expected.tokenizer))
    found = finish(LoadedModel("spread", model, expected.tokenizer, [], {}))
    assert found.device.type == "cpu"
    torch.testing.assert_close(last_layer(found.model), last_layer(expected.model), rtol=0, atol=0)


# What is no model.


def test_a_pointer_of_git_lfs_is_named(copied: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
    (copied / "model.safetensors").write_text(pointer)
    assert "git lfs pull" in refusal(copied)
    (copied / "model.safetensors").rename(copied / "pytorch_model.bin")
    assert "git lfs pull" in refusal(copied, allow_bin=True)


@pytest.mark.parametrize("kept", [0, 5, 100, -1])
def test_weights_that_were_cut_are_named_before_anything_runs(kept: int, copied: Path) -> None:
    file = copied / "model.safetensors"
    whole = file.stat().st_size
    file.write_bytes(file.read_bytes()[:kept])
    message = refusal(copied)
    assert "copy it again" in message
    assert kept != -1 or f"has {whole - 1} bytes of {whole}" in message


def test_weights_of_another_shape_are_named(copied: Path) -> None:
    edit_config(copied, intermediate_size=40)
    message = refusal(copied)
    assert "intermediate.dense" in message
    assert "(48" in message
    assert "config.json" in message


def test_a_directory_around_models_points_at_the_last_one(copied: Path, tmp_path: Path) -> None:
    for name in ("checkpoint-500", "checkpoint-1000"):
        shutil.copytree(copied, tmp_path / "run" / name)
    assert f"give the model inside, '{tmp_path / 'run' / 'checkpoint-1000'}'" in refusal(tmp_path / "run")
    shutil.copytree(copied, tmp_path / "sentences" / "0_Transformer")
    (tmp_path / "sentences" / "1_Pooling").mkdir()
    (tmp_path / "sentences" / "1_Pooling" / "config.json").write_text("{}")
    assert "0_Transformer'" in refusal(tmp_path / "sentences")


def test_weights_under_another_name_say_which(copied: Path) -> None:
    (copied / "model.safetensors").rename(copied / "model.fp16.safetensors")
    assert "model.fp16.safetensors: if these are its weights, rename the file to model.safetensors" in refusal(copied)


def test_a_tokenizer_config_alone_is_no_tokenizer(copied: Path) -> None:
    (copied / "tokenizer.json").unlink()
    assert "write it with tokenizer.save_pretrained" in refusal(copied)
