"""Two groups of checkpoints: values by hand, p by going through all relabelings, intervals of both kinds."""

from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from cka_tools.statistics.contrast import contrast_groups, pair_positions, relabelings


def vector(matrix):
    """The pairs of a symmetric matrix, as one layer."""
    return np.array([matrix[i][j] for i, j in pair_positions(len(matrix))], dtype=float)[:, None]


def points(places):
    """Distances of points on a line."""
    places = np.array(places, dtype=float)
    return vector(np.abs(places[:, None] - places))


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_means_between_and_within_by_hand():
    # Groups {0, 2} and {10, 11, 13}: within 2 and (1 + 3 + 2)/3 = 2; between the mean of |a − b|.
    found = contrast_groups(points([0, 2, 10, 11, 13]), None, (2, 3), [0], 50).mean
    between = (10 + 11 + 13 + 8 + 9 + 11) / 6
    assert found.between.value == pytest.approx(between)
    assert found.within.value == pytest.approx(2)
    assert found.difference.value == pytest.approx(between - 2)
    assert found.ratio.value == pytest.approx(between / 2)


def test_each_group_counts_alike_within_whatever_its_size():
    matrix = np.full((6, 6), 5.0)
    matrix[:2, :2], matrix[2:, 2:] = 1.0, 3.0  # one pair of 1, six pairs of 3
    assert contrast_groups(vector(matrix), None, (2, 4), [0], 50).mean.within.value == pytest.approx(2)


def test_partners_are_not_counted_where_runs_are_paired():
    matrix = np.full((6, 6), 5.0)
    matrix[:3, :3] = matrix[3:, 3:] = 1.0
    for i in range(3):
        matrix[i, i + 3] = matrix[i + 3, i] = 0.1
    assert contrast_groups(vector(matrix), None, (3, 3), [0], 50, paired=True).mean.between.value == 5
    assert contrast_groups(vector(matrix), None, (3, 3), [0], 50).mean.between.value < 5


@pytest.mark.parametrize(
    ("sizes", "paired", "count"),
    [((5, 5), False, 126), ((3, 3), False, 10), ((2, 4), False, 15), ((2, 2), False, 3), ((5, 5), True, 16)],
)
def test_all_distinct_relabelings_are_taken(sizes, paired, count):
    ways, exact = relabelings(sizes, paired=paired)
    assert exact
    assert len(ways) == count
    assert ways[0].tolist() == [True] * sizes[0] + [False] * sizes[1]
    assert (ways.sum(1) == sizes[0]).all()
    names = {frozenset((frozenset(np.flatnonzero(w)), frozenset(np.flatnonzero(~w)))) for w in ways}
    assert len(names) == count
    if paired:
        assert (ways[:, : sizes[0]] != ways[:, sizes[0] :]).all()


@pytest.mark.parametrize(("sizes", "paired"), [((10, 10), False), ((16, 16), True)])
def test_too_many_relabelings_are_sampled_by_a_seed(sizes, paired):
    ways, exact = relabelings(sizes, paired=paired, seed=1)
    assert not exact
    assert len(ways) == 10_001
    assert (ways.sum(1) == sizes[0]).all()
    assert (ways == relabelings(sizes, paired=paired, seed=1)[0]).all()
    assert (ways != relabelings(sizes, paired=paired, seed=2)[0]).any()


def brute_force(distances, first):
    """C of every way to choose the first group, by loops."""
    count = int((1 + np.sqrt(1 + 8 * len(distances))) / 2)
    lookup = dict(zip(pair_positions(count), distances, strict=True))
    found = []
    for chosen in combinations(range(count), first):
        rest = [i for i in range(count) if i not in chosen]
        between = np.mean([lookup[min(i, j), max(i, j)] for i in chosen for j in rest], axis=0)
        within = [np.mean([lookup[p] for p in combinations(group, 2)], axis=0) for group in (chosen, rest)]
        found.append(between - np.mean(within, axis=0))
    return np.array(found)  # (ways, layers), the observed way first


@pytest.mark.parametrize("sizes", [(3, 3), (3, 4), (4, 4)])
def test_p_is_the_share_of_relabelings_with_as_large_a_difference(rng, sizes):
    distances = rng.random((len(pair_positions(sum(sizes))), 3)) + 0.5
    ways = brute_force(distances, sizes[0])
    test = contrast_groups(distances, None, sizes, [0], 50)
    for at, layer in enumerate(test.layers):
        assert layer.difference.value == pytest.approx(ways[0, at])
        assert layer.p_single == pytest.approx(np.mean(ways[:, at] >= ways[0, at] - 1e-12))
    mean = ways.mean(1)
    assert test.mean.p == pytest.approx(np.mean(mean >= mean[0] - 1e-12))
    assert test.early.p == pytest.approx(test.layers[0].p_single)


