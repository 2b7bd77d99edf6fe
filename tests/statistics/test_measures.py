"""Every measure keeps what it declares; nearest neighbours against a brute-force count."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import orthogonal_procrustes
from scipy.spatial.distance import pdist
from scipy.stats import ortho_group, spearmanr

from cka_tools.errors import UserError
from cka_tools.statistics import cka
from cka_tools.statistics.features import READ_ROWS, ModelStatistics
from cka_tools.statistics.measures import MEASURES, NEIGHBOURS, find_measure, measure_pairs, mutual_knn
from cka_tools.statistics.pair import compare_features

seeds = st.integers(0, 2**32 - 1)
every_measure = pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)


def rotation(X, rng):
    p = X.shape[1]
    return X @ (ortho_group.rvs(p, random_state=rng) if p > 1 else -np.eye(1))


CHANGES = {
    "orthogonal": rotation,
    "permutation": lambda X, rng: X[:, rng.permutation(X.shape[1])],
    "isotropic-scaling": lambda X, rng: X * 10.0 ** rng.integers(-20, 5),
    "translation": lambda X, rng: X + 100 * rng.normal(size=X.shape[1]),
    "invertible-linear": lambda X, rng: X * 4.0 ** np.arange(X.shape[1]),
}


def two(seed, n, p, q):
    """Two matrices that share part of their signal."""
    rng = np.random.default_rng(seed)
    X, noise = rng.normal(size=(n, p)), rng.normal(size=(n, q))
    return X, X @ rng.normal(size=(p, q)) + noise, rng


@every_measure
@given(seed=seeds, n=st.integers(NEIGHBOURS + 2, 60), p=st.integers(1, 8), q=st.integers(1, 8))
@settings(max_examples=25, deadline=None)
def test_values_keep_the_declared_symmetry_range_and_invariances(measure, seed, n, p, q):
    X, Y, rng = two(seed, n, p, q)
    value = measure(X, Y)
    low, high = measure.range
    assert low - 1e-12 <= value <= high + 1e-12
    assert measure(X, X) == pytest.approx(1, abs=1e-12)
    if measure.symmetric:
        assert measure(Y, X) == pytest.approx(value, abs=1e-12)
    for name in measure.invariances:
        assert measure(CHANGES[name](X, rng), Y) == pytest.approx(value, abs=1e-8), name


@every_measure
@pytest.mark.parametrize("change", CHANGES)
def test_what_is_not_declared_does_change_the_value(measure, change):
    X, Y, rng = two(0, 80, 6, 5)
    moved = abs(measure(CHANGES[change](X, rng), Y) - measure(X, Y))
    assert (moved < 1e-8) == (change in measure.invariances)


@every_measure
def test_layer_pairs_have_an_interval_or_the_reason_why_not(measure):
    A = [two(seed, 50, 6, 5)[0] for seed in (1, 2)]
    B = [a @ np.ones((6, 4)) + np.random.default_rng(3).normal(size=(50, 4)) for a in A]
    B.append(np.full((50, 2), 7.0))
    pairs = [(1, 0), (0, 2), (0, 0)]
    found = measure_pairs(measure, ModelStatistics(A), ModelStatistics(B), pairs, sides=("A", "the control"))
    assert [one.value for one in found] == [
        pytest.approx(measure(A[1], B[0]), abs=1e-12), None, pytest.approx(measure(A[0], B[0]), abs=1e-12)
    ]  # fmt: skip
    assert found[1].reason == "the layer of the control has no variance over these documents"
    for one in (found[0], found[2]):
        if measure.intervals is None:
            assert (one.ci_low, one.ci_high) == (None, None)
            assert one.reason == measure.no_interval
            assert len(one.reason.split()) > 5
        else:
            assert one.ci_low < one.value < one.ci_high
            assert one.reason is None
    assert np.isnan(measure(A[0], B[2]))


@every_measure
def test_other_documents_and_too_few_are_refused(measure):
    X = np.random.default_rng(0).normal(size=(40, 3))
    with pytest.raises(UserError, match="same ones"):
        measure(X, X[:39])
    with pytest.raises(UserError, match="3 documents are too few"):
        measure(X[:3], X[:3])


def test_the_cka_among_the_measures_is_the_one_of_a_comparison():
    X, Y, _ = two(4, 60, 7, 5)
    (found,) = measure_pairs(MEASURES["cka"], ModelStatistics([X]), ModelStatistics([Y]), [(0, 0)])
    compared = compare_features([X], [Y], [(0, 0)], [0]).layers[0].debiased
    for bound in ("value", "ci_low", "ci_high"):
        assert getattr(found, bound) == pytest.approx(getattr(compared, bound), abs=1e-12)
    assert found.value == pytest.approx(cka(X, Y), abs=1e-12)
    assert MEASURES["cka"].values(ModelStatistics([X]), ModelStatistics([Y]), [(0, 0)]).tolist() == [
        pytest.approx(found.value, abs=1e-12)
    ]


def brute_force_knn(X, Y, k):
    """Mean overlap of the k nearest by centred cosine, earlier documents first among equals."""
    sets = []
    for M in (X, Y):
        M = M - M.mean(0)
        M = M / np.linalg.norm(M, axis=1, keepdims=True)
        cosines = np.round(M @ M.T, 10)
        sets.append(
            [
                set(sorted((j for j in range(len(M)) if j != i), key=lambda j: (-row[j], j))[:k])
                for i, row in enumerate(cosines)
            ]
        )
    return np.mean([len(s & t) / k for s, t in zip(*sets, strict=True)])


@pytest.mark.parametrize(
    ("n", "p", "q", "k"), [(12, 3, 5, 10), (40, 9, 4, 1), (60, 1, 1, 10), (READ_ROWS + 30, 4, 8, 7)]
)
def test_mutual_knn_equals_a_count_by_hand(n, p, q, k):
    X, Y, _ = two(n, n, p, q)
    found = mutual_knn(ModelStatistics([X + 5]), ModelStatistics([Y]), [(0, 0)], neighbours=k)
    assert found.item() == pytest.approx(brute_force_knn(X, Y, k), abs=1e-12)


def test_mutual_knn_of_independent_features_is_at_chance():
    X, Y = np.random.default_rng(5).normal(size=(2, 900, 20))
    assert MEASURES["mknn"](X, Y) == pytest.approx(NEIGHBOURS / 899, abs=0.004)


def test_equally_near_documents_are_taken_in_order():
    """One direction alone: every cosine is 1 or −1 and only the order of the documents is left."""
    x = np.r_[np.ones(15), -np.ones(15)][:, None] * np.linspace(1, 2, 30)[:, None]
    assert MEASURES["mknn"](x, 1 / 3 * x) == 1
    assert MEASURES["mknn"](x, np.sign(x)) == 1


def test_draws_of_a_document_are_averaged():
    X, Y = np.random.default_rng(6).normal(size=(2, 3, 40, 5))
    Y = Y + X
    (found,) = measure_pairs(MEASURES["mknn"], ModelStatistics([X]), ModelStatistics([Y]), [(0, 0)])
    expected = np.mean([brute_force_knn(x, y, NEIGHBOURS) for x, y in zip(X, Y, strict=True)])
    assert found.value == pytest.approx(expected, abs=1e-12)


def test_fewer_documents_than_neighbours_are_refused_with_the_number_needed():
    X = np.random.default_rng(7).normal(size=(NEIGHBOURS + 1, 3))
    with pytest.raises(UserError, match=f"{NEIGHBOURS + 1} documents are too few.*at least {NEIGHBOURS + 2}"):
        MEASURES["mknn"](X, X)


def centred(M):
    return M - M.mean(0)


def brute_force_procrustes(X, Y):
    """From the distance that is left once the best orthogonal map is taken, both padded to one width."""
    width = max(X.shape[1], Y.shape[1])
    X, Y = (np.pad(centred(M), ((0, 0), (0, width - M.shape[1]))) for M in (X, Y))
    X, Y = X / np.linalg.norm(X), Y / np.linalg.norm(Y)
    turn, _ = orthogonal_procrustes(X, Y)
    return 1 - 2 * np.arccos(1 - np.linalg.norm(X @ turn - Y) ** 2 / 2) / np.pi


def brute_force_rsa(X, Y):
    return spearmanr(*(np.round(pdist(centred(M), "cosine"), 10) for M in (X, Y))).statistic


def brute_force_svcca(X, Y):
    """Canonical correlations of the leading principal components, from the covariances."""
    kept = []
    for M in map(centred, (X, Y)):
        values, vectors = np.linalg.eigh(M.T @ M)
        values, vectors = values[::-1], vectors[:, ::-1]
        few = int(np.argmax(np.cumsum(values) >= 0.99 * values.sum())) + 1
        kept.append(M @ vectors[:, :few])
    A, B = kept
    K = np.linalg.solve(A.T @ A, A.T @ B) @ np.linalg.solve(B.T @ B, B.T @ A)
    squares = np.sort(np.linalg.eigvals(K).real)[::-1][: min(A.shape[1], B.shape[1])]
    return np.sqrt(np.clip(squares, 0, None)).mean()


@pytest.mark.parametrize(
    ("name", "brute_force", "shapes"),
    [
        ("procrustes", brute_force_procrustes, [(60, 5, 8), (60, 8, 3), (READ_ROWS + 40, 6, 6), (30, 12, 40)]),
        ("rsa", brute_force_rsa, [(60, 5, 8), (READ_ROWS + 40, 6, 6), (30, 12, 40)]),
        ("svcca", brute_force_svcca, [(60, 5, 8), (60, 8, 3), (READ_ROWS + 40, 6, 6)]),
    ],
)
def test_other_measures_equal_a_computation_by_another_way(name, brute_force, shapes):
    for n, p, q in shapes:
        X, Y, rng = two(n + p, n, p, q)
        X, Y = X * rng.uniform(0.2, 3, size=p) + 4, Y * rng.uniform(0.2, 3, size=q)
        assert MEASURES[name](X, Y) == pytest.approx(brute_force(X, Y), abs=1e-9)


@pytest.mark.parametrize("apart", [1e-3, 1e-6, 1e-9])
def test_procrustes_keeps_its_digits_near_one(apart):
    """Two lines at a known angle, as matrices of one column."""
    x = np.random.default_rng(8).normal(size=(40, 2))
    x = np.linalg.qr(x - x.mean(0))[0]
    turned = np.cos(apart) * x[:, :1] + np.sin(apart) * x[:, 1:]
    assert 1 - MEASURES["procrustes"](x[:, :1], turned) == pytest.approx(2 * apart / np.pi, rel=1e-5)


@every_measure
def test_the_form_of_a_measure_gives_its_values(measure):
    X, Y = np.random.default_rng(9).normal(size=(2, 3, 40, 5))
    a, b = ModelStatistics([X]), ModelStatistics([X + Y])
    found = measure.form.values(a, b, [(0, 0)])
    assert found.item() == pytest.approx(measure.values(a, b, [(0, 0)]).item(), abs=1e-12)


def test_a_measure_is_found_by_its_name_and_a_near_one_is_suggested():
    assert find_measure("mknn") is MEASURES["mknn"]
    with pytest.raises(UserError, match="measure 'mkn' is not known: did you mean 'mknn'"):
        find_measure("mkn")
    with pytest.raises(UserError, match="choose one of cka, procrustes, mknn"):
        find_measure("distance")
