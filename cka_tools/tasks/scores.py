"""F1 and accuracy as readings over documents: with each one left out, so that differences are paired."""

from __future__ import annotations

from collections.abc import Sequence

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
    n = len(gold)
    macro = _without(twice[:, has], either[:, has]) if has.any() else np.zeros((n + 1, 1))
    micro = _without(twice.sum(1)[:, None], either.sum(1)[:, None])
    return {
        MACRO: Reading(float(macro[-1].mean()), macro[:-1].mean(1), n),
        MICRO: Reading(float(micro[-1, 0]), micro[:-1, 0], n),
        ACCURACY: Reading.mean((gold == found).all(1).astype(float)),
    }


def entity_scores(gold: Sequence[Sequence[str]], found: Sequence[Sequence[str]]) -> dict[str, Reading]:
    """Macro and micro F1 of entities, and accuracy of words, as seqeval gives them, with each sentence left out.

    An entity is right where type, first and last word are. Macro F1 is the mean over the types that `gold` or
    `found` has; an F1 of 0/0 is 0. Tags I that continue no entity of their type begin one.

    Args:
        gold, found: BIO tags of each sentence.
    """
    from seqeval.metrics.sequence_labeling import get_entities

    both = [[set(get_entities(list(tags))) for tags in one] for one in (gold, found)]
    types = {kind: at for at, kind in enumerate(sorted({kind for one in both for tags in one for kind, *_ in tags}))}
    counts = np.zeros((3, len(gold), max(1, len(types))))
    for row, (held, said) in enumerate(zip(*both, strict=True)):
        for at, entities in enumerate((held, said, held & said)):
            for kind, *_ in entities:
                counts[at, row, types[kind]] += 1
    right = np.array([[sum(a == b for a, b in zip(*tags, strict=True))] for tags in zip(gold, found, strict=True)])
    words = np.array([[len(tags)] for tags in gold])
    accuracy = _without(right.astype(float), words.astype(float))
    return scores_of_counts(*counts) | {ACCURACY: Reading(float(accuracy[-1, 0]), accuracy[:-1, 0], len(gold))}


def scores_of_counts(held: np.ndarray, said: np.ndarray, right: np.ndarray) -> dict[str, Reading]:
    """Macro and micro F1 of entities from how many each sentence has, is said to have, and both: (n, types) each."""
    # F1 = 2 TP / (held + said).
    twice, either = 2.0 * right, held + said
    macro, micro = _without(twice, either), _without(twice.sum(1)[:, None], either.sum(1)[:, None])
    n = len(held)
    return {
        MACRO: Reading(float(macro[-1].mean()), macro[:-1].mean(1), n),
        MICRO: Reading(float(micro[-1, 0]), micro[:-1, 0], n),
    }


def _without(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Ratios of sums without each document in turn, and last with all: (n + 1, classes); 0/0 is 0."""
    parts = [np.concatenate([one.sum(0) - one, one.sum(0)[None]]) for one in (above, below)]
    return np.divide(parts[0], parts[1], out=np.zeros_like(parts[0]), where=parts[1] > 0)
