"""Paired readings: intervals of means, differences and shares of a gap, worked out another way."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cka_tools.statistics.intervals import quantile
from cka_tools.statistics.pair import compare_features
from cka_tools.statistics.paired import Reading, divergence_reading, share_of_gap


def sample(n: int = 60, gap: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Base, hybrid, donor: one number a document, dependent within a document."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=n)
    base = shared + 0.3 * rng.normal(size=n)
    return base, base + 0.4 * gap + 0.3 * rng.normal(size=n), base + gap + 0.5 * rng.normal(size=n)


def test_the_interval_of_a_mean_is_that_of_a_t_test_with_fewer_degrees_of_freedom() -> None:
    x = sample()[0]
    found = Reading.mean(x).interval()
    error = x.std(ddof=1) / np.sqrt(len(x))
    deviations = x - x.mean()
    kurtosis = (deviations**4).mean() / (deviations**2).mean() ** 2
    degrees = min(2 * len(x) / (kurtosis - 1), len(x) - 1)
    half = stats.t.ppf(0.975, degrees) * error
    assert found.value == pytest.approx(x.mean())
    assert found.ci_low == pytest.approx(x.mean() - half)
    assert found.ci_high == pytest.approx(x.mean() + half)


def test_a_difference_is_paired() -> None:
    base, hybrid, _ = sample()
    found = (Reading.mean(hybrid) - Reading.mean(base)).interval()
    of_differences = Reading.mean(hybrid - base).interval()
    for name in ("value", "ci_low", "ci_high"):
        assert getattr(found, name) == pytest.approx(getattr(of_differences, name))
    apart = Reading.mean(hybrid).interval()
    assert apart.ci_high is not None
    assert found.ci_high - found.ci_low < 0.5 * (apart.ci_high - apart.ci_low)  # type: ignore[operator]


def test_the_interval_of_a_share_holds_what_no_test_rejects() -> None:
    """Fieller by brute force: every r for which the mean of part − r · gap is within its own t interval of 0."""
    base, hybrid, donor = sample(n=300)
    part, gap = hybrid - base, donor - base
    found = share_of_gap(Reading.mean(part), Reading.mean(gap))
    share = part.mean() / gap.mean()
    assert found.value == pytest.approx(share)
    z = part - share * gap
    deviations = z - z.mean()
    degrees = min(2 * len(z) / ((deviations**4).mean() / (deviations**2).mean() ** 2 - 1), len(z) - 1)
    t = stats.t.ppf(0.975, degrees)
    grid = np.linspace(share - 1, share + 1, 400_001)
    means = part.mean() - grid * gap.mean()
    moments = np.cov(part, gap) / len(part)
    errors = np.sqrt(moments[0, 0] - 2 * grid * moments[0, 1] + grid**2 * moments[1, 1])
    held = grid[np.abs(means) <= t * errors]
    assert found.ci_low == pytest.approx(held.min(), abs=1e-5)
    assert found.ci_high == pytest.approx(held.max(), abs=1e-5)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), factor=st.sampled_from([-3.0, -1.0, 0.1, 25.0]), shift=st.floats(-5, 5))
def test_a_share_does_not_depend_on_the_unit_or_on_where_the_gap_points(seed: int, factor: float, shift: float) -> None:
    base, hybrid, donor = sample(seed=seed)
    first = share_of_gap(Reading.mean(hybrid - base), Reading.mean(donor - base))
    b, h, d = (factor * one + shift for one in (base, hybrid, donor))
    other = share_of_gap(Reading.mean(h) - Reading.mean(b), Reading.mean(d) - Reading.mean(b))
    for name in ("value", "ci_low", "ci_high"):
        assert getattr(other, name) == pytest.approx(getattr(first, name), rel=1e-6, abs=1e-9)


def test_the_ends_have_shares_0_and_1_with_no_width() -> None:
    base, _, donor = sample()
    gap = Reading.mean(donor) - Reading.mean(base)
    nothing, whole = share_of_gap(0.0 * gap, gap), share_of_gap(gap, gap)
    assert (nothing.value, nothing.ci_low, nothing.ci_high) == (0.0, 0.0, 0.0)
    assert (whole.value, whole.ci_low, whole.ci_high) == pytest.approx((1.0, 1.0, 1.0))


def test_a_gap_that_is_not_clear_of_0_is_refused_with_its_bounds() -> None:
    base, hybrid, donor = sample(gap=0.05)
    found = share_of_gap(Reading.mean(hybrid - base), Reading.mean(donor - base), "the gap between base and donor")
    assert found.value is None
    assert found.reason is not None
    assert found.reason.startswith("nothing to divide by: the gap between base and donor")
    assert "is not clear of 0" in found.reason
    same = share_of_gap(Reading.mean(hybrid - base), Reading.mean(base - base))
    assert same.value is None


def test_a_gap_whose_interval_leaves_out_0_is_refused_in_words_that_fit() -> None:
    gap = np.linspace(-1.0, 1.0, 101) + 0.145  # 2.5 standard errors of the mean above 0
    found = share_of_gap(Reading.mean(gap / 2), Reading.mean(gap))
    assert found.reason is not None
    low = float(found.reason.split("interval ")[1].split(" to ")[0])
    assert low > 0
    assert found.reason.endswith("is not clear of 0 by 3 standard errors")


def test_few_documents_give_a_value_and_no_interval() -> None:
    base, hybrid, donor = sample(n=20)
    found = share_of_gap(Reading.mean(hybrid - base), Reading.mean(donor - base))
    assert found.value is not None
    assert found.ci_low is None
    assert "20 documents are fewer than" in str(found.reason)
    assert Reading.mean(base).interval().ci_low is None


def test_delete_one_values_are_those_of_leaving_each_out() -> None:
    x = sample(n=30)[0]
    wanted = [np.delete(x, at).mean() for at in range(30)]
    np.testing.assert_allclose(Reading.mean(x).without, wanted)


def u_centred(x: np.ndarray) -> np.ndarray:
    n = len(x)
    K = x @ x.T
    np.fill_diagonal(K, 0)
    K = K - K.sum(0) / (n - 2) - K.sum(1)[:, None] / (n - 2) + K.sum() / ((n - 1) * (n - 2))
    np.fill_diagonal(K, 0)
    return K


def second_order(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """What pairs of documents do to 1 − CKA beyond each of the two, (n, n), by the formula of a U-statistic."""
    n = len(x)
    K, L = u_centred(x), u_centred(y)
    off = n * (n - 1)
    xy, xx, yy = (K * L).sum() / off, (K * K).sum() / off, (L * L).sum() / off
    W = K * L / np.sqrt(xx * yy) - xy / np.sqrt(xx * yy) / 2 * (K * K / xx + L * L / yy)
    g = W.sum(1) / (n - 1)
    return -(W - g - g[:, None])


def divergences(n: int = 140, seed: int = 0) -> tuple[list[np.ndarray], Reading, Reading]:
    """Base, hybrid and donor, two layers each, and the divergences of the first two from the third."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(n, 12))
    models = [[amount * common + rng.normal(size=(n, 12)) for _ in range(2)] for amount in (0.6, 0.9, 1.5)]
    base, hybrid = (
        divergence_reading(compare_features(one, models[2], [(0, 0), (1, 1)], [0]), [0, 1]) for one in models[:2]
    )
    return models, base, hybrid


