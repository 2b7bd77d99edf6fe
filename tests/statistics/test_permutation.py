"""Floors against a plain loop over permuted features; p where nothing is shared."""

import numpy as np
import pytest

from cka_tools.statistics import cka
from cka_tools.statistics.features import ModelStatistics
from cka_tools.statistics.measures import MEASURES
from cka_tools.statistics.permutation import (
    Floor,
    best_match_floors,
    document_permutations,
    measure_floors,
    permuted_values,
)


@pytest.fixture(scope="module")
def layers():
    rng = np.random.default_rng(0)
    a = [rng.normal(size=(30, 6)) for _ in range(2)]
    b = [x @ rng.normal(size=(6, 4)) + rng.normal(size=(30, 4)) for x in a]
    return a, [*b, np.full((30, 3), 2.0)]


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
def test_permuted_values_are_those_of_permuted_features(layers, measure):
    a, b = layers
    orders = document_permutations(30, 5, seed=1)
    found = permuted_values(measure, ModelStatistics(a), ModelStatistics(b), [(0, 1), (1, 0)], orders)
    expected = [[measure(a[i][order], b[j]) for i, j in ((0, 1), (1, 0))] for order in orders.numpy()]
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_token_draws_of_a_document_move_together():
    X, Y = np.random.default_rng(1).normal(size=(2, 3, 30, 5))
    orders = document_permutations(30, 3, seed=1)
    for name in ("cka", "rsa"):
        found = permuted_values(MEASURES[name], ModelStatistics([X]), ModelStatistics([Y + X]), [(0, 0)], orders)
        expected = [
            MEASURES[name].values(ModelStatistics([X[:, order]]), ModelStatistics([Y + X]), [(0, 0)]).item()
            for order in orders.numpy()
        ]
        np.testing.assert_allclose(found[:, 0], expected, atol=2e-6)


def test_a_floor_counts_the_value_itself():
    orders = document_permutations(30, 19, seed=0)
    a, b = (ModelStatistics([np.random.default_rng(s).normal(size=(30, 3))]) for s in (0, 1))
    permuted = permuted_values(MEASURES["cka"], a, b, [(0, 0)], orders)[:, 0]
    assert Floor.of(2.0, permuted).p == 1 / 20
    assert Floor.of(-2.0, permuted).p == 1
    found, nothing = measure_floors(MEASURES["cka"], a, b, [(0, 0), (0, 0)], [0.01, None], orders)
    assert nothing is None
    assert found.mean == pytest.approx(permuted.mean().item())
    assert found.p == (1 + int((permuted >= 0.01).sum())) / 20


def test_the_floor_of_a_biased_measure_is_where_independent_features_are():
    """Procrustes of independent features is far above 0 at few documents, debiased CKA is not."""
    rng = np.random.default_rng(2)
    a, b = ([rng.normal(size=(40, 30))] for _ in range(2))
    orders = document_permutations(40, 30, seed=0)
    floors = {}
    for name in ("procrustes", "cka"):
        value, measure = MEASURES[name](a[0], b[0]), MEASURES[name]
        (floors[name],) = measure_floors(measure, ModelStatistics(a), ModelStatistics(b), [(0, 0)], [value], orders)
        assert value == pytest.approx(floors[name].mean, abs=0.1)
    assert floors["procrustes"].mean > 0.4
    assert abs(floors["cka"].mean) < 0.05


def test_the_best_match_is_held_against_the_best_of_as_many_layers(layers):
    a, b = layers
    A, B = ModelStatistics(a), ModelStatistics(b)
    matrix = np.array([[cka(x, y) if y.std() else np.nan for y in b] for x in a])
    orders = document_permutations(30, 8, seed=2)
    paired, best = best_match_floors(A, B, [(0, 1), (1, 0), (1, 2)], [0, 1, 2], matrix, orders)
    for d, (i, j) in enumerate([(0, 1), (1, 0)]):
        each = np.array([[cka(a[i][order], b[k]) for k in (0, 1)] for order in orders.numpy()])
        assert best[d].mean == pytest.approx(each.max(1).mean(), abs=1e-6)
        assert best[d].p == (1 + (each.max(1) >= np.nanmax(matrix[i])).sum()) / 9
        assert paired[d].mean == pytest.approx(each[:, j].mean(), abs=1e-6)
    assert paired[2] is None
    assert best[2] == best[1]


@pytest.mark.slow
def test_p_of_the_best_among_many_holds_its_level_where_nothing_is_shared():
    """Against one pair's null the best of 12 would be called significant far too often."""
    rng = np.random.default_rng(3)
    alone, chosen = [], []
    orders = document_permutations(40, 39, seed=0)
    for _ in range(200):
        a, b = [rng.normal(size=(40, 3))], [rng.normal(size=(40, 3)) for _ in range(12)]
        matrix = np.array([[cka(a[0], y) for y in b]])
        top = int(matrix.argmax())
        paired, best = best_match_floors(ModelStatistics(a), ModelStatistics(b), [(0, top)], range(12), matrix, orders)
        alone.append(paired[0].p <= 0.05)
        chosen.append(best[0].p <= 0.05)
    assert np.mean(alone) > 0.3
    assert np.mean(chosen) < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 200)
