"""`trajectory` and `matrix`: what they cost in passes, and that their numbers are those of `compare`."""

import gc
import json
import weakref
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch

from cka_tools import ModelMatrix, Trajectory, compare, matrix, trajectory
from cka_tools.comparison.run_matrix import average_linkage
from cka_tools.comparison.run_trajectory import find_series
from cka_tools.errors import UserError
from cka_tools.extraction import extract
from cka_tools.models import SpecSource, source
from cka_tools.statistics.features import ModelStatistics, pair_hsic
from cka_tools.statistics.pair import compare_features, compare_statistics

EXACT = 1e-12
SEEDS = range(7)


@pytest.fixture(scope="module")
def texts(texts):
    return texts[:60]


@pytest.fixture(scope="module")
def checkpoints(tiny_model):
    return [str(tiny_model("modernbert", seed=seed, layers=3)) for seed in SEEDS]


@pytest.fixture
def forwards(monkeypatch):
    """Documents that went into the first block of each loaded model, in the order of loading.

    The hook is torch's global one: hooks on the model itself would make the store probe what they do.
    """
    seen: list[int] = []
    # Weak: an id of a model that was let go is given to another.
    blocks: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()
    load_source = SpecSource.load

    def load(self, options):
        loaded = load_source(self, options)
        blocks[loaded.blocks[0].module] = len(seen)
        seen.append(0)
        return loaded

    def count(module, args):
        if module in blocks:
            seen[blocks[module]] += args[0].shape[0]

    monkeypatch.setattr(SpecSource, "load", load)
    handle = torch.nn.modules.module.register_module_forward_pre_hook(count)
    yield seen
    handle.remove()


@pytest.mark.parametrize("use_cache", [True, False])
def test_six_checkpoints_against_a_reference_are_seven_passes(checkpoints, texts, cache, forwards, use_cache):
    trajectory(checkpoints[0], checkpoints[1:], texts, max_length=64, cache=use_cache)
    assert forwards == [60] * 7
    forwards.clear()
    trajectory(checkpoints[0], checkpoints[1:], texts, max_length=64, cache=use_cache)
    assert forwards == ([] if use_cache else [60] * 7), "what the store has is not even loaded"


@pytest.mark.parametrize("use_cache", [True, False])
def test_all_pairs_of_six_are_six_passes(checkpoints, texts, cache, forwards, use_cache):
    matrix(checkpoints[:6], texts, max_length=64, cache=use_cache)
    assert forwards == [60] * 6
    forwards.clear()
    matrix(checkpoints[:6], texts, max_length=64, cache=use_cache)
    assert forwards == ([] if use_cache else [60] * 6)


RUNS = {
    "compare": lambda models, texts, **more: compare(*models[:2], texts, control=models[2], **more),
    "trajectory": lambda models, texts, **more: trajectory(models[0], models[1:3], texts, control=models[3], **more),
    "matrix": lambda models, texts, **more: matrix(models[:3], texts, **more),
}


@pytest.mark.parametrize("command", RUNS)
def test_a_model_is_opened_once_and_not_loaded_again(checkpoints, texts, cache, forwards, monkeypatch, command):
    opened = []
    open_once = source.open_checkpoint
    monkeypatch.setattr(
        source, "open_checkpoint", lambda spec, **more: opened.append(spec.given) or open_once(spec, **more)
    )
    count = 4 if command == "trajectory" else 3
    first = RUNS[command](checkpoints, texts, max_length=64)
    assert forwards == [60] * count
    assert sorted(opened) == sorted(checkpoints[:count]), "config and tokenizer are read once a model"
    forwards.clear()
    again = RUNS[command](checkpoints, texts, max_length=64)
    assert forwards == [], "nothing is loaded where the store has all features"
    draws = [result.record["provenance"]["corpus"].pop("draws") for result in (first, again)]
    assert [draw[0].pop("cache") for draw in draws] == [["made"] * count, ["hit"] * count]
    assert draws[0] == draws[1]
    for result in (first, again):
        del result.record["provenance"]["created"]
    assert again.record == first.record
    for name, array in first.arrays.items():
        np.testing.assert_array_equal(again.arrays[name], array)


def test_a_matrix_after_a_trajectory_runs_only_what_is_new(checkpoints, texts, cache, forwards):
    trajectory(checkpoints[0], checkpoints[1:3], texts, max_length=64)
    forwards.clear()
    matrix(checkpoints[:4], texts, max_length=64)
    assert forwards == [60]


