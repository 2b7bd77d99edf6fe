"""Average linkage of models by their divergences: the merges of a dendrogram and the order of its leaves."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform

JsonObject = dict[str, Any]


def average_linkage(distances: np.ndarray) -> JsonObject:
    """Cluster M models.

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
