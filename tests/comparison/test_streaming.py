"""`compare` beyond what it keeps: the same values as with kept features, announced, constant in documents."""

import numpy as np
import pytest

from cka_tools import compare, matrix, trajectory
from cka_tools.comparison import streaming
from cka_tools.errors import UserError
from cka_tools.statistics import pair as feature_comparison

#: What permuted documents give; they need features that are kept.
PERMUTED = {"floor", "p", "best_floor", "best_p"}


def flat(value):
    """Every number of a record, in order, but those of permuted documents; words stay words."""
    if isinstance(value, dict):
        return [leaf for key in sorted(value) if key not in PERMUTED for leaf in flat(value[key])]
    if isinstance(value, list):
        return [leaf for item in value for leaf in flat(item)]
    return [value]


def assert_same(one, two, tolerance=1e-10):
    """Values, intervals, spectra and matrices, rescaled ones too, to max(t, t·v)."""
    for name in ("layers", "matrix", "best_match"):
        for x, y in zip(flat(one.record[name]), flat(two.record[name]), strict=True):
            # The largest of equal variances is any of them.
            assert x == (pytest.approx(y, rel=tolerance, abs=tolerance) if isinstance(y, float) else y)
    for name in ("mean_divergence", "early_divergence"):
        for e in ("biased", "debiased"):
            assert one.summary[name][e] == pytest.approx(two.summary[name][e], rel=tolerance, abs=tolerance)


@pytest.mark.parametrize(
    "options",
    [{}, {"pooling": "token", "tokens_per_document": 2}, {"pairs": "diagonal"}],
    ids=["mean", "token", "diagonal"],
)
def test_streamed_equals_kept_on_one_batch_plan(pair, texts, options):
    options = {"max_length": 64, "rescale": True, "cache": False} | options
    kept = compare(*pair, texts, **options)
    streamed = compare(*pair, texts, keep_features="10KiB", **options)
    assert_same(streamed, kept)
    np.testing.assert_allclose(streamed.arrays["leave_one_out"], kept.arrays["leave_one_out"], rtol=1e-10, atol=1e-10)
    (note,) = [note for note in streamed.summary["notes"] if "streamed" in note]
    assert "more than --keep-features 10.0 KiB" in note
    assert "intervals come from all of them" in note
    assert not [note for note in kept.summary["notes"] if "streamed" in note]
    draw = streamed.record["provenance"]["corpus"]["draws"][0]
    assert draw["cache"] == ["streamed", "streamed"]
    assert draw["streamed"]["documents_left_out"] == 120
    assert "streamed" not in kept.record["provenance"]["corpus"]["draws"][0]


def test_depths_and_chosen_layers_may_differ(tiny_model, pair, texts):
    options = {"max_length": 64, "cache": False, "layers": (0, 2)}
    shallow = str(tiny_model("bert", seed=3, layers=3))
    kept = compare(pair[0], shallow, texts, **options)
    assert_same(compare(pair[0], shallow, texts, keep_features=0, **options), kept)


@pytest.mark.parametrize("pairs", ["all", "diagonal"])
@pytest.mark.parametrize("is_a", [False, True], ids=["third model", "control is A"])
def test_a_control_is_streamed_beside_the_pair(tiny_model, pair, texts, pairs, is_a):
    control = pair[0] if is_a else str(tiny_model("bert", seed=7))
    options = {"max_length": 64, "cache": False, "control": control, "pairs": pairs, "rescale": True}
    kept = compare(*pair, texts, **options)
    streamed = compare(*pair, texts, keep_features=0, **options)
    assert_same(streamed, kept)
    for name in ("control", "ratio"):
        for x, y in zip(flat(streamed.summary[name]), flat(kept.summary[name]), strict=True):
            assert x == (pytest.approx(y, rel=1e-9, abs=1e-9) if isinstance(y, float) else y)
    assert kept.summary["ratio"]["mean"]["ci_low"] is not None


def assert_same_pairs(streamed, kept):
    """Every number of every pair and array, whatever the kind of run."""
    assert len(streamed.record["pairs"]) == len(kept.record["pairs"])
    for one, two in zip(streamed.record["pairs"], kept.record["pairs"], strict=True):
        for x, y in zip(flat(one), flat(two), strict=True):
            assert x == (pytest.approx(y, rel=1e-9, abs=1e-9) if isinstance(y, float) else y)
    for name, array in kept.arrays.items():
        np.testing.assert_allclose(streamed.arrays[name], array, rtol=1e-9, atol=1e-9)
    assert [note for note in streamed.summary["notes"] if "streamed" in note]
    assert not [note for note in kept.summary["notes"] if "streamed" in note]


