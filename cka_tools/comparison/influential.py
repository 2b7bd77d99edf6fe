"""Which documents move a comparison's mean divergence most."""

from __future__ import annotations

from typing import Any

import numpy as np

from cka_tools.comparison.record import JsonObject
from cka_tools.comparison.results import Comparison
from cka_tools.errors import UserError
from cka_tools.statistics.pair import influence_documents


def influential_documents(run: Comparison, top: int | None = None) -> list[JsonObject]:
    """The documents of a comparison by how far the mean divergence moves without each, the farthest first.

    The array `leave_one_out` of a run holds, for each layer pair, the debiased CKA of all documents but one;
    this is its mean over layers. Beyond 4,096 documents a seeded part of them was left out in turn.

    Args:
        top: how many; all by default.

    Returns:
        `document` (its id), `without` (mean divergence without it), `moves` (the mean divergence less that:
        positive where the document drives the models apart), `share` of the mean's sampling variance, and the
        `layer` of A whose divergence it moves most with `layer_moves`. Fractions.

    Raises:
        UserError: a run without leave-one-out values.
    """
    ids = run.record["provenance"]["corpus"]["draws"][0]["document_ids"]
    seed = run.record["provenance"]["corpus"]["draws"][0]["seed"]
    counts = np.array(["place" not in e and e["cka_debiased"] is not None for e in run.layers])
    if not counts.any() or not np.isfinite(without := 1 - run.arrays["leave_one_out"][counts]).all():
        raise UserError("this run has no leave-one-out values: it has too few documents, or no layer with variance")
    rows = influence_documents(len(ids), seed)
    layers = [entry["layer_a"] for entry, counted in zip(run.layers, counts, strict=True) if counted]
    values = np.array([e["divergence"]["value"] for e, counted in zip(run.layers, counts, strict=True) if counted])
    mean = without.mean(0)
    squares = np.square(mean - mean.mean())
    moves, by_layer = values.mean() - mean, values[:, None] - without
    order: Any = np.argsort(-np.abs(moves), kind="stable")[:top]
    found = []
    for at in order.tolist():
        layer = int(np.abs(by_layer[:, at]).argmax())
        found.append(
            {
                "document": ids[int(rows[at])],
                "without": float(mean[at]),
                "moves": float(moves[at]),
                "share": float(squares[at] / squares.sum()) if squares.sum() > 0 else None,
                "layer": layers[layer],
                "layer_moves": float(by_layer[layer, at]),
            }
        )
    return found
