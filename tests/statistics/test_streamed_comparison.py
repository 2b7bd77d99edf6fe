"""Streamed sums say what kept features say; intervals come from the same documents."""

import numpy as np
import pytest
import torch

from cka_tools.errors import UserError
from cka_tools.statistics import pair as feature_comparison
from cka_tools.statistics.linear_cka import FOLD_ROWS
from cka_tools.statistics.pair import compare_features
from cka_tools.statistics.streamed_pair import Pilot, StreamedComparison

DIMS = ([7, 5, 9], [6, 8, 4])
PAIRS, EARLY = [(0, 0), (1, 1), (2, 2)], [0]


def make_features(n=90, draws=None, dtype=np.float32, seed=0):
    """Two models' layers that share a signal; one layer of A with a mean far above its spread."""
    rng = np.random.default_rng(seed)
    shape = (draws or 1, n)
    base = rng.normal(size=(*shape, 9))
    sides = [[(base[..., :p] + rng.normal(size=(*shape, p)) + 3).astype(dtype) for p in d] for d in DIMS]
    sides[0][1] = (30 * sides[0][1] + 3000).astype(dtype)
    return sides if draws else [[layer[0] for layer in side] for side in sides]


def in_batches(n, seed=1):
    rng = np.random.default_rng(seed)
    rows = rng.permutation(n)
    return np.split(rows, np.sort(rng.choice(np.arange(1, n), 6, replace=False)))


def stream(sides, batches, pilot_rows, *, rescale=True, seed=42, pairs=None, dims=DIMS):
    full = [[layer if layer.ndim == 3 else layer[None] for layer in side] for side in sides]
    pilot = Pilot.of(*([layer[:, pilot_rows] for layer in side] for side in full), rescale=rescale)
    draws, n = full[0][0].shape[:2]
    found = StreamedComparison(dims, n, pilot, draws=draws, dtype=full[0][0].dtype, seed=seed, pairs=pairs)
    for rows in batches:
        found.update(rows, *([layer[:, rows] for layer in side] for side in full))
    return found


def numbers(found):
    """Every number of a comparison, in one order."""
    cells = [m for e in ("biased", "debiased") for m in found.matrices[e].ravel()]
    for mean in (found.mean, found.early):
        for interval in (mean.biased, mean.debiased):
            cells += [interval.value, interval.ci_low, interval.ci_high]
    for pair in found.layers:
        for interval in (pair.biased, pair.debiased):
            cells += [interval.value, interval.ci_low, interval.ci_high]
        for s in (pair.spectrum_a, pair.spectrum_b):
            cells += [s.effective_dim, s.top_feature_share]
    return np.array([np.nan if cell is None else cell for cell in cells], dtype=np.float64)


def assert_same(found, expected, **tolerance):
    tolerance = tolerance or {"rtol": 1e-10, "atol": 1e-10}
    np.testing.assert_allclose(numbers(found), numbers(expected), **tolerance)


