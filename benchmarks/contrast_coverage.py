"""Coverage of the contrast's intervals, and false alarms of its test, on populations whose truth is known.

    OMP_NUM_THREADS=1 python benchmarks/contrast_coverage.py [--draws 400] [--match TEXT]

Checkpoint i of group g reads document u as x_i(u) = A_i z(u) + noise, z(u) normal, A_i = A + group · G_g +
seed · E_i: the signal, what the group adds, and what the training seed adds, anew for each checkpoint; the
noise is anew for each checkpoint and document. The divergence of two checkpoints over all documents is
known from A_i and A_j, its means B and W from many thousands of seeds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cka_tools.statistics.contrast import contrast_groups, pair_positions
from cka_tools.statistics.intervals import Interval
from cka_tools.statistics.pair import compare_features

WIDTH, SIGNALS = 24, 12
SEEDS_FOR_TRUTH = 4000
LAYERS = 4
MOST_SAMPLED = 999
"""Relabelings of the test where ten checkpoints a group have 92,378."""


@dataclass(frozen=True)
class Population:
    """Sizes of the parts that make checkpoints differ.

    Attributes:
        group, seed, noise: sizes of the group's, the seed's and the noise's part, beside a signal of size 1.
        rank: dimensions in which seeds differ; few make divergences of one checkpoint vary together more.
        spread: by how much more the first group's seeds differ than the second's.
    """

    name: str
    group: float
    seed: float
    noise: float = 0.3
    rank: int = SIGNALS
    spread: float = 1.0

    def maps(self, rng: np.random.Generator, count: int, fixed: np.random.Generator) -> np.ndarray:
        """A_i of `count` checkpoints a group, (2 count, WIDTH, SIGNALS)."""
        scale = np.geomspace(1, 0.3, SIGNALS)
        shared, *own = fixed.normal(size=(3, WIDTH, SIGNALS)) / np.sqrt(WIDTH)
        E = rng.normal(size=(2, count, WIDTH, self.rank)) @ fixed.normal(size=(self.rank, SIGNALS))
        E *= self.seed / np.sqrt(WIDTH * self.rank) * np.array([self.spread, 1.0])[:, None, None, None]
        parts = [shared + self.group * g + e for g, e in zip(own, E, strict=True)]
        return np.concatenate(parts) * scale

    def truth(self, fixed: int) -> tuple[float, float]:
        """B and W over all seeds and documents."""
        count = SEEDS_FOR_TRUTH
        A = self.maps(np.random.default_rng(1), count, np.random.default_rng(fixed))
        gram = np.einsum("ipq,ipr->iqr", A, A)
        norms = np.sqrt(
            np.square(gram).sum((1, 2))
            + 2 * self.noise**2 / WIDTH * np.trace(gram, axis1=1, axis2=2)
            + self.noise**4 / WIDTH
        )
        flat = gram.reshape(2 * count, -1) / norms[:, None]
        one, two = flat[:count].sum(0), flat[count:].sum(0)
        own = [(part @ part - np.square(f).sum()) / (count * (count - 1))
               for part, f in ((one, flat[:count]), (two, flat[count:]))]  # fmt: skip
        return 1 - float(one @ two) / count**2, 1 - sum(own) / 2

    def draw(self, rng: np.random.Generator, count: int, n: int, fixed: int) -> np.ndarray:
        """Features of all checkpoints, (2 count, n, WIDTH)."""
        return self.draw_layers(rng, count, n, fixed, [self.noise])[0]

    def draw_layers(
        self, rng: np.random.Generator, count: int, n: int, fixed: int, noises: list[float]
    ) -> list[np.ndarray]:
        """The same in several layers, which share their seeds' part and the documents and differ in their noise."""
        A = self.maps(rng, count, np.random.default_rng(fixed))
        z = rng.normal(size=(n, SIGNALS))
        size = (2 * count, n, WIDTH)
        return [z @ A.transpose(0, 2, 1) + rng.normal(size=size) * noise / np.sqrt(WIDTH) for noise in noises]


POPULATIONS = (
    Population("no seed effect", 0.6, 0.0),
    Population("no seed effect, no group effect", 0.0, 0.0),
    Population("small seed effect", 0.6, 0.15),
    Population("middling seed effect", 0.6, 0.4),
    Population("large seed effect", 0.6, 1.0),
    Population("large seed effect, no group effect", 0.0, 1.0),
    Population("middling, one group twice as spread", 0.6, 0.3, spread=2.0),
    Population("large seed effect in 2 dimensions", 0.6, 1.0, rank=2),
)


