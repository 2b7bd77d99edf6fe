"""Packed documents have the features of sorted batches wherever packing is offered, and it is offered by proof."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertModel
from zoo import LONGEST, ZOO, Animal, documents, make

from cka_tools import cka
from cka_tools.comparison.run_comparison import compare
from cka_tools.compute import compute_features
from cka_tools.errors import UserError
from cka_tools.extraction.batches import make_pack, plan_packed
from cka_tools.extraction.extract import prepare
from cka_tools.models import load_model
from cka_tools.models.check import can_pack
from cka_tools.models.model import DTYPES
from cka_tools.models.packing import TOGETHER, _lengths, packed, packed_mask
from cka_tools.settings import Settings
from cka_tools.store.cached_extraction import extract_cached

PACKING = {
    *("bert", "bert (feed-forward in pieces)", "roberta", "xlm-roberta", "camembert", "electra", "distilbert"),
    *("nomic_bert", "gte", "modernbert", "roberta-prelayernorm", "xlm-roberta-xl", "eurobert", "neomme", "esm"),
    *("gpt2", "gpt_neox", "gptj", "opt", "opt (projected, as OPT-350m)", "ctrl", "llama", "mistral", "qwen2", "phi"),
    *("albert", "albert (two groups)", "olmo2", "gemma3_text", "cohere", "glm4", "mixtral", "llama4_text"),
}
FEW = {"bert", "roberta", "modernbert", "llama", "gemma3_text", "fnet", "bloom", "deberta"}
RUNNING = [animal for animal in ZOO if animal.result != "refused"]


def features(loaded: Any, **options: Any) -> np.ndarray:
    settings = Settings(batch_tokens=150, max_length=LONGEST, tokens_per_document=3, **options)
    return np.stack(extract_cached(loaded, documents(), settings, cache=False).features[0].features)


@pytest.mark.parametrize(
    "animal", [pytest.param(a, marks=[] if a.label in FEW else [pytest.mark.slow], id=a.label) for a in RUNNING]
)
def test_packed_and_sorted_features_agree_where_packing_is_proven(
    animal: Animal, fresh_tokenizer: Callable[..., Any]
) -> None:
    model: Any = make(animal).to(DTYPES[animal.dtype])
    loaded = load_model((model, fresh_tokenizer()), dtype=animal.dtype, stack=animal.stack)
    before = model.config._attn_implementation
    assert can_pack(loaded) == (animal.label in PACKING)
    assert model.config._attn_implementation == before
    if not loaded.packs:
        with pytest.raises(UserError, match=r"batching 'packed': .*use sorted, or auto"):
            features(loaded, batching="packed")
        assert np.array_equal(features(loaded, batching="auto"), features(loaded))
        return
    for pooling in ("mean", "cls", "last", "token"):
        plain, together = (features(loaded, batching=how, pooling=pooling) for how in ("sorted", "packed"))
        assert np.abs(together - plain).max() < 1e-6 * np.abs(plain).max()
    other = np.random.default_rng(0).normal(size=plain[-1][0].shape)
    assert cka(together[-1][0], other) == pytest.approx(cka(plain[-1][0], other), abs=1e-6)


class SeesOthers(BertModel):
    """Adds a mean over the sequence: nothing in its name, its masks or its positions says so."""

    def forward(self, input_ids: Any = None, attention_mask: Any = None, **options: Any) -> Any:
        embedded = self.embeddings.word_embeddings(input_ids)
        mean = (embedded * attention_mask[..., None]).sum(1, keepdim=True) / attention_mask.sum(1)[:, None, None]
        return super().forward(inputs_embeds=embedded + mean, attention_mask=attention_mask, **options)


class ForgetsPositions(BertModel):
    """Counts positions by itself."""

    def forward(self, input_ids: Any = None, position_ids: Any = None, **options: Any) -> Any:
        counted = torch.arange(input_ids.shape[1]).unsqueeze(0) % self.config.max_position_embeddings
        return super().forward(input_ids=input_ids, position_ids=counted, **options)


@pytest.mark.parametrize("cls", [SeesOthers, ForgetsPositions])
def test_an_architecture_that_packs_is_not_taken_at_its_name(
    cls: type, fresh_model: Callable[..., Any], fresh_tokenizer: Callable[..., Any]
) -> None:
    plain = fresh_model("bert", seed=0)
    model = cls(plain.config).eval()
    model.load_state_dict(plain.state_dict())
    assert can_pack(load_model((plain, fresh_tokenizer())))
    assert not can_pack(load_model((model, fresh_tokenizer())))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_documents_of_many_lengths_agree_in_every_number_format(
    dtype: str, fresh_model: Callable[..., Any], fresh_tokenizer: Callable[..., Any]
) -> None:
    loaded = load_model((fresh_model("modernbert", seed=0).to(DTYPES[dtype]), fresh_tokenizer()), dtype=dtype)
    lengths = [1, TOGETHER + 60, 3, 2, 60, 5, 1, 7]
    lengths = [min(length, loaded.max_length or length) for length in lengths]
    ids = torch.randint(5, loaded.vocabulary, (1, sum(lengths)), generator=torch.Generator().manual_seed(0))
    with loaded.evaluating():
        together = loaded.run_packed(ids, lengths).last_hidden_state[0].split(lengths)
        alone = [loaded.run(part, torch.ones_like(part)).last_hidden_state[0] for part in ids.split(lengths, dim=1)]
    bound = {"float32": 1e-5, "bfloat16": 5e-2, "float16": 5e-3}[dtype]
    for a, b in zip(together, alone, strict=True):
        assert float((a - b).float().norm(dim=-1).max()) < bound * float(b.float().norm(dim=-1).max())


@given(
    st.lists(st.integers(1, 300), min_size=1, max_size=8),
    st.sampled_from(["causal", "both", "causal window", "window"]),
    st.integers(1, 40),
)
@settings(max_examples=25, deadline=None)
def test_blocks_hold_what_each_token_may_see_and_no_more(lengths: list[int], kind: str, reach: int) -> None:
    seen_by: dict[str, Callable[..., Any]] = {
        "causal": lambda b, h, q, k: k <= q,
        "both": lambda b, h, q, k: q >= 0,
        "causal window": lambda b, h, q, k: (k <= q) & (q - k <= reach),
        "window": lambda b, h, q, k: (q - k).abs() <= reach,
    }
    token = _lengths.set(tuple(lengths))
    mask = packed_mask(mask_function=seen_by[kind], device=torch.device("cpu"))
    _lengths.reset(token)
    found = torch.zeros(sum(lengths), sum(lengths), dtype=torch.bool)
    for block in mask.documents[0]:
        part = found[block.begin : block.end, block.first : block.last]
        part |= True if block.hidden is None else ~block.hidden
    at, owner = torch.arange(len(found)), torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    expected = seen_by[kind](0, 0, at[:, None], at[None, :]) & (owner[:, None] == owner[None, :])
    assert torch.equal(found, expected)
    # The same as a window, as kernels of documents of many lengths take it.
    left, right = mask.window
    apart = at[:, None] - at[None, :]
    near = ((left < 0) | (apart <= left)) & ((right < 0) | (-apart <= right))
    assert torch.equal(near & (owner[:, None] == owner[None, :]), expected)


def test_a_model_is_put_back_when_a_pass_fails(fresh_model: Callable[..., Any]) -> None:
    model = fresh_model("bert", seed=0)
    before = model.config._attn_implementation
    with pytest.raises(RuntimeError), packed(model, (3, 4)):
        raise RuntimeError
    assert model.config._attn_implementation == before


@given(st.lists(st.integers(1, 60), min_size=1, max_size=40), st.integers(1, 200))
def test_a_plan_holds_every_document_once_within_the_budget(lengths: list[int], budget: int) -> None:
    plan = plan_packed(lengths, budget)
    assert sorted(row for rows in plan.batches for row in rows) == list(range(len(lengths)))
    assert [sum(lengths[row] for row in rows) for rows in plan.batches] == list(plan.lengths)
    assert all(total <= budget or len(rows) == 1 for rows, total in zip(plan.batches, plan.lengths, strict=True))
    order = [lengths[row] for rows in plan.batches for row in rows]
    assert order == sorted(lengths, reverse=True)
    assert plan.record()["padded_tokens"] == sum(lengths)


def test_a_pack_holds_the_documents_tokens_in_order(tiny_model: Callable[..., Path], tiny_documents: Any) -> None:
    loaded = load_model(tiny_model("bert"), device="cpu")
    table = prepare([loaded], tiny_documents, Settings()).tables[0]
    pack = make_pack(table, [2, 0, 1], loaded.device)
    assert pack.input_ids[0].tolist() == [*table.row(2), *table.row(0), *table.row(1)]
    assert pack.lengths == tuple(table.lengths[[2, 0, 1]])


def test_packed_features_have_a_place_of_their_own_in_the_store_and_stand_in_provenance(
    tiny_model: Callable[..., Path], tiny_documents: Any
) -> None:
    texts = [document.text for document in tiny_documents]
    states, plans = [], []
    for how in ("sorted", "packed", "auto", "sorted", "packed"):
        (found,) = compute_features([tiny_model("bert")], texts, batching=how)
        states += found.extraction.cache
        plans.append(found.extraction.plan.record())
    assert states == ["made", "made", "hit", "hit", "hit"]
    assert [plan["kind"] for plan in plans] == ["sorted", "packed", "packed", "sorted", "packed"]
    assert plans[0]["padded_tokens"] > plans[1]["padded_tokens"]
    assert len({plan["sha256"] for plan in plans}) == 2


@pytest.mark.parametrize("streamed", [False, True])
def test_a_comparison_packed_is_the_sorted_one(
    streamed: bool, tiny_model: Callable[..., Path], tiny_documents: Any
) -> None:
    texts = [document.text for document in tiny_documents]
    both = tiny_model("bert"), tiny_model("bert", seed=1)
    options = {"cache": False, "rescale": True} | ({"keep_features": 0} if streamed else {})
    plain, together = (compare(*both, texts, batching=how, **options) for how in ("sorted", "packed"))
    np.testing.assert_allclose(together.matrix("debiased"), plain.matrix("debiased"), atol=1e-6)
    assert together.record["provenance"]["settings"]["batching"] == "packed"
    assert together.record["provenance"]["corpus"]["draws"][0]["plan"]["kind"] == "packed"


def test_one_of_two_that_does_not_pack_runs_sorted_under_auto(
    tiny_model: Callable[..., Path], tiny_documents: Any, fresh_tokenizer: Callable[..., Any]
) -> None:
    texts = [document.text for document in tiny_documents]
    animal = next(one for one in ZOO if one.label == "deberta")
    mixed = [tiny_model("bert"), (make(replace(animal, dtype="float32")), fresh_tokenizer())]
    found = compute_features(mixed, texts, batching="auto", cache=False)
    assert [one.extraction.plan.kind for one in found] == ["packed", "sorted"]
    with pytest.raises(UserError, match=r"DebertaModel.* other hidden states"):
        compute_features(mixed, texts, batching="packed", cache=False)


def test_the_published_protocol_has_batches_of_its_own(tiny_model: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match="batching 'packed' contradicts protocol 'paper'"):
        compare(tiny_model("bert"), tiny_model("bert"), "sample", protocol="paper", batching="packed")
