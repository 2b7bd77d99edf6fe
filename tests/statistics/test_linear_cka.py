"""CKA against brute-force float64 Gram references, in every form, batching and merge order."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ortho_group
from torch import Tensor

from cka_tools.errors import UserError
from cka_tools.statistics import LinearCKA, cka
from cka_tools.statistics.hsic import ESTIMATORS, Estimator
from cka_tools.statistics.linear_cka import FOLD_ROWS
from cka_tools.statistics.moments import CPU_TILE

seeds = st.integers(0, 2**32 - 1)


def reference(X: Tensor, Y: Tensor, estimator: Estimator) -> float:
    """CKA from whole Gram matrices, as the definitions write it."""
    X, Y = X.double() - X.double().mean(0), Y.double() - Y.double().mean(0)
    n = len(X)
    K, L = X @ X.T, Y @ Y.T

    def centred(K: Tensor) -> Tensor:
        return K - K.mean(0) - K.mean(1)[:, None] + K.mean()

    def hsic(K: Tensor, L: Tensor) -> Tensor:
        if estimator == "biased":
            return (centred(K) * centred(L)).sum() / (n - 1) ** 2  # tr(KHLH), both symmetric
        K, L = K - torch.diag(K.diagonal()), L - torch.diag(L.diagonal())
        terms = (K * L).sum() + K.sum() * L.sum() / ((n - 1) * (n - 2)) - 2 * K.sum(0) @ L.sum(0) / (n - 2)
        return terms / (n * (n - 3))

    return float(hsic(K, L) / torch.sqrt(hsic(K, K) * hsic(L, L)))


def tolerance(value: float) -> float:
    return max(1e-10, 1e-10 * abs(value))


def features(seed: int, n: int, p: int, q: int) -> tuple[Tensor, Tensor]:
    """Two matrices that share part of their signal, about means of their own."""
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(n, max(p, q), generator=g, dtype=torch.float64)
    noise = torch.randn(n, q, generator=g, dtype=torch.float64)
    shift = 5 * torch.randn(p + q, generator=g, dtype=torch.float64)
    return z[:, :p] + shift[:p], z[:, :q] * 0.7 + noise + shift[p:]


@pytest.mark.parametrize("estimator", ESTIMATORS)
@given(seed=seeds, n=st.integers(4, 40), p=st.integers(1, 30), q=st.integers(1, 30))
@settings(max_examples=60, deadline=None)
def test_equals_the_brute_force_gram_form(estimator, seed, n, p, q):
    X, Y = features(seed, n, p, q)
    expected = reference(X, Y, estimator)
    assert abs(cka(X, Y, estimator) - expected) <= tolerance(expected)


def layers(seed: int, n: int, dims: list[int], mean: float = 0.0) -> list[Tensor]:
    g = torch.Generator().manual_seed(seed)
    base = torch.randn(n, max(dims), generator=g, dtype=torch.float64)
    return [base[:, :d] + torch.randn(n, d, generator=g, dtype=torch.float64) + mean for d in dims]


FORMS = {"gram form": FOLD_ROWS // 2, "feature form": 2 * FOLD_ROWS}
"""Rows from which either form is taken, for layers as narrow as these are."""

either_form = pytest.mark.parametrize("n", FORMS.values(), ids=FORMS)


def test_narrow_layers_are_folded_from_so_many_rows():
    for dims in ([6], [5, 40, 3]):
        assert min(FORMS.values()) < LinearCKA(dims, dims).switch <= max(FORMS.values()) - FOLD_ROWS


@either_form
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("cuts", ["single rows", [], [1], [7, 27, 27], [-1]], ids=str)
def test_any_batching_gives_every_layer_pair(n, estimator, cuts):
    A, B = layers(1, n, [5, 40, 3], mean=50), layers(1, n, [4, 50], mean=-9)
    stat = LinearCKA([5, 40, 3], [4, 50])
    edges = list(range(1, n)) if cuts == "single rows" else [cut % n for cut in cuts]
    batches = np.diff([0, *edges, n]).tolist()
    stop = 0
    for size in batches:
        start, stop = stop, stop + size
        stat.update([a[start:stop] for a in A], [b[start:stop] for b in B])
    found = stat.compute(estimator)
    assert found.shape == (3, 2)
    assert found.dtype == torch.float64
    assert stat.n == n
    for i, a in enumerate(A):
        for j, b in enumerate(B):
            expected = reference(a, b, estimator)
            assert abs(found[i, j].item() - expected) <= tolerance(expected)


@pytest.mark.parametrize("width", [3, 64])
def test_values_go_on_where_the_form_changes(width):
    stat = LinearCKA([width], [width])
    X, Y = features(0, stat.switch + 40, width, width)
    for start, stop in pairwise([0, stat.switch - 1, stat.switch, stat.switch + 40]):
        stat.update([X[start:stop]], [Y[start:stop]])
        assert abs(stat.compute("debiased").item() - reference(X[:stop], Y[:stop], "debiased")) <= 1e-10


@pytest.mark.parametrize("estimator", ESTIMATORS)
@given(
    seed=seeds,
    cuts=st.lists(st.integers(0, 3 * FOLD_ROWS), min_size=1, max_size=4),
    order=st.randoms(use_true_random=False),
)
@settings(max_examples=15, deadline=None)
def test_merging_shards_of_different_means_in_any_order(estimator, seed, cuts, order):
    """Cuts anywhere: some shards are folded into moments, some still hold rows, some are empty."""
    n = 3 * FOLD_ROWS
    X, Y = layers(seed, n, [6]), layers(seed, n, [4])
    X[0][n // 2 :] += 3000
    Y[0][n // 5 : 3 * n // 5] -= 3000
    shards = []
    for start, stop in pairwise([0, *sorted(cuts), n]):
        shard = LinearCKA([6], [4])
        shard.update([X[0][start:stop]], [Y[0][start:stop]])
        shards.append(shard)
    order.shuffle(shards)
    counts = [s.n for s in shards]
    whole = shards[0]
    for other in shards[1:]:
        whole.merge(other)
    assert [s.n for s in shards[1:]] == counts[1:], "the other shards are left as they were"
    expected = reference(X[0], Y[0], estimator)
    assert abs(whole.compute(estimator).item() - expected) <= tolerance(expected)


@pytest.mark.parametrize("first", [1, 2, 100], ids=lambda n: f"first batch of {n}")
@either_form
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_feature_of_mean_3000_in_float32(n, estimator, first):
    g = torch.Generator().manual_seed(3)
    X, Y = torch.randn(n, 64, generator=g), torch.randn(n, 64, generator=g)
    X[:, 0] = 3000 + 30 * X[:, 0]
    Y[:, 5] = 3000 + 0.15 * (X[:, 0] - 3000) + 30 * Y[:, 5]
    stat = LinearCKA([64], [64])
    stat.update([X[:first]], [Y[:first]])
    stat.update([X[first:]], [Y[first:]])
    assert stat.compute(estimator).item() == pytest.approx(reference(X, Y, estimator), abs=1e-6)


def test_processes_can_share_a_shift():
    n = 3 * FOLD_ROWS
    X, Y = features(5, n, 6, 4)
    shift = ([X[:10].mean(0)], [Y[:10].mean(0)])
    shards = [LinearCKA([6], [4], shift=shift) for _ in range(2)]
    for shard, rows in zip(shards, (slice(0, n // 2), slice(n // 2, n)), strict=True):
        shard.update([X[rows]], [Y[rows]])
    for side, given_shift in zip("ab", shift, strict=True):
        for shard in shards:
            assert torch.equal(shard.state()[f"shift_{side}"], given_shift[0])
    shards[0].merge(shards[1])
    assert shards[0].compute().item() == pytest.approx(reference(X, Y, "debiased"), abs=1e-10)


@either_form
def test_chosen_pairs_equal_those_of_all_pairs(n):
    A, B = layers(2, n, [5, 8]), layers(2, n, [4, 3, 7])
    whole, some = LinearCKA([5, 8], [4, 3, 7]), LinearCKA([5, 8], [4, 3, 7], pairs=[(0, 2), (1, 0)])
    for stat in (whole, some):
        stat.update(A, B)
    full, part = whole.compute(), some.compute()
    assert part[0, 2].item() == pytest.approx(full[0, 2].item(), abs=1e-12)
    assert part[1, 0].item() == pytest.approx(full[1, 0].item(), abs=1e-12)
    assert torch.isnan(part).sum() == 4


@either_form
def test_a_state_taken_over_goes_on_to_the_same_bits(n):
    A, B = layers(4, n + 30, [5, 8]), layers(4, n + 30, [4, 3])
    whole, again = LinearCKA([5, 8], [4, 3]), LinearCKA([5, 8], [4, 3])
    whole.update([a[:n] for a in A], [b[:n] for b in B])
    again.load({name: tensor.clone() for name, tensor in whole.state().items()})
    for stat in (whole, again):
        stat.update([a[n:] for a in A], [b[n:] for b in B])
    assert torch.equal(whole.compute(), again.compute())
    with pytest.raises(KeyError):
        again.load({})


@pytest.mark.parametrize("estimator", ESTIMATORS)
@given(seed=seeds, scale=st.floats(1e-3, 1e3), p=st.integers(2, 12))
@settings(max_examples=25, deadline=None)
def test_invariant_to_rotation_isotropic_scaling_and_translation(estimator, seed, scale, p):
    X, Y = features(seed, 25, p, 6)
    rng = np.random.default_rng(seed)
    Q = torch.from_numpy(np.atleast_2d(ortho_group.rvs(p, random_state=rng)))
    moved = scale * (X @ Q) + torch.from_numpy(rng.normal(size=p) * scale)
    assert cka(moved, Y, estimator) == pytest.approx(cka(X, Y, estimator), abs=1e-9)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_not_invariant_to_a_general_linear_map(estimator):
    X, Y = features(1, 60, 6, 6)
    stretch = torch.diag(torch.tensor([50.0, 1, 1, 1, 1, 1], dtype=torch.float64))
    assert abs(cka(X @ stretch, Y, estimator) - cka(X, Y, estimator)) > 0.05


def test_symmetric_and_one_with_itself():
    X, Y = features(9, 30, 7, 4)
    assert cka(X, Y) == pytest.approx(cka(Y, X), abs=1e-12)
    assert cka(X, X) == pytest.approx(1, abs=1e-12)
    assert cka(X.numpy(), Y) == cka(X, Y), "torch and numpy are taken alike"


@either_form
@pytest.mark.parametrize("constant", [0.0, 3000.1, -1e-3])
def test_a_layer_without_variance_is_nan_and_the_rest_goes_on(constant, n):
    X, Y = features(0, n, 3, 3)
    stat = LinearCKA([3, 3], [3])
    stat.update([X, torch.full((n, 3), constant, dtype=torch.float64)], [Y])
    found = stat.compute("debiased")
    assert torch.isnan(found[1, 0])
    assert found[0, 0].item() == pytest.approx(cka(X, Y), abs=1e-10)


def test_rounding_of_float32_is_no_variance():
    X = torch.full((50, 4), 3000.0) + 1e-4 * torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    assert np.isnan(cka(X, X))


def test_nothing_is_clamped():
    matrices = (np.random.default_rng(seed).normal(size=(2, 30, 4)) for seed in range(20))
    assert min(cka(X, Y) for X, Y in matrices) < 0


@pytest.mark.parametrize(
    ("X", "Y", "words"),
    [
        (np.zeros(5), np.zeros((5, 2)), "X has shape (5,)"),
        (np.ones((5, 2)), np.ones((4, 2)), "X has 5 rows and Y has 4"),
        (np.ones((3, 2)), np.ones((3, 2)), "3 samples are too few"),
        (np.full((5, 2), np.nan), np.ones((5, 2)), "not finite"),
        (np.ones((5, 2)) * 1j, np.ones((5, 2)), "complex"),
        (np.ones((5, 0)), np.ones((5, 2)), "at least one feature"),
    ],
)
def test_input_that_does_not_fit_is_named_in_one_line(X, Y, words):
    with pytest.raises(UserError) as error:
        cka(X, Y)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: cka(np.ones((5, 2)), np.ones((5, 2)), "unbiased"),  # type: ignore[arg-type]
        lambda: LinearCKA([], [3]),
        lambda: LinearCKA([3], [0]),
        lambda: LinearCKA([3], [3], pairs=[(0, 1)]),
        lambda: LinearCKA([3], [3], pairs="paired"),  # type: ignore[arg-type]
        lambda: LinearCKA([3, 4], [3], pairs="diagonal"),
        lambda: LinearCKA([3], [3], product_dtype=torch.bfloat16),
        lambda: LinearCKA([3], [3], shift=([np.zeros(2)], [np.zeros(3)])),
        lambda: LinearCKA([3], [3]).compute(),
        lambda: LinearCKA([3], [3]).update([np.ones((2, 4))], [np.ones((2, 3))]),
        lambda: LinearCKA([3], [3]).update([np.ones((2, 3))], [np.ones((3, 3))]),
        lambda: LinearCKA([3], [3]).merge(LinearCKA([3], [4])),
    ],
)
def test_misuse_of_the_statistics_is_an_error_of_the_user(wrong):
    with pytest.raises(UserError):
        wrong()


@either_form
@pytest.mark.parametrize("product_dtype", [torch.float64, torch.float32])
def test_the_diagonal_alone_equals_the_diagonal_of_all_pairs(n, product_dtype):
    dims_a, dims_b = [4, 9, 6], [5, 3, 6]
    rng = np.random.default_rng(3)
    a, b = ([rng.normal(size=(n, d)) for d in dims] for dims in (dims_a, dims_b))
    b = [y + x[:, : y.shape[1]].mean(1, keepdims=True) for x, y in zip(a, b, strict=True)]
    some = LinearCKA(dims_a, dims_b, pairs="diagonal", product_dtype=product_dtype)
    every = LinearCKA(dims_a, dims_b)
    for stat in (some, every):
        stat.update(a, b)
    for estimator in ESTIMATORS:
        found, expected = some.compute(estimator), every.compute(estimator)
        limit = 1e-10 if product_dtype == torch.float64 else 1e-6
        assert (found.diagonal() - expected.diagonal()).abs().max() < limit
        assert torch.isnan(found[~torch.eye(3, dtype=torch.bool)]).all()


@either_form
def test_float32_products_hold_to_1e_6_with_a_mean_far_above_the_spread(n):
    g = torch.Generator().manual_seed(7)
    common = torch.randn(n, 40, generator=g, dtype=torch.float64)
    X = 3000 + 30 * common
    Y = 3000 + 30 * (common[:, :30] + 2 * torch.randn(n, 30, generator=g, dtype=torch.float64))
    stat = LinearCKA([40], [30], product_dtype=torch.float32)
    for rows in torch.arange(n).split(300):
        stat.update([X[rows].float()], [Y[rows].float()])
    for estimator in ESTIMATORS:
        expected = reference(X.float(), Y.float(), estimator)
        assert abs(stat.compute(estimator).item() - expected) < 1e-6
        assert abs(stat.compute(estimator).item() - expected) > 0  # the arithmetic is not float64


def test_gram_matrices_larger_than_one_tile():
    X, Y = features(11, 2 * CPU_TILE[torch.float64] + 37, 900, 8)
    for estimator in ESTIMATORS:
        expected = reference(X, Y, estimator)
        stat = LinearCKA([X.shape[1]], [Y.shape[1]])
        stat.update([X], [Y])
        assert stat.n < stat.switch, "the Gram form"
        assert abs(stat.compute(estimator).item() - expected) < tolerance(expected)


def test_known_populations_debiased_is_right_where_biased_is_not():
    """Independent and weakly dependent Gaussian features with more features than documents."""
    rng = np.random.default_rng(0)
    share, truth, n, p = 0.3, 0.3, 100, 768
    debiased, biased = [], []
    for _ in range(12):
        x, w = rng.normal(size=(2, n, p))
        y = np.sqrt(share) * x + np.sqrt(1 - share) * w
        debiased.append(cka(x, y, "debiased"))
        biased.append(cka(x, y, "biased"))
    assert abs(np.mean(debiased) - truth) < 0.01
    assert np.mean(biased) - truth > 0.3