def divergences(features: np.ndarray, *, left_out: bool) -> tuple[np.ndarray, np.ndarray | None]:
    """Debiased divergence of every pair of M models, (pairs, 1), and without each document, (pairs, 1, n).

    Args:
        features: (M, n, p).
    """
    M, n, _ = features.shape
    X = features - features.mean(1, keepdims=True)
    K = X @ X.transpose(0, 2, 1)
    a = np.einsum("iuu->iu", K).copy()
    K[:, range(n), range(n)] = 0
    products = (K.transpose(1, 0, 2) @ K.transpose(1, 2, 0)).transpose(1, 2, 0)  # Σ_v K_i K_j by document u
    grand = a.sum(1)
    trace = products.sum(2)
    inner = a @ a.T
    hsic = trace + np.outer(grand, grand) / ((n - 1) * (n - 2)) - 2 * inner / (n - 2)
    i, j = np.array(pair_positions(M)).T
    own = np.sqrt(np.diag(hsic))
    found = 1 - (hsic / np.outer(own, own))[i, j][:, None]
    if not left_out:
        return found, None
    Ka = (K @ a.T).transpose(0, 2, 1)
    total = trace[..., None] - 2 * products
    ends = (2 * a - grand[:, None])[:, None] * (2 * a - grand[:, None])[None]
    crossed = inner[..., None] - a[:, None] * a[None] + Ka + Ka.transpose(1, 0, 2) + products
    left = total + ends / ((n - 2) * (n - 3)) - 2 * crossed / (n - 3)
    own = np.sqrt(np.einsum("iiu->iu", left))
    return found, 1 - (left / (own[:, None] * own[None]))[i, j][:, None]


def check() -> None:
    """The fast divergences are those of the package."""
    X = POPULATIONS[3].draw(np.random.default_rng(0), 2, 60, 0)
    values, left = divergences(X, left_out=True)
    assert left is not None
    for at, (i, j) in enumerate(pair_positions(4)):
        wanted: Any = compare_features([X[i]], [X[j]], [(0, 0)], [0])
        np.testing.assert_allclose(1 - values[at, 0], wanted.layers[0].debiased.value, rtol=1e-10)
        np.testing.assert_allclose(1 - left[at, 0], wanted.leave_one_out[0], rtol=1e-10)


def covers(interval: Interval, truth: float) -> float:
    """1 or 0; NaN without an interval."""
    if interval.ci_low is None or interval.ci_high is None:
        return np.nan
    return float(interval.ci_low <= truth <= interval.ci_high)


def coverage(population: Population, size: int, draws: int, documents: int, seed: int) -> dict[str, Any]:
    """One row: how often the intervals of B, W, C and R hold the truth."""
    between, within = population.truth(seed)
    truth = {"between": between, "within": within, "difference": between - within, "ratio": between / within}
    rng = np.random.default_rng([seed, size])
    rows = []
    for _ in range(draws):
        X = population.draw(rng, size, documents, seed)
        values, left = divergences(X, left_out=True)
        found = contrast_groups(values, left, (size, size), [0], documents, most=1).mean
        row: dict[str, Any] = {name: covers(getattr(found, name), one) for name, one in truth.items()}
        of_c = found.difference
        row |= {"value": of_c.value, "width": (of_c.ci_high or 0) - (of_c.ci_low or 0), "share": found.seed_share}
        row["below"] = float((of_c.ci_high or 0) < truth["difference"])
        rows.append(row)
    table = pd.DataFrame(rows).astype(float)
    return {
        "population": population.name,
        "K": size,
        "draws": draws,
        "B": between,
        "W": within,
        "R": between / within,
        **{f"coverage {letter}": table[name].mean() for letter, name in zip("BWCR", truth, strict=True)},
        "C missed below": table["below"].mean(),
        "R given": table["ratio"].notna().mean(),
        "median width C": table["width"].median(),
        "sd of C": table["value"].std(),
        "share of seeds": table["share"].median(),
    }


