"""The benchmark of sensitivity at its smallest: what it measures is what its tables say."""

import importlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from cka_tools.statistics.measures import MEASURES


@pytest.fixture(scope="module")
def sensitivity():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
        yield importlib.import_module("sensitivity")


def test_debiased_cka_falls_to_0_as_documents_are_shuffled_and_others_to_their_floors(sensitivity):
    X = np.random.default_rng(0).normal(size=(200, 20))
    Y = X + 0.5 * np.random.default_rng(1).normal(size=X.shape)
    table = sensitivity.shuffled_rows(X, Y, shares=(0, 0.3, 0.6, 1)).pivot(
        index="measure", columns="shuffled", values="value"
    )
    assert set(MEASURES) < set(table.index)
    falls = table.loc["cka"].to_numpy()
    assert (np.diff(falls) < 0).all()
    assert abs(falls[-1]) < 0.02
    assert table.loc["cka biased", 1] > 0.05
    assert table.loc["cka", 0] == pytest.approx(MEASURES["cka"](X, Y))


def test_a_measure_that_follows_the_probe_has_a_high_rank_correlation(sensitivity):
    """The word goes by the first direction, whose deletion moves both."""
    rng = np.random.default_rng(2)
    held = rng.random(120) < 0.5
    X = rng.normal(size=(120, 12))
    X[:, 0] += 20 * held
    texts = [f"{'needle' if one else 'nothing'} other{at}" for at, one in enumerate(held)]
    assert sensitivity.common_words(texts) == ["needle", "nothing"]
    train = np.arange(120) < 80
    assert sensitivity.probe_loss(X, held.astype(float), train) < 0.05
    assert sensitivity.probe_loss(X[:, 1:], held.astype(float), train) > 0.8
    table = sensitivity.deleted_components(X, texts, seeds=2, deleted=(0, 1))
    np.testing.assert_allclose(table.rank_correlation, 1)
    assert set(table.word) <= {"needle", "nothing"}


def test_groups_that_are_told_apart_have_a_precision_of_one(sensitivity):
    scores, same = np.array([0.9, 0.8, 0.3, 0.1]), np.array([True, True, False, False])
    assert sensitivity.average_precision(scores, same) == 1
    assert sensitivity.average_precision(-scores, same) == pytest.approx((1 / 3 + 2 / 4) / 2)


def test_the_error_over_seeds_is_that_of_a_mean(sensitivity):
    values = np.random.default_rng(4).normal(size=10)
    without = np.array([np.delete(values, seed).mean() for seed in range(10)])
    assert sensitivity.jackknife_error(without) == pytest.approx(values.std(ddof=1) / np.sqrt(10))


def test_rates_beyond_two_standard_errors_are_counted(sensitivity):
    """At 400 draws two standard errors of 5 % are 2.2 points, of 2.5 % 1.6."""
    rates = pd.DataFrame(
        {"at 5 %": [0.05, 0.071, 0.073, np.nan], "CKA, interval above 0 (half of 5 %)": [0.0, 0.01, 0.04, 0.042]}
    )
    found = sensitivity.level_of_tests(rates, 400)
    assert found[["above", "below"]].to_numpy().tolist() == [[1, 0], [1, 1]]
    assert found["mean"].tolist() == pytest.approx([0.194 / 3, 0.023])
    error = np.sqrt(0.05 * 0.95 / (3 * 400))
    assert found["errors_from_level"].iloc[0] == pytest.approx((0.194 / 3 - 0.05) / error)


@pytest.mark.slow
def test_encoders_of_one_rate_are_closer_than_encoders_of_two(sensitivity):
    table = sensitivity.told_apart("shortcut", seeds=3, rates=(0.0, 1.0), steps=60).set_index("measure")
    assert table.loc["cka", "auprc"] > table.loc["cka", "by_chance"] + 0.1
    assert table.loc["cka", ["minus_cka", "low", "high"]].tolist() == [0, 0, 0]
    assert (table.low <= table.minus_cka).all()
    assert table.loc["svcca", "low"] < table.loc["svcca", "minus_cka"] < table.loc["svcca", "high"]


def test_no_test_finds_what_is_not_there_much_more_often_than_it_says(sensitivity):
    found = sensitivity.false_alarms("Laplace", 40, 6, draws=60, permutations=19, layers=2)
    assert len(found) == 9
    for test, rate in found.items():
        assert rate <= 0.05 + norm.ppf(0.999) * np.sqrt(0.05 * 0.95 / 60), test
