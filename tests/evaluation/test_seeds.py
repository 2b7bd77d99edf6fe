"""Intervals over seeds, and over seeds and documents, against formulas and known populations."""

import numpy as np
import pytest
from scipy import stats

from cka_tools.statistics.paired import Reading
from cka_tools.statistics.seeds import over_seeds, over_seeds_and_documents


def test_over_seeds_is_students_interval() -> None:
    values = [0.71, 0.74, 0.69, 0.73, 0.75]
    low, high = stats.t.interval(0.95, 4, loc=np.mean(values), scale=stats.sem(values))
    found = over_seeds(values)
    assert (found.value, found.ci_low, found.ci_high) == pytest.approx((np.mean(values), low, high))


def test_one_seed_has_no_interval_and_says_why() -> None:
    for found in (over_seeds([0.5]), over_seeds_and_documents([[Reading.mean(np.arange(50.0))]])):
        assert (found.ci_low, found.ci_high) == (None, None)
        assert "one seed" in str(found.reason)


def test_few_documents_have_no_interval_of_both() -> None:
    found = over_seeds_and_documents([[Reading.mean(np.arange(9.0))] * 3])
    assert found.ci_low is None
    assert "9 documents" in str(found.reason)


def test_both_variances_are_added() -> None:
    """Seeds that agree leave that of documents; documents that agree leave that of seeds."""
    rng = np.random.default_rng(1)
    one = rng.normal(size=60)
    alike = over_seeds_and_documents([[Reading.mean(one)] * 4])
    assert (alike.ci_low, alike.ci_high) == pytest.approx(
        (Reading.mean(one).interval().ci_low, Reading.mean(one).interval().ci_high)
    )
    levels = [0.1, 0.3, 0.2, 0.25]
    flat = over_seeds_and_documents([[Reading.mean(np.full(60, level)) for level in levels]])
    assert (flat.ci_low, flat.ci_high) == pytest.approx((over_seeds(levels).ci_low, over_seeds(levels).ci_high))


@pytest.mark.slow
@pytest.mark.parametrize("tasks", [1, 3])
def test_the_interval_of_both_covers_a_known_difference(tasks: int) -> None:
    """Differences with a part of the seed, of the document, and of both: the mean is known to be 0.3."""
    rng = np.random.default_rng(2)
    inside = 0
    for _ in range(1500):
        seed = rng.normal(scale=0.1, size=(5, 1))
        readings = []
        for _ in range(tasks):
            noise = rng.normal(scale=0.6, size=(1, 80)) + rng.normal(scale=0.3, size=(5, 80))
            readings.append([Reading.mean(row) for row in 0.3 + seed + noise])
        found = over_seeds_and_documents(readings)
        assert found.ci_low is not None
        assert found.ci_high is not None
        inside += found.ci_low <= 0.3 <= found.ci_high
    assert 0.93 <= inside / 1500 <= 0.975


def test_the_interval_of_a_share_ends_at_what_a_share_can_be() -> None:
    free, cut = over_seeds([0.2, 0.6]), over_seeds([0.2, 0.6], share=True)
    assert free.ci_low is not None
    assert free.ci_low < 0
    assert (cut.value, cut.ci_low, cut.ci_high) == (pytest.approx(0.4), 0.0, 1.0)
    assert over_seeds([0.5, 0.51, 0.52], share=True) == over_seeds([0.5, 0.51, 0.52])