@pytest.fixture(scope="module")
def models(tiny_model, pair):
    """Two more, and a shallow one."""
    return [*pair, *(str(tiny_model("bert", seed=seed)) for seed in (2, 3))], str(tiny_model("bert", seed=4, layers=3))


def test_a_trajectory_is_streamed_with_its_control_and_rescaled(models, texts):
    deep, shallow = models
    options = {"max_length": 64, "cache": False, "rescale": True, "control": deep[3]}
    kept = trajectory(deep[0], [deep[1], shallow, deep[2]], texts, **options)
    streamed = trajectory(deep[0], [deep[1], shallow, deep[2]], texts, keep_features="1KiB", **options)
    assert_same_pairs(streamed, kept)
    assert ["ratio" in one for one in kept.checkpoints] == [True, False, True], "none of another depth"
    assert kept.checkpoints[0]["layers"][0]["rescaled"]["cka_debiased"] is not None
    assert kept.checkpoints[0]["ratio"]["mean"]["ci_low"] is not None


@pytest.mark.parametrize("options", [{"rescale": True}, {"layers": (0, 2), "early": (2,)}], ids=str)
def test_a_matrix_is_streamed(models, texts, options):
    deep, shallow = models
    given = [*deep[:3], shallow, deep[0]]
    options = {"max_length": 64, "cache": False} | options
    kept = matrix(given, texts, **options)
    streamed = matrix(given, texts, keep_features="1KiB", **options)
    assert_same_pairs(streamed, kept)
    assert len(kept.pairs) == 10
    draw = streamed.record["provenance"]["corpus"]["draws"][0]
    assert draw["cache"] == ["streamed"] * 5


def test_few_documents_give_the_interval_of_the_ratio_too(tiny_model, pair, texts, monkeypatch):
    monkeypatch.setattr(feature_comparison, "INFLUENCE_DOCUMENTS", 50)
    options = {"max_length": 64, "cache": False, "control": str(tiny_model("bert", seed=7))}
    kept = compare(*pair, texts, **options)
    streamed = compare(*pair, texts, keep_features=0, **options)
    for x, y in zip(flat(streamed.summary["ratio"]), flat(kept.summary["ratio"]), strict=True):
        assert x == (pytest.approx(y, rel=1e-9, abs=1e-9) if isinstance(y, float) else y)


def test_a_model_against_itself_is_one(pair, texts):
    found = compare(pair[0], pair[0], texts, max_length=64, cache=False, keep_features=0)
    for estimator in ("biased", "debiased"):
        np.testing.assert_allclose(found.diagonal(estimator), 1, atol=1e-12)


def test_a_pilot_scales_what_is_rescaled_and_few_documents_give_intervals(pair, texts, monkeypatch):
    monkeypatch.setattr(streaming, "PILOT_DOCUMENTS", 60)
    monkeypatch.setattr(feature_comparison, "INFLUENCE_DOCUMENTS", 50)
    options = {"max_length": 64, "rescale": True, "cache": False}
    kept = compare(*pair, texts, **options)
    streamed = compare(*pair, texts, keep_features=0, **options)
    (note,) = [note for note in streamed.summary["notes"] if "streamed" in note]
    assert "intervals come from 50 of them" in note
    assert "rescaled values from the standard deviations of 60 of them" in note
    plain = [{k: v for k, v in layer.items() if k != "rescaled"} for layer in streamed.layers]
    for found, expected in zip(plain, kept.layers, strict=True):
        for name in set(found) & {"cka_biased", "cka_debiased", "ci_low", "ci_high", "effective_dim_a"}:
            assert found[name] == pytest.approx(expected[name], rel=1e-10, abs=1e-10)
    found, expected = (result.matrix("debiased", rescaled=True) for result in (streamed, kept))
    assert 0 < np.abs(found - expected).max() < 0.05


def test_snapshots_are_removed_and_nothing_is_kept_without_a_cache(pair, texts, cache):
    compare(*pair, texts, max_length=64, keep_features=0, snapshot_every=20)
    assert not list((cache / "runs").iterdir())
    assert not (cache / "features").exists()
    compare(*pair, texts, max_length=64, keep_features=0, snapshot_every=20, cache=False)
    assert not list((cache / "runs").iterdir())


@pytest.mark.parametrize("keep", ["8GB", "much", "-1", "1e3"])
def test_a_size_that_is_none_is_quoted(pair, texts, keep):
    with pytest.raises(UserError, match=f"keep-features {keep!r}"):
        compare(*pair, texts, keep_features=keep)
