"""Statistics on a card are those of the CPU; float32 products keep their bound."""

import numpy as np
import pytest
import torch

from cka_tools.statistics.features import ModelStatistics
from cka_tools.statistics.linear_cka import LinearCKA
from cka_tools.statistics.measures import MEASURES, measure_pairs
from cka_tools.statistics.pair import compare_features

pytestmark = pytest.mark.gpu

PAIRS = [(0, 0), (1, 1), (2, 2)]


def make_layers(n: int, seed: int, draws: int | None = None) -> list[np.ndarray]:
    """Three layers that share a signal with those of another seed; means of 10 to 100 spreads."""
    rng = np.random.default_rng(seed)
    shape = (draws, n) if draws else (n,)
    common = np.random.default_rng(0).normal(size=(*shape, 96))
    found = [common[..., :p] + rng.normal(size=(*shape, p)) for p in (32, 96, 64)]
    return [(layer + np.linspace(10, 100, layer.shape[-1])).astype(np.float32) for layer in found]


@pytest.mark.parametrize("draws", [None, 2])
@pytest.mark.parametrize("n", [60, 1500])  # Gram matrices, and sums over features
def test_a_comparison_is_that_of_the_cpu(n: int, draws: int | None, device: torch.device) -> None:
    a, b = make_layers(n, 1, draws), make_layers(n, 2, draws)
    expected, found = (compare_features(a, b, PAIRS, [0], device=place, rescale=True) for place in ("cpu", device))
    for estimator, matrix in expected.matrices.items():
        np.testing.assert_allclose(found.matrices[estimator], matrix, atol=1e-9)
    for one, other in zip(found.layers, expected.layers, strict=True):
        for bound in ("value", "ci_low", "ci_high"):
            assert getattr(one.debiased, bound) == pytest.approx(getattr(other.debiased, bound), abs=1e-8)


@pytest.mark.parametrize("name", MEASURES)
def test_measures_are_those_of_the_cpu(name: str, device: torch.device) -> None:
    sides = make_layers(300, 1), make_layers(300, 2)
    expected, found = (
        measure_pairs(MEASURES[name], *(ModelStatistics(side, device=place) for side in sides), PAIRS)
        for place in ("cpu", device)
    )
    assert [one.value for one in found] == [pytest.approx(one.value, abs=1e-9) for one in expected]


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-10), (torch.float32, 1e-6)])
@pytest.mark.parametrize("gram", [True, False])
@pytest.mark.parametrize("resident", [True, False])
def test_sums_over_batches_are_those_of_the_cpu(
    resident: bool, gram: bool, dtype: torch.dtype, bound: float, device: torch.device
) -> None:
    sides = [[torch.as_tensor(layer) for layer in make_layers(700, seed)] for seed in (1, 2)]
    dims = [[layer.shape[1] for layer in side] for side in sides]

    def total(place: torch.device, product: torch.dtype) -> torch.Tensor:
        first, second = (LinearCKA(*dims, device=place, gram=gram, product_dtype=product) for _ in range(2))
        given = [[layer.to(place) for layer in side] for side in sides] if resident else sides
        for start in range(0, 700, 100):
            part = [[layer[start : start + 100] for layer in side] for side in given]
            (first if start < 400 else second).update(*part)
        first.merge(second)
        return first.compute("debiased")

    difference = total(device, dtype) - total(torch.device("cpu"), torch.float64)
    assert difference.abs().max() < bound