def test_the_second_order_of_a_difference_of_divergences_is_counted_once() -> None:
    models, base, hybrid = divergences()
    n = len(models[0][0])
    pairs = [(one, layer) for one in (1, 0) for layer in (0, 1)]
    of_hybrid, of_base = np.stack([second_order(models[i][at], models[2][at]) for i, at in pairs]).reshape(2, 2, n, n)
    combined = (of_hybrid - of_base).mean(0)
    zeta = (combined[~np.eye(n, dtype=bool)] ** 2).mean()
    found = hybrid - base
    jackknife = (n - 1) / n * ((found.without - found.without.mean()) ** 2).sum()
    assert jackknife - 2 * zeta / n**2 > 2 * zeta / n**2
    # The kernel takes n(n − 3) for n(n − 1) in its HSICs, and features are held in float32 in between.
    assert found.variance.total == pytest.approx(jackknife - 2 * zeta / n**2, rel=1e-5)
    assert found.variance.total < 0.9 * jackknife


def test_the_interval_of_a_share_of_divergences_ends_where_its_variance_says() -> None:
    _, base, hybrid = divergences()
    part, gap = hybrid - base, -1.0 * base
    found = share_of_gap(part, gap)
    assert found.value is not None
    t = quantile((part - found.value * gap).variance)
    for end in (found.ci_low, found.ci_high):
        assert end is not None
        left = part - end * gap
        assert left.value**2 == pytest.approx(t**2 * left.variance.total, rel=1e-6)


def test_one_layer_s_divergence_has_the_variance_that_its_own_interval_is_made_of() -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(90, 40))
    y = 0.3 * x + rng.normal(size=(90, 40))
    found = compare_features([x], [y], [(0, 0)], [0])
    own = divergence_reading(found, [0]).interval()
    [layer] = found.layers
    assert own.value == pytest.approx(1 - (layer.debiased.value or 0))
    assert own.ci_low == pytest.approx(1 - (layer.debiased.ci_high or 0), rel=1e-6)
    assert own.ci_high == pytest.approx(1 - (layer.debiased.ci_low or 0), rel=1e-6)
