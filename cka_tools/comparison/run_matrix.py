"""Models, one corpus: from models to the divergence of every pair, one pass a model, and their tree."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from os import PathLike
from typing import Any

import numpy as np
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform

from cka_tools.comparison.pairs import Pair, PairResult, compare_pairs, divergences, known
from cka_tools.comparison.record import ESTIMATORS, MATRIX, MEANS, pair_entry, provenance
from cka_tools.comparison.results import ModelMatrix
from cka_tools.comparison.warnings import many_summary
from cka_tools.compute import CorpusGiven, Progress, open_run
from cka_tools.errors import UserError
from cka_tools.models import ModelGiven
from cka_tools.settings import Settings, takes_settings

DIAGONAL = "0 by definition: no model is compared with itself"


@takes_settings("matrix")
def matrix(
    models: Sequence[ModelGiven],
    corpus: CorpusGiven = "sample",
    *,
    settings: Settings | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> ModelMatrix:
    """Compare every pair of models.

    Costs one pass over the documents for each model, and none for what the activation store has.

    Args:
        models: two or more; one that is given twice runs once, and its two rows are 0 apart up to rounding.
        settings, options, progress: as `compare` takes them.

    Raises:
        UserError: input that does not fit, in one line.
    """
    models = [models] if isinstance(models, str | PathLike) else models
    if len(models) < 2:
        raise UserError(f"{len(models)} model makes no matrix: give two or more")
    run = open_run(models, corpus, Settings.of(options, settings))
    pairs = [Pair(a, b) for a, b in combinations(range(len(models)), 2)]
    draw = compare_pairs(run, pairs, progress)[0]
    names = run.names
    arrays = _arrays(draw.pairs, len(models))
    summary = many_summary(run, draw)
    repeated = [name for at, name in enumerate(names) if run.order.index(run.order[at]) < at]
    summary["notes"] += [f"{name} is given more than once: it ran once." for name in dict.fromkeys(repeated)]
    summary["diagonal"] = DIAGONAL
    record = {
        "kind": MATRIX,
        "summary": summary,
        "pairs": [pair_entry(pair, role="pair") for pair in draw.pairs],
        "linkage": average_linkage(arrays["mean.debiased"]),
        "provenance": provenance(run, [draw], ["model"] * len(models), run.settings.record()),
    }
    return ModelMatrix(record, arrays)


def _arrays(pairs: Sequence[PairResult], models: int) -> dict[str, np.ndarray]:
    depth = max(len(pair.plain.layers) for pair in pairs)
    arrays: dict[str, np.ndarray] = {}
    for estimator in ESTIMATORS:
        for name in MEANS:
            arrays[f"{name}.{estimator}"] = np.zeros((models, models))
        stack = np.full((depth, models, models), np.nan)
        stack[:, range(models), range(models)] = 0.0
        arrays[f"layers.{estimator}"] = stack
        for pair in pairs:
            found = divergences(pair, estimator)
            for place in ((pair.pair.a, pair.pair.b), (pair.pair.b, pair.pair.a)):
                for name in MEANS:
                    mean = getattr(getattr(pair.plain, name), estimator)
                    arrays[f"{name}.{estimator}"][place] = known(mean.value)
                stack[(slice(len(found)), *place)] = found
    return arrays


def average_linkage(distances: np.ndarray) -> dict[str, Any]:
    """Cluster M models by average linkage: the merges of a dendrogram and the order of its leaves.

    Args:
        distances: (M, M), symmetric; NaN where undefined. A debiased divergence may be below 0, and so may
            the height of a merge: nothing is clamped.

    Returns:
        `order`: leaves from left to right. `merges`: clusters `a` and `b`, `height`, `size`; the leaves are
        clusters 0 to M − 1, merge k makes cluster M + k. Without merges, in the order given, and a `reason`
        where a divergence is undefined.
    """
    models = len(distances)
    if np.isnan(distances).any():
        reason = "a mean divergence is undefined, so there is no tree; models are in the order given"
        return {"method": "average", "order": list(range(models)), "merges": [], "reason": reason}
    rows = hierarchy.linkage(squareform(distances, checks=False), method="average")
    members: dict[int, list[int]] = {leaf: [leaf] for leaf in range(models)}
    merges = []
    for at, (a, b, height, size) in enumerate(rows.tolist()):
        members[models + at] = members[int(a)] + members[int(b)]
        merges.append({"a": int(a), "b": int(b), "height": height, "size": int(size)})
    return {"method": "average", "order": members[2 * models - 2], "merges": merges}
