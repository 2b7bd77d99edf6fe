"""Measures: named functions of two feature matrices, and what each declares about itself."""

from __future__ import annotations

import math
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
from cka_tools.statistics.influence import u_centred_gram
from cka_tools.statistics.intervals import Interval
from cka_tools.statistics.pair import check_same_documents, compare_statistics, hsic_of_pairs, no_variance

Invariance = Literal["orthogonal", "permutation", "isotropic-scaling", "translation", "invertible-linear"]
"""Changes of one side's features that leave a value as it is: a rotation or reflection, another order of the
features, one factor for all of them, another mean, any invertible linear map."""


@dataclass(frozen=True)
class Form:
    """A measure as a function of one matrix a side, so that documents can be permuted without new products.

    Attributes:
        of: from a model, a draw and a layer that is not constant: (n, n) over pairs of documents, or (n, r).
        together: the value of the matrices of two sides. For matrices over pairs of documents it is `inner`.
        roughly: the same to float32's precision for less; `together` by default.
    """

    of: Callable[[ModelStatistics, int, int], Tensor]
    together: Callable[[Tensor, Tensor], Tensor]
    roughly: Callable[[Tensor, Tensor], Tensor] | None = None

    @property
    def over_pairs(self) -> bool:
        """Whether the matrices are (n, n), one entry a pair of documents."""
        return self.together is inner

    def values(self, a: ModelStatistics, b: ModelStatistics, pairs: LayerPairs) -> Tensor:
        """The mean over the draws, of D layer pairs, (D,)."""
        draws = range(a.draws)
        found = [torch.stack([self.together(self.of(a, k, i), self.of(b, k, j)) for k in draws]) for i, j in pairs]
        return torch.stack([each.mean() for each in found])


