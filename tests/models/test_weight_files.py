"""Whose weights a directory holds: what is loaded is what is hashed, and lies in the directory itself."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from cka_tools.compute import compute_features
from cka_tools.errors import UserError
from cka_tools.models import as_source, load_model

PROBE = "encoder.layer.0.attention.self.query.weight"
INDEX = "model.safetensors.index.json"
TEXTS = ["w1 w2", "w3 w4", "w5", "w6 w7 w8"]


@pytest.fixture
def folder(tiny_model: Callable[..., Path], tmp_path: Path) -> Path:
    """A tiny BERT with the weights of seed 0."""
    return Path(shutil.copytree(tiny_model("bert"), tmp_path / "model"))


@pytest.fixture
def other(tiny_model: Callable[..., Path]) -> Path:
    """Weights of seed 1."""
    return tiny_model("bert", seed=1) / "model.safetensors"


def name_weights(folder: Path, name: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"transformers_weights": name}))


def write_index(folder: Path, weight_map: Any) -> None:
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))


def split(folder: Path) -> list[Path]:
    """Put shards and their index in place of the single file."""
    AutoModel.from_pretrained(folder).save_pretrained(folder, max_shard_size="150KB")
    (folder / "model.safetensors").unlink(missing_ok=True)
    return sorted(folder.glob("model-*.safetensors"))


def refusal(folder: Path) -> str:
    """Loading and hashing refuse alike."""
    with pytest.raises(UserError) as caught:
        load_model(folder, device="cpu")
    with pytest.raises(UserError) as again:
        as_source(folder).fingerprint()
    assert str(caught.value) == str(again.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_file_that_the_config_names_is_loaded_and_hashed(folder: Path, other: Path) -> None:
    shutil.copyfile(other, folder / "other.safetensors")
    name_weights(folder, "other.safetensors")
    loaded = load_model(folder, device="cpu")
    assert torch.equal(loaded.model.state_dict()[PROBE], load_file(other)[PROBE])
    assert loaded.provenance["weights_sha256"] == hashlib.sha256(other.read_bytes()).hexdigest()


def test_shards_are_loaded_and_hashed_by_their_index(folder: Path) -> None:
    expected = load_file(folder / "model.safetensors")[PROBE]
    shards = split(folder)
    assert len(shards) > 1
    loaded = load_model(folder, device="cpu")
    assert torch.equal(loaded.model.state_dict()[PROBE], expected)
    before = loaded.provenance["weights_sha256"]
    changed = {name: tensor + 1 for name, tensor in load_file(shards[-1]).items()}
    save_file(changed, shards[-1], metadata={"format": "pt"})
    assert load_model(folder, device="cpu").provenance["weights_sha256"] != before


@pytest.mark.parametrize("name", ["../other.safetensors", "sub/other.safetensors", "..", 7, ["a"]])
def test_weights_named_elsewhere_are_refused(folder: Path, other: Path, name: Any) -> None:
    (folder / "sub").mkdir()
    for place in (folder / "sub", folder.parent):
        shutil.copyfile(other, place / "other.safetensors")
    name_weights(folder, name)
    assert f"config.json names weights in {name!r}" in refusal(folder)


@pytest.mark.parametrize("name", ["../other.safetensors", "sub/other.safetensors"])
def test_an_index_that_names_weights_elsewhere_is_refused(folder: Path, other: Path, name: str) -> None:
    (folder / "sub").mkdir()
    for place in (folder / "sub", folder.parent):
        shutil.copyfile(other, place / "other.safetensors")
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(folder / "decoy.safetensors")
    write_index(folder, dict.fromkeys(weights, name))
    assert f"{INDEX} names weights in {name!r}" in refusal(folder)


@pytest.mark.parametrize("by", ["index", "config"])
def test_a_pickle_is_never_read_whoever_names_it(folder: Path, by: str) -> None:
    weights = load_file(folder / "model.safetensors")
    torch.save(weights, folder / "real.bin")
    if by == "index":
        (folder / "model.safetensors").rename(folder / "decoy.safetensors")
        write_index(folder, dict.fromkeys(weights, "real.bin"))
    else:
        name_weights(folder, "real.bin")
    assert "has weights in real.bin, which is not safetensors" in refusal(folder)


def test_a_shard_that_is_missing_is_named(folder: Path) -> None:
    shards = split(folder)
    shards[0].unlink()
    assert f"{shards[0].name!r}, which is missing" in refusal(folder)


@pytest.mark.parametrize("weight_map", [{}, [], None])
def test_an_index_of_nothing_is_refused(folder: Path, weight_map: Any) -> None:
    (folder / "model.safetensors").unlink()
    write_index(folder, weight_map)
    assert "names no weights" in refusal(folder)


def test_two_sets_of_weights_are_both_named(folder: Path) -> None:
    stale = (folder / "model.safetensors").read_bytes()
    shards = split(folder)
    (folder / "model.safetensors").write_bytes(stale)
    assert f"model.safetensors and {INDEX}" in refusal(folder)
    (folder / INDEX).unlink()
    assert f"model.safetensors and {shards[0].name}" in refusal(folder)


def test_weights_under_another_name_are_named(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model.fp16.safetensors")
    assert "model.fp16.safetensors" in refusal(folder)


def test_an_adapter_beside_the_weights_is_refused(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")
    assert "adapter_config.json" in refusal(folder)


def add_weights(folder: Path, **extra: tuple[int, ...]) -> None:
    file = folder / "model.safetensors"
    more = {name: torch.ones(shape) for name, shape in extra.items()}
    save_file(load_file(file) | more, file, metadata={"format": "pt"})


@pytest.mark.parametrize("prefix", ["", "bert."])
def test_weights_inside_a_layer_that_are_not_used_are_an_error_that_names_them(
    tiny_model: Callable[..., Path], tmp_path: Path, prefix: str
) -> None:
    """A BERT with relative positions whose config does not say so."""
    folder = Path(shutil.copytree(tiny_model("bert", head=bool(prefix)), tmp_path / "model"))
    key = f"{prefix}encoder.layer.3.attention.self.distance_embedding.weight"
    add_weights(folder, **{key: (127, 8)})
    with pytest.raises(UserError, match="1 weights inside its layers") as caught:
        load_model(folder, device="cpu")
    assert "encoder.layer.3.attention.self.distance_embedding.weight" in str(caught.value)
    assert "--allow-unused-weights" in str(caught.value)
    allowed = load_model(folder, device="cpu", allow_unused_weights=True)
    assert any("distance_embedding" in note for note in allowed.notes)
    compute_features([folder], TEXTS, device="cpu", allow_unused_weights=True)
    with pytest.raises(UserError, match="1 weights inside its layers"):
        compute_features([folder], TEXTS, device="cpu")


def test_biases_that_the_config_turns_off_are_an_error(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model("llama"), tmp_path / "model"))
    biases = {f"layers.{i}.self_attn.{name}_proj.bias": (32,) for i in range(6) for name in "qo"}
    add_weights(folder, **biases)
    with pytest.raises(UserError, match=r"12 weights inside its layers .*layers\.0\.self_attn\.o_proj\.bias"):
        load_model(folder, device="cpu")


@pytest.mark.parametrize("architecture", ["bert", "gpt2", "llama", "modernbert"])
def test_heads_and_old_buffers_stay_quiet(architecture: str, tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model(architecture, head=True), tmp_path / "model"))
    add_weights(folder, **{"classifier.weight": (2, 32), "pooler.dense.bias": (32,)})
    if architecture == "gpt2":
        add_weights(folder, **{"transformer.h.0.attn.bias": (1, 1, 64, 64)})
    if architecture == "llama":
        add_weights(folder, **{"model.layers.0.self_attn.rotary_emb.inv_freq": (4,)})
    assert load_model(folder, device="cpu").notes == []