def standing_out(population: Population, size: int, draws: int, documents: int, seed: int) -> dict[str, Any]:
    """One row: how often the interval of R early / R rest holds the truth, the rest being noisier."""
    layers = [replace(population, noise=noise) for noise in (population.noise, 2 * population.noise)]
    (b, w), (other_b, other_w) = (layer.truth(seed) for layer in layers)
    truth = (b / w) / (other_b / other_w)
    rng = np.random.default_rng([seed, size])
    held, width = [], []
    for _ in range(draws):
        drawn = population.draw_layers(rng, size, documents, seed, [layer.noise for layer in layers])
        values, left = zip(*(divergences(X, left_out=True) for X in drawn), strict=True)
        found = contrast_groups(np.hstack(values), np.hstack(left), (size, size), [0], documents, most=1).early_to_rest
        held.append(covers(found, truth))
        width.append(np.nan if found.ci_low is None else np.log((found.ci_high or np.nan) / found.ci_low))
    return {
        "population": population.name,
        "K": size,
        "draws": draws,
        "R early / R rest": truth,
        "coverage": np.nanmean(held),
        "given": float(np.isfinite(held).mean()),
        "median width, log": np.nanmedian(width),
    }


def alarms(seed_effect: float, size: int, draws: int, documents: int, seed: int) -> dict[str, Any]:
    """One row: how often the test calls equal groups different, for the mean and for any of four layers."""
    population = Population("", 0.0, seed_effect)
    rng = np.random.default_rng([seed, size])
    fixed = int(rng.integers(2**31))
    single, any_layer = [], []
    for _ in range(draws):
        # Layers of one checkpoint share its seed's part: they are not independent.
        A = population.maps(rng, size, np.random.default_rng(fixed))
        z = rng.normal(size=(documents, SIGNALS))
        columns = []
        for _ in range(LAYERS):
            turned = A + rng.normal(size=A.shape) * seed_effect / 2 / np.sqrt(WIDTH)
            noise = rng.normal(size=(2 * size, documents, WIDTH)) * population.noise / np.sqrt(WIDTH)
            columns.append(divergences(z @ turned.transpose(0, 2, 1) + noise, left_out=False)[0])
        ways = int(rng.integers(2**31))
        found = contrast_groups(np.hstack(columns), None, (size, size), [0], documents, seed=ways, most=MOST_SAMPLED)
        single.append(found.mean.p)
        any_layer.append(min(layer.p or 0 for layer in found.layers))
    row: dict[str, Any] = {"seed effect": seed_effect, "K": size, "draws": draws, "relabelings": found.relabelings}
    for level in (0.05, 0.01):
        row[f"attainable {level:g}"] = np.floor(level * found.relabelings + 1e-9) / found.relabelings
        row[f"mean, {level:g}"] = float((np.array(single) <= level).mean())
        row[f"any layer, {level:g}"] = float((np.array(any_layer) <= level).mean())
    return row


def show(rows: Iterator[dict[str, Any]], out: Path) -> None:
    """Print rows as they come, and write them as CSV."""
    found: list[dict[str, Any]] = []
    for row in rows:
        found.append(row)
        text = pd.DataFrame([row]).to_string(index=False, header=len(found) == 1, float_format="%.4f")
        print(text, flush=True)
        pd.DataFrame(found).to_csv(out, index=False, float_format="%.4f")


def main() -> None:
    """Print the tables and write them as CSV."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--draws", type=int, default=300)
    parser.add_argument("--null-draws", type=int, default=1000)
    parser.add_argument("--documents", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--match", default="", help="only populations whose name holds this, and no null")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    options = parser.parse_args()
    start = time.process_time()
    check()
    chosen = [(at, one) for at, one in enumerate(POPULATIONS) if options.match in one.name]
    coverages = (
        coverage(one, size, options.draws, options.documents, 100 * options.seed + at)
        for at, one in chosen
        for size in (3, 5, 10)
    )
    if not options.match:
        null = (
            alarms(effect, size, options.null_draws, 40, options.seed) for effect in (0.15, 1.0) for size in (4, 5, 10)
        )
        show(null, options.out / "contrast_alarms.csv")
    shares = (
        standing_out(one, size, options.draws, options.documents, 100 * options.seed + at)
        for at, one in chosen
        if one.group and one.rank == SIGNALS
        for size in (3, 5, 10)
    )
    show(shares, options.out / "contrast_early.csv")
    show(coverages, options.out / "contrast_coverage.csv")
    print(f"{time.process_time() - start:.0f} CPU s")


if __name__ == "__main__":
    main()