def test_layers_are_adjusted_by_the_largest_of_those_that_are_left(rng):
    distances = rng.random((15, 4)) + 0.5
    distances[:, 1] = vector(np.abs(np.subtract.outer([0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 1])) + 0.1)[:, 0]
    ways = brute_force(distances, 3)
    scores = (ways - ways.mean(0)) / ways.std(0)
    test = contrast_groups(distances, None, (3, 3), [0], 50)
    order = sorted(range(4), key=lambda at: -scores[0, at])
    least = 0.0
    for place, layer in enumerate(order):
        left = scores[:, order[place:]].max(1)
        least = max(least, np.mean(left >= scores[0, layer] - 1e-9))
        assert test.layers[layer].p == pytest.approx(least)
        assert test.layers[layer].p >= test.layers[layer].p_single
    assert test.layers[1].p == pytest.approx(0.1)  # no relabeling of 3 and 3 can give less
    assert test.smallest_p == 0.1


def test_labels_do_not_depend_on_a_layers_scale(rng):
    distances = rng.random((15, 3)) + 0.5
    scaled = distances * np.array([1, 1000, 0.001])
    one, other = (contrast_groups(d, None, (3, 3), [0], 50) for d in (distances, scaled))
    assert [layer.p for layer in one.layers] == [layer.p for layer in other.layers]


def with_documents(rng, values, n, size):
    """Leave-one-out values of means over n documents: each pair has its own noise and a shared one."""
    pairs, layers = values.shape
    noise = size * (rng.normal(size=(1, layers, n)) + 0.5 * rng.normal(size=(pairs, layers, n)))
    noise -= noise.mean(2, keepdims=True)
    return values[:, :, None] - noise / (n - 1)


def test_without_seed_effects_the_interval_is_the_one_over_documents(rng):
    values = vector(np.where(np.subtract.outer([0] * 3 + [1] * 3, [0] * 3 + [1] * 3) == 0, 0.1, 0.5))
    left = with_documents(rng, values, 400, 0.2)
    found = contrast_groups(values, left, (3, 3), [0], 400).mean
    first = [k for k, (i, j) in enumerate(pair_positions(6)) if (i < 3) != (j < 3)]
    effects = left[first, 0].mean(0)
    error = np.sqrt(399 / 400 * np.square(effects - effects.mean()).sum())
    width = found.between.ci_high - found.between.ci_low
    assert width / 2 / error == pytest.approx(stats.t.ppf(0.975, 399), rel=0.01)
    assert found.seed_share == 0


def test_seeds_widen_the_interval_by_the_delete_one_variance(rng):
    # D_ij = a_i + a_j within and between: a mean over pairs moves with the mean of a over checkpoints.
    a = np.array([0.1, 0.2, 0.35, 0.15, 0.3, 0.2])
    values = vector(1 + a[:, None] + a)
    left = np.repeat(values[:, :, None], 60, 2)
    found = contrast_groups(values, left, (3, 3), [0], 60).mean
    # B = 1 + mean of the first + mean of the second: the variance of two means of three.
    variance = a[:3].var(ddof=1) / 3, a[3:].var(ddof=1) / 3
    degrees = sum(variance) ** 2 / sum(v**2 / 2 for v in variance)
    half = stats.t.ppf(0.975, degrees) * np.sqrt(sum(variance))
    assert found.between.ci_low == pytest.approx(found.between.value - half)
    assert found.difference.value == pytest.approx(0, abs=1e-12)
    assert found.difference.ci_high == pytest.approx(0, abs=1e-9)  # it cancels


def test_what_a_document_does_to_one_checkpoint_is_not_counted_twice(rng):
    """No seed effect, noise of single pairs alone: all variance that is seen over seeds is of documents."""
    shares = []
    for _ in range(40):
        n = 100
        noise = rng.normal(size=(15, 1, n))
        values = 0.5 + 0.1 * noise.mean(2)
        left = values[:, :, None] - 0.1 * (noise - noise.mean(2, keepdims=True)) / (n - 1)
        shares.append(contrast_groups(values, left, (3, 3), [0], n).mean.seed_share)
    assert np.median(shares) < 0.4
    assert min(shares) == 0


def test_two_checkpoints_a_group_give_an_interval_over_documents_alone(rng):
    values = points([0, 0.1, 0.5, 0.7])
    test = contrast_groups(values, with_documents(rng, values, 100, 0.01), (2, 2), [0], 100)
    assert "a group of 2" in test.no_seeds
    assert test.mean.between.ci_low is not None
    assert test.mean.seed_share is None
    assert test.smallest_p == pytest.approx(1 / 3)


def test_paired_runs_are_left_out_together(rng):
    # What is shared within pair i moves both of its members: the unit of chance is the pair.
    shared = np.array([0.0, 0.1, 0.3, 0.2] * 2)
    values = vector(1 + shared[:, None] + shared)
    left = np.repeat(values[:, :, None], 60, 2)
    found = contrast_groups(values, left, (4, 4), [0], 60, paired=True).mean
    half = stats.t.ppf(0.975, 3) * 2 * np.sqrt(shared[:4].var(ddof=1) / 4)
    assert found.between.ci_high == pytest.approx(found.between.value + half)


