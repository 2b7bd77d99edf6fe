"""Measures: named functions of two feature matrices, and what each declares about itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from cka_tools.errors import UserError
from cka_tools.statistics.features import LayerPairs, ModelStatistics
from cka_tools.statistics.hsic import normalise
from cka_tools.statistics.intervals import Interval
from cka_tools.statistics.pair import check_same_documents, compare_statistics, hsic_of_pairs, no_variance

Invariance = Literal["orthogonal", "permutation", "isotropic-scaling", "translation", "invertible-linear"]
"""Changes of one side's features that leave a value as it is: a rotation or reflection, another order of the
features, one factor for all of them, another mean, any invertible linear map."""


@dataclass(frozen=True)
class Measure:
    """A similarity of two feature matrices over the same documents.

    Attributes:
        name: key in records and on the command line. title: what a table calls it.
        values: from two models and D layer pairs without constant layers, values (D,) float64.
        symmetric: whether both orders of the two give one value.
        invariances: what a value does not change under.
        range: smallest and largest value there can be.
        intervals: from two models and D layer pairs, D intervals out of leave-one-out values; None without.
        no_interval: why there is none, a sentence's part; None where there is one.
        streams: whether a value can be made without keeping the features.
        source: where it is defined.
    """

    name: str
    title: str
    values: Callable[[ModelStatistics, ModelStatistics, LayerPairs], Tensor]
    symmetric: bool
    invariances: tuple[Invariance, ...]
    range: tuple[float, float]
    source: str
    intervals: Callable[[ModelStatistics, ModelStatistics, LayerPairs], list[Interval]] | None = None
    no_interval: str | None = None
    streams: bool = False

    def __call__(self, X: np.ndarray | Tensor, Y: np.ndarray | Tensor) -> float:
        """The value for two matrices (n, p) and (n, q), one row a document; NaN where a side is constant.

        Raises:
            UserError: other documents, or too few.
        """
        (found,) = measure_pairs(self, ModelStatistics([X]), ModelStatistics([Y]), [(0, 0)])
        return float("nan") if found.value is None else found.value


def measure_pairs(
    measure: Measure, a: ModelStatistics, b: ModelStatistics, pairs: LayerPairs, *, sides: tuple[str, str] = ("A", "B")
) -> list[Interval]:
    """A measure's value in each layer pair, with its interval or the reason why there is none.

    Args:
        pairs: D layer pairs. sides: what the two models are called in reasons.

    Returns:
        D intervals; a pair with a constant layer has no value.

    Raises:
        UserError: features of other documents, or too few documents for the measure.
    """
    check_same_documents(a, b)
    usable = [(i, j) for i, j in pairs if not (a.summary.constant[i] or b.summary.constant[j])]
    found: list[Interval] = []
    if usable and measure.intervals is not None:
        found = measure.intervals(a, b, usable)
    elif usable:
        values = measure.values(a, b, usable).tolist()
        found = [Interval(value, reason=measure.no_interval) for value in values]
    of_pair = dict(zip(usable, found, strict=True))
    return [of_pair.get((i, j)) or Interval(None, reason=no_variance(sides, a.summary.constant[i])) for i, j in pairs]


def find_measure(name: str) -> Measure:
    """The measure of a name.

    Raises:
        UserError: no measure has this name; the error names one that is near, or all.
    """
    if name not in MEASURES:
        near = get_close_matches(name.lower(), MEASURES, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(MEASURES)}"
        raise UserError(f"measure {name!r} is not known: {hint}")
    return MEASURES[name]


def debiased_cka(a: ModelStatistics, b: ModelStatistics, pairs: LayerPairs) -> Tensor:
    """Debiased linear CKA of D layer pairs, (D,)."""
    return normalise(*hsic_of_pairs(a, b, pairs)["debiased"])


def _cka_intervals(a: ModelStatistics, b: ModelStatistics, pairs: LayerPairs) -> list[Interval]:
    return [layer.debiased for layer in compare_statistics(a, b, pairs, []).layers]


NEIGHBOURS = 10
"""Neighbours a document; Huh et al. (2024) take as many."""

TIE_DECIMALS = 10
"""Cosines that agree to so many decimals are equal: rounding must not choose between them."""


def mutual_knn(a: ModelStatistics, b: ModelStatistics, pairs: LayerPairs, *, neighbours: int = NEIGHBOURS) -> Tensor:
    """Mean share of each document's nearest neighbours that two spaces have in common, (D,).

    Nearness is the cosine of centred features, a document is not its own neighbour, and of equally near ones
    the earlier come first. Over K draws a document the shares are averaged. Memory O(n) for a block of rows,
    time O(n² Σp).

    Args:
        neighbours: k, how many neighbours of a document count.

    Raises:
        UserError: fewer than k + 2 documents: all others would be neighbours.
    """
    if a.n < neighbours + 2:
        raise UserError(
            f"{a.n} documents are too few for {neighbours} nearest neighbours: give at least {neighbours + 2}"
        )
    values = []
    for i, j in pairs:
        common = torch.zeros((), dtype=torch.float64, device=a.device)
        for draw in range(a.draws):
            for rows in a.blocks():
                near_a, near_b = (_nearest(side, draw, layer, rows, neighbours) for side, layer in ((a, i), (b, j)))
                common += (near_a & near_b).sum()
        values.append(common / (a.draws * a.n * neighbours))
    return torch.stack(values)


def _nearest(side: ModelStatistics, draw: int, layer: int, rows: slice, k: int) -> Tensor:
    """Which documents are among the k nearest of each of some rows, (rows, n) bool."""

    def directions(of: slice) -> Tensor:
        X = side.rows(draw, layer, of)
        norms = torch.linalg.vector_norm(X, dim=1, keepdim=True)
        return X / norms.clamp(min=torch.finfo(X.dtype).tiny)

    own = directions(rows)
    cosines = torch.cat([own @ directions(others).T for others in side.blocks()], dim=1)
    cosines.round_(decimals=TIE_DECIMALS)[:, rows].fill_diagonal_(-torch.inf)
    last = cosines.topk(k, dim=1).values[:, -1:]
    nearer, tied = cosines > last, cosines == last
    room = k - nearer.sum(1, keepdim=True)
    return nearer | (tied & (tied.cumsum(1) <= room))


MEASURES: dict[str, Measure] = {
    measure.name: measure
    for measure in (
        Measure(
            name="cka",
            title="linear CKA (debiased)",
            values=debiased_cka,
            symmetric=True,
            invariances=("orthogonal", "permutation", "isotropic-scaling", "translation"),
            range=(-1.0, 1.0),
            source="Kornblith et al. 2019; Song et al. 2012",
            intervals=_cka_intervals,
            streams=True,
        ),
        Measure(
            name="mknn",
            title=f"mutual {NEIGHBOURS} nearest neighbours",
            values=mutual_knn,
            symmetric=True,
            invariances=("orthogonal", "permutation", "isotropic-scaling", "translation"),
            range=(0.0, 1.0),
            source="Huh et al. 2024, The Platonic Representation Hypothesis",
            no_interval="a document's neighbours depend on all other documents, so the shares of single "
            "documents are not independent and their spread gives no interval",
        ),
    )
}
"""All measures, by name; the first is the default."""
