"""Coverage of the intervals of a probe's F1 and of a paired difference, on populations whose truth is known.

    OMP_NUM_THREADS=1 python benchmarks/probe_coverage.py [--draws 4000]

The probes are fixed, as the intervals take them: what they answer is drawn for each document with its class,
and the truth is the F1 of the whole population, from the probabilities of each class and answer. Two probes
share what makes a document hard, so their answers go together. In the last population the probes are logistic
regressions that are fitted once on features of two models, and the truth is their F1 on 500,000 documents.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression

from cka_tools.statistics.intervals import Interval
from cka_tools.tasks.scores import ACCURACY, MACRO, MICRO, scores

WHOLE = 500_000
"""Documents from which a population's truth is taken."""

Answers = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Gold, and the answers of two probes, each (n, classes) bool."""


@dataclass(frozen=True)
class Population:
    """Classes of documents and what two probes say.

    Attributes:
        shares: of each class; of several classes a text, how often each is there.
        right: how often either probe is right on a document of mean difficulty.
        several: whether a text may have any number of classes.
    """

    name: str
    shares: tuple[float, ...]
    right: tuple[float, float]
    several: bool = False

    def draw(self, rng: np.random.Generator, n: int) -> Answers:
        """Documents with both probes' answers."""
        classes = len(self.shares)
        hard = rng.normal(0, 0.15, size=(n, 1))
        if self.several:
            gold = rng.random((n, classes)) < self.shares
            said = [gold ^ (rng.random((n, classes)) > np.clip(right - hard, 0, 1)) for right in self.right]
            return gold, said[0], said[1]
        label = rng.choice(classes, n, p=self.shares)
        each = []
        for right in self.right:
            other = (label + rng.integers(1, classes, n)) % classes
            each.append(np.where(rng.random(n) < np.clip(right - hard[:, 0], 0, 1), label, other))
        gold, a, b = (np.arange(classes) == one[:, None] for one in (label, *each))
        return gold, a, b


POPULATIONS = (
    Population("two classes, 80 and 75 % right", (0.5, 0.5), (0.80, 0.75)),
    Population("two classes, no difference", (0.5, 0.5), (0.80, 0.80)),
    Population("two classes, 95 and 92 % right", (0.5, 0.5), (0.95, 0.92)),
    Population("four classes, rarest 8 %", (0.5, 0.3, 0.12, 0.08), (0.80, 0.70)),
    Population("ten classes, rarest 3 %", (0.3, 0.2, 0.1, 0.1, 0.08, 0.07, 0.05, 0.04, 0.03, 0.03), (0.75, 0.70)),
    Population("ten classes at once", (0.4, 0.3, 0.25, 0.2, 0.2, 0.15, 0.15, 0.1, 0.1, 0.08), (0.93, 0.90), True),
)


def features_of_two(rng: np.random.Generator, n: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Classes, and features of two models that share a document's noise."""
    label = rng.integers(0, 3, n)
    centres = np.random.default_rng(1).normal(size=(3, 8))
    shared = centres[label] + rng.normal(0, 1.2, (n, 8))
    return label, [shared + rng.normal(0, own, (n, 8)) for own in (0.8, 1.4)]


def fitted_probes(train: int) -> Callable[[np.random.Generator, int], Answers]:
    """Two logistic regressions, fitted once."""
    label, features = features_of_two(np.random.default_rng(2), train)
    fits = [LogisticRegression().fit(x, label) for x in features]

    def draw(rng: np.random.Generator, n: int) -> Answers:
        label, features = features_of_two(rng, n)
        said = [fit.predict(x) for fit, x in zip(fits, features, strict=True)]
        gold, a, b = (np.arange(3) == one[:, None] for one in (label, *said))
        return gold, a, b

    return draw


def measure(name: str, draw: Callable[[np.random.Generator, int], Answers], draws: int, documents: int) -> list[Any]:
    """One row a quantity: how often both intervals hold the truth, and their median width in points."""
    truth = {key: [one[key].value for one in both(draw(np.random.default_rng(1), WHOLE))] for key in QUANTITIES}
    rng = np.random.default_rng(0)
    found: dict[str, list[tuple[Interval, Interval]]] = {key: [] for key in QUANTITIES}
    for _ in range(draws):
        a, b = both(draw(rng, documents))
        for key in QUANTITIES:
            found[key].append((a[key].interval(), (b[key] - a[key]).interval()))
    rows = []
    for key, intervals in found.items():
        a, b = truth[key]
        row: dict[str, Any] = {"population": name, "documents": documents, "quantity": key, "value": a}
        row |= {f"value {k}": v for k, v in held([one for one, _ in intervals], a).items()} | {"difference": b - a}
        rows.append(row | {f"difference {k}": v for k, v in held([one for _, one in intervals], b - a).items()})
    return rows


QUANTITIES = (MACRO, MICRO, ACCURACY)


def both(answers: Answers) -> list[Any]:
    """The scores of both probes."""
    return [scores(answers[0], said) for said in answers[1:]]


def held(intervals: list[Interval], truth: float) -> dict[str, float]:
    """Coverage, misses on either side and median width."""
    low, high = (np.array([getattr(one, end) for one in intervals], float) for end in ("ci_low", "ci_high"))
    return {
        "coverage": float(((low <= truth) & (truth <= high)).mean()),
        "missed below": float((high < truth).mean()),
        "missed above": float((low > truth).mean()),
        "median width": float(np.median(high - low)),
    }


def write_table(rows: list[dict[str, Any]], out: Path, start: float) -> None:
    """Write a benchmark's table as CSV and print it, with the processor's seconds since `start`."""
    table = pd.DataFrame(rows)
    table.to_csv(out, index=False, float_format="%.4f")
    print(table.to_string(index=False, float_format=lambda v: f"{v:.4f}"))
    print(f"{time.process_time() - start:.0f} CPU s")


def main() -> None:
    """Print the table and write it as CSV."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--draws", type=int, default=4000)
    parser.add_argument("--documents", type=int, nargs="+", default=[100, 370])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "probe_coverage.csv")
    options = parser.parse_args()
    start = time.process_time()
    fitted = fitted_probes(300)
    rows = []
    for documents in options.documents:
        for one in POPULATIONS:
            rows += measure(one.name, one.draw, options.draws, documents)
        rows += measure("fitted probes", fitted, options.draws, documents)
    write_table(rows, options.out, start)


if __name__ == "__main__":
    main()
