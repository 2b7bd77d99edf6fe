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

from cka_tools.errors import UserError
from cka_tools.models import as_source, load_model

PROBE = "encoder.layer.0.attention.self.query.weight"
INDEX = "model.safetensors.index.json"


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
