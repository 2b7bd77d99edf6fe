"""Paired differences: against a t interval by hand, correlated layers, and what a few documents decide."""

import numpy as np
import pytest
from scipy import stats

from cka_tools.statistics.differences import deciding_documents, paired_differences


def means_without(X):
    """Leave-one-out means of each row of (D, m)."""
    m = X.shape[1]
    return (X.sum(1, keepdims=True) - X) / (m - 1)


def test_the_interval_of_a_mean_is_the_t_interval():
    X = np.random.default_rng(0).normal(0.3, 1, size=(1, 60))
    (found,) = paired_differences(X.mean(1), means_without(X), 60)
    expected = stats.t.interval(0.95, 59, X.mean(), stats.sem(X[0]))
    # Satterthwaite's degrees of freedom are the kurtosis's, at most 59: as wide or a little wider.
    assert found.interval.ci_low == pytest.approx(expected[0], abs=0.01)
    assert found.interval.ci_high == pytest.approx(expected[1], abs=0.01)
    assert found.together.ci_low == pytest.approx(found.interval.ci_low, abs=0.01)


def test_layers_that_move_together_cost_less_than_layers_that_do_not():
    rng = np.random.default_rng(1)
    same = np.repeat(rng.normal(size=(1, 200)), 12, axis=0)
    apart = rng.normal(size=(12, 200))
    widths = []
    for X in (same, apart):
        found = paired_differences(X.mean(1), means_without(X), 200)
        ratios = [(f.together.ci_high - f.together.ci_low) / (f.interval.ci_high - f.interval.ci_low) for f in found]
        widths.append(np.mean(ratios))
    bonferroni = stats.norm.ppf(1 - 0.025 / 12) / stats.norm.ppf(0.975)
    assert widths[0] == pytest.approx(1, abs=0.03)
    assert widths[1] == pytest.approx(bonferroni, abs=0.06)


def test_values_that_are_undefined_have_no_difference():
    X = np.random.default_rng(2).normal(size=(2, 40))
    without = means_without(X)
    without[1] = np.nan
    found = paired_differences(np.array([0.5, np.nan]), without, 40)
    assert found[0].p is not None
    assert (found[1].interval.value, found[1].p) == (None, None)
    assert found[1].interval.reason


@pytest.mark.slow
def test_one_error_rate_for_all_layers():
    rng = np.random.default_rng(3)
    missed = significant = 0
    for _ in range(300):
        common = rng.normal(size=(1, 80))
        X = 0.7 * common + rng.normal(size=(8, 80))
        found = paired_differences(X.mean(1), means_without(X), 80)
        missed += any(not f.together.ci_low <= 0 <= f.together.ci_high for f in found)
        significant += any(f.p <= 0.05 for f in found)
    assert 0.01 < missed / 300 < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 300)
    assert 0.01 < significant / 300 < 0.07 + 3 * np.sqrt(0.05 * 0.95 / 300)


@pytest.mark.parametrize("draw", ["normal", "laplace"])
def test_ordinary_documents_do_not_decide(draw):
    X = getattr(np.random.default_rng(4), draw)(size=(1, 500))
    assert not len(deciding_documents(means_without(X)[0]))


def test_the_few_that_decide_are_named_in_order():
    X = np.random.default_rng(5).normal(size=(1, 500))
    X[0, [17, 400]] = 90, -60
    assert deciding_documents(means_without(X)[0]).tolist()[0] == 17
    assert len(deciding_documents(means_without(X)[0])) == 1
    assert not len(deciding_documents(np.full(40, 0.5)))