def inner(K: Tensor, L: Tensor) -> Tensor:
    """⟨K, L⟩ = Σ_ij K_ij L_ij."""
    return (K * L).sum()


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
        form: the measure as a function of one matrix a side.
        most_documents: more would fill the memory; None where none would.
    """

    name: str
    title: str
    values: Callable[[ModelStatistics, ModelStatistics, LayerPairs], Tensor]
    symmetric: bool
    invariances: tuple[Invariance, ...]
    range: tuple[float, float]
    source: str
    form: Form
    intervals: Callable[[ModelStatistics, ModelStatistics, LayerPairs], list[Interval]] | None = None
    no_interval: str | None = None
    streams: bool = False
    most_documents: int | None = None

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


def _neighbours(side: ModelStatistics, draw: int, layer: int) -> Tensor:
    """The k nearest of each document, 1/√(nk) where they are and 0 elsewhere, (n, n)."""
    near = torch.cat([_nearest(side, draw, layer, rows, NEIGHBOURS) for rows in side.blocks()])
    return near.to(torch.float64) / math.sqrt(side.n * NEIGHBOURS)


def _unit_gram(side: ModelStatistics, draw: int, layer: int) -> Tensor:
    """The U-centred Gram matrix of one draw over √(n(n − 3) HSIC), (n, n): inner products are debiased CKA."""
    own = side.own_hsic(layer)["debiased"]
    return u_centred_gram(side, draw, layer) / (side.n * (side.n - 3) * own).sqrt()


def _all_rows(side: ModelStatistics, draw: int, layer: int) -> Tensor:
    return torch.cat([side.rows(draw, layer, rows) for rows in side.blocks()])


def _distance_ranks(side: ModelStatistics, draw: int, layer: int) -> Tensor:
    """Ranks of the cosine distances of all pairs of documents, centred and of norm 1, 0 on the diagonal, (n, n)."""
    from scipy.stats import rankdata  # takes longer to import than most of this package

    X = _all_rows(side, draw, layer)
    X /= torch.linalg.vector_norm(X, dim=1, keepdim=True).clamp(min=torch.finfo(X.dtype).tiny)
    above = torch.triu_indices(side.n, side.n, 1, device=X.device)
    distances = (1 - X @ X.T).round_(decimals=TIE_DECIMALS)[above[0], above[1]]
    ranks = torch.from_numpy(rankdata(distances.cpu().numpy())).to(X.device)
    ranks -= ranks.mean()
    ranks /= torch.linalg.vector_norm(ranks) * math.sqrt(2)
    found = X.new_zeros(side.n, side.n)
    found[above[0], above[1]] = found[above[1], above[0]] = ranks
    return found


def _principal(side: ModelStatistics, draw: int, layer: int) -> tuple[Tensor, Tensor]:
    """Left singular vectors (n, r) and singular values (r,), descending, of the centred features, r ≤ min(n, p)."""
    X = _all_rows(side, draw, layer)
    U, sizes, _ = torch.linalg.svd(X, full_matrices=False)
    return U, sizes


def _unit_features(side: ModelStatistics, draw: int, layer: int) -> Tensor:
    """The centred features of Frobenius norm 1, (n, p); turned into (n, n) where p is larger."""
    X = _all_rows(side, draw, layer)
    if X.shape[1] > side.n:
        U, sizes = _principal(side, draw, layer)
        X = U * sizes
    return X / torch.linalg.matrix_norm(X)


def procrustes(X: Tensor, Y: Tensor) -> Tensor:
    """1 − 2θ/π of two centred matrices of Frobenius norm 1, θ = arccos ‖XᵀY‖_* the angle between them once the
    orthogonal map is taken that brings them closest (Williams et al. 2021, eq. 4; Schönemann 1966).

    Near θ = 0 the arc cosine would lose half of the digits: there θ = 2 arcsin(‖X Q − Y‖/2).
    """
    U, sizes, Vt = torch.linalg.svd(X.T @ Y, full_matrices=False)
    theta = torch.arccos(sizes.sum().clamp(max=1.0))
    if theta < CLOSE:
        A, B = X @ U, Y @ Vt.T
        parts = (A - B, X - A @ U.T, Y - B @ Vt)
        theta = 2 * torch.arcsin(torch.stack([p.square().sum() for p in parts]).sum().sqrt() / 2)
    return 1 - 2 * theta / math.pi


def _rough_procrustes(X: Tensor, Y: Tensor) -> Tensor:
    """`procrustes` without singular vectors, which cost most of it."""
    return 1 - 2 * torch.arccos(torch.linalg.svdvals(X.T @ Y).sum().clamp(max=1.0)) / math.pi


CLOSE = 0.05
"""Angles below this are taken from the distance that is left, not from the arc cosine."""

VARIANCE_KEPT = 0.99
"""Raghu et al. (2017) keep the directions that hold this share of the variance."""


def _leading_directions(side: ModelStatistics, draw: int, layer: int) -> Tensor:
    """The fewest left singular vectors that hold VARIANCE_KEPT of the variance, (n, r)."""
    U, sizes = _principal(side, draw, layer)
    shares = sizes.square().cumsum(0) / sizes.square().sum()
    return U[:, : int((shares < VARIANCE_KEPT - 1e-12).sum()) + 1]


def mean_canonical_correlation(U: Tensor, V: Tensor) -> Tensor:
    """Mean canonical correlation of two orthonormal bases (n, r) and (n, s), over min(r, s)."""
    return torch.linalg.svdvals(U.T @ V).mean()


_PROCRUSTES = Form(_unit_features, procrustes, _rough_procrustes)
_RSA = Form(_distance_ranks, inner)
_SVCCA = Form(_leading_directions, mean_canonical_correlation)
_WHOLE_SPACE = "it is of the space of all documents together, so single documents have no independent shares of it"
MOST_PAIRED_DOCUMENTS = 8192
"""A matrix over all pairs of so many documents takes 512 MiB."""


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
            form=Form(_unit_gram, inner),
            intervals=_cka_intervals,
            streams=True,
        ),
        Measure(
            name="procrustes",
            title="orthogonal Procrustes, 1 − 2θ/π",
            values=_PROCRUSTES.values,
            symmetric=True,
            invariances=("orthogonal", "permutation", "isotropic-scaling", "translation"),
            range=(0.0, 1.0),
            source="Williams et al. 2021, Generalized Shape Metrics on Neural Representations, eq. 4",
            form=_PROCRUSTES,
            no_interval=_WHOLE_SPACE,
        ),
        Measure(
            name="mknn",
            title=f"mutual {NEIGHBOURS} nearest neighbours",
            values=mutual_knn,
            symmetric=True,
            invariances=("orthogonal", "permutation", "isotropic-scaling", "translation"),
            range=(0.0, 1.0),
            source="Huh et al. 2024, The Platonic Representation Hypothesis",
            form=Form(_neighbours, inner),
            no_interval="a document's neighbours depend on all other documents, so the shares of single "
            "documents are not independent and their spread gives no interval",
        ),
        Measure(
            name="rsa",
            title="RSA, Spearman of cosine distances",
            values=_RSA.values,
            symmetric=True,
            invariances=("orthogonal", "permutation", "isotropic-scaling", "translation"),
            range=(-1.0, 1.0),
            source="Kriegeskorte et al. 2008, Representational Similarity Analysis",
            form=_RSA,
            no_interval="pairs of documents share documents, so the ranks of their distances are not independent",
            most_documents=MOST_PAIRED_DOCUMENTS,
        ),
        Measure(
            name="svcca",
            title="SVCCA, mean canonical correlation",
            values=_SVCCA.values,
            symmetric=True,
            invariances=("orthogonal", "permutation", "isotropic-scaling", "translation"),
            range=(0.0, 1.0),
            source="Raghu et al. 2017, SVCCA: Singular Vector Canonical Correlation Analysis",
            form=_SVCCA,
            no_interval=_WHOLE_SPACE,
        ),
    )
}
"""All measures, by name; the first is the default."""
