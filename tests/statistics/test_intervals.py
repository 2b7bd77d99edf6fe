"""Influence, leave-one-out, intervals and spectra against brute force and known populations."""

import numpy as np
import pytest
import torch

from cka_tools.errors import UserError
from cka_tools.statistics import cka
from cka_tools.statistics import pair as feature_comparison
from cka_tools.statistics.features import ModelStatistics
from cka_tools.statistics.influence import INFLUENCE_TILE, influence
from cka_tools.statistics.intervals import INTERVAL_DOCUMENTS, Interval, union
from cka_tools.statistics.linear_cka import LinearCKA
from cka_tools.statistics.pair import compare_features, compare_statistics

DEBIASED, BIASED = "debiased", "biased"


def make_pair(n=60):
    g = torch.Generator().manual_seed(0)
    X = torch.randn(n, 7, generator=g, dtype=torch.float64) + 5
    return X, X[:, :4] + torch.randn(n, 4, generator=g, dtype=torch.float64)


def found_influence(X, Y):
    stat = LinearCKA([X.shape[-1]], [Y.shape[-1]])
    stat.update([X], [Y])
    hsic = {e: tuple(h.reshape(-1) for h in stat.hsic(e)) for e in (DEBIASED, BIASED)}
    sides = ModelStatistics([X]), ModelStatistics([Y])
    return influence(*sides, [(0, 0)], hsic[DEBIASED], hsic[BIASED], [[0]])


def u_centred(K):
    n = len(K)
    K = K - torch.diag(K.diagonal())
    rows = K.sum(1)
    centred = K - rows[:, None] / (n - 2) - rows[None] / (n - 2) + K.sum() / ((n - 1) * (n - 2))
    return centred - torch.diag(centred.diagonal())


@pytest.mark.parametrize("n", [60, INFLUENCE_TILE + 17], ids=["one tile", "several tiles"])
def test_second_order_equals_the_definition_on_whole_matrices(n):
    X, Y = make_pair(n)
    K, L, N = u_centred(X @ X.T), u_centred(Y @ Y.T), n * (n - 1)
    xx, yy, xy = (K * K).sum() / N, (L * L).sum() / N, (K * L).sum() / N
    theta = xy / (xx * yy).sqrt()
    W = K * L / (xx * yy).sqrt() - theta / 2 * (K * K / xx + L * L / yy)
    g = W.sum(1) / (n - 1)
    rest = W - g[:, None] - g[None]
    rest = rest - torch.diag(rest.diagonal())
    found = found_influence(X, Y)
    assert found.second.item() == pytest.approx((rest.square().sum() / N).item(), rel=1e-9)
    assert found.group_second[0] == pytest.approx(found.second.item(), rel=1e-9)


@pytest.mark.parametrize("n", [60, INFLUENCE_TILE + 17], ids=["one tile", "several tiles"])
def test_leave_one_out_is_exact(n):
    X, Y = make_pair(n)
    (without,) = compare_features([X], [Y], [(0, 0)], [0]).leave_one_out
    for i in (0, 17, n - 1):
        rest = [k for k in range(n) if k != i]
        assert without[i] == pytest.approx(cka(X[rest], Y[rest]), abs=1e-12)


def test_biased_influence_is_what_leaving_a_document_out_does():
    X, Y = make_pair()
    found = found_influence(X, Y)
    full, n = cka(X, Y, BIASED), len(X)
    left = [cka(*(torch.cat([M[:i], M[i + 1 :]]) for M in (X, Y)), BIASED) for i in range(n)]
    change = np.array([(n - 1) * (full - v) for v in left])
    assert np.corrcoef(change, found.first_biased[0])[0, 1] > 0.9
    assert np.std(change) == pytest.approx(float(2 * found.first_biased[0].std()), rel=0.1)


