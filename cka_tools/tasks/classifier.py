"""Logistic regression on frozen features of a task's texts, and the floors that a probe must clear."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cka_tools.errors import UserError
from cka_tools.statistics.paired import Reading
from cka_tools.tasks.scores import scores
from cka_tools.tasks.task import Task

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""C of scikit-learn, the inverse of the penalty, for standardised features."""

WORD_STRENGTHS = (0.1, 1.0, 10.0, 100.0, 1e3, 1e4)
"""The same for TF-IDF of words, whose values are small."""

FOLDS = 5
STEPS = 2000
"""Of the solver, at most."""


def need_sklearn(what: str = "probes") -> None:
    """Raise a UserError where scikit-learn is not installed."""
    try:
        import sklearn  # noqa: F401
    except ImportError as error:
        raise UserError(f"{what} need scikit-learn: pip install 'cka-tools[probe]'") from error


@dataclass(frozen=True)
class Labelled:
    """A task's examples as rows of features, which are one a text however often it occurs.

    Attributes:
        train_texts, test_texts: of each example. train_rows, test_rows: its row.
        train_gold, test_gold: (n, classes) bool.
    """

    task: Task
    train_texts: list[str]
    test_texts: list[str]
    train_rows: np.ndarray
    test_rows: np.ndarray
    train_gold: np.ndarray
    test_gold: np.ndarray


def texts_of(task: Task) -> list[dict[str, str]]:
    """The texts that a probe reads, each once, as a corpus in memory."""
    texts = dict.fromkeys(one.text for one in (*task.train, *task.test))
    return [{"id": f"text:{at}", "text": text} for at, text in enumerate(texts)]


def labelled(task: Task, ids: Sequence[str]) -> Labelled:
    """Which row of features each example has; those whose text holds no token have none and are left out.

    Args:
        ids: of the rows, as `texts_of` gives them.
    """
    place = {name: row for row, name in enumerate(ids)}
    row_of = {one["text"]: place[one["id"]] for one in texts_of(task) if one["id"] in place}

    parts = []
    for examples in (task.train, task.test):
        kept = [one for one in examples if one.text in row_of]
        gold = np.array([[name in one.labels for name in task.classes] for one in kept], dtype=bool)
        rows = np.array([row_of[one.text] for one in kept], dtype=np.int64)
        parts.append(([one.text for one in kept], rows, gold.reshape(-1, len(task.classes))))
    (train_texts, train_rows, train_gold), (test_texts, test_rows, test_gold) = parts
    return Labelled(task, train_texts, test_texts, train_rows, test_rows, train_gold, test_gold)


@dataclass(frozen=True)
class Scored:
    """What a classifier does on test.

    Attributes:
        readings: macro F1, micro F1 and accuracy. found: its predictions, (n, classes) bool; of words (words,) tags.
        right: (n,) 1 where a text's classes are exactly right; of a sentence the share of its words.
        strength: C, and `cv` the macro F1 by which it was chosen, within train; None without a choice.
        converged: whether every fit ended before the solver's last step.
    """

    readings: dict[str, Reading]
    found: np.ndarray
    right: np.ndarray
    strength: float | None = None
    cv: float | None = None
    converged: bool = True


def probe(features: np.ndarray, of: Labelled, seed: int, *, shuffle: bool = False) -> Scored:
    """Fit logistic regression on train and read it on test.

    Features are standardised, and C chosen, by 5-fold cross-validation within train (macro F1; of equal ones
    the strongest penalty). Several classes a text are one regression each, with one C for all.

    Args:
        features: (texts, p). seed: of the folds, and of the shuffling.
        shuffle: permute the labels of train: what is then right on test owes nothing to them.
    """
    from sklearn.preprocessing import StandardScaler

    gold = of.train_gold
    if shuffle:
        gold = gold[np.random.default_rng(seed).permutation(len(gold))]
    x = np.asarray(features, dtype=np.float64)
    return _fit(StandardScaler(), x[of.train_rows], gold, x[of.test_rows], of, STRENGTHS, seed)


def bag_of_words(of: Labelled, seed: int) -> Scored:
    """The same regression on TF-IDF of lower-case words, without a model."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    first = TfidfVectorizer(sublinear_tf=True, token_pattern=r"\w+|[^\w\s]")
    return _fit(first, of.train_texts, of.train_gold, of.test_texts, of, WORD_STRENGTHS, seed)


def majority(of: Labelled) -> Scored:
    """Always the most frequent class of train; of several, each class that most texts of train have."""
    found = np.zeros_like(of.test_gold)
    found[:, of.train_gold.mean(0) > 0.5 if of.task.kind == "labels" else of.train_gold.sum(0).argmax()] = True
    return _scored(of, found)


def _fit(
    first: Any, train: Any, gold: np.ndarray, test: Any, of: Labelled, strengths: Sequence[float],
    seed: int,
) -> Scored:  # fmt: skip
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, KFold, StratifiedKFold
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.pipeline import Pipeline

    several = of.task.kind == "labels"
    plain = LogisticRegression(max_iter=STEPS)
    regression, at = (OneVsRestClassifier(plain), "regression__estimator__C") if several else (plain, "regression__C")
    target = gold.astype(int) if several else gold.argmax(1)
    stratified = not several and gold.sum(0).max() >= FOLDS
    folds = (StratifiedKFold if stratified else KFold)(FOLDS, shuffle=True, random_state=seed % 2**32)
    search = GridSearchCV(
        Pipeline([("first", first), ("regression", regression)]), {at: list(strengths)}, scoring="f1_macro", cv=folds
    )
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")  # rare classes, which a fold lacks, are counted as 0
        search.fit(train, target)
        predicted = search.predict(test)
    found = predicted.astype(bool) if several else np.arange(gold.shape[1]) == predicted[:, None]
    converged = not any(issubclass(one.category, ConvergenceWarning) for one in told)
    best = float(search.best_params_[at])
    return _scored(of, found, best, float(search.best_score_), converged)


def _scored(
    of: Labelled, found: np.ndarray, strength: float | None = None, cv: float | None = None, converged: bool = True
) -> Scored:
    right = (found == of.test_gold).all(1).astype(float)
    return Scored(scores(of.test_gold, found), found, right, strength, cv, converged)
