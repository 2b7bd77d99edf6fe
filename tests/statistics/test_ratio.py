"""Ratios of divergences: values, intervals, refusals."""

import numpy as np
import pytest

from cka_tools.errors import UserError
from cka_tools.statistics import cka
from cka_tools.statistics.features import ModelStatistics
from cka_tools.statistics.influence import INFLUENCE_TILE
from cka_tools.statistics.pair import INFLUENCE_DOCUMENTS, compare_statistics
from cka_tools.statistics.ratio import divergence_ratio, ratio_second_order


def models(rng, n=200, layers=3, noise_a=1.0, noise_control=0.5, p=12):
    """Features of B, of A (far from it) and of a control (near it)."""
    B = [rng.normal(size=(n, p)) for _ in range(layers)]
    A = [b + noise_a * rng.normal(size=b.shape) for b in B]
    control = [b + noise_control * rng.normal(size=b.shape) for b in B]
    return A, B, control


def both(A, B, control):
    """The comparisons of A and of the control with B, from one set of statistics of B."""
    return compared(A, B, control)[:2]


def compared(A, B, control):
    """Those comparisons, and the statistics of A, the control and B."""
    a, c, b = (ModelStatistics(side) for side in (A, control, B))
    pairs = [(i, i) for i in range(len(A))]
    return compare_statistics(a, b, pairs, [0]), compare_statistics(c, b, pairs, [0]), a, c, b


def second_order(A, control, B):
    pair, noise, a, c, b = compared(A, B, control)
    return ratio_second_order(a, c, b, pair, noise)


def test_ratio_is_the_quotient_of_debiased_divergences():
    A, B, control = models(np.random.default_rng(0))
    found = divergence_ratio(*both(A, B, control))
    d = [1 - cka(a, b) for a, b in zip(A, B, strict=True)]
    e = [1 - cka(c, b) for c, b in zip(control, B, strict=True)]
    for at, interval in enumerate(found.layers):
        assert interval.value == pytest.approx(d[at] / e[at])
        assert interval.ci_low < interval.value < interval.ci_high
    assert found.mean.value == pytest.approx(np.mean(d) / np.mean(e)), "a ratio of means, no mean of ratios"
    assert found.early.value == pytest.approx(d[0] / e[0])
    assert (found.smallest, found.largest) == (min(i.value for i in found.layers), max(i.value for i in found.layers))


def test_a_pair_against_itself_has_ratio_one_without_width():
    A, B, _ = models(np.random.default_rng(1))
    pair, _ = both(A, B, A)
    found = divergence_ratio(pair, pair).mean
    assert (found.value, found.ci_low, found.ci_high) == (pytest.approx(1),) * 3


def test_a_control_that_does_not_diverge_is_refused_with_its_bound():
    A, B, _ = models(np.random.default_rng(2))
    found = divergence_ratio(*both(A, B, B))
    for interval in (*found.layers, found.mean):
        assert interval.value is None
        assert "nothing to divide by" in interval.reason
    assert found.smallest is None


def test_a_layer_without_variance_leaves_the_others():
    A, B, control = models(np.random.default_rng(3))
    A[1] = np.ones_like(A[1])
    found = divergence_ratio(*both(A, B, control))
    assert found.layers[1].value is None
    assert found.layers[1].reason
    assert found.mean.value is not None


def test_few_documents_have_a_ratio_but_no_interval():
    A, B, control = models(np.random.default_rng(4), n=20)
    interval = divergence_ratio(*both(A, B, control)).mean
    assert interval.value is not None
    assert interval.ci_low is None


def test_different_documents_are_refused():
    pair, _ = both(*models(np.random.default_rng(5), n=40))
    _, control = both(*models(np.random.default_rng(5), n=41))
    with pytest.raises(UserError, match="same documents"):
        divergence_ratio(pair, control)


