"""What a checkpoint is found by without its weights in memory, and that nothing else is taken for it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from cka_tools.extraction.extract import plan_forwards, prepare
from cka_tools.models import CausalSource, LoadOptions, as_source, load_model
from cka_tools.settings import Settings
from cka_tools.store.cached_extraction import extract_cached
from cka_tools.store.key import entry_key, known_content

SETTINGS = Settings(max_length=64, batch_tokens=256)
CPU = LoadOptions(device="cpu")


@pytest.fixture
def copied(tiny_model: Any, tmp_path: Path) -> Path:
    """A tiny ModernBERT's directory that a test may change."""
    return Path(shutil.copytree(tiny_model("modernbert"), tmp_path / "model"))


def must_not_load() -> Any:
    raise AssertionError("the model was loaded")


def content_of(source: Any, model: Any) -> dict[str, Any]:
    fingerprint = source.fingerprint()
    assert fingerprint is not None
    return known_content(model, fingerprint)


def key_of(source: Any, documents: Any, model: Any) -> str:
    (forward,) = plan_forwards([model], SETTINGS)
    prepared = prepare([model], documents, SETTINGS)
    content = content_of(source, model)
    return entry_key(forward, prepared.tables[0], prepared, documents, SETTINGS, content).digest


@pytest.mark.parametrize("causal", [False, True])
def test_features_are_found_without_loading_to_the_bit(
    copied: Path, causal: bool, cache: Path, tiny_documents: Any, passes: Any, same_bits: Any
) -> None:
    source: Any = CausalSource(as_source(copied)) if causal else as_source(copied)
    loaded, outline = source.load(CPU), source.outline(CPU)
    content = content_of(source, outline)
    expected = extract_cached(loaded, tiny_documents, SETTINGS, cache=False)
    made = extract_cached(loaded, tiny_documents, SETTINGS, content=content)
    passes.clear()
    found = extract_cached(outline, tiny_documents, SETTINGS, load=must_not_load, content=content)
    assert (made.cache, found.cache, passes) == (["made"], ["hit"], [])
    assert same_bits(made, expected)
    assert same_bits(found, expected)
    (entry,) = (cache / "features").iterdir()
    assert entry.name == key_of(source, tiny_documents, outline)


def test_an_outline_that_is_not_in_the_store_is_loaded_once(copied: Path, cache: Path, tiny_documents: Any) -> None:
    source, loads = as_source(copied), []

    def load() -> Any:
        loads.append(1)
        return source.load(CPU)

    outline = source.outline(CPU)
    states = [
        extract_cached(outline, tiny_documents, SETTINGS, load=load, content=content_of(source, outline)).cache
        for _ in range(2)
    ]
    assert (states, loads) == ([["made"], ["hit"]], [1])


def test_a_checkpoint_is_known_alike_loaded_or_not(architecture: str, tiny_model: Any) -> None:
    source = as_source(tiny_model(architecture))
    fingerprint, loaded = source.fingerprint(), source.load(CPU)
    assert fingerprint is not None
    assert {name: loaded.provenance[name] for name in fingerprint} == fingerprint
    assert known_content(source.outline(CPU), fingerprint) == known_content(loaded, fingerprint)


def test_the_same_files_elsewhere_have_the_same_key(copied: Path, tiny_model: Any, tiny_documents: Any) -> None:
    first, second = as_source(tiny_model("modernbert")), as_source(copied)
    keys = {key_of(source, tiny_documents, source.outline(CPU)) for source in (first, second)}
    assert len(keys) == 1


@pytest.mark.parametrize("change", ["weights", "config", "tokenizer", "dtype", "mask", "attention"])
def test_each_part_of_a_checkpoint_changes_its_key(
    change: str, copied: Path, tiny_model: Any, tiny_documents: Any
) -> None:
    before = as_source(tiny_model("modernbert"))
    source: Any = as_source(copied)
    options = CPU
    if change == "weights":
        shutil.copy(tiny_model("modernbert", seed=1) / "model.safetensors", copied)
    elif change == "config":
        config = json.loads((copied / "config.json").read_text()) | {"local_attention": 16}
        (copied / "config.json").write_text(json.dumps(config))
    elif change == "tokenizer":  # other rules for the same words: the ids stay
        tokenizer = load_model(copied, device="cpu").tokenizer
        tokenizer.add_tokens(["never-met"])
        tokenizer.save_pretrained(copied)
    elif change == "dtype":
        options = LoadOptions(device="cpu", dtype="bfloat16")
    elif change == "mask":
        source = CausalSource(source)
    outline = source.outline(options)
    if change == "attention":
        outline.provenance["attention"] = "another implementation"
    assert key_of(source, tiny_documents, outline) != key_of(before, tiny_documents, before.outline(CPU))
