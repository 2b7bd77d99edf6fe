"""F1 and accuracy as readings over documents: with each one left out, so that differences are paired."""

from __future__ import annotations

import numpy as np

from cka_tools.statistics.paired import Reading

MACRO, MICRO, ACCURACY = "macro_f1", "micro_f1", "accuracy"


def scores(gold: np.ndarray, found: np.ndarray) -> dict[str, Reading]:
    """Macro F1, micro F1 and accuracy of predictions.

    Macro F1 is the mean over the classes that `gold` has; a class without a right prediction has 0. Micro F1
    is of all decisions together, which is the accuracy where every document has one class. Accuracy is the
    share of documents with exactly the right classes.

    Args:
        gold, found: (n, classes) bool, which classes each document has, and is said to have.
    """
    right, wrong, missed = gold & found, ~gold & found, gold & ~found
    # F1 = 2 TP / (2 TP + FP + FN), by class; without a document are all counts less its own.
    twice, either = 2.0 * right, 2.0 * right + wrong + missed
    has = gold.any(0)
    macro = _without(twice[:, has], either[:, has]) if has.any() else np.zeros((len(gold) + 1, 1))
    return {
        MACRO: Reading(float(macro[-1].mean()), macro[:-1].mean(1), len(gold)),
        MICRO: ratio_reading(twice.sum(1), either.sum(1)),
        ACCURACY: Reading.mean((gold == found).all(1).astype(float)),
    }


def ratio_reading(above: np.ndarray, below: np.ndarray) -> Reading:
    """The ratio of two sums over documents, of (n,) each; 0/0 is 0."""
    ratio = _without(above[:, None], below[:, None])[:, 0]
    return Reading(float(ratio[-1]), ratio[:-1], len(above))


def _without(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Ratios of sums without each document in turn, and last with all: (n + 1, classes); 0/0 is 0."""
    parts = [np.concatenate([one.sum(0) - one, one.sum(0)[None]]) for one in (above, below)]
    return np.divide(parts[0], parts[1], out=np.zeros_like(parts[0]), where=parts[1] > 0)