def test_one_model_at_a_time_is_in_memory(checkpoints, texts, cache, monkeypatch):
    alive: list[weakref.ref] = []
    most = []

    load_source = SpecSource.load

    def load(self, options):
        loaded = load_source(self, options)
        alive.append(weakref.ref(loaded.model))
        most.append(sum(one() is not None for one in alive))
        return loaded

    monkeypatch.setattr(SpecSource, "load", load)
    matrix(checkpoints[:3], texts, max_length=64)
    assert most == [1, 1, 1]
    gc.collect()
    assert [one() for one in alive] == [None] * 3


def test_texts_are_tokenized_once_a_tokenizer(tiny_model, checkpoints, texts, cache, monkeypatch):
    calls = []
    tokenize = extract.tokenize
    monkeypatch.setattr(extract, "tokenize", lambda *a: calls.append(a[1].name) or tokenize(*a))
    other = str(tiny_model("gpt2", layers=3))  # no special tokens
    matrix([checkpoints[0], other, checkpoints[1], checkpoints[2]], texts, max_length=64, cache=False)
    assert calls == [checkpoints[0], other]


def equal(pair, result):
    """A pair's entry against a comparison."""
    for name in ("mean_divergence", "early_divergence"):
        for estimator in ("biased", "debiased"):
            found, wanted = pair[name][estimator], result.summary[name][estimator]
            for end in ("value", "ci_low", "ci_high"):
                assert found[end] == pytest.approx(wanted[end], abs=EXACT)
    for found, wanted in zip(pair["layers"], result.layers, strict=True):
        assert (found["layer_a"], found["layer_b"]) == (wanted["layer_a"], wanted["layer_b"])
        assert found["divergence"]["value"] == pytest.approx(1 - wanted["cka_debiased"], abs=EXACT)
        assert found["divergence"]["ci_low"] == pytest.approx(1 - wanted["ci_high"], abs=EXACT)
        assert found["divergence_biased"] == pytest.approx(1 - wanted["cka_biased"], abs=EXACT)
        for key in ("effective_dim_a", "effective_dim_b", "top_feature_share_a"):
            assert found[key] == pytest.approx(wanted[key], rel=1e-10)


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("changed", [{}, {"layers": [0, 2], "early": [2]}, {"pooling": "token"}])
def test_values_are_those_of_compare_without_a_cache(checkpoints, texts, cache, use_cache, changed):
    options = {"max_length": 64, "seed": 3, **changed}
    first = matrix(checkpoints[:3], texts, cache=use_cache, **options)
    again = matrix(checkpoints[:3], texts, cache=use_cache, **options)
    along = trajectory(checkpoints[0], checkpoints[1:3], texts, control=checkpoints[3], cache=use_cache, **options)
    for pair, second in zip(first.pairs, again.pairs, strict=True):
        result = compare(checkpoints[pair["a"]], checkpoints[pair["b"]], texts, cache=False, **options)
        equal(pair, result)
        equal(second, result)
    for at, entry in ((1, along.checkpoints[0]), (2, along.checkpoints[1]), (3, along.control)):
        equal(entry, compare(checkpoints[at], checkpoints[0], texts, cache=False, **options))


def test_depths_that_differ_are_paired_as_compare_pairs_them(tiny_model, checkpoints, texts, cache):
    deep = str(tiny_model("modernbert", seed=1, layers=6))
    found = matrix([checkpoints[0], deep, checkpoints[1]], texts, max_length=64)
    for pair in found.pairs:
        names = found.names[pair["a"]], found.names[pair["b"]]
        equal(pair, compare(*names, texts, max_length=64, cache=False))
    assert "different depths" in " ".join(found.summary["notes"])
    along = trajectory(deep, [checkpoints[0]], texts, max_length=64)
    assert [(e["layer_a"], e["layer_b"]) for e in along.checkpoints[0]["layers"]] == [(0, 0), (1, 3), (2, 5)]


def test_arrays_are_symmetric_and_hold_the_pairs(checkpoints, texts, cache):
    found = matrix(checkpoints[:4], texts, max_length=64)
    for which in ("mean", "early", "layers"):
        for estimator in ("debiased", "biased"):
            values = found.divergence(which, estimator)
            np.testing.assert_array_equal(values, np.swapaxes(values, -1, -2))
            assert not np.diagonal(values, axis1=-2, axis2=-1).any()
    assert found.divergence("layers").shape == (3, 4, 4)
    np.testing.assert_allclose(found.divergence("layers").mean(0), found.divergence(), atol=1e-14)
    assert [(p["a"], p["b"]) for p in found.pairs] == list(combinations(range(4), 2))
    frame = found.to_frame()
    assert len(frame) == 6 * (3 + 2)
    means = frame[frame.layer == "mean"].set_index(["model_a", "model_b"])
    assert means.divergence[checkpoints[1], checkpoints[2]] == found.divergence()[1, 2]


