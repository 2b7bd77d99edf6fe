"""Coverage and median width of the 95 % interval on populations whose CKA is known.

    python benchmarks/coverage.py [--draws 1000] [--documents 200] [--match TEXT]

Jointly Gaussian features have population CKA ‖Σ_xy‖_F² / (‖Σ_xx‖_F ‖Σ_yy‖_F).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from cka_tools.statistics.features import ModelStatistics
from cka_tools.statistics.intervals import Interval
from cka_tools.statistics.pair import compare_features, compare_statistics
from cka_tools.statistics.ratio import divergence_ratio, ratio_second_order

MASSIVE = 30.0
"""Spread of a massive feature among features of spread 1."""

Draw = Callable[[np.random.Generator, int], tuple[list[np.ndarray], list[np.ndarray]]]


@dataclass(frozen=True)
class Population:
    """A joint distribution of one or more layer pairs, with the CKA of each."""

    name: str
    cka: list[float]
    draw: Draw


def mixed(p: int, share: float, spectrum: np.ndarray | None = None, q: int | None = None) -> tuple[float, Draw]:
    """Features x = D z, y = D (√share · z + √(1 − share) · w): Gaussian, y of width q ≤ p where given."""
    d = np.ones(p) if spectrum is None else spectrum
    e = d[: q or p]
    s_xy = np.zeros((p, len(e)))
    s_xy[: len(e)] = np.diag(d[: len(e)] * e * np.sqrt(share))
    population = (s_xy**2).sum() / (np.linalg.norm(d**2) * np.linalg.norm(e**2))

    def draw(rng: np.random.Generator, n: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
        z, w = rng.normal(size=(n, p)), rng.normal(size=(n, len(e)))
        return [z * d], [(np.sqrt(share) * z[:, : len(e)] + np.sqrt(1 - share) * w) * e]

    return float(population), draw


def massive(cka: float, p: int = 64) -> tuple[float, Draw]:
    """One feature carries nearly all the variance: CKA is the squared correlation of that feature."""
    d = np.ones(p)
    d[0] = MASSIVE

    def draw(rng: np.random.Generator, n: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
        z, w = rng.normal(size=(n, p)), rng.normal(size=(n, p))
        y = w.copy()
        y[:, 0] = rho * z[:, 0] + np.sqrt(1 - rho**2) * w[:, 0]
        return [z * d], [y * d]

    rho = np.sqrt(cka * (d**4).sum() / d[0] ** 4)
    return cka, draw


def stacked(parts: list[tuple[float, Draw]]) -> Population:
    """Several layer pairs at once, for the interval of their mean; layers share their documents' signal."""

    def draw(rng: np.random.Generator, n: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
        seed = int(rng.integers(2**63))
        both = [part(np.random.default_rng(seed), n) for _, part in parts]
        return [x for xs, _ in both for x in xs], [y for _, ys in both for y in ys]

    return Population(f"mean of {len(parts)} layers", [value for value, _ in parts], draw)


def populations() -> Iterator[Population]:
    """The populations of the table."""
    decaying = 1 / np.sqrt(np.arange(1, 101))
    for name, (value, draw) in {
        "strong": mixed(100, 0.7, decaying),
        "middling": mixed(100, 0.3, decaying),
        "weak": mixed(100, 0.05),
        "zero": mixed(100, 0.0),
        "p above n": mixed(768, 0.3),
        "near 1": mixed(100, 0.99, decaying),
        "one massive feature, 0.25": massive(0.25),
        "one massive feature, 0.02": massive(0.02),
    }.items():
        yield Population(name, [value], draw)
    yield stacked([mixed(100, 0.7, decaying), mixed(100, 0.3, decaying), mixed(100, 0.05, decaying)])
    half = stacked([mixed(100, 0.7, decaying), massive(0.25, 100)])
    yield Population("mean of 2 layers, one massive", half.cka, half.draw)


@dataclass(frozen=True)
class RatioPopulation:
    """A pair and a control against the same model B: CKA of each, and draws of A, B and the control."""

    name: str
    cka: tuple[float, float]
    spectrum: np.ndarray

    @property
    def ratio(self) -> float:
        """The population's d(A, B) / d(B′, B)."""
        return (1 - self.cka[0]) / (1 - self.cka[1])

    def draw(self, rng: np.random.Generator, n: int) -> list[np.ndarray]:
        """Features of B, A and the control."""
        b, *noise = rng.normal(size=(3, n, len(self.spectrum)))
        others = [np.sqrt(s) * b + np.sqrt(1 - s) * w for s, w in zip(self.cka, noise, strict=True)]
        return [features * self.spectrum for features in (b, *others)]


RATIOS = (
    RatioPopulation("ratio 5 to a near control", (0.5, 0.9), 1 / np.sqrt(np.arange(1, 101))),
    RatioPopulation("ratio 1.25 far from both", (0.25, 0.4), np.ones(100)),
)


def measure_ratio(population: RatioPopulation, draws: int, documents: int, seed: int) -> dict[str, Any]:
    """Coverage and median width of the ratio's interval; estimates are of the ratio."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(draws):
        b, a, control = population.draw(rng, documents)
        of_a, of_control, of_b = (ModelStatistics([x]) for x in (a, control, b))
        pair, noise = (compare_statistics(x, of_b, [(0, 0)], [0]) for x in (of_a, of_control))
        second = ratio_second_order(of_a, of_control, of_b, pair, noise)
        found.append(divergence_ratio(pair, noise, second).mean)
    return summarise(population.name, population.ratio, documents, found)


def summarise(name: str, truth: float, documents: int, intervals: list[Interval]) -> dict[str, Any]:
    """One row of the table."""
    low, high, value = (
        np.array([getattr(i, field) for i in intervals], float) for field in ("ci_low", "ci_high", "value")
    )
    return {
        "population": name,
        "truth": truth,
        "n": documents,
        "draws": len(intervals),
        "coverage": float(((low <= truth) & (truth <= high)).mean()),
        "missed below": float((high < truth).mean()),
        "missed above": float((low > truth).mean()),
        "median width": float(np.median(high - low)),
        "bias, debiased": float(value.mean() - truth),
    }


def measure(population: Population, draws: int, documents: int, seed: int) -> dict[str, Any]:
    """Coverage, median width and bias over many draws of n documents."""
    rng = np.random.default_rng(seed)
    truth = float(np.mean(population.cka))
    pairs = [(i, i) for i in range(len(population.cka))]
    found, biased = [], []
    for _ in range(draws):
        x, y = population.draw(rng, documents)
        mean = compare_features(x, y, pairs, [0]).mean
        found.append(mean.debiased.complement())
        biased.append(mean.biased.complement().value)
    row = summarise(population.name, truth, documents, found)
    return row | {"bias, biased": float(np.mean(np.array(biased, float)) - truth)}


def main() -> None:
    """Print the table and write it as CSV."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--documents", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--match", default="", help="only populations whose name holds this; others stay")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "coverage.csv")
    options = parser.parse_args()
    start = time.perf_counter()
    chosen = (options.draws, options.documents, options.seed)
    rows = [measure(p, *chosen) for p in populations() if options.match in p.name]
    rows += [measure_ratio(p, *chosen) for p in RATIOS if options.match in p.name]
    table = pd.DataFrame(rows)
    if options.match:
        before = pd.read_csv(options.out).set_index("population")
        before.update(table.set_index("population"))
        table = before.reset_index()
    table.to_csv(options.out, index=False, float_format="%.4f")
    print(table.to_string(index=False, float_format=lambda v: f"{v:.4f}"))
    print(f"{time.perf_counter() - start:.0f} s on {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
