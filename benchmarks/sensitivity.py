"""Does a measure see what it should? Four questions, a table each; ours beside whatever packages are installed.

    python benchmarks/sensitivity.py rows        # 0 to 100 % of the documents of one side shuffled
    python benchmarks/sensitivity.py components  # principal components deleted: does the measure follow a probe's loss?
    python benchmarks/sensitivity.py groups      # label noise and shortcuts in training: are the groups told apart?
    python benchmarks/sensitivity.py alarms      # how often each test at 5 % finds something where nothing is

`rows` and `components` take a model and a corpus (`--model`, `--corpus`); the model is run once. In `components` a
probe is a ridge regression on the presence of a word that a third to two thirds of the documents hold, a word a seed
(after Ding et al. 2021, Grounding Representation Similarity with Statistical Testing). `groups` trains small encoders
on made-up documents (after Klabunde et al. 2024, ReSi). Packages that compute CKA (`rival_packages.py`) are skipped
where they are not installed; they are given float32 features, all documents at once or in batches.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from rival_packages import installed_packages
from rivals import Result, through_models, ways
from scipy.stats import spearmanr, t
from torch import nn

from cka_tools import cka, compute_features
from cka_tools.statistics.differences import paired_differences
from cka_tools.statistics.features import ModelStatistics
from cka_tools.statistics.measures import MEASURES
from cka_tools.statistics.pair import compare_features
from cka_tools.statistics.permutation import best_match_floors, document_permutations, measure_floors

SHARES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.0)
DELETED = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256)
RATES = (0.0, 0.25, 0.5, 0.75, 1.0)
LEVEL = 0.05
BATCH = 16
IN_BATCHES = "pytorch-cka"
"""The package that is given batches too: the others give what it gives, at ten times the time."""


@dataclass(frozen=True)
class Similarity:
    """A measure whose part of one side is made once: `together(of(X), of(Y))`."""

    of: Callable[[np.ndarray], Any]
    together: Callable[[Any, Any], float]

    def __call__(self, X: np.ndarray, Y: np.ndarray) -> float:
        """The value for two matrices of features, one row a document."""
        return self.together(self.of(X), self.of(Y))


@cache
def similarities() -> dict[str, Similarity]:
    """Our measures, the biased CKA, CKA averaged over batches in corpus order, and packages that are installed."""
    found = {name: _ours(name) for name in MEASURES}
    found["cka biased"] = Similarity(lambda X: unit_grams(X, len(X)), lambda a, b: float((a * b).sum()))
    found[f"cka biased, mean of batches of {BATCH}"] = Similarity(
        lambda X: unit_grams(X, BATCH), lambda a, b: float((a * b).sum((1, 2)).mean())
    )
    found |= {name: _package(of) for name, of in ways().items() if not name.startswith("cka-tools")}
    if IN_BATCHES in found:
        found[f"{IN_BATCHES}, batches of {BATCH}"] = _package(through_models(installed_packages()[IN_BATCHES], BATCH))
    return found


def _ours(name: str) -> Similarity:
    form = MEASURES[name].form
    return Similarity(lambda X: form.of(ModelStatistics([X]), 0, 0), lambda a, b: float(form.together(a, b)))


def _package(run: Result) -> Similarity:
    return Similarity(lambda X: [torch.from_numpy(np.float32(X))], lambda a, b: float(np.asarray(run(a, b)).ravel()[0]))


def unit_grams(X: np.ndarray, batch: int) -> np.ndarray:
    """Centred Gram matrices of norm 1 of batches of documents, (batches, batch, batch): biased CKA is their inner
    product. What does not fill a batch is left out."""
    rows = X[: len(X) - len(X) % batch].reshape(-1, batch, X.shape[1])
    rows = rows - rows.mean(1, keepdims=True)
    grams = rows @ rows.swapaxes(1, 2)
    return grams / np.linalg.norm(grams, axis=(1, 2), keepdims=True)


def shuffled_rows(X: np.ndarray, Y: np.ndarray, seed: int = 0, shares: Sequence[float] = SHARES) -> pd.DataFrame:
    """Each measure where a share of Y's documents is shuffled among themselves; larger shares hold smaller ones."""
    order = np.random.default_rng(seed).permutation(len(Y))
    rows = []
    for share in shares:
        chosen = order[: round(share * len(Y))]
        moved = Y.copy()
        moved[chosen] = Y[np.roll(chosen, 1)]  # everyone gets another's: none stays by chance
        rows += [(share, name, of(X, moved)) for name, of in similarities().items()]
    return pd.DataFrame(rows, columns=["shuffled", "measure", "value"])