def test_runs_are_saved_and_read(checkpoints, texts, cache, tmp_path):
    one = matrix(checkpoints[:2], texts, max_length=64)
    two = trajectory(checkpoints[0], checkpoints[1:3], texts, control=checkpoints[3], max_length=64)
    for kind, result, table in ((ModelMatrix, one, "matrix.csv"), (Trajectory, two, "trajectory.csv")):
        folder = result.save(tmp_path / table)
        assert {p.name for p in folder.iterdir()} == {
            "result.json", "arrays.safetensors", table, "figure.pdf", "figure.png",
        }  # fmt: skip
        read = kind.load(folder)
        assert read.record == json.loads(json.dumps(result.record))
        for name, array in result.arrays.items():
            np.testing.assert_array_equal(read.arrays[name], array)
    with pytest.raises(UserError, match="not a matrix's result"):
        ModelMatrix.load(tmp_path / "trajectory.csv")


def test_a_model_given_twice_runs_once_and_is_named(checkpoints, texts, cache, forwards):
    found = matrix([checkpoints[0], checkpoints[1], checkpoints[0]], texts, max_length=64, cache=False)
    assert forwards == [60, 60]
    assert abs(found.divergence()[0, 2]) < 1e-9
    assert any("given more than once" in note for note in found.summary["notes"])


def test_copies_under_two_names_run_once(checkpoints, texts, cache, forwards, tmp_path):
    copy = tmp_path / "copy"
    copy.symlink_to(checkpoints[0], target_is_directory=True)
    found = matrix([checkpoints[0], str(copy)], texts, max_length=64, cache=False)
    assert forwards == [60]
    assert any("hold the same weights" in note for note in found.summary["notes"])


def test_models_in_memory(fresh_model, fresh_tokenizer, checkpoints, texts, cache):
    own = fresh_model("modernbert", seed=1, layers=3), fresh_tokenizer()
    found = trajectory(checkpoints[0], [own], texts, max_length=64)
    wanted = trajectory(checkpoints[0], [checkpoints[1]], texts, max_length=64)
    assert found.divergence() == pytest.approx(wanted.divergence(), abs=EXACT)


def test_token_pooling_needs_one_tokenizer(tiny_model, checkpoints, texts, cache):
    with pytest.raises(UserError, match="different tokenizers: use pooling 'mean'"):
        matrix([*checkpoints[:2], str(tiny_model("gpt2", layers=3))], texts, max_length=64, pooling="token")


def test_a_constant_layer_is_null_in_the_middle_of_numbers(checkpoints, texts, cache, fresh_model, fresh_tokenizer):
    model = fresh_model("bert", seed=0, layers=3)
    with torch.no_grad():
        norm = model.encoder.layer[-1].output.LayerNorm
        norm.weight.zero_()
    found = matrix([checkpoints[0], (model, fresh_tokenizer())], texts, max_length=64)
    last = found.pairs[0]["layers"][-1]["divergence"]
    assert last["value"] is None
    assert "no variance" in last["reason"]
    assert np.isnan(found.divergence("layers")[-1, 0, 1])
    assert np.isfinite(found.divergence()[0, 1])
    json.dumps(found.record, allow_nan=False)


# --- the statistics behind them


@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize(("n", "width"), [(90, 7), (40, 64), (600, 12)])
def test_statistics_made_once_give_the_same_comparison(rescale, n, width):
    rng = np.random.default_rng(1)
    a, b = ([rng.normal(size=(n, width)) + 50 for _ in range(3)] for _ in range(2))
    pairs = [(0, 0), (1, 2), (2, 1)]
    whole = compare_features(a, b, pairs, [0], rescale=rescale)
    sides = [ModelStatistics(side, rescale=rescale) for side in (a, b)]
    found = compare_statistics(*sides, pairs, [0])
    for one, two in zip(found.layers, whole.layers, strict=True):
        assert one.debiased.value == pytest.approx(two.debiased.value, abs=EXACT)
        assert one.debiased.ci_low == pytest.approx(two.debiased.ci_low, abs=EXACT)
        assert one.spectrum_a.effective_dim == pytest.approx(two.spectrum_a.effective_dim, rel=1e-10)
    asked = np.zeros((3, 3), dtype=bool)
    asked[tuple(zip(*pairs, strict=True))] = True
    assert (np.isfinite(found.matrices["debiased"]) == asked).all()


