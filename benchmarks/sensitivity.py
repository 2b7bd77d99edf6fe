"""Does a measure see what it should? Four questions, a table each; ours beside whatever packages are installed.

    python benchmarks/sensitivity.py rows        # 0 to 100 % of the documents of one side shuffled
    python benchmarks/sensitivity.py components  # principal components deleted: does the measure follow a probe's loss?
    python benchmarks/sensitivity.py groups      # label noise and shortcuts in training: are the groups told apart?
    python benchmarks/sensitivity.py alarms      # how often each test at 5 % finds something where nothing is

`rows` and `components` take a model and a corpus (`--model`, `--corpus`); the model is run once. In `components` a
probe is a ridge regression on the presence of a word that a third to two thirds of the documents hold, a word a seed
(after Ding et al. 2021, Grounding Representation Similarity with Statistical Testing). `groups` trains small encoders
on made-up documents (after Klabunde et al. 2024, ReSi). Packages that compute CKA (`rivals.py`) are skipped where
they are not installed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import cache
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from rivals import ways
from scipy.stats import spearmanr
from torch import nn

from cka_tools import cka, compute_features
from cka_tools.statistics.differences import paired_differences
from cka_tools.statistics.features import ModelStatistics
from cka_tools.statistics.measures import MEASURES
from cka_tools.statistics.pair import compare_features
from cka_tools.statistics.permutation import best_match_floors, document_permutations, measure_floors

Similarity = Callable[[np.ndarray, np.ndarray], float]
SHARES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.0)
DELETED = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256)
RATES = (0.0, 0.25, 0.5, 0.75, 1.0)
LEVEL = 0.05
BATCH = 16


@cache
def similarities() -> dict[str, Similarity]:
    """Our measures, the biased CKA, CKA averaged over batches in corpus order, and packages that are installed."""
    found: dict[str, Similarity] = {
        "cka": MEASURES["cka"],
        "cka biased": lambda X, Y: cka(X, Y, "biased"),
        f"cka biased, mean of batches of {BATCH}": batch_average,
    }
    found |= {name: measure for name, measure in MEASURES.items() if name != "cka"}
    for name, package in ways().items():
        if not name.startswith("cka-tools"):
            found[name] = lambda X, Y, of=package: float(  # type: ignore[misc]
                np.asarray(of([torch.from_numpy(np.float32(X))], [torch.from_numpy(np.float32(Y))])).ravel()[0]
            )
    return found


def batch_average(X: np.ndarray, Y: np.ndarray) -> float:
    """Mean of the biased CKA of batches of 16 documents: what is often done where features do not fit."""
    starts = range(0, len(X) - BATCH + 1, BATCH)
    return float(np.mean([cka(X[at : at + BATCH], Y[at : at + BATCH], "biased") for at in starts]))


def shuffled_rows(X: np.ndarray, Y: np.ndarray, seed: int = 0, shares: Sequence[float] = SHARES) -> pd.DataFrame:
    """Each measure where a share of Y's documents is shuffled among themselves; larger shares hold smaller ones."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(Y))
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


def trained_features(kind: str, rate: float, seed: int, n: int = 600, steps: int = 150) -> np.ndarray:
    """Features over clean held-out documents of an encoder that was trained with noise in its labels or a shortcut.

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
        return model.hidden(model.embed(torch.from_numpy(tokens[n:]))).double().numpy()


def average_precision(scores: np.ndarray, positive: np.ndarray) -> float:
    """Area under precision and recall, in steps: the mean precision at each positive, the highest scores first."""
    hits = positive[np.argsort(-scores, kind="stable")]
    return float((np.cumsum(hits) / np.arange(1, len(hits) + 1))[hits].mean())


def told_apart(kind: str, seeds: int, rates: Sequence[float] = RATES, steps: int = 150) -> pd.DataFrame:
    """Average precision of each measure at finding which pairs of encoders were trained at one rate."""
    made = [(rate, trained_features(kind, rate, seed, steps=steps)) for rate in rates for seed in range(seeds)]
    pairs = list(combinations(made, 2))
    same = np.array([a[0] == b[0] for a, b in pairs])
    rows = []
    for name, of in similarities().items():
        values = np.array([of(a[1], b[1]) for a, b in pairs])
        rows.append((kind, name, average_precision(np.nan_to_num(values, nan=-1), same), same.mean()))
    return pd.DataFrame(rows, columns=["groups", "measure", "auprc", "by_chance"])


NOISES: dict[str, Callable[[np.random.Generator, tuple[int, int]], np.ndarray]] = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "Student t, 3 d.f.": lambda rng, shape: rng.standard_t(3, size=shape),
    "Laplace": lambda rng, shape: rng.laplace(size=shape),
}


def false_alarms(
    noise: str, n: int, p: int, draws: int, permutations: int = 39, layers: int = 4, slow: bool = True
) -> dict[str, float]:
    """How often each test at 5 % finds something in independent features; one-sided tests of similarity, two-sided of
    differences.

    Args:
        slow: also the measures that take a decomposition a permutation.
    """
    make, found = NOISES[noise], dict[str, list[bool]]()

    def told(test: str, alarm: bool) -> None:
        found.setdefault(test, []).append(alarm)

    for seed in range(draws):
        rng = np.random.default_rng(seed)
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


SIZES = ((96, 48), (96, 384), (128, 48), (128, 384))


def main() -> None:
    """Answer one of the questions and write its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("question", choices=("rows", "components", "groups", "alarms"))
    parser.add_argument("--model", default="demo:mlm-baseline")
    parser.add_argument("--corpus", default="sample")
    parser.add_argument("--documents", type=int, default=500)
    parser.add_argument("--layer", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--no-slow", action="store_true", help="alarms without procrustes and svcca")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.question == "alarms":
        rows = []
        for noise in NOISES:
            for n, p in SIZES:
                rows.append(
                    {"features": noise, "n": n, "p": p} | false_alarms(noise, n, p, given.draws, slow=not given.no_slow)
                )
                print(rows[-1], flush=True)
        table = pd.DataFrame(rows)
    elif given.question == "groups":
        table = pd.concat([told_apart(kind, given.seeds) for kind in ("labels", "shortcut")])
        table = table.pivot(index="measure", columns="groups", values="auprc")
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
        table.to_csv(given.out)


if __name__ == "__main__":
    main()
