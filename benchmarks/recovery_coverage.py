"""Coverage of the intervals of a difference and of a recovery, on populations whose truth is known.

    OMP_NUM_THREADS=1 python benchmarks/recovery_coverage.py [--draws 2000] [--documents 200] [--run RUN]

Simulated: one number a document for base, hybrid and donor, which share what is particular to the document;
recovery is a ratio of means. Real: `RUN`, of `cka transplant`, is taken as the whole population of documents;
samples are drawn from it with replacement, so the truth is the run's own difference or recovery.
Divergences are of Gaussian features, as in coverage.py, with a quarter of the draws.
Recoveries that were refused (the gap is not clear of 0) are counted apart: coverage is of the others.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from coverage import RATIOS, RatioPopulation
from probe_coverage import held, write_table

from cka_tools.comparison.readout_results import Transplant
from cka_tools.statistics.intervals import Interval
from cka_tools.statistics.pair import compare_features
from cka_tools.statistics.paired import Reading, divergence_reading, share_of_gap

WHOLE = 2_000_000
"""Documents from which a simulated population's means are taken."""


@dataclass(frozen=True)
class Population:
    """Base, hybrid and donor, one number a document each.

    Attributes:
        gap, share: donor − base, and (hybrid − base) / gap, in means.
        own: spread of what each model adds to a document, beside the spread 1 that they share.
        shape: of that spread: normal; log-normal, with a long tail; or hits of so many masked tokens.
    """

    name: str
    gap: float
    share: float
    own: float = 0.3
    shape: str = "normal"

    def draw(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """(3, n): base, hybrid, donor."""
        shift = np.array([0.0, self.share * self.gap, self.gap])[:, None]
        if self.shape == "hits":
            level = 0.3 + 0.1 * rng.normal(size=n)
            masked = rng.integers(5, 60, size=n)
            return rng.binomial(masked, np.clip(level + shift, 0, 1)) / masked
        noise = rng.normal(size=(4, n))
        if self.shape == "heavy":
            noise = np.exp(noise) - np.exp(0.5)
        return noise[0] + self.own * noise[1:] + shift

    def truth(self) -> tuple[float, float]:
        """hybrid − base and its share of the gap."""
        if self.shape != "hits":
            return self.share * self.gap, self.share
        base, hybrid, donor = self.draw(np.random.default_rng(1), WHOLE).mean(1)
        return float(hybrid - base), float((hybrid - base) / (donor - base))


POPULATIONS = (
    Population("clear gap, third recovered", 0.4, 0.35),
    Population("clear gap, nothing recovered", 0.4, 0.0),
    Population("clear gap, all recovered", 0.4, 1.0),
    Population("clear gap, negative", -0.4, -0.12),
    Population("gap of 5 standard errors", 0.15, 0.35),
    Population("gap of 3.5 standard errors", 0.105, 0.35),
    Population("long tails", 0.6, 0.35, shape="heavy"),
    Population("accuracy of 5 to 60 tokens", -0.08, 0.35, shape="hits"),
)


def samples(population: Population, draws: int, documents: int, seed: int) -> Iterator[np.ndarray]:
    """Simulated documents."""
    rng = np.random.default_rng(seed)
    for _ in range(draws):
        yield population.draw(rng, documents)


def resampled(values: np.ndarray, draws: int, documents: int, seed: int) -> Iterator[np.ndarray]:
    """Documents of a run, with replacement."""
    rng = np.random.default_rng(seed)
    for _ in range(draws):
        yield values[:, rng.integers(values.shape[1], size=documents)]


def measure(name: str, truth: tuple[float, float], found: Iterator[np.ndarray]) -> dict[str, Any]:
    """One row: how often both intervals hold the truth, where they miss it, and their median width."""
    differences: list[Interval] = []
    shares: list[Interval] = []
    for sample in found:
        base, hybrid, donor = map(Reading.mean, sample)
        differences.append((hybrid - base).interval())
        shares.append(share_of_gap(hybrid - base, donor - base))
    return _row(name, truth, differences, shares)


def measure_divergence(population: RatioPopulation, draws: int, documents: int, seed: int) -> dict[str, Any]:
    """One row of the recovery of a divergence, 1 − d(hybrid, donor) / d(base, donor), from features."""
    rng = np.random.default_rng(seed)
    base, hybrid = (1 - cka for cka in population.cka)
    differences, shares = [], []
    for _ in range(draws):
        donor, *others = population.draw(rng, documents)
        of_base, of_hybrid = (
            divergence_reading(compare_features([one], [donor], [(0, 0)], [0]), [0]) for one in others
        )
        differences.append((of_hybrid - of_base).interval())
        shares.append(share_of_gap(of_hybrid - of_base, -1.0 * of_base))
    truth = hybrid - base, 1 - hybrid / base
    return _row(f"divergence: {population.name}", truth, differences, shares)


def _row(name: str, truth: tuple[float, float], differences: list[Interval], shares: list[Interval]) -> dict[str, Any]:
    given = [one for one in shares if one.value is not None]
    row: dict[str, Any] = {"population": name, "difference": truth[0], "recovery": truth[1]}
    row |= {f"difference {key}": value for key, value in held(differences, truth[0]).items()}
    row |= {"refused": 1 - len(given) / len(shares)}
    return row | {f"recovery {key}": value for key, value in held(given, truth[1]).items()}


def of_run(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Base, hybrid and donor of every graft of a run, by quantity, (3, documents)."""
    result = Transplant.load(folder)
    for quantity, values in result.arrays.items():
        for one in result.hybrids:
            if one["direction"] == "transplant":
                yield f"{quantity}: {one['label']}", values[[0, one["model"], 1]]


def main() -> None:
    """Print the table and write it as CSV."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--documents", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--run", type=Path, help="of `cka transplant`, whose documents are the population")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "recovery_coverage.csv")
    options = parser.parse_args()
    start = time.process_time()
    chosen = options.draws, options.documents, options.seed
    rows = [measure(one.name, one.truth(), samples(one, *chosen)) for one in POPULATIONS]
    rows += [measure_divergence(one, options.draws // 4, *chosen[1:]) for one in RATIOS]
    for name, values in [] if options.run is None else of_run(options.run):
        base, hybrid, donor = values.mean(1)
        truth = float(hybrid - base), float((hybrid - base) / (donor - base))
        rows.append(measure(name, truth, resampled(values, *chosen)))
    write_table(rows, options.out, start)


if __name__ == "__main__":
    main()
