"""What changes an entry's key, and what does not."""

import importlib.util
import shutil
import sys
from dataclasses import replace

import pytest
import torch

from cka_tools.errors import UserError
from cka_tools.extraction.extract import plan_forwards, prepare
from cka_tools.models import load_model
from cka_tools.settings import Settings
from cka_tools.store import key as numerics_module
from cka_tools.store.key import NotKeyed, entry_key

SETTINGS = Settings(max_length=64, batch_tokens=256)


def key_of(model, documents, settings=SETTINGS):
    (forward,) = plan_forwards([model], settings)
    prepared = prepare([model], documents, settings)
    return entry_key(forward, prepared.tables[0], prepared, documents, settings).digest


@pytest.fixture
def in_memory(fresh_model, fresh_tokenizer):
    """`in_memory(architecture, specials=True, **config)` → a loaded model."""

    def load(architecture="bert", *, model=None, tokenizer=None, **config):
        return load_model((model or fresh_model(architecture, **config), tokenizer or fresh_tokenizer()))

    return load


def test_the_window_of_local_attention_alone_changes_the_key(in_memory, tiny_documents):
    wide, narrow = in_memory("modernbert"), in_memory("modernbert", local_attention=10)
    assert wide.provenance["weights_sha256"] == narrow.provenance["weights_sha256"]
    assert key_of(wide, tiny_documents) != key_of(narrow, tiny_documents)


@pytest.mark.parametrize(
    "change",
    [
        {"pooling": "cls"},
        {"pooling": "last"},
        {"pooling": "token"},
        {"sites": "mlp"},
        {"layers": (0, 1)},
        {"max_length": 63},
        {"batch_tokens": 512},
        {"plan": "corpus-order"},
    ],
    ids=str,
)
def test_a_setting_changes_the_key(bert, tiny_documents, change):
    assert key_of(bert, tiny_documents, replace(SETTINGS, **change)) != key_of(bert, tiny_documents)


@pytest.mark.parametrize("change", [{"seed": 43}, {"tokens_per_document": 7}], ids=str)
def test_token_draws_change_the_key_where_they_are_made(bert, tiny_documents, change):
    drawn = replace(SETTINGS, pooling="token")
    assert key_of(bert, tiny_documents, replace(drawn, **change)) != key_of(bert, tiny_documents, drawn)
    assert key_of(bert, tiny_documents, replace(SETTINGS, **change)) == key_of(bert, tiny_documents)


def test_where_features_are_held_does_not_change_the_key(bert, tiny_documents, tmp_path):
    other = replace(SETTINGS, memory_limit=0, spill_folder=str(tmp_path))
    assert key_of(bert, tiny_documents, other) == key_of(bert, tiny_documents)


def test_texts_and_their_order_change_the_key_and_ids_do_not(bert, tiny_documents):
    base = key_of(bert, tiny_documents)
    swapped = [tiny_documents[1], tiny_documents[0], *tiny_documents[2:]]
    longer = [replace(tiny_documents[0], text=tiny_documents[0].text + " w1"), *tiny_documents[1:]]
    spaced = [replace(tiny_documents[0], text=tiny_documents[0].text + " "), *tiny_documents[1:]]
    renamed = [replace(document, id=f"x{document.id}") for document in tiny_documents]
    others = [key_of(bert, documents) for documents in (swapped, longer, spaced, tiny_documents[:-1])]
    assert len({base, *others}) == 5
    assert key_of(bert, renamed) == base


def test_weights_dtype_and_attention_change_the_key(tiny_model, bert, other, tiny_documents, fresh_model):
    half = load_model(str(tiny_model("bert")), dtype="bfloat16")
    eager = load_model(str(tiny_model("bert")))
    eager.model.set_attn_implementation("eager")
    eager.provenance["attention"] = eager.model.config._attn_implementation
    keys = [key_of(model, tiny_documents) for model in (bert, other, half, eager)]
    assert len(set(keys)) == 4


def test_a_tokenizer_of_the_same_ids_but_other_specials_changes_the_key(
    in_memory, fresh_model, fresh_tokenizer, tiny_documents
):
    model = fresh_model("bert")
    one = in_memory(model=model)
    bare = in_memory(model=model, tokenizer=fresh_tokenizer(specials=False))
    assert key_of(one, tiny_documents) != key_of(bare, tiny_documents)