def test_the_interval_covers_a_known_ratio():
    """y = √s·x + √(1−s)·w has CKA s: divergences 0.7 and 0.35, ratio 2."""
    rng, hits, widths = np.random.default_rng(6), 0, []
    for _ in range(60):
        x, w, v = rng.normal(size=(3, 120, 30))
        A, control = (np.sqrt(s) * x + np.sqrt(1 - s) * e for s, e in ((0.3, w), (0.65, v)))
        interval = divergence_ratio(*both([A], [x], [control])).mean
        hits += interval.ci_low <= 2 <= interval.ci_high
        widths.append(interval.ci_high - interval.ci_low)
    assert hits >= 51
    assert np.median(widths) < 0.6


def u_centred(X):
    """U-centred Gram matrix of Székely and Rizzo (2014), by its definition."""
    K, n = X @ X.T, len(X)
    np.fill_diagonal(K, 0)
    rows, grand = K.sum(1) / (n - 2), K.sum() / ((n - 1) * (n - 2))
    K = K - rows[:, None] - rows[None] + grand
    np.fill_diagonal(K, 0)
    return K


def linearised(X, Y):
    """The kernel of debiased CKA, linearised at the estimate, and the estimate."""
    K, L = u_centred(X), u_centred(Y)
    off = len(X) * (len(X) - 1)
    xy, xx, yy = (K * L).sum() / off, (K * K).sum() / off, (L * L).sum() / off
    theta = xy / np.sqrt(xx * yy)
    return K * L / np.sqrt(xx * yy) - theta / 2 * (K * K / xx + L * L / yy), theta


@pytest.mark.parametrize("n", [40, INFLUENCE_TILE + 17], ids=["one tile", "several tiles"])
def test_second_order_is_that_of_the_whole_kernel(n):
    A, B, control = models(np.random.default_rng(7), n=n)
    found = second_order(A, control, B)
    assert set(found) == {(0,), (1,), (2,), (0, 1, 2)}
    for group, second in found.items():
        parts = [[linearised(s[at], B[at]) for at in group] for s in (A, control)]
        W, V = (np.mean([w for w, _ in part], axis=0) for part in parts)
        d, e = (1 - np.mean([theta for _, theta in part]) for part in parts)
        kernel = V / e - W / d
        g = kernel.sum(1) / (n - 1)
        rest = kernel - g[:, None] - g[None]
        np.fill_diagonal(rest, 0)
        assert second == pytest.approx((rest**2).sum() / (n * (n - 1)), rel=1e-9)


def test_second_order_narrows_the_interval_where_it_matters_and_no_layer_is_lost():
    A, B, control = models(np.random.default_rng(8), n=60, p=40, noise_a=2.0, noise_control=1.5)
    A[2] = np.ones_like(A[2])
    pair, noise = both(A, B, control)
    second = second_order(A, control, B)
    assert set(second) == {(0,), (1,), (0, 1)}
    wide, narrow = divergence_ratio(pair, noise), divergence_ratio(pair, noise, second)
    for at in (0, 1):
        assert narrow.layers[at].value == wide.layers[at].value
        assert wide.layers[at].ci_low < narrow.layers[at].ci_low
    assert narrow.layers[2].value is None


def test_second_order_of_what_has_no_interval_or_no_divergence_is_empty():
    A, B, control = models(np.random.default_rng(9), n=20)
    assert second_order(A, control, B) == {}
    A, B, _ = models(np.random.default_rng(9), n=40)
    assert second_order(A, B, B) == {}


def test_documents_left_out_alone_have_the_same_second_order():
    """What a streamed run keeps: the features of the documents that are left out in turn."""
    A, B, control = models(np.random.default_rng(10), n=INFLUENCE_DOCUMENTS + 40, layers=1, p=3)
    pair, noise, a, c, b = compared(A, B, control)
    assert len(pair.left_out) == INFLUENCE_DOCUMENTS
    kept = [ModelStatistics([side[0][pair.left_out]]) for side in (A, control, B)]
    whole = ratio_second_order(a, c, b, pair, noise)
    assert ratio_second_order(*kept, pair, noise) == {g: pytest.approx(v, rel=1e-9) for g, v in whole.items()}
    assert whole
