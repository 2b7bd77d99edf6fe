"""The published numbers: what is in the file, and that our arithmetic on them gives what the paper states."""

import numpy as np
import pytest

from cka_tools.comparison.layer_pairs import early_layers
from cka_tools.paper import published
from cka_tools.statistics.features import Spectrum
from cka_tools.statistics.intervals import Interval
from cka_tools.statistics.pair import (
    FeatureComparison,
    LayerPair,
    MeanDivergence,
    layer_ratios,
    mean_divergence,
    ratio_of_means,
)
from cka_tools.statistics.ratio import divergence_ratio

PAIR = published().layers["detour-baseline"].cka
NOISE = published().layers["baseline-baseline"].cka
EARLY = list(early_layers(22, None))


def test_means_and_early_means_of_the_published_layers_are_the_published_ones():
    for name, case in (
        ("detour-baseline", "both after 1B of decay"),
        ("baseline-baseline", "seed noise after 1B of decay"),
    ):
        cka = np.array(published().layers[name].cka)
        assert len(cka) == 22
        (mean,), (early,) = (published().of(f"{of} divergence", case) for of in ("mean", "early"))
        assert round(mean_divergence(cka), 3) == mean.value
        assert round(mean_divergence(cka[EARLY]), 3) == early.value
    assert list(range(8)) == EARLY


def test_the_published_regions_are_means_of_the_published_layers():
    for pair, cka in (("detour-baseline", PAIR), ("baseline-baseline", NOISE)):
        regions = published().of("divergence by region", pair)
        assert [tuple(one.layers) for one in regions] == [(0, 7), (8, 14), (15, 21)]
        for one in regions:
            first, last = one.layers
            assert one.value == pytest.approx(1 - np.mean(cka[first : last + 1]), abs=5e-4)


def test_ratios_of_the_published_layers_are_the_published_ones():
    ratios = layer_ratios(PAIR, NOISE)
    assert round(ratios[0], 1) == 46.7
    assert round(ratios[7], 1) == 4.5
    assert np.all((ratios[8:] > 1.095) & (ratios[8:] < 1.255))
    smallest, largest = published().of("ratio to seed noise")
    # 44 is what unrounded values give: within what rounding r_0 to three decimals leaves open.
    assert (1 - PAIR[0] - 0.0005) / (1 - NOISE[0] + 0.0005) < largest.value < ratios[0]
    assert round(min(ratios[:8])) == smallest.value
    assert ratio_of_means(PAIR, NOISE) == pytest.approx(0.6214 / 0.4971, abs=2e-3)


def test_the_ratio_of_two_comparisons_gives_the_published_ones_from_the_published_layers():
    def found(cka):
        spectrum = Spectrum(1.0, 1.0, 0)
        layers = [LayerPair(i, i, Interval(v), Interval(v), spectrum, spectrum, None) for i, v in enumerate(cka)]
        mean = MeanDivergence(Interval(None), Interval(None))
        return FeatureComparison(
            20, {}, layers, mean, mean, [None] * len(cka), np.arange(20), EARLY, list(range(len(cka)))
        )

    ratio = divergence_ratio(found(PAIR), found(NOISE))
    assert [round(ratio.layers[at].value, 1) for at in (0, 7)] == [46.7, 4.5]
    assert round(ratio.largest, 1) == 46.7
    assert ratio.mean.value == pytest.approx(0.621 / 0.497, abs=3e-3)
    assert ratio.early.value == pytest.approx(0.150 / 0.016, rel=0.05)


def test_a_ratio_of_means_is_no_mean_of_ratios():
    assert ratio_of_means(PAIR, NOISE) == pytest.approx(1.25, abs=0.01)
    assert np.mean(layer_ratios(PAIR, NOISE)) > 3


def test_every_value_says_what_it_is_of():
    assert published().arxiv in published().source
    for value in published().values:
        assert value.models
        assert (value.at is None) == (value.axis is None)
        assert value.unit == "F1 points" or value.quantity == "ratio to seed noise" or abs(value.value) < 1
    decay = published().of("mean divergence", "along the decay")
    assert [v.at for v in decay] == [0.5, 1.0, 1.5, 3.0, 5.0, 9.5]
    (base,) = published().of("mean divergence", "encoder, Base")
    assert (base.value, base.std) == (0.565, 0.007)


def test_what_is_not_published_is_a_key_error():
    with pytest.raises(KeyError, match="nothing of the kind"):
        published().of("mean divergence", "of a giraffe")