def test_buffers_outside_the_weights_change_the_key(in_memory, tiny_documents):
    model = in_memory("llama")
    before = key_of(model, tiny_documents)
    with torch.no_grad():
        next(b for name, b in model.model.named_buffers() if name.endswith("inv_freq")).mul_(1.5)
    assert key_of(model, tiny_documents) != before


def test_path_name_and_time_do_not_change_the_key(tiny_model, bert, tiny_documents, tmp_path):
    moved = tmp_path / "under" / "another-name"
    shutil.copytree(tiny_model("bert"), moved)
    assert key_of(load_model(str(moved)), tiny_documents) == key_of(bert, tiny_documents)


@pytest.mark.parametrize("library", ["torch", "transformers"])
def test_versions_change_the_key(bert, tiny_documents, monkeypatch, library):
    base = key_of(bert, tiny_documents)
    monkeypatch.setattr(getattr(numerics_module, library), "__version__", "0.0")
    assert key_of(bert, tiny_documents) != base


@pytest.mark.skipif(not hasattr(torch.backends, "fp32_precision"), reason="torch is older than the setting")
def test_the_precision_of_products_changes_the_key(bert, tiny_documents):
    base = key_of(bert, tiny_documents)
    products = torch.backends.cuda.matmul
    before = products.fp32_precision
    try:
        # From here on torch raises where it is asked by the older name.
        products.fp32_precision = "tf32"
        assert key_of(bert, tiny_documents) != base
    finally:
        products.fp32_precision = before
    assert key_of(bert, tiny_documents) == base


def test_threads_and_autocast_change_the_key(bert, tiny_documents):
    base = key_of(bert, tiny_documents)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        assert key_of(bert, tiny_documents) != base
    finally:
        torch.set_num_threads(threads)
    with torch.autocast("cpu", torch.bfloat16):
        assert key_of(bert, tiny_documents) != base
    assert key_of(bert, tiny_documents) == base


def test_code_that_comes_with_a_model_is_in_the_key(in_memory, tiny_documents, tmp_path, monkeypatch):
    source = tmp_path / "their_model.py"
    loaded = in_memory()
    keys = []
    for comment in ("one", "two"):
        source.write_text(f"from transformers import BertModel\nclass Theirs(BertModel): ...  # {comment}\n")
        spec = importlib.util.spec_from_file_location("their_model", source)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "their_model", module)
        spec.loader.exec_module(module)
        loaded.model.__class__ = module.Theirs
        keys.append(key_of(loaded, tiny_documents))
    assert keys[0] != keys[1]


def test_hooks_that_only_look_are_no_hindrance_and_hooks_that_steer_are(in_memory, fresh_model, tiny_documents):
    model = fresh_model("bert")
    loaded = in_memory(model=model)
    bare = key_of(loaded, tiny_documents)
    calls = []
    looking = model.encoder.layer[2].register_forward_hook(lambda *args: calls.append(1))
    assert key_of(loaded, tiny_documents) == bare
    looking.remove()
    model.encoder.layer[2].register_forward_hook(lambda module, args, output: output + 1)
    with pytest.raises(NotKeyed, match="hooks"):
        key_of(loaded, tiny_documents)
    assert len(model.encoder.layer[2]._forward_hooks) == 1


def test_a_steered_model_is_extracted_without_the_store(cache, in_memory, fresh_model, extract):
    model = fresh_model("bert")
    loaded = in_memory(model=model)
    plain = extract(loaded)
    model.encoder.layer[0].register_forward_hook(lambda module, args, output: output + 1)
    steered = extract(loaded)
    assert (plain.cache, steered.cache) == (["made"], ["off"])
    assert "hooks" in steered.notes[0]
    assert abs(plain.features[0].features[-1] - steered.features[0].features[-1]).max() > 0.1


def test_settings_that_do_not_fit_are_refused_as_without_the_store(cache, bert, extract):
    with pytest.raises(UserError, match="layers 7"):
        extract(bert, layers=(7,))
