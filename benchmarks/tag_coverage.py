"""Coverage of the intervals of entity F1 and of a paired difference, on populations of sentences with a known F1.

    OMP_NUM_THREADS=1 python benchmarks/tag_coverage.py [--draws 2000]

A sentence has a Poisson number of entities of two types, whose mean is itself drawn (half of the sentences have
none), and a difficulty that two taggers share. An entity is found, or its span is read wrongly, or it is missed;
others are read where none is. Most of the luck on an entity is shared as well. The truth is the F1 of a million
sentences. In the last rows sentences come in documents of ten that share their difficulty.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from probe_coverage import held, write_table

from cka_tools.statistics.intervals import INTERVAL_DOCUMENTS, Interval
from cka_tools.tasks.scores import MACRO, MICRO, scores_of_counts

WHOLE = 1_000_000
"""Sentences from which a population's truth is taken."""

AT_ONCE = 500_000
"""Sentences that are drawn together."""

RARE = 0.25
"""The share of entities that are of the second type."""

HARD = 0.15
"""Standard deviation of a sentence's difficulty, as a probability."""

SHARED = 0.6
"""How often both taggers have the same luck with an entity."""

IN_DOCUMENT = 10

Counts = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Entities of gold, said, and right, (sentences, 2) each."""


@dataclass(frozen=True)
class Population:
    """Sentences and two taggers.

    Attributes:
        right: how often each finds an entity, which is about its F1. in_documents: difficulty is of ten sentences.
    """

    right: tuple[float, float]
    in_documents: bool = False

    def draw(self, rng: np.random.Generator, n: int) -> list[Counts]:
        """What both taggers do with n sentences."""
        entities = rng.poisson(rng.gamma(1.0, 1.0, n))
        owner = np.repeat(np.arange(n), entities)
        luck, kind = rng.random(len(owner)), (rng.random(len(owner)) < RARE).astype(int)
        hard = rng.normal(0, HARD, n // IN_DOCUMENT if self.in_documents else n)
        hard = np.repeat(hard, IN_DOCUMENT) if self.in_documents else hard
        found = []
        for right in self.right:
            own = np.where(rng.random(len(owner)) < SHARED, luck, rng.random(len(owner)))
            hit = own < np.clip(right - hard, 0, 1)[owner]
            # Of those not found half have a wrong span; as many more are read where there is none: F1 is `right`.
            read = hit | (rng.random(len(owner)) < 0.5)
            more = rng.poisson(0.5 * (1 - right), (n, 1)) * np.eye(2)[(rng.random(n) < RARE).astype(int)]
            gold, said, both = (_counted(owner[part], kind[part], n) for part in (slice(None), read, hit))
            found.append((gold, said + more, both))
        return found


def _counted(owner: np.ndarray, kind: np.ndarray, n: int) -> np.ndarray:
    return np.bincount(2 * owner + kind, minlength=2 * n).reshape(n, 2).astype(float)


def draws_of(population: Population, rng: np.random.Generator, draws: int, n: int) -> Iterator[list[Counts]]:
    """Test sets of n sentences."""
    at_once = max(1, AT_ONCE // n)
    for begin in range(0, draws, at_once):
        sets = min(at_once, draws - begin)
        everything = population.draw(rng, sets * n)
        for at in range(sets):
            rows = slice(at * n, (at + 1) * n)
            yield [tuple(part[rows] for part in one) for one in everything]  # type: ignore[misc]


def in_documents(counts: Counts) -> Counts:
    """The same, summed over the sentences of each document."""
    return tuple(one.reshape(-1, IN_DOCUMENT, 2).sum(1) for one in counts)


@cache
def truth(population: Population) -> list[dict[str, Any]]:
    """The scores of both taggers on the whole population."""
    drawn = population.draw(np.random.default_rng(1), WHOLE)
    return [scores_of_counts(*(part.sum(0, keepdims=True) for part in one)) for one in drawn]


def measure(population: Population, draws: int, n: int) -> list[dict[str, Any]]:
    """One row a quantity: how often both intervals hold the truth, and their median width."""
    whole = truth(population)
    units = {"sentences": lambda one: one} | ({"documents": in_documents} if population.in_documents else {})
    found: dict[tuple[str, str], list[tuple[Interval, Interval]]] = {}
    for both in draws_of(population, np.random.default_rng(0), draws, n):
        for unit, summed in units.items():
            a, b = (scores_of_counts(*summed(one)) for one in both)
            for key in (MICRO, MACRO):
                found.setdefault((unit, key), []).append((a[key].interval(), (b[key] - a[key]).interval()))
    rows = []
    for (unit, key), intervals in found.items():
        a, b = (one[key].value for one in whole)
        row: dict[str, Any] = {"population": "in documents of ten" if population.in_documents else "alone"}
        row |= {"sentences": n, "over": unit, "quantity": key, "value": a}
        row |= {f"value {name}": v for name, v in held([one for one, _ in intervals], a).items()}
        row |= {"difference": b - a}
        rows.append(row | {f"difference {k}": v for k, v in held([one for _, one in intervals], b - a).items()})
    return rows


def main() -> None:
    """Print the table and write it as CSV."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--sentences", type=int, nargs="+", default=[100, 300, 1000])
    parser.add_argument("--right", type=float, nargs="+", default=[0.2, 0.4, 0.6, 0.8, 0.9])
    parser.add_argument("--less", type=float, nargs="+", default=[0.0, 0.05])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "tag_coverage.csv")
    options = parser.parse_args()
    start = time.process_time()
    rows = []
    for right in options.right:
        for less in options.less:
            for n in options.sentences:
                rows += measure(Population((right, right - less)), options.draws, n)
    for n in options.sentences:
        if n >= INTERVAL_DOCUMENTS * IN_DOCUMENT:
            rows += measure(Population((0.8, 0.75), in_documents=True), options.draws, n)
    write_table(rows, options.out, start)


if __name__ == "__main__":
    main()
