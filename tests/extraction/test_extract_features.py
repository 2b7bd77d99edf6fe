"""From documents to features: values, order, memory, failures, and nothing left behind."""

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cka_tools.documents import Document
from cka_tools.errors import UserError
from cka_tools.extraction.extract import Extraction, prepare
from cka_tools.extraction.features import FeatureStore, Layout
from cka_tools.models import LoadedModel, load_model
from cka_tools.models.model import is_out_of_memory
from cka_tools.settings import Settings
from cka_tools.store.cached_extraction import extract_cached


@pytest.fixture
def bert(tiny_model: Callable[..., Path]) -> LoadedModel:
    return load_model(tiny_model("bert"), device="cpu")


def settings(**options: Any) -> Settings:
    return Settings(**({"max_length": 64, "batch_tokens": 256} | options))


def extract(
    models: list[LoadedModel], documents: Any, settings: Settings, progress: Callable[[int, int], None] | None = None
) -> list[Extraction]:
    """Each model over the same batches; no store."""
    prepared = prepare(models, documents, settings)
    return [
        extract_cached(model, documents, settings, progress, prepared=replace(prepared, tables=[table]), cache=False)
        for model, table in zip(models, prepared.tables, strict=True)
    ]


def extract_one(model: LoadedModel, documents: Any, settings: Settings) -> Extraction:
    """One model; no store."""
    return extract([model], documents, settings)[0]


def refusal(models: list[LoadedModel], documents: Any, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        extract(models, documents, settings(**options))
    assert "\n" not in str(caught.value)
    for model in models:
        assert_untouched(model)
    return str(caught.value)


def assert_untouched(model: LoadedModel) -> None:
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.model.modules())