def probe_loss(X: np.ndarray, label: np.ndarray, train: np.ndarray) -> float:
    """Squared error of a ridge regression on the documents that it was not fitted to, over that of their mean."""
    mean, scale = X[train].mean(0), X[train].std() + 1e-12
    X = (X - mean) / scale
    A = X[train].T @ X[train] + np.eye(X.shape[1])
    weights = np.linalg.solve(A, X[train].T @ (label[train] - label[train].mean()))
    error = label[~train] - label[train].mean() - X[~train] @ weights
    return float((error**2).mean() / label[~train].var())


def common_words(texts: Sequence[str]) -> list[str]:
    """Words of four letters or more that a third to two thirds of the texts hold, in alphabetical order."""
    held: dict[str, int] = {}
    for text in texts:
        for word in {w for w in text.lower().split() if len(w) > 3 and w.isalpha()}:
            held[word] = held.get(word, 0) + 1
    return sorted(word for word, count in held.items() if 1 / 3 <= count / len(texts) <= 2 / 3)


def deleted_components(
    X: np.ndarray, texts: Sequence[str], seeds: int, deleted: Sequence[int] = DELETED
) -> pd.DataFrame:
    """Rank correlation over deletions of 1 − similarity to the whole with a probe's loss, for each measure and seed."""
    U, sizes, Vt = np.linalg.svd(X - X.mean(0), full_matrices=False)
    kept = [number for number in deleted if number < len(sizes)]
    reduced = [U[:, number:] * sizes[number:] @ Vt[number:] for number in kept]
    distances = {name: [1 - of(X, one) for one in reduced] for name, of in similarities().items()}
    words = common_words(texts)
    rows = []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        word = words[int(rng.integers(len(words)))]
        label = np.array([float(word in text.lower().split()) for text in texts])
        train = rng.permutation(len(texts)) < 0.7 * len(texts)
        losses = [probe_loss(one, label, train) for one in reduced]
        rows += [(seed, word, name, spearmanr(of, losses).statistic) for name, of in distances.items()]
    return pd.DataFrame(rows, columns=["seed", "word", "measure", "rank_correlation"])