@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("draws", [None, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_streamed_and_kept_say_the_same(dtype, draws, rescale):
    sides = make_features(draws=draws, dtype=dtype)
    found = stream(sides, in_batches(90), np.arange(90)).compare(PAIRS, EARLY, rescale=rescale)
    expected = compare_features(*sides, PAIRS, EARLY, rescale=rescale)
    assert_same(found, expected)
    for one, two in zip(found.layers, expected.layers, strict=True) if not rescale else ():
        assert one.spectrum_a.top_feature == two.spectrum_a.top_feature
        assert one.spectrum_b.top_feature == two.spectrum_b.top_feature
    for one, two in zip(found.leave_one_out, expected.leave_one_out, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-10)


@pytest.mark.parametrize("draws", [None, 2])
def test_beyond_the_subset_both_ways_leave_out_the_same_documents(monkeypatch, draws):
    monkeypatch.setattr(feature_comparison, "INFLUENCE_DOCUMENTS", 40)
    sides = make_features(draws=draws)
    found = stream(sides, in_batches(90), np.arange(5), rescale=False).compare(PAIRS, EARLY)
    expected = compare_features(*sides, PAIRS, EARLY)
    assert len(found.left_out) == 40
    np.testing.assert_array_equal(found.left_out, expected.left_out)
    assert_same(found, expected)


def test_rescaling_holds_the_pilots_scales_fixed():
    sides = make_features()
    pilot = np.arange(30)
    found = stream(sides, in_batches(90), pilot).compare(PAIRS, EARLY, rescale=True)
    scaled = [[x.astype(float) / x[pilot].astype(float).std(0, ddof=1) for x in side] for side in sides]
    assert_same(found, compare_features(*scaled, PAIRS, EARLY))
    own = compare_features(*sides, PAIRS, EARLY, rescale=True)
    np.testing.assert_allclose(found.matrices["debiased"], own.matrices["debiased"], atol=0.1)


def test_a_constant_layer_is_null_with_its_reason():
    sides = make_features()
    sides[0][0][:] = 1 / 3
    sides[1][2][:, 3] = 7  # one dead feature is no dead layer
    found = stream(sides, in_batches(90), np.arange(90))
    for rescale in (False, True):
        streamed = found.compare(PAIRS, EARLY, rescale=rescale)
        assert streamed.layers[0].debiased.value is None
        assert "layer of A has no variance" in streamed.layers[0].reason
        assert_same(streamed, compare_features(*sides, PAIRS, EARLY, rescale=rescale))


@pytest.mark.parametrize("stop", range(8))
def test_a_state_goes_on_to_the_same_bits(stop):
    n = 3 * FOLD_ROWS
    sides = make_features(n, draws=2)
    batches = in_batches(n)
    whole = stream(sides, batches, np.arange(20))
    first = stream(sides, batches[:stop], np.arange(20))
    state = {name: tensor.clone() for name, tensor in first.state().items()}
    again = stream(sides, [], np.arange(20))
    again.load(state)
    for rows in batches[stop:]:
        again.update(rows, *([layer[:, rows] for layer in side] for side in sides))
    assert again.state().keys() == whole.state().keys()
    for name, tensor in whole.state().items():
        assert torch.equal(again.state()[name], tensor), name
    for rescale in (False, True):
        one, two = (numbers(s.compare(PAIRS, EARLY, rescale=rescale)) for s in (whole, again))
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("pairs", [None, PAIRS], ids=["all pairs", "some pairs"])
@pytest.mark.parametrize("n", [90, 2 * FOLD_ROWS, 4 * FOLD_ROWS])
def test_shares_merge_to_the_whole(n, pairs):
    sides = make_features(n)
    batches = in_batches(n)
    whole = stream(sides, batches, np.arange(20), pairs=pairs)
    shares = [stream(sides, batches[rank::3], np.arange(20), pairs=pairs) for rank in range(3)]
    for share in shares[1:]:
        shares[0].merge(share.state())
    for rescale in (False, True):
        assert_same(shares[0].compare(PAIRS, EARLY, rescale=rescale), whole.compare(PAIRS, EARLY, rescale=rescale))


def test_documents_that_are_missing_are_counted():
    sides = make_features()
    found = stream(sides, in_batches(90)[:-1], np.arange(20))
    with pytest.raises(UserError, match=f"{found.n} of 90"):
        found.compare(PAIRS, EARLY)


def test_memory_does_not_grow_with_documents(monkeypatch):
    monkeypatch.setattr(feature_comparison, "INFLUENCE_DOCUMENTS", 10)
    sizes = []
    for n in (600, 1200):
        sides = make_features(n)
        found = stream(sides, np.array_split(np.arange(n), n // 100), np.arange(20))
        sizes.append(sum(t.nbytes for t in found.state().values()))
    # 600 is where rows are folded last, so no more of them wait in one run than in the other.
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize("rescale", [False, True])
def test_a_side_may_hold_the_layers_of_several_models(rescale):
    """A and a control one after the other: B's own sums are made once, and each comparison is as alone."""
    (first, second), control = make_features(), make_features(seed=5)[1]
    control = [c + b for c, b in zip(control, second, strict=True)]
    layers, n = (DIMS[0] + DIMS[1], DIMS[1]), 90
    sides = [[layer[None] for layer in side] for side in (first + control, second)]
    pilot = Pilot.of(*([layer[:, :30] for layer in side] for side in sides), rescale=True)
    pairs = [*PAIRS, *((3 + j, j) for j in range(3))]
    found = StreamedComparison(layers, n, pilot, pairs=pairs)
    for rows in in_batches(n):
        found.update(rows, *([layer[:, rows] for layer in side] for side in sides))
    for model, at, called in ((first, slice(0, 3), "A"), (control, slice(3, 6), "the control")):
        dims = [layer.shape[1] for layer in model], DIMS[1]
        alone = stream((model, second), in_batches(n), np.arange(30), dims=dims, pairs=PAIRS)
        options = {"rescale": rescale, "sides": (called, "B")}
        together = found.compare(PAIRS, EARLY, layers=(at, slice(None)), **options)
        assert_same(together, alone.compare(PAIRS, EARLY, **options))
        assert together.matrices["debiased"].shape == (3, 3)
