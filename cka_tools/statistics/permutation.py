"""What a measure gives where nothing is shared: documents of one side are exchanged, the same way in all layers.

Measures of similarity are biased upwards where documents are few against features: Procrustes and SVCCA of
independent features are far above 0. The mean over permutations is the floor to read a value against.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cka_tools.statistics.features import LayerPairs, ModelStatistics
from cka_tools.statistics.measures import MEASURES, Measure


@dataclass(frozen=True)
class Floor:
    """A value against those of permuted documents.

    Attributes:
        mean: of the permuted values. p: the share of them that is as large, the value itself counted in.
    """

    mean: float
    p: float

    @classmethod
    def of(cls, value: float, permuted: Tensor) -> Floor:
        """From the permuted values, (P,)."""
        return cls(float(permuted.mean()), (1 + int((permuted >= value).sum())) / (1 + len(permuted)))


def document_permutations(n: int, count: int, seed: int) -> Tensor:
    """Orders of n documents, (count, n); a stream of its own beside the draw's."""
    rng = np.random.default_rng([seed, 3])
    return torch.from_numpy(np.stack([rng.permutation(n) for _ in range(count)]))


def permuted_values(
    measure: Measure, a: ModelStatistics, b: ModelStatistics, pairs: LayerPairs, orders: Tensor
) -> Tensor:
    """The measure of D layer pairs, without constant layers, with A's documents in each of P orders, (P, D).

    In float32, whose rounding is far below the spread of the permuted values.
    """
    form, orders = measure.form, orders.to(a.device)
    together = form.roughly or form.together
    found = torch.zeros(len(orders), len(pairs), dtype=torch.float64, device=a.device)
    for d, (i, j) in enumerate(pairs):
        for draw in range(a.draws):
            one, other = form.of(a, draw, i).float(), form.of(b, draw, j).float()
            for at, order in enumerate(orders):
                moved = one[order]
                moved = moved[:, order] if form.over_pairs else moved
                found[at, d] += together(moved, other) / a.draws
    return found


def measure_floors(
    measure: Measure,
    a: ModelStatistics,
    b: ModelStatistics,
    pairs: LayerPairs,
    values: Sequence[float | None],
    orders: Tensor,
) -> list[Floor | None]:
    """Floors of a measure's values in D layer pairs; None where there is no value."""
    known = [d for d, value in enumerate(values) if value is not None]
    permuted = permuted_values(measure, a, b, [pairs[d] for d in known], orders)
    found: list[Floor | None] = [None] * len(pairs)
    for column, d in enumerate(known):
        value = values[d]
        assert value is not None
        found[d] = Floor.of(value, permuted[:, column])
    return found


def best_match_floors(
    a: ModelStatistics, b: ModelStatistics, pairs: LayerPairs, columns: Sequence[int], cka: np.ndarray, orders: Tensor
) -> tuple[list[Floor | None], list[Floor | None]]:
    """CKA of layer pairs against permuted documents, and each best match in B against the best of these.

    The best is the maximum over the same layers of B: so p is that of a layer that was chosen among many, not
    of one pair (Westfall and Young 1993, single-step max-T).

    Args:
        columns: layers of B that are searched. cka: debiased, (L_A, L_B), NaN where undefined.

    Returns:
        Floors of the D pairs, and of the best match of the layer of A of each; None where CKA is undefined.
    """
    rows = [i for i in dict.fromkeys(i for i, _ in pairs) if not a.summary.constant[i]]
    every = dict.fromkeys([*columns, *(j for _, j in pairs)])
    places = [j for j in every if not b.summary.constant[j]]
    among = [at for at, j in enumerate(places) if j in set(columns)]
    nothing: list[Floor | None] = [None] * len(pairs)
    if not rows or not places:
        return nothing, nothing
    of, n, orders = MEASURES["cka"].form.of, a.n, orders.to(a.device)
    matrices = torch.zeros(len(orders), len(rows), len(places), dtype=torch.float64, device=a.device)
    for draw in range(a.draws):
        first = torch.stack([of(a, draw, i).float() for i in rows])
        second = torch.stack([of(b, draw, j).float() for j in places]).reshape(len(places), n * n)
        for at, order in enumerate(orders):
            moved = first[:, order][:, :, order].reshape(len(rows), n * n)
            matrices[at] += (moved @ second.T).double() / a.draws
    paired, best = list(nothing), list(nothing)
    for d, (i, j) in enumerate(pairs):
        if i not in rows:
            continue
        row = matrices[:, rows.index(i)]
        if j in places:
            paired[d] = Floor.of(float(cka[i, j]), row[:, places.index(j)])
        if among:
            best[d] = Floor.of(float(np.nanmax(cka[i, [places[at] for at in among]])), row[:, among].amax(1))
    return paired, best