def test_layers_means_and_early_means_fit_together():
    rng = np.random.default_rng(1)
    A = [rng.normal(size=(80, p)) for p in (5, 9, 6)]
    B = [a @ rng.normal(size=(a.shape[1], 7)) + rng.normal(size=(80, 7)) for a in A]
    found = compare_features(A, B, [(0, 0), (1, 1), (2, 2)], [0])
    for estimator in (DEBIASED, BIASED):
        expected = [[cka(a, b, estimator) for b in B] for a in A]
        np.testing.assert_allclose(found.matrices[estimator], expected, atol=1e-10)
        assert getattr(found.mean, estimator).value == pytest.approx(1 - np.mean(np.diag(expected)), abs=1e-10)
    first = found.layers[0].debiased
    assert found.early.debiased.ci_low == pytest.approx(1 - first.ci_high)
    assert found.early.debiased.ci_high == pytest.approx(1 - first.ci_low)
    for interval in (found.mean.debiased, found.mean.biased, *(p.debiased for p in found.layers)):
        assert interval.ci_low < interval.value < interval.ci_high


def test_the_mean_is_surer_than_independent_layers_but_not_than_equal_ones():
    rng = np.random.default_rng(2)

    def layer():
        x = rng.normal(size=(200, 10))
        return x, x + rng.normal(size=(200, 10))

    x, y = layer()
    one = compare_features([x], [y], [(0, 0)], [0]).mean.debiased
    same = compare_features([x] * 4, [y] * 4, [(i, i) for i in range(4)], [0]).mean.debiased
    assert same.ci_high - same.ci_low == pytest.approx(one.ci_high - one.ci_low, rel=1e-6)
    parts = [layer() for _ in range(4)]
    four = compare_features([p[0] for p in parts], [p[1] for p in parts], [(i, i) for i in range(4)], [0]).mean.debiased
    assert four.ci_high - four.ci_low < 0.7 * (one.ci_high - one.ci_low)


def test_interval_covers_a_known_population():
    """A rough check that a broken variance cannot pass; the benchmark measures coverage closely."""
    rng, truth, hits, widths = np.random.default_rng(3), 0.3, 0, []
    for _ in range(60):
        x, w = rng.normal(size=(2, 100, 40))
        found = compare_features([x], [np.sqrt(truth) * x + np.sqrt(1 - truth) * w], [(0, 0)], [0]).layers[0].debiased
        hits += found.ci_low <= truth <= found.ci_high
        widths.append(found.ci_high - found.ci_low)
    assert hits >= 51
    assert np.median(widths) < 0.12


def test_few_documents_have_values_but_no_interval():
    rng = np.random.default_rng(4)
    n = INTERVAL_DOCUMENTS - 1
    found = compare_features([rng.normal(size=(n, 4))], [rng.normal(size=(n, 4))], [(0, 0)], [0])
    interval = found.layers[0].debiased
    assert interval.value is not None
    assert interval.ci_low is None
    assert str(n) in interval.reason


def test_a_layer_without_variance_has_a_reason_and_leaves_the_mean_to_the_rest():
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(40, 4)), rng.normal(size=(40, 4))
    flat = np.full((40, 4), 7.0)
    found = compare_features([x, flat], [y, y], [(0, 0), (1, 1)], [1])
    assert found.layers[1].debiased.value is None
    assert found.layers[1].reason == "the layer of A has no variance over these documents"
    assert np.isnan(found.matrices[DEBIASED][1]).all()
    assert found.mean.debiased.value == pytest.approx(1 - cka(x, y))
    assert found.early.debiased.value is None
    assert found.early.debiased.reason


def test_rescaling_is_cka_of_standardised_features():
    rng = np.random.default_rng(6)
    x, y = rng.normal(size=(50, 6)) * 10.0 ** np.arange(6), rng.normal(size=(50, 5))
    x[:, 0] = 4.0  # a dead feature stays dead
    found = compare_features([x], [y], [(0, 0)], [0], rescale=True)
    standard = np.delete(x, 0, axis=1)
    expected = cka(standard / standard.std(0), y / y.std(0))
    assert found.layers[0].debiased.value == pytest.approx(expected, abs=1e-10)


def test_models_that_are_rescaled_or_cut_share_nothing_they_should_not():
    rng = np.random.default_rng(13)
    x, y = rng.normal(size=(70, 6)) * 10.0 ** np.arange(6) + 4, rng.normal(size=(70, 5))
    some = np.arange(0, 70, 2)
    a, b = ModelStatistics([x]), ModelStatistics([y])
    for scaled in (False, True, False):
        one, two = (side.rescaled() if scaled else side for side in (a, b))
        found = compare_statistics(one, two, [(0, 0)], [0]).layers[0].debiased
        assert found == compare_features([x], [y], [(0, 0)], [0], rescale=scaled, diagonal=True).layers[0].debiased
        part = compare_statistics(one.on(some), two.on(some), [(0, 0)], [0]).layers[0].debiased.value
        assert part == pytest.approx(
            cka(*((m[some] / m[some].std(0) if scaled else m[some]) for m in (x, y))), abs=1e-10
        )