class SmallEncoder(nn.Module):
    """Mean of token embeddings and two hidden layers; the features are those of the second."""

    def __init__(self, vocabulary: int, classes: int, width: int = 32) -> None:
        super().__init__()
        self.embed = nn.EmbeddingBag(vocabulary, width)
        self.hidden = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.head = nn.Linear(width, classes)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits (b, classes) of token ids (b, t)."""
        return self.head(self.hidden(self.embed(tokens)))


@dataclass(frozen=True)
class Trained:
    """One encoder: the share of noise or shortcuts that it was trained with, its seed, its features over held-out
    documents and the share of these whose label it tells right."""

    rate: float
    seed: int
    features: np.ndarray
    accuracy: float


def trained(kind: str, rate: float, seed: int, n: int = 600, steps: int = 150) -> Trained:
    """An encoder that was trained with noise in its labels or a shortcut, over n clean held-out documents.

    Args:
        kind: "labels": a share `rate` of the labels is drawn at random. "shortcut": in that share of the
            documents the last token tells the label; it tells nothing in the documents that are read afterwards.
    """
    classes, words, length = 5, 100, 20
    data, own = np.random.default_rng(0), np.random.default_rng([seed, round(100 * rate)])
    topics = (data.dirichlet(np.full(words, 0.3), size=classes) + 2 / words) / 3
    label = data.integers(classes, size=2 * n)
    tokens = np.stack([data.choice(words, size=length, p=topics[one]) for one in label])
    tokens = np.concatenate([tokens, words + data.integers(classes, size=(2 * n, 1))], axis=1)
    given, chosen = label[:n].copy(), own.random(n) < rate
    if kind == "labels":
        given[chosen] = own.integers(classes, size=int(chosen.sum()))
    else:
        tokens[:n][chosen, -1] = words + given[chosen]
    torch.manual_seed(seed)
    model = SmallEncoder(words + classes, classes)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    inputs, targets = torch.from_numpy(tokens[:n]), torch.from_numpy(given)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    with torch.no_grad():
        features = model.hidden(model.embed(torch.from_numpy(tokens[n:])))
        right = model.head(features).argmax(1).numpy() == label[n:]
    return Trained(rate, seed, features.double().numpy(), float(right.mean()))


def average_precision(scores: np.ndarray, positive: np.ndarray) -> float:
    """Area under precision and recall, in steps: the mean precision at each positive, the highest scores first."""
    hits = positive[np.argsort(-scores, kind="stable")]
    return float((np.cumsum(hits) / np.arange(1, len(hits) + 1))[hits].mean())


def told_apart(kind: str, seeds: int, rates: Sequence[float] = RATES, steps: int = 150) -> pd.DataFrame:
    """How well each measure finds the pairs of encoders that were trained at one rate.

    Returns:
        Average precision and its standard error, and its difference from debiased CKA with a 95 % interval. Both
        leave out one seed in turn, with all its encoders, as pairs share encoders and encoders of a seed their
        first weights: the jackknife, which rather finds too much than too little.
    """
    made = [trained(kind, rate, seed, steps=steps) for rate in rates for seed in range(seeds)]
    right = pd.DataFrame([(one.rate, one.accuracy) for one in made], columns=["rate", "right"]).groupby("rate")
    print(f"{kind}, labels told right:", right["right"].mean().round(3).to_dict(), flush=True)
    pairs = list(combinations(range(len(made)), 2))
    same = np.array([made[a].rate == made[b].rate for a, b in pairs])
    keep = [np.array([seed not in (made[a].seed, made[b].seed) for a, b in pairs]) for seed in range(seeds)]
    precision: dict[str, np.ndarray] = {}
    for name, measure in similarities().items():
        sides = [measure.of(one.features) for one in made]
        values = np.array([measure.together(sides[a], sides[b]) for a, b in pairs])
        scores = np.nan_to_num(values, nan=-1)
        chosen = [np.ones(len(pairs), bool), *keep]  # all pairs first
        precision[name] = np.array([average_precision(scores[these], same[these]) for these in chosen])
        print(f"{kind}, {name}: {precision[name][0]:.3f}", flush=True)
    quantile = t.ppf(0.975, seeds - 1)
    rows = []
    for name, found in precision.items():
        gap = found - precision["cka"]
        half = quantile * jackknife_error(gap[1:])
        rows.append((kind, name, found[0], jackknife_error(found[1:]), gap[0], gap[0] - half, gap[0] + half))
    columns = ["groups", "measure", "auprc", "error", "minus_cka", "low", "high"]
    return pd.DataFrame(rows, columns=columns).assign(by_chance=same.mean())


def jackknife_error(without: np.ndarray) -> float:
    """Standard error of a statistic from its values without each unit in turn."""
    return float(np.sqrt((len(without) - 1) * without.var()))


NOISES: dict[str, Callable[[np.random.Generator, tuple[int, int]], np.ndarray]] = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "Student t, 3 d.f.": lambda rng, shape: rng.standard_t(3, size=shape),
    "Laplace": lambda rng, shape: rng.laplace(size=shape),
}


def false_alarms(
    noise: str, n: int, p: int, draws: int, permutations: int = 19, layers: int = 3, slow: bool = True
) -> dict[str, float]:
    """How often each test at 5 % finds something in independent features; one-sided tests of similarity, two-sided of
    differences.

    Args:
        slow: also the measures that take a decomposition a permutation, procrustes and svcca.
    """
    make, found = NOISES[noise], dict[str, list[bool]]()

    def told(test: str, alarm: bool) -> None:
        found.setdefault(test, []).append(alarm)

    for seed in range(draws):
        rng = np.random.default_rng([seed, n, p, list(NOISES).index(noise)])
        A, B, C = ([make(rng, (n, p)) for _ in range(layers)] for _ in range(3))
        pairs = [(i, i) for i in range(layers)]
        one, other = (compare_features(A, side, pairs, [0]) for side in (B, C))
        first = one.layers[0].debiased
        told("CKA, interval above 0 (half of 5 %)", first.ci_low is not None and first.ci_low > 0)
        values = [1 - np.array([layer.debiased.value for layer in side.layers]) for side in (one, other)]
        without = [1 - np.stack([np.asarray(each) for each in side.leave_one_out]) for side in (one, other)]
        differences = paired_differences(values[0] - values[1], without[0] - without[1], n, seed)
        low, high = differences[0].interval.ci_low, differences[0].interval.ci_high
        told("difference of two CKAs, one layer", low is not None and high is not None and not low <= 0 <= high)
        told(f"difference, any of {layers} layers", any(d.p is not None and d.p <= LEVEL for d in differences))
        orders = document_permutations(n, permutations, seed)
        a, b = ModelStatistics(A), ModelStatistics(B)
        for name, measure in MEASURES.items():
            if slow or measure.form.over_pairs:
                (floor,) = measure_floors(measure, a, b, [(0, 0)], [measure(A[0], B[0])], orders)
                told(f"{name}, permutations", floor is not None and floor.p <= LEVEL)
        whole = np.array([[cka(x, y) for y in B] for x in A[:1]])
        _, best = best_match_floors(ModelStatistics(A[:1]), b, [(0, 0)], range(layers), whole, orders)
        told(f"best of {layers} layers, permutations", best[0] is not None and best[0].p <= LEVEL)
    return {test: float(np.mean(alarms)) for test, alarms in found.items()}


SIZES = ((96, 48), (128, 384))
NOMINAL = {"CKA, interval above 0 (half of 5 %)": LEVEL / 2}
"""Levels of tests that are not at `LEVEL`."""


def level_of_tests(rates: pd.DataFrame, draws: int) -> pd.DataFrame:
    """Of each test: its level, its rate over all features, and in how many features (rows) its rate is above and
    below the level by more than two standard errors of so many draws."""
    level = np.array([NOMINAL.get(str(test), LEVEL) for test in rates])
    found, error = rates.to_numpy(), np.sqrt(level * (1 - level) / draws)
    mean, rows = np.nanmean(found, 0), np.isfinite(found).sum(0)
    columns = {
        "level": level,
        "mean": mean,
        "errors_from_level": (mean - level) / error * np.sqrt(rows),
        "above": (found > level + 2 * error).sum(0),
        "below": (found < level - 2 * error).sum(0),
    }
    return pd.DataFrame(columns, index=rates.columns)


def main() -> None:
    """Answer one of the questions and write its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("question", choices=("rows", "components", "groups", "alarms"))
    parser.add_argument("--model", default="demo:mlm-baseline")
    parser.add_argument("--corpus", default="sample")
    parser.add_argument("--documents", type=int, default=500)
    parser.add_argument("--layer", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--draws", type=int, default=400)
    parser.add_argument("--out", type=Path, help="a CSV file; alarms go on where it ends")
    given = parser.parse_args()
    if given.question == "alarms":
        place = ["features", "n", "p"]
        table = pd.DataFrame(columns=place)
        if given.out is not None and given.out.exists():
            table = pd.read_csv(given.out)
        known = set(map(tuple, table[place].to_numpy()))
        for noise, (n, p) in product(NOISES, SIZES):
            if (noise, n, p) not in known:
                rates = false_alarms(noise, n, p, given.draws, slow=p < n)
                table = pd.concat([table, pd.DataFrame([{"features": noise, "n": n, "p": p} | rates])])
                print(table.iloc[-1].to_dict(), flush=True)
            if given.out is not None:
                table.to_csv(given.out, index=False)
        table = table.set_index(place).astype(float)
        print(level_of_tests(table, given.draws).round(3).to_string())
    elif given.question == "groups":
        table = pd.concat([told_apart(kind, given.seeds) for kind in ("labels", "shortcut")])
        table = table.set_index(["groups", "measure"])
    else:
        layers = (given.layer,)
        (run,) = compute_features([given.model], given.corpus, documents=given.documents, layers=layers)
        X = run.layers[given.layer].astype(np.float64)
        if given.question == "rows":
            noise = np.random.default_rng(0).normal(size=X.shape) * X.std(0)
            table = shuffled_rows(X, X + 0.5 * noise).pivot(index="measure", columns="shuffled", values="value")
        else:
            from cka_tools.documents import draw_documents

            texts = {one.id: one.text for one in draw_documents(given.corpus, given.documents, 42).documents}
            each = deleted_components(X, [texts[name] for name in run.ids], given.seeds)
            table = each.groupby("measure")["rank_correlation"].agg(["mean", "min", "max"])
    print(table.round(3).to_string())
    if given.out is not None:
        table.round(5).to_csv(given.out)


if __name__ == "__main__":
    main()