def reference(model: LoadedModel, text: str, pooling: str) -> list[np.ndarray]:
    """One unpadded document through the model's own `output_hidden_states`; all layers but the last."""
    ids = torch.tensor([model.tokenizer(text, truncation=True, max_length=64)["input_ids"]])
    with torch.no_grad():
        states = model.model(input_ids=ids, output_hidden_states=True).hidden_states[1:-1]
    pool = {"mean": lambda h: h[0].mean(0), "cls": lambda h: h[0, 0], "last": lambda h: h[0, -1]}[pooling]
    return [pool(state).numpy() for state in states]


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_features_equal_one_document_at_a_time(
    pooling: str, architecture: str, tiny_model: Callable[..., Path], tiny_documents: list[Any]
) -> None:
    model = load_model(tiny_model(architecture), device="cpu")
    features = extract_one(model, tiny_documents, settings(pooling=pooling)).features[0]
    assert features.layers == list(range(6))
    assert_untouched(model)
    for row, document in enumerate(tiny_documents[:8]):
        for layer, expected in enumerate(reference(model, document.text, pooling)):
            np.testing.assert_allclose(features.features[layer][row], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("change", [{"batch_tokens": 4096}, {"batch_tokens": 1}, {"plan": "corpus-order"}])
def test_padding_and_batches_do_not_change_features(
    change: dict[str, Any], architecture: str, tiny_model: Callable[..., Path], tiny_documents: list[Any]
) -> None:
    model = load_model(tiny_model(architecture), device="cpu")
    one = extract_one(model, tiny_documents, settings())
    other = extract_one(model, tiny_documents, settings(**change))
    assert one.plan.batches != other.plan.batches
    for a, b in zip(one.features[0].features, other.features[0].features, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_a_tokenizer_that_pads_left_gives_the_same_features(
    fresh_model: Callable[..., Any], fresh_tokenizer: Callable[..., Any], tiny_documents: list[Any]
) -> None:
    found = []
    for side in ("right", "left"):
        tokenizer = fresh_tokenizer(specials=False, padding_side=side)
        model = load_model((fresh_model("gpt2"), tokenizer))
        found.append(extract_one(model, tiny_documents, settings()).features[0].features)
    np.testing.assert_array_equal(found[0], found[1])


def test_a_tokenizer_without_a_pad_token_is_enough(
    fresh_model: Callable[..., Any], fresh_tokenizer: Callable[..., Any], tiny_documents: list[Any]
) -> None:
    tokenizer = fresh_tokenizer(specials=False)
    tokenizer.pad_token = None
    model = load_model((fresh_model("gpt2", pad_token_id=None), tokenizer))
    features = extract_one(model, tiny_documents, settings()).features[0]
    np.testing.assert_allclose(
        features.features[2][4], reference(model, tiny_documents[4].text, "mean")[2], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("site", ["attention", "mlp"])
def test_branch_sites_are_pooled_from_the_branch(
    site: str, architecture: str, tiny_model: Callable[..., Path], tiny_documents: list[Any]
) -> None:
    model = load_model(tiny_model(architecture), device="cpu")
    features = extract_one(model, tiny_documents[:3], settings(sites=site, layers=(1, 4))).features[0]
    seen: list[torch.Tensor] = []
    path = getattr(model.blocks[4], site)
    handle = model.model.get_submodule(path).register_forward_hook(
        lambda module, args, output: seen.append(output[0] if isinstance(output, tuple) else output)
    )
    with torch.no_grad():
        model.model(input_ids=torch.tensor([model.tokenizer(tiny_documents[2].text)["input_ids"]]))
    handle.remove()
    assert features.layers == [1, 4]
    np.testing.assert_allclose(features.features[1][2], seen[0][0].mean(0).numpy(), rtol=1e-4, atol=1e-5)


def test_no_block_above_the_last_one_asked_for_runs(
    architecture: str, tiny_model: Callable[..., Path], tiny_documents: list[Any]
) -> None:
    model = load_model(tiny_model(architecture), device="cpu")
    whole = extract_one(model, tiny_documents[:6], settings()).features[0]
    ran: list[int] = []
    handles = [
        block.module.register_forward_pre_hook(lambda module, args, index=block.index: ran.append(index))
        for block in model.blocks
    ]
    some = extract_one(model, tiny_documents[:6], settings(layers=(0, 2), batch_tokens=10_000)).features[0]
    assert ran == [0, 1, 2]
    for handle in handles:
        handle.remove()
    assert_untouched(model)
    np.testing.assert_allclose(some.features[1], whole.features[2], rtol=1e-5, atol=1e-5)


def test_both_models_run_on_the_same_batches(tiny_model: Callable[..., Path], tiny_documents: list[Any]) -> None:
    models = [load_model(tiny_model("modernbert", seed=seed), device="cpu") for seed in (0, 1)]
    ran: list[tuple[int, list[list[int]]]] = []
    for index, model in enumerate(models):
        model.model.register_forward_pre_hook(
            lambda module, args, kwargs, index=index: ran.append((index, kwargs["input_ids"].tolist())),
            with_kwargs=True,
        )
    one, other = extract(models, tiny_documents, settings())
    assert len(ran) == 2 * len(one.plan.batches)
    assert one.plan == other.plan
    assert [ids for index, ids in ran if index == 0] == [ids for index, ids in ran if index == 1]
    assert one.tokens[0]["shared_tokenizer"]


def test_models_with_different_tokenizers_compare_row_by_row(
    fresh_model: Callable[..., Any], fresh_tokenizer: Callable[..., Any], tiny_documents: list[Any]
) -> None:
    models = [
        load_model((fresh_model("bert"), fresh_tokenizer())),
        load_model((fresh_model("gpt2", layers=3), fresh_tokenizer(specials=False))),
    ]
    found = [extraction.features[0] for extraction in extract(models, tiny_documents, settings())]
    assert [len(features.features) for features in found] == [6, 3]
    assert "different tokenizers" in refusal(models, tiny_documents, pooling="token")
    for model, features in zip(models, found, strict=True):
        expected = reference(model, tiny_documents[7].text, "mean")[1]
        np.testing.assert_allclose(features.features[1][7], expected, rtol=1e-4, atol=1e-5)


def test_token_pooling_takes_the_same_tokens_of_both_models(
    tiny_model: Callable[..., Path], tiny_documents: list[Any]
) -> None:
    folder = tiny_model("modernbert")
    models = [load_model(folder, device="cpu"), load_model(folder, device="cpu")]
    found = extract(models, tiny_documents, settings(pooling="token", tokens_per_document=5))
    one, two = (extraction.features[0] for extraction in found)
    assert one.features[0].shape == (5, 40, 32)
    for a, b in zip(one.features, two.features, strict=True):
        np.testing.assert_array_equal(a, b)
    ids = torch.tensor([models[0].tokenizer(tiny_documents[3].text)["input_ids"]])
    with torch.no_grad():
        tokens = models[0].model(input_ids=ids, output_hidden_states=True).hidden_states[3][0, 1:-1].numpy()
    for draw in range(5):
        assert np.abs(tokens - one.features[2][draw, 3]).max(axis=1).min() < 1e-5


def test_features_on_disk_equal_those_in_memory(bert: LoadedModel, tiny_documents: list[Any], tmp_path: Path) -> None:
    for pooling in ("mean", "token"):
        kept = extract_one(bert, tiny_documents, settings(pooling=pooling)).features[0]
        spilled = extract_one(
            bert, tiny_documents, settings(pooling=pooling, memory_limit=0, spill_folder=str(tmp_path))
        ).features[0]
        assert spilled.on_disk
        assert not kept.on_disk
        assert list(tmp_path.iterdir()) == []  # the file has no name: nothing to clean up
        assert spilled.features[0].shape[-2] == 40
        for a, b in zip(kept.features, spilled.features, strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_full_disk_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(UserError, match="no space is left"):
        FeatureStore(Layout((0,), (4,), 10, None, "float32"), memory_limit=0)


@pytest.mark.parametrize(("dtype", "stored"), [("bfloat16", "float32"), ("float64", "float64")])
def test_features_are_stored_in_float32_or_for_float64_in_float64(
    dtype: str, stored: str, tiny_model: Callable[..., Path], tiny_documents: list[Any]
) -> None:
    exact = load_model(tiny_model("bert"), device="cpu")
    model = load_model(tiny_model("bert"), device="cpu", dtype=dtype)
    features, expected = (extract_one(m, tiny_documents[:4], settings()).features[0] for m in (model, exact))
    assert features.features[0].dtype == stored
    np.testing.assert_allclose(features.features[0], expected.features[0], atol=0.05)


class FakeOutOfMemory:
    """A pre-hook that runs out of memory on batches of more than `limit` documents."""

    def __init__(self, limit: int, error: Exception) -> None:
        self.limit, self.error, self.sizes = limit, error, list[int]()

    def __call__(self, module: Any, args: Any, kwargs: Any) -> None:
        rows = len(kwargs["input_ids"])
        if rows > self.limit:
            raise self.error
        self.sizes.append(rows)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
)
def test_a_batch_that_runs_out_of_memory_is_split_and_recorded(
    error: Exception, bert: LoadedModel, tiny_documents: list[Any]
) -> None:
    whole = extract_one(bert, tiny_documents, settings(batch_tokens=10_000))
    fake = FakeOutOfMemory(12, error)
    handle = bert.model.register_forward_pre_hook(fake, with_kwargs=True)
    split = extract_one(bert, tiny_documents, settings(batch_tokens=10_000))
    handle.remove()
    assert whole.splits == []
    assert fake.sizes == [10, 10, 10, 10]
    assert [record["halves"] for record in split.splits] == [[20, 20], [10, 10], [10, 10]]
    assert split.record()["plan"]["splits"] == split.splits
    assert split.plan == whole.plan
    for a, b in zip(whole.features[0].features, split.features[0].features, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_one_document_that_does_not_fit_is_named(bert: LoadedModel, tiny_documents: list[Any]) -> None:
    handle = bert.model.register_forward_pre_hook(FakeOutOfMemory(0, MemoryError()), with_kwargs=True)
    with pytest.raises(UserError, match="'d1' alone"):  # the longest comes first
        extract_one(bert, tiny_documents, settings())
    handle.remove()
    assert_untouched(bert)


def test_other_errors_are_not_taken_for_memory(bert: LoadedModel, tiny_documents: list[Any]) -> None:
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
    assert is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"))
    handle = bert.model.register_forward_pre_hook(FakeOutOfMemory(0, RuntimeError("own bug")), with_kwargs=True)
    with pytest.raises(UserError, match=r"BertModel fails on a batch of 4 documents of 62 tokens .*own bug") as caught:
        extract_one(bert, tiny_documents, settings())
    assert type(caught.value.__cause__) is RuntimeError
    handle.remove()
    assert_untouched(bert)


def overflow(model: LoadedModel, layer: int, token: int, value: float) -> Any:
    """Make one block's output non-finite where a document holds a certain token."""
    ids: list[torch.Tensor] = []

    def note(module: Any, args: Any, kwargs: Any) -> None:
        ids[:] = [kwargs["input_ids"]]

    def spoil(module: Any, args: Any, output: Any) -> Any:
        return output.masked_fill((ids[0] == token).unsqueeze(-1), value)

    model.model.register_forward_pre_hook(note, with_kwargs=True)
    return model.blocks[layer].module.register_forward_hook(spoil)


@pytest.mark.parametrize("pooling", ["mean", "cls", "token"])
@pytest.mark.parametrize(("dtype", "advice"), [("float16", "bfloat16 or float32"), ("bfloat16", "float32")])
def test_a_non_finite_activation_names_model_layer_document_and_cure(
    pooling: str, dtype: str, advice: str, tiny_model: Callable[..., Path], tiny_documents: list[Any]
) -> None:
    model = load_model(tiny_model("bert"), device="cpu", dtype=dtype)
    documents = [*tiny_documents[:20], Document("the-one", "w1 strange w2"), *tiny_documents[20:]]
    overflow(model, 3, model.tokenizer.unk_token_id, float("inf"))
    with pytest.raises(UserError) as caught:
        extract_one(model, documents, settings(pooling=pooling, batch_tokens=1024))
    for part in (model.name, "layer 3", "'the-one'", dtype, advice):
        assert part in str(caught.value)


def test_what_is_not_finite_in_padding_alone_does_no_harm(bert: LoadedModel, tiny_documents: list[Any]) -> None:
    expected = extract_one(bert, tiny_documents, settings()).features[0]
    overflow(bert, 5, bert.tokenizer.pad_token_id, float("nan"))
    features = extract_one(bert, tiny_documents, settings()).features[0]
    np.testing.assert_allclose(features.features[5], expected.features[5], rtol=1e-5, atol=1e-5)


def test_documents_without_a_token_of_text_are_left_out_and_reported(
    bert: LoadedModel, tiny_documents: list[Any]
) -> None:
    documents = [Document("blank", " "), *tiny_documents[:5], Document("specials", "[SEP] [PAD]")]
    extraction = extract_one(bert, documents, settings())
    assert extraction.kept.tolist() == [1, 2, 3, 4, 5]
    assert "2 documents" in extraction.notes[0]
    assert "'blank', 'specials'" in extraction.notes[0]
    expected = extract_one(bert, tiny_documents[:5], settings())
    np.testing.assert_array_equal(extraction.features[0].features, expected.features[0].features)
    assert "none of the 1 documents" in refusal([bert], documents[:1])


def test_long_documents_are_cut_and_counted(bert: LoadedModel, tiny_documents: list[Any]) -> None:
    extraction = extract_one(bert, tiny_documents, settings(max_length=20))
    over = sum(len(document.text.split()) > 18 for document in tiny_documents)
    assert extraction.tokens[0]["truncated"] == over > 0
    assert max(extraction.plan.lengths) == 20


def test_a_length_above_the_models_is_refused_and_the_default_gives_way(
    tiny_model: Callable[..., Path], tiny_documents: list[Any]
) -> None:
    for architecture in ("roberta", "gpt2"):
        model = load_model(tiny_model(architecture), device="cpu")
        assert "max-length 65" in refusal([model], tiny_documents, max_length=65)
        extraction = extract_one(model, [Document("long", "w1 " * 200)] * 4, settings(max_length=None))
        assert extraction.tokens[0]["max_length"] == 64
        assert "64 tokens" in extraction.notes[0]
    assert "leaves no token" in refusal([load_model(tiny_model(), device="cpu")], tiny_documents, max_length=2)


def test_a_tokenizer_of_another_model_is_refused(
    fresh_model: Callable[..., Any], fresh_tokenizer: Callable[..., Any], tiny_documents: list[Any]
) -> None:
    tokenizer = fresh_tokenizer(words=[f"x{i}" for i in range(500)])
    model = load_model((fresh_model("bert"), tokenizer))
    assert "belongs to another model" in refusal([model], [Document("a", "x1 x400")])


def test_settings_that_mean_nothing_are_refused(bert: LoadedModel, tiny_documents: list[Any]) -> None:
    for bad in ({"pooling": "max"}, {"sites": "head"}, {"plan": "random"}, {"batch_tokens": 0}, {"layers": ()}):
        with pytest.raises(UserError, match=str(next(iter(bad))).replace("_", "-")):
            settings(**bad)
    assert "layers 6, 9" in refusal([bert], tiny_documents, layers=(2, 6, 9))
    assert "0 to 5" in refusal([bert], tiny_documents, layers=(-5,))
    bert.blocks[1].attention = None
    assert "sites 'attention'" in refusal([bert], tiny_documents, sites="attention")


def test_a_model_in_training_is_evaluated_and_put_back(
    fresh_model: Callable[..., Any], fresh_tokenizer: Callable[..., Any], tiny_documents: list[Any]
) -> None:
    model = fresh_model("bert", hidden_dropout_prob=0.5)
    loaded = load_model((model, fresh_tokenizer()))
    still = extract_one(loaded, tiny_documents, settings()).features[0].features
    model.train()
    again = extract_one(loaded, tiny_documents, settings()).features[0].features
    np.testing.assert_array_equal(still, again)
    assert all(module.training for module in model.modules())
    with pytest.raises(UserError):
        extract_one(loaded, tiny_documents, settings(layers=(7,)))
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_progress_counts_documents_and_tokens(bert: LoadedModel, tiny_documents: list[Any]) -> None:
    calls: list[tuple[int, int]] = []
    (extraction,) = extract([bert], tiny_documents, settings(), lambda *done: calls.append(done))
    assert len(set(calls)) == len(extraction.plan.batches)
    assert calls == sorted(calls)
    assert calls[-1] == (40, extraction.tokens[0]["tokens"])


def test_one_model_in_memory_can_be_compared_with_itself(bert: LoadedModel, tiny_documents: list[Any]) -> None:
    one, two = (extraction.features[0] for extraction in extract([bert, bert], tiny_documents, settings()))
    for a, b in zip(one.features, two.features, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a is not b