def test_draws_average_hsic_before_the_ratio():
    rng = np.random.default_rng(7)
    x, y = rng.normal(size=(3, 40, 5)), rng.normal(size=(3, 40, 4))
    hsics = []
    for k in range(3):
        stat = LinearCKA([5], [4])
        stat.update([x[k]], [y[k]])
        hsics.append([float(h) for h in stat.hsic(DEBIASED)])
    xy, xx, yy = np.mean(hsics, axis=0)
    found = compare_features([x], [y], [(0, 0)], [0])
    assert found.layers[0].debiased.value == pytest.approx(xy / np.sqrt(xx * yy), abs=1e-12)
    assert found.n == 40


def test_token_draws_of_independent_models_show_no_similarity_despite_document_effects():
    """Independent features with document effects: tokens of one document are alike, documents are not."""
    rng = np.random.default_rng(8)
    n, draws, p = 800, 8, 32
    x, y = (rng.normal(size=(1, n, p)) + 0.5 * rng.normal(size=(draws, n, p)) for _ in range(2))
    found = compare_features([x], [y], [(0, 0)], [0])
    assert abs(found.layers[0].debiased.value) < 0.01


def test_beyond_the_limit_a_subset_of_documents_gives_the_same_width(monkeypatch):
    rng = np.random.default_rng(9)
    x = rng.normal(size=(1200, 12))
    y = x + 2 * rng.normal(size=(1200, 12))
    whole = compare_features([x], [y], [(0, 0)], [0])
    monkeypatch.setattr(feature_comparison, "INFLUENCE_DOCUMENTS", 400)
    part = compare_features([x], [y], [(0, 0)], [0])
    assert len(part.left_out) == 400
    a, b = whole.layers[0].debiased, part.layers[0].debiased
    assert b.value == a.value, "the estimate is still over all documents"
    assert b.ci_high - b.ci_low == pytest.approx(a.ci_high - a.ci_low, rel=0.25)


def test_effective_dimension_of_isotropic_features_has_no_small_sample_bias():
    rng = np.random.default_rng(10)
    x = rng.normal(size=(500, 768))
    spectrum = compare_features([x], [x], [(0, 0)], [0]).layers[0].spectrum_a
    assert spectrum.effective_dim == pytest.approx(768, rel=0.03)


def test_one_massive_feature_is_seen():
    rng = np.random.default_rng(11)
    x = rng.normal(size=(300, 50))
    x[:, 17] = 3000 + 30 * x[:, 17]
    spectrum = compare_features([x], [x], [(0, 0)], [0]).layers[0].spectrum_a
    variance = x.var(0, ddof=1)
    assert spectrum.top_feature == 17
    assert spectrum.top_feature_share == pytest.approx(variance[17] / variance.sum())
    assert spectrum.effective_dim < 1.5


def test_features_from_a_mapped_file_give_the_same(tmp_path):
    rng = np.random.default_rng(12)
    x = rng.normal(size=(90, 6)).astype(np.float32)
    mapped = np.memmap(tmp_path / "x", dtype=np.float32, mode="w+", shape=x.shape)
    mapped[:] = x
    y = rng.normal(size=(90, 5)).astype(np.float32)
    plain = compare_features([x], [y], [(0, 0)], [0])
    disk = compare_features([mapped], [y], [(0, 0)], [0])
    np.testing.assert_array_equal(plain.matrices[DEBIASED], disk.matrices[DEBIASED])


def test_different_documents_are_refused():
    with pytest.raises(UserError, match="same ones"):
        compare_features([np.ones((9, 2))], [np.ones((8, 2))], [(0, 0)], [0])


def test_union_and_complement_of_intervals():
    both = union(Interval(0.2, 0.1, 0.3), Interval(0.2, 0.15, 0.4))
    assert (both.ci_low, both.ci_high) == (0.1, 0.4)
    assert Interval(0.2, 0.1, 0.4).complement() == Interval(0.8, 0.6, 0.9)