@pytest.mark.parametrize(("n", "p", "q"), [(12, 3, 5), (12, 40, 30), (1030, 4, 3)])
def test_pair_hsic_equals_the_gram_form(n, p, q):
    rng = np.random.default_rng(2)
    X, Y = rng.normal(size=(2, n, p)) + 9, rng.normal(size=(2, n, q))
    a, b = (ModelStatistics([side]) for side in (X, Y))
    found = pair_hsic(a, b, [(0, 0)])
    biased = debiased = 0.0
    H = np.eye(n) - 1 / n
    one = np.ones(n)
    for x, y in zip(X, Y, strict=True):
        K, L = x @ x.T, y @ y.T
        biased += np.trace(K @ H @ L @ H) / (n - 1) ** 2 / 2
        K, L = K - np.diag(np.diag(K)), L - np.diag(np.diag(L))
        debiased += (
            np.trace(K @ L)
            + one @ K @ one * (one @ L @ one) / ((n - 1) * (n - 2))
            - 2 * one @ K @ L @ one / (n - 2)
        ) / (n * (n - 3)) / 2  # fmt: skip
    assert found["biased"].item() == pytest.approx(biased, rel=1e-8)
    assert found["debiased"].item() == pytest.approx(debiased, rel=1e-6, abs=1e-8)


# --- the x-axis and the tree


def write_checkpoint(folder: Path, **manifest):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    if manifest:
        (folder / "training.json").write_text(json.dumps(manifest))
    return str(folder)


def test_a_runs_folder_stands_for_its_checkpoints_in_order(tmp_path):
    shared = {"seed": 1, "recipe": {}}
    run = tmp_path / "run"
    write_checkpoint(run / "final", run_tokens=500, tokens=100, **shared)
    write_checkpoint(run / "1-detour", run_tokens=400, tokens=400, **shared)
    for phase, before, count in (("1-detour", 0, 90), ("1-detour", 0, 200), ("final", 400, 50)):
        place = run / f"{phase}-checkpoints" / f"tokens-{count:012d}"
        write_checkpoint(place, run_tokens=before + count, tokens=count, **shared)
    write_checkpoint(run / "final-checkpoints" / ".tokens-9.partial", run_tokens=9)
    (run / "run.json").write_text("{}")
    series = find_series([str(run)])
    assert (series.kind, series.x) == ("tokens", [90, 200, 400, 450, 500])
    assert [Path(c.name).name for c in series.checkpoints][2:] == ["1-detour", "tokens-000000000050", "final"]
    assert series.notes == []
    numbered = find_series([str(run), write_checkpoint(tmp_path / "other", run_tokens=7, seed=2)])
    assert numbered.x[0] == 7
    assert "2 training runs" in numbered.notes[0]


def test_without_manifests_x_is_the_position_and_said(tmp_path):
    for number in (1000, 200, 30):
        write_checkpoint(tmp_path / "trainer" / f"checkpoint-{number}")
    series = find_series([str(tmp_path / "trainer")])
    assert [Path(c.name).name for c in series.checkpoints] == ["checkpoint-30", "checkpoint-200", "checkpoint-1000"]
    assert (series.kind, series.x) == ("position", [1, 2, 3])
    assert "x is the position: 3 of 3" in series.notes[0]


def test_given_x_orders_the_checkpoints(tmp_path):
    names = [write_checkpoint(tmp_path / name) for name in "abc"]
    series = find_series(names, [3, -1, 0.5])
    assert [c.name for c in series.checkpoints] == [names[1], names[2], names[0]]
    assert series.x == [-1, 0.5, 3]


def test_average_linkage_of_three():
    found = average_linkage(np.array([[0, 0.1, 0.4], [0.1, 0, 0.6], [0.4, 0.6, 0]]))
    assert [m["height"] for m in found["merges"]] == pytest.approx([0.1, 0.5])
    assert sorted(found["order"]) == [0, 1, 2]
    assert found["order"].index(2) in (0, 2)


def test_a_divergence_below_zero_is_merged_where_it_is():
    found = average_linkage(np.array([[0, -0.01, 0.4], [-0.01, 0, 0.6], [0.4, 0.6, 0]]))
    assert found["merges"][0]["height"] == -0.01


def test_an_undefined_divergence_gives_no_tree_but_a_reason():
    found = average_linkage(np.array([[0, np.nan, 1], [np.nan, 0, 1], [1, 1, 0.0]]))
    assert (found["merges"], found["order"]) == ([], [0, 1, 2])
    assert "undefined" in found["reason"]
