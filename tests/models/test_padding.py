"""Models whose hidden states depend on padding run without it; the others are left in padded batches."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertModel, ConvBertConfig, ConvBertModel, FNetConfig, FNetModel

from cka_tools.compute import compute_features
from cka_tools.errors import UserError
from cka_tools.extraction.extract import prepare
from cka_tools.models import LoadOptions, as_source, load_model
from cka_tools.settings import Settings
from cka_tools.store.cached_extraction import extract_cached


class MaskDropped(BertModel):
    """Attends to padding."""

    def forward(self, input_ids: Any = None, attention_mask: Any = None, **options: Any) -> Any:
        return super().forward(input_ids=input_ids, attention_mask=None, **options)


class MaskDroppedAlone(BertModel):
    """Attends to padding in a batch of one row."""

    def forward(self, input_ids: Any = None, attention_mask: Any = None, **options: Any) -> Any:
        mask = None if len(input_ids) == 1 else attention_mask
        return super().forward(input_ids=input_ids, attention_mask=mask, **options)


class Neighbours(BertModel):
    """Adds a mean over the batch."""

    def forward(self, input_ids: Any = None, attention_mask: Any = None, **options: Any) -> Any:
        embedded = self.embeddings(input_ids=input_ids)
        mixed = embedded + embedded.mean(0, keepdim=True)
        return super().forward(inputs_embeds=mixed, attention_mask=attention_mask, **options)


class Noisy(BertModel):
    """Adds noise, also in evaluation."""

    def forward(self, input_ids: Any = None, attention_mask: Any = None, **options: Any) -> Any:
        embedded = self.embeddings(input_ids=input_ids)
        noised = embedded + 0.1 * torch.randn_like(embedded)
        return super().forward(inputs_embeds=noised, attention_mask=attention_mask, **options)


@pytest.fixture
def made(fresh_model: Callable[..., Any], fresh_tokenizer: Callable[..., Any]) -> Callable[..., Any]:
    """A tiny BERT of another class, with its tokenizer."""

    def make(cls: type, *, seed: int = 0) -> tuple[Any, Any]:
        model = fresh_model("bert", seed=seed)
        other = cls(model.config).eval()
        other.load_state_dict(model.state_dict())
        return other, fresh_tokenizer()

    return make


def mixing(kind: str, tokenizer: Any) -> Any:
    """Architectures that mix tokens without a mask."""
    torch.manual_seed(0)
    sizes = {"vocab_size": len(tokenizer), "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48}
    if kind == "fnet":
        return FNetModel(FNetConfig(**sizes)).eval()
    return ConvBertModel(ConvBertConfig(**sizes, num_attention_heads=4, embedding_size=32)).eval()


def one_at_a_time(model: Any, tokenizer: Any, documents: Any) -> np.ndarray:
    """Mean-pooled hidden states, (layers, documents, features), each document alone."""
    rows = []
    for document in documents:
        ids = torch.tensor([tokenizer(document.text)["input_ids"]])
        with torch.no_grad():
            states = model(input_ids=ids, attention_mask=torch.ones_like(ids), output_hidden_states=True)
        rows.append(torch.stack([state[0].mean(0) for state in states.hidden_states[1:]]))
    return torch.stack(rows, 1).numpy()


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16"])
def test_no_known_architecture_needs_equal_lengths(
    architecture: str, dtype: str, tiny_model: Callable[..., Path]
) -> None:
    loaded = load_model(tiny_model(architecture), device="cpu", dtype=dtype)
    assert not loaded.needs_equal_lengths
    assert loaded.notes == []


@pytest.mark.parametrize("cls", [MaskDropped, MaskDroppedAlone])
def test_a_model_that_ignores_its_mask_is_found(cls: type, made: Callable[..., Any]) -> None:
    loaded = load_model(made(cls))
    assert loaded.needs_equal_lengths
    assert any(cls.__name__ in note and "without padding" in note for note in loaded.notes)


@pytest.mark.parametrize("kind", ["dropped", "fnet", "convbert"])
def test_its_features_are_those_of_one_document_at_a_time(
    kind: str, made: Callable[..., Any], fresh_tokenizer: Callable[..., Any], tiny_documents: Any
) -> None:
    if kind == "dropped":
        model, tokenizer = made(MaskDropped)
    else:
        tokenizer = fresh_tokenizer()
        model = mixing(kind, tokenizer)
    loaded = load_model((model, tokenizer))
    found = extract_cached(loaded, tiny_documents, cache=False)
    assert found.plan.kind == "equal-length"
    assert len(found.plan.batches) < len(tiny_documents)
    features = np.stack(found.features[0].features)
    expected = one_at_a_time(model, tokenizer, tiny_documents)
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)
    # Padded, as other models run, it would have been something else.
    loaded.needs_equal_lengths = False
    padded = np.stack(extract_cached(loaded, tiny_documents, cache=False).features[0].features)
    assert np.abs(padded - features).max() > 1e-3


@pytest.mark.parametrize("saved", [False, True])
def test_the_engine_plans_for_it_says_so_and_finds_it_again(
    saved: bool, fresh_tokenizer: Callable[..., Any], tiny_documents: Any, tmp_path: Path
) -> None:
    tokenizer = fresh_tokenizer()
    model = mixing("fnet", tokenizer)
    given: Any = (model, tokenizer)
    if saved:
        model.save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        given = tmp_path
    texts = [document.text for document in tiny_documents]
    expected = one_at_a_time(model, tokenizer, tiny_documents)
    states = []
    for size in (1, 4096, 4096):
        (found,) = compute_features([given], texts, batch_tokens=size)
        assert found.extraction.plan.kind == "equal-length"
        assert any("without padding" in note for note in found.extraction.notes)
        rows = [int(document.removeprefix("item:")) for document in found.ids]
        features = np.stack(list(found.layers.values()))
        np.testing.assert_allclose(features, expected[:, rows], rtol=1e-4, atol=1e-5)
        states += found.extraction.cache
    assert states == ["made", "made", "hit"]


def test_a_plan_made_before_the_weights_were_there_is_made_again(
    made: Callable[..., Any], tiny_model: Callable[..., Path], tiny_documents: Any
) -> None:
    outline = as_source(tiny_model("bert")).outline(LoadOptions(device="cpu"))
    settings = Settings()
    prepared = prepare([outline], tiny_documents, settings)
    assert prepared.plan.kind == "sorted"
    needy, plain = load_model(made(MaskDropped)), load_model(tiny_model("bert"), device="cpu")
    assert extract_cached(plain, tiny_documents, settings, prepared=prepared, cache=False).plan == prepared.plan
    found = extract_cached(needy, tiny_documents, settings, prepared=prepared, cache=False).plan
    assert found.kind == "equal-length"
    lengths = prepared.tables[0].lengths
    assert all(len(set(lengths[list(rows)])) == 1 for rows in found.batches)


@pytest.mark.parametrize("cls", [Neighbours, Noisy])
def test_a_model_whose_numbers_depend_on_the_batch_is_refused(cls: type, made: Callable[..., Any]) -> None:
    with pytest.raises(UserError, match="depend on the batches"):
        load_model(made(cls))