def test_no_ratio_where_the_divergence_within_is_not_clear_of_zero(rng):
    values = points([0, 0.001, 0.002, 0.5, 0.501, 0.503])
    found = contrast_groups(values, with_documents(rng, values, 50, 0.5), (3, 3), [0], 50).mean
    assert found.ratio.value is None
    assert found.ratio.reason.startswith("nothing to divide by: the divergence within groups")
    assert found.difference.value is not None


def test_an_undefined_layer_has_its_reason_and_leaves_the_mean_alone(rng):
    values = np.hstack([points([0, 0.1, 0.5, 0.7]), points([0, 0.2, 0.9, 0.7])])
    values[2, 1] = np.nan
    test = contrast_groups(values, None, (2, 2), [0, 1], 50)
    assert test.layers[1].difference.value is None
    assert "no variance" in test.layers[1].difference.reason
    assert test.layers[1].p is None
    assert test.mean.difference.value == test.layers[0].difference.value
    nothing = contrast_groups(values * np.nan, None, (2, 2), [0], 50)
    assert nothing.mean.p is None
    assert nothing.mean.ratio.value is None


def test_too_few_documents_give_no_interval(rng):
    found = contrast_groups(points([0, 0.1, 0.5, 0.7]), None, (2, 2), [0], 12).mean
    assert found.difference.ci_low is None
    assert "12 documents" in found.difference.reason
    assert found.p == pytest.approx(1 / 3)


@pytest.mark.parametrize("paired", [False, True])
def test_false_alarms_are_as_rare_as_the_level_says(rng, paired):
    """Runs that share something in pairs are exchangeable within the pairs alone."""
    draws, alarms = 600, []
    for _ in range(draws):
        places = rng.normal(size=(8, 12)) + (2 * np.tile(rng.normal(size=(4, 12)), (2, 1)) if paired else 0)
        distances = [np.linalg.norm(p[:, None] - p, axis=2) for p in (places[:, :6], places[:, 6:])]
        values = np.hstack([vector(d) for d in distances])
        test = contrast_groups(values, None, (4, 4), [0], 50, paired=paired)
        level = 1 / 8 if paired else 1 / 35
        alarms.append(min(layer.p for layer in test.layers) <= level + 1e-9)
    expected = 1 / 8 if paired else 1 / 35
    # With one error rate for both layers, at most the level; not much less, as the layers are independent.
    assert expected / 3 < np.mean(alarms) < expected + 3 * np.sqrt(expected / draws)


def test_early_layers_stand_out_by_their_ratio_and_not_by_their_divergence(rng):
    between = np.subtract.outer([0] * 4 + [1] * 4, [0] * 4 + [1] * 4) != 0
    low, high = (vector(np.where(between, *ends)) for ends in ((0.2, 0.02), (0.4, 0.1)))
    values = np.hstack([low, high]) * np.exp(0.1 * rng.normal(size=(28, 2)))
    left = with_documents(rng, values, 300, 0.05)
    found = contrast_groups(values, left, (4, 4), [0], 300)
    share = found.early_to_rest
    assert share.value == pytest.approx(found.layers[0].ratio.value / found.layers[1].ratio.value)
    assert share.ci_low < 10 / 4 < share.ci_high
    assert share.ci_low > 1
    # The logarithm itself with one unit left out, instead of its linearisation.
    labels = [0] * 4 + [1] * 4

    def log_share(rows, kept):
        totals = []
        for row in rows.T:
            parts = {key: [] for key in ("b", 0, 1)}
            for (i, j), value in zip(pair_positions(8), row, strict=True):
                if i in kept and j in kept:
                    parts["b" if labels[i] != labels[j] else labels[i]].append(value)
            totals.append(np.log(np.mean(parts["b"]) / np.mean([np.mean(parts[0]), np.mean(parts[1])])))
        return totals[0] - totals[1]

    over_documents = np.array([log_share(left[:, :, at], range(8)) for at in range(300)])
    variance = 299 / 300 * np.square(over_documents - over_documents.mean()).sum()
    for group in (range(4), range(4, 8)):
        own = np.array([log_share(values, set(range(8)) - {one}) for one in group])
        variance += 3 / 4 * np.square(own - own.mean()).sum()
    width = np.log(share.ci_high / share.ci_low)
    # The t quantile of 3 to 6 degrees of freedom and up; a part of the documents' variance is in both terms.
    assert 2 * 1.96 * 0.9 < width / np.sqrt(variance) < 2 * 3.2


def test_early_layers_that_are_all_layers_have_nothing_to_stand_out_from(rng):
    values = rng.random((15, 2)) + 0.5
    found = contrast_groups(values, None, (3, 3), [0, 1], 50).early_to_rest
    assert found.value is None
    assert found.reason
