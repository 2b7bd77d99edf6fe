"""Measures beside CKA in every kind of run: values, tables, records, and what is refused before any work."""

import json

import numpy as np
import pytest

from cka_tools import compare, compute, matrix, trajectory
from cka_tools.compute import compute_features
from cka_tools.errors import UserError
from cka_tools.extraction.activations import PooledForward
from cka_tools.statistics.measures import MEASURES

OPTIONS = {"max_length": 64, "documents": 40, "layers": (0, 3, 5)}
BOTH = ("cka", "mknn")
NEIGHBOURS = 10


@pytest.fixture(scope="module")
def three(tiny_model):
    return [str(tiny_model("bert", seed=seed)) for seed in range(3)]


def shared_neighbours(X, Y):
    """Mean share of the ten nearest by cosine that two matrices have in common, document by document."""
    near = []
    for side in (X, Y):
        centred = side.astype(np.float64) - side.astype(np.float64).mean(0)
        unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
        cosines = unit @ unit.T
        np.fill_diagonal(cosines, -np.inf)
        near.append([set(np.argsort(-row, kind="stable")[:NEIGHBOURS]) for row in cosines])
    return np.mean([len(a & b) / NEIGHBOURS for a, b in zip(*near, strict=True)])


@pytest.fixture(scope="module")
def expected(three, texts):
    """By pair of models its values by layer."""
    layers = [one.layers for one in compute_features(three, texts, **OPTIONS)]
    return {
        (a, b): [shared_neighbours(layers[a][at], layers[b][at]) for at in OPTIONS["layers"]]
        for a, b in ((0, 1), (0, 2), (1, 2))
    }


def check(result, pairs, tmp_path):
    """A run's entries, table and record; `pairs` are the values wanted of each."""
    assert result.record["provenance"]["settings"]["measures"] == ["cka", "mknn"]
    for entry, wanted in zip(result.record["pairs"], pairs, strict=True):
        found = [layer["measures"] for layer in entry["layers"]]
        np.testing.assert_allclose([one["mknn"]["value"] for one in found], wanted, atol=1e-12)
        for layer, measures in zip(entry["layers"], found, strict=True):
            assert measures["cka"]["value"] == pytest.approx(1 - layer["divergence"]["value"], abs=1e-15)
            assert measures["mknn"]["ci_low"] is None
            assert "neighbours depend on all other documents" in measures["mknn"]["reason"]
    frame = result.to_frame()
    frame = frame[~frame.layer.isin(["early", "mean"])]
    np.testing.assert_allclose(frame.mknn.astype(float), np.concatenate(pairs), atol=1e-12)
    assert frame.mknn_low.isna().all()
    assert frame.mknn_reason.str.contains("neighbours").all()
    folder = result.save(tmp_path / "run")
    head = (folder / result.table).read_text().splitlines()[0].split(",")
    assert {"mknn", "mknn_low", "mknn_high", "mknn_reason"} <= set(head)
    assert type(result).load(folder).record == json.loads(json.dumps(result.record))


def test_a_comparison_gives_them_for_every_layer(three, texts, expected, tmp_path):
    check(compare(*three[:2], texts, measures=BOTH, **OPTIONS), [expected[0, 1]], tmp_path)


@pytest.mark.parametrize("name", ["procrustes", "rsa", "svcca"])
def test_other_measures_are_those_of_the_features_with_floor_and_p(three, texts, name, tmp_path, cka):
    result = compare(*three[:2], texts, measures=("cka", name), permutations=9, **OPTIONS)
    a, b = (one.layers for one in compute_features(three[:2], texts, **OPTIONS))
    for entry in result.layers:
        at, found = entry["layer_a"], entry["measures"][name]
        assert found["value"] == pytest.approx(MEASURES[name](a[at], b[at]), abs=1e-9)
        assert 0.1 <= found["p"] <= 1
        assert -1 < found["floor"] < 1
        assert 0.1 <= entry["measures"]["cka"]["p"] <= 1
        assert entry["best_p"] >= 0.1
        assert entry["best_floor"] >= entry["measures"]["cka"]["floor"]
    assert result.summary["floors"]["permutations"] == {"cka": 9, name: 9}
    assert {f"{name}_floor", f"{name}_p", "cka_p", "best_p"} <= set(result.to_frame().columns)
    shown = cka("show", result.save(tmp_path / "run"))[1]
    assert f"floor {name}: " in shown
    assert "9 orders of A's documents" in " ".join(shown.split())
    assert "best in B: p 0." in shown


def test_permutations_that_cannot_be_made_are_refused_or_said(three, texts):
    with pytest.raises(UserError, match="permutations 5 need features that are kept"):
        compare(*three[:2], texts, permutations=5, keep_features=0, **OPTIONS)
    for options in ({"permutations": 0}, {"keep_features": 0}):
        result = compare(*three[:2], texts, **OPTIONS | options)
        assert len(result.summary["floors"]["reason"].split()) > 2
        assert result.layers[0]["best_p"] is None


def test_a_control_has_its_own(three, texts, expected):
    result = compare(*three[:2], texts, control=three[2], measures=BOTH, **OPTIONS)
    found = [[layer["measures"]["mknn"]["value"] for layer in p["layers"]] for p in result.record["pairs"]]
    np.testing.assert_allclose(found, [expected[0, 1], expected[1, 2]], atol=1e-12)


def test_a_trajectory_gives_them_for_every_checkpoint(three, texts, expected, tmp_path):
    result = trajectory(three[0], three[1:], texts, measures=BOTH, **OPTIONS)
    check(result, [expected[0, 1], expected[0, 2]], tmp_path)


def test_a_matrix_gives_them_for_every_pair(three, texts, expected, tmp_path):
    result = matrix(three, texts, measures=BOTH, **OPTIONS)
    check(result, [expected[0, 1], expected[0, 2], expected[1, 2]], tmp_path)


RUNS = {
    "compare": lambda models, corpus, **more: compare(*models[:2], corpus, **more),
    "trajectory": lambda models, corpus, **more: trajectory(models[0], models[1:], corpus, **more),
    "matrix": lambda models, corpus, **more: matrix(models, corpus, **more),
}


@pytest.mark.parametrize("run", RUNS)
def test_an_unknown_measure_is_one_line_before_a_document_is_read(run, three, texts, monkeypatch):
    def read(*args, **kwargs):
        raise AssertionError("the corpus was read")

    monkeypatch.setattr(compute, "draw_documents", read)
    with pytest.raises(AssertionError, match="was read"):
        RUNS[run](three, texts, measures=("cka",))
    for name, words in (("mkn", "did you mean 'mknn'?"), ("wasserstein", f"choose one of {', '.join(MEASURES)}")):
        with pytest.raises(UserError) as error:
            RUNS[run](three, texts, measures=("cka", name))
        assert str(error.value) == f"measure {name!r} is not known: {words}"


@pytest.mark.parametrize("run", RUNS)
def test_a_measure_that_cannot_stream_is_refused_before_any_pass(run, three, texts, monkeypatch):
    def forward(*args, **kwargs):
        raise AssertionError("a model ran")

    monkeypatch.setattr(PooledForward, "__call__", forward)
    with pytest.raises(AssertionError, match="a model ran"):
        RUNS[run](three, texts, keep_features="1KiB", cache=False, **OPTIONS)
    with pytest.raises(UserError) as error:
        RUNS[run](three, texts, measures=BOTH, keep_features="1KiB", cache=False, **OPTIONS)
    assert "measure 'mknn' needs features that are kept" in str(error.value)
    assert "--keep-features 1,024 bytes" in str(error.value)
    assert "\n" not in str(error.value)
