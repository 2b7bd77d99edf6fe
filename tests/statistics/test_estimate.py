"""The minibatch estimator: right on random groups, and why the groups must be random."""

import numpy as np
import pytest
import torch

from cka_tools.errors import UserError
from cka_tools.statistics import cka
from cka_tools.statistics.estimate import minibatch_cka


def by_length(n=2048, seed=0):
    """Features whose means depend on the document's length, shared by both sides; the rest is independent."""
    rng = np.random.default_rng(seed)
    length = np.sort(rng.uniform(-1, 1, size=(n, 1)), axis=0)
    direction = rng.normal(size=(2, 1, 6))
    return [20 * length * direction[side] + rng.normal(size=(n, 6)) for side in (0, 1)]


def test_random_groups_find_what_length_makes_alike_and_sorted_groups_lose_it():
    X, Y = by_length()
    whole = cka(X, Y)
    assert whole > 0.9
    assert minibatch_cka(X, Y, group=64) == pytest.approx(whole, abs=0.02)
    sorted_groups = [
        np.mean([hsic(a, b) for a, b in zip(np.split(s, 32), np.split(t, 32), strict=True)])
        for s, t in ((X, Y), (X, X), (Y, Y))
    ]
    assert sorted_groups[0] / np.sqrt(sorted_groups[1] * sorted_groups[2]) < 0.5


def hsic(X, Y):
    """Debiased HSIC as Song et al. (2012) write it."""
    n = len(X)
    K, L = X @ X.T, Y @ Y.T
    np.fill_diagonal(K, 0)
    np.fill_diagonal(L, 0)
    rows = 2 * K.sum(0) @ L.sum(0) / (n - 2)
    return (np.trace(K @ L) + K.sum() * L.sum() / ((n - 1) * (n - 2)) - rows) / (n * (n - 3))


@pytest.mark.parametrize("as_type", [np.asarray, torch.as_tensor])
def test_it_is_the_ratio_of_hsic_averaged_over_the_groups(as_type):
    rng = np.random.default_rng(1)
    X = rng.normal(size=(50, 4)) + 300
    Y = X[:, :3] + rng.normal(size=(50, 3))
    groups = np.split(np.random.default_rng(7).permutation(50)[:48], 4)
    xy, xx, yy = (
        np.mean([hsic(s[g] - s[g].mean(0), t[g] - t[g].mean(0)) for g in groups]) for s, t in ((X, Y), (X, X), (Y, Y))
    )
    found = minibatch_cka(as_type(X), as_type(Y), group=12, seed=7)
    assert found == pytest.approx(xy / np.sqrt(xx * yy), rel=1e-10)
    assert minibatch_cka(X, Y, group=50) == pytest.approx(cka(X, Y), rel=1e-10)


@pytest.mark.parametrize("group", [3, 51])
def test_a_group_that_cannot_be_is_quoted(group):
    X = np.random.default_rng(0).normal(size=(50, 2))
    with pytest.raises(UserError, match=f"group {group}: "):
        minibatch_cka(X, X, group=group)


def test_a_constant_side_has_no_value():
    X = np.random.default_rng(0).normal(size=(40, 2))
    assert np.isnan(minibatch_cka(X, np.full((40, 2), 0.1), group=8))
