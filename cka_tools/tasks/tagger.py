"""Logistic regression on frozen features of a task's words, its floors, and entity F1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from cka_tools.errors import UserError
from cka_tools.formatting import counted
from cka_tools.tasks.classifier import FOLDS, Scored
from cka_tools.tasks.scores import MACRO, entity_scores
from cka_tools.tasks.task import Example, Task

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)
"""C of scikit-learn, the inverse of the penalty, for standardised features."""

WORD_STRENGTHS = (1.0, 10.0, 100.0, 1e3)
"""The same for words as 0 and 1."""

STEPS = 500
"""Of the solver, at most."""

TRAIN_WORDS = 160_000
"""A probe is fitted on sentences of train of at most so many words, drawn from the seed."""

CHOICE_WORDS = 20_000
"""And its C is chosen on so many of these."""


def need_seqeval() -> None:
    """Raise a UserError where seqeval is not installed."""
    try:
        import seqeval  # noqa: F401
    except ImportError as error:
        raise UserError("tasks of tags need seqeval: pip install 'cka-tools[probe]'") from error


def words_of(task: Task) -> list[tuple[str, ...]]:
    """The words of train's sentences, then of test's."""
    return [one.words for one in (*task.train, *task.test)]


def fitting_part(task: Task, seed: int, most: int = TRAIN_WORDS) -> Task:
    """The task with as many sentences of train as have `most` words together, which its notes say."""
    kept = _first_words([len(one.words) for one in task.train], most, seed)
    if len(kept) == len(task.train):
        return task
    part = f"{len(kept):,} of {len(task.train):,} sentences of train"
    note = f"Probes are fitted on {part}, drawn from the seed: {most:,} words at most."
    return replace(task, train=tuple(task.train[at] for at in kept), notes=(*task.notes, note))


def _first_words(lengths: Sequence[int], most: int, seed: int) -> list[int]:
    """Places of sentences, in order, drawn until the next one would make more than so many words."""
    order = np.random.default_rng(seed).permutation(len(lengths))
    total = np.cumsum(np.asarray(lengths)[order])
    return sorted(order[: max(1, int((total <= most).sum()))].tolist())


def probe(features: np.ndarray, rows: Sequence[np.ndarray], of: Task, seed: int, *, shuffle: bool = False) -> Scored:
    """Fit logistic regression on the words of train, each by itself, and read it on test.

    Features are standardised. C is chosen by 5-fold cross-validation over sentences of train (macro F1 of
    entities over all folds; of equal ones the strongest penalty) on `CHOICE_WORDS` words. Words without a row
    are left out of the fit and read as O: entities that they begin are missed.

    Args:
        features: (words, p). rows: of each sentence of train, then of test, the rows of its words, or -1.
        seed: of the folds, and of the shuffling. shuffle: permute the tags of train over all its words.
    """
    from sklearn.preprocessing import StandardScaler

    return _fit(StandardScaler(), features, rows, of, STRENGTHS, seed, shuffle)


def bag_of_words(of: Task, seed: int) -> Scored:
    """The same regression on the lower-case word and its neighbours, as 0 and 1, without a model."""
    from sklearn.preprocessing import FunctionTransformer

    sentences = words_of(of)
    features = _one_hot(sentences, {word.lower() for one in of.train for word in one.words})
    ends = np.cumsum([len(words) for words in sentences])
    rows = np.split(np.arange(ends[-1]), ends[:-1])
    return _fit(FunctionTransformer(), features, rows, of, WORD_STRENGTHS, seed)


def majority(of: Task) -> Scored:
    """Always O."""
    return _scored(of.test, [("O",) * len(one.words) for one in of.test])


def _one_hot(sentences: Sequence[Sequence[str]], known: set[str]) -> Any:
    """(words, 3 · known + 3) sparse: the word before, itself, the next one; each also whether it is not known."""
    from scipy.sparse import csr_array

    place = {word: at for at, word in enumerate(sorted(known))}
    other, edge = len(place), len(place) + 1
    columns = []
    for words in sentences:
        at = [edge, *(place.get(word.lower(), other) for word in words), edge]
        columns += [(a, b + edge + 1, c + 2 * (edge + 1)) for a, b, c in zip(at, at[1:], at[2:], strict=False)]
    inside = np.array(columns)
    begins = np.arange(len(columns) + 1) * 3
    return csr_array((np.ones(inside.size), inside.ravel(), begins), shape=(len(columns), 3 * (edge + 1)))


def _fit(
    first: Any, features: Any, rows: Sequence[np.ndarray], of: Task, strengths: Sequence[float], seed: int,
    shuffle: bool = False,
) -> Scored:  # fmt: skip
    train_rows, test_rows = rows[: len(of.train)], rows[len(of.train) :]
    flat = np.concatenate(train_rows)
    tags = np.array([tag for one in of.train for tag in one.labels])
    if shuffle:
        tags = np.random.default_rng(seed).permutation(tags)
    sentence = np.repeat(np.arange(len(of.train)), [len(one) for one in train_rows])
    gold = np.split(tags, np.cumsum([len(one) for one in train_rows])[:-1])

    part = _first_words([len(one) for one in train_rows], CHOICE_WORDS, seed)
    folds = np.full(len(of.train), -1)
    folds[part] = np.random.default_rng(seed).permutation(len(part)) % FOLDS
    fold = np.where(flat >= 0, folds[sentence], -1)
    found: dict[float, float] = {}
    for strength in strengths:
        guessed = np.full(len(flat), "O", dtype=tags.dtype)
        for one in range(FOLDS):
            fitted, held = (fold >= 0) & (fold != one), fold == one
            if fitted.any() and held.any():
                guessed[held] = _predicted(first, strength, features, flat[fitted], tags[fitted], flat[held])[0]
        by_sentence = np.split(guessed, np.cumsum([len(one) for one in train_rows])[:-1])
        readings = entity_scores([gold[at].tolist() for at in part], [by_sentence[at].tolist() for at in part])
        found[strength] = readings[MACRO].value
    best = max(found, key=lambda strength: (found[strength], -strength))

    test = np.concatenate(test_rows)
    guessed = np.full(len(test), "O", dtype=tags.dtype)
    known = flat >= 0
    converged = True
    if known.any():
        guessed[test >= 0], converged = _predicted(first, best, features, flat[known], tags[known], test[test >= 0])
    sentences = np.split(guessed, np.cumsum([len(one) for one in test_rows])[:-1])
    return _scored(of.test, [one.tolist() for one in sentences], best, found[best], converged)


def _predicted(
    first: Any, strength: float, features: Any, train: np.ndarray, tags: np.ndarray, test: np.ndarray
) -> tuple[np.ndarray, bool]:
    """Tags of the rows of test, and whether the solver ended before its last step."""
    from sklearn.base import clone
    from sklearn.linear_model import LogisticRegression

    if len(set(tags)) == 1 or not len(test):
        return np.full(len(test), tags[0]), True
    ready = clone(first)
    regression = LogisticRegression(C=strength, max_iter=STEPS)
    with np.errstate(all="ignore"):
        regression.fit(ready.fit_transform(features[train]), tags)
    return regression.predict(ready.transform(features[test])), bool(regression.n_iter_.max() < STEPS)


def _scored(
    gold: Sequence[Example],
    found: Sequence[Sequence[str]],
    strength: float | None = None,
    cv: float | None = None,
    converged: bool = True,
) -> Scored:
    right = np.array([np.mean([a == b for a, b in zip(one.labels, tags, strict=True)])
                      for one, tags in zip(gold, found, strict=True)])  # fmt: skip
    everything = np.array([tag for tags in found for tag in tags])
    return Scored(entity_scores([one.labels for one in gold], found), everything, right, strength, cv, converged)


def missed(cut: int, lost: int, of: Task, max_length: int) -> list[str]:
    """A sentence for the user on words that have no features, if there are any."""
    total = sum(map(len, words_of(of)))
    parts = [
        f"{cut:,} beyond the {max_length} tokens that sentences are cut to" if cut else "",
        f"{lost:,} of no token" if lost else "",
    ]
    if not any(parts):
        return []
    said = " and ".join(filter(None, parts))
    return [f"{said} of {counted(total, 'word')} are read as O: entities that begin there are missed."]
