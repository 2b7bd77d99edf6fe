"""F1, precision and recall of entities, as seqeval counts them, as readings over sentences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cka_tools.errors import UserError
from cka_tools.statistics.paired import Reading
from cka_tools.tasks.scores import ratio_reading

ENTITY_F1, PRECISION, RECALL = "entity_f1", "precision", "recall"


def need_seqeval() -> None:
    """Raise a UserError where seqeval is not installed."""
    try:
        import seqeval  # noqa: F401
    except ImportError as error:
        raise UserError("tags need seqeval: pip install 'cka-tools[probe]'") from error


def entity_scores(gold: Sequence[Sequence[str]], found: Sequence[Sequence[str]]) -> dict[str, Reading]:
    """Micro F1, precision and recall of entities: right is one with type, first and last word of a gold one.

    Args:
        gold, found: BIO tags of the words of each sentence; I- without a B- before it begins an entity, as in
            conlleval.
    """
    from seqeval.metrics.sequence_labeling import get_entities

    pairs = [(set(get_entities(list(a))), set(get_entities(list(b)))) for a, b in zip(gold, found, strict=True)]
    right, of_gold, of_found = np.array([[len(a & b), len(a), len(b)] for a, b in pairs], dtype=np.float64).T
    return {
        ENTITY_F1: ratio_reading(2 * right, of_gold + of_found),
        PRECISION: ratio_reading(right, of_found),
        RECALL: ratio_reading(right, of_gold),
    }
