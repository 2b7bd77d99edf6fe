"""The whole comparison of two sets of features: matrices, layer pairs, means, intervals, spectra."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from cka_tools.errors import UserError
from cka_tools.statistics.features import LayerPairs, LayerSummary, ModelStatistics, Spectrum, pair_hsic
from cka_tools.statistics.hsic import ESTIMATORS, Estimator, normalise
from cka_tools.statistics.influence import Hsic, Influence, influence
from cka_tools.statistics.intervals import (
    INTERVAL_DOCUMENTS,
    LOW_DIMENSION,
    RANK_ONE,
    Interval,
    clear_of_zero,
    correlation_interval,
    debiased_variance,
    logit_interval,
    mean_variance,
    t_interval,
    too_few,
    union,
)
from cka_tools.statistics.linear_cka import LinearCKA


def mean_cka(cka: ArrayLike) -> float:
    """Mean of CKA over layers, a fraction (1 is "the same up to rotation and scale").

    Args:
        cka: CKA of each layer pair, (layers,), in one estimator.
    """
    return float(np.mean(np.asarray(cka, dtype=np.float64)))


def mean_divergence(cka: ArrayLike) -> float:
    """Mean over layers of the divergence 1 − CKA, a fraction; every layer counts alike.

    Args:
        cka: CKA of each layer pair, (layers,), in one estimator.
    """
    return 1 - mean_cka(cka)


def ratio_of_means(cka: ArrayLike, control_cka: ArrayLike) -> float:
    """How many times further apart a pair is than a control: mean divergence over mean divergence, no unit.

    A ratio of means, never a mean of ratios: layers in which the control hardly diverges would rule that.

    Args:
        cka: CKA of the pair in each layer, (layers,). control_cka: of the control (such as two baselines of
            different seeds) in the same layers.

    Returns:
        The plain quotient: infinite, NaN or negative where the control's mean divergence is not above 0;
        `divergence_ratio` refuses that and gives an interval.
    """
    return mean_divergence(cka) / mean_divergence(control_cka)


def layer_ratios(cka: ArrayLike, control_cka: ArrayLike) -> np.ndarray:
    """(1 − CKA) of a pair over (1 − CKA) of its control in each layer, (layers,) float64, no unit.

    Args:
        cka, control_cka: as `ratio_of_means` takes them.
    """
    pairs = zip(np.atleast_1d(cka), np.atleast_1d(control_cka), strict=True)
    return np.array([ratio_of_means([one], [other]) for one, other in pairs])


INFLUENCE_DOCUMENTS = 4096
"""Above this many documents the influence is taken on a seeded subset: its cost grows with their square."""


def no_variance(sides: tuple[str, str], first: bool) -> str:
    """Why a pair with a constant layer has no value. Args: first: whether the layer is the first side's."""
    return f"the layer of {sides[0] if first else sides[1]} has no variance over these documents"


@dataclass(frozen=True)
class LayerPair:
    """CKA of one layer of A with one of B; a value that cannot be given is None and `reason` says why."""

    layer_a: int
    layer_b: int
    biased: Interval
    debiased: Interval
    spectrum_a: Spectrum
    spectrum_b: Spectrum
    reason: str | None


@dataclass(frozen=True)
class MeanDivergence:
    """Mean of 1 − CKA over a set of layer pairs, in both estimators."""

    biased: Interval
    debiased: Interval


@dataclass(frozen=True)
class FeatureComparison:
    """What two sets of features say about two models.

    Attributes:
        n: documents.
        matrices: CKA of all layer pairs by estimator, (L_A, L_B) float64, NaN where undefined.
        layers: the paired layers, in order.
        mean, early: divergence averaged over all pairs, and over the early ones.
        leave_one_out: debiased CKA without each of m documents, by position in `layers`, each (m,); None for
            constant layers and where there is no interval.
        left_out: which documents those m are; all n unless n is beyond INFLUENCE_DOCUMENTS.
        early_layers, mean_layers: positions in `layers` that count as early, and that enter the mean.
        second_order: of some pairs of these documents, `Influence.sample`, by position in `layers`, (s,) each;
            None where `leave_one_out` is.
    """

    n: int
    matrices: dict[Estimator, np.ndarray]
    layers: list[LayerPair]
    mean: MeanDivergence
    early: MeanDivergence
    leave_one_out: list[np.ndarray | None]
    left_out: np.ndarray
    early_layers: list[int]
    mean_layers: list[int]
    second_order: Sequence[np.ndarray | None] = ()

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """The layer pairs, by position among the layers that are there."""
        return [(one.layer_a, one.layer_b) for one in self.layers]


Choice = Callable[[np.ndarray], LayerPairs]
"""Takes the layer pairs from debiased CKA of all layers, (L_A, L_B), NaN where undefined."""


def compare_features(
    features_a: Sequence[np.ndarray | Tensor],
    features_b: Sequence[np.ndarray | Tensor],
    pairs: LayerPairs,
    early_layers: Sequence[int],
    *,
    rescale: bool = False,
    device: torch.device | str = "cpu",
    seed: int = 42,
    sides: tuple[str, str] = ("A", "B"),
    diagonal: bool = False,
) -> FeatureComparison:
    """Compare the layers of two models over the same n documents.

    Args:
        features_a, features_b: for each layer an array (n, p), or (K, n, p) with K draws a document; HSIC is
            averaged over draws.
        pairs: layer pairs (ℓ, m) that get intervals and enter the means.
        early_layers: positions in `pairs` that count as early.
        rescale: divide each feature by its standard deviation first. Intervals then hold the scales fixed.
        device: where the sums are computed, in float64.
        seed: chooses the documents of the influence beyond INFLUENCE_DOCUMENTS.
        sides: what the two are called in reasons.
        diagonal: compute `pairs` only; the matrices hold NaN elsewhere.

    Raises:
        UserError: fewer than four documents, or features that do not belong together.
    """
    a = ModelStatistics(features_a, device=device, rescale=rescale)
    b = ModelStatistics(features_b, device=device, rescale=rescale)
    return compare_statistics(a, b, pairs, early_layers, seed=seed, matrices=not diagonal, sides=sides)


def compare_statistics(
    a: ModelStatistics,
    b: ModelStatistics,
    pairs: LayerPairs,
    early_layers: Sequence[int],
    mean_layers: Sequence[int] | None = None,
    *,
    seed: int = 42,
    matrices: bool = False,
    sides: tuple[str, str] = ("A", "B"),
    choose: Choice | None = None,
) -> FeatureComparison:
    """As `compare_features`, of models whose own statistics are there.

    Args:
        matrices: CKA of all layer pairs; otherwise the matrices hold that of `pairs`, NaN elsewhere.
        mean_layers, choose: as in `assemble`; a choice is made among all layers.

    Raises:
        UserError: features that do not belong together.
    """
    check_same_documents(a, b)
    n = a.n
    hsic = {e: (xy, a.own[e], b.own[e]) for e, xy in _cross(a, b, pairs, whole=matrices or choose is not None).items()}
    documents = influence_documents(n, seed)
    whole = Whole(n, hsic, (a.summary, b.summary))
    left_out = lambda: (a.on(documents), b.on(documents))  # noqa: E731
    return assemble(whole, documents, left_out, pairs, early_layers, mean_layers, sides=sides, choose=choose)


def check_same_documents(a: ModelStatistics, b: ModelStatistics) -> None:
    """Raise UserError for features of other numbers of documents or draws."""
    if (a.n, a.draws) != (b.n, b.draws):
        raise UserError(
            f"features of {a.n} × {a.draws} and {b.n} × {b.draws} documents × draws: give both the same ones"
        )


@dataclass(frozen=True)
class Whole:
    """What all documents say together, without any of them left out.

    Attributes:
        n: documents.
        hsic: by estimator, of all layer pairs; NaN where a pair was not asked for.
        summaries: of the layers of A and of B.
    """

    n: int
    hsic: dict[Estimator, Hsic]
    summaries: tuple[LayerSummary, LayerSummary]


def assemble(
    whole: Whole,
    documents: np.ndarray,
    left_out: Callable[[], tuple[ModelStatistics, ModelStatistics]],
    pairs: LayerPairs,
    early_layers: Sequence[int],
    mean_layers: Sequence[int] | None = None,
    *,
    sides: tuple[str, str] = ("A", "B"),
    choose: Choice | None = None,
) -> FeatureComparison:
    """A comparison from the sums over all documents and the features of those that are left out in turn.

    Args:
        documents: which those are. left_out: their features of A and of B, called if an interval is made.
        pairs, early_layers, sides: as in `compare_features`.
        mean_layers: positions in `pairs` that enter the mean; all by default.
        choose: what takes other pairs, as many and in the same places, from the matrix of debiased CKA.
    """
    n, (of_a, of_b) = whole.n, whole.summaries
    matrices = {e: _matrix(whole.hsic[e], of_a.constant, of_b.constant) for e in ESTIMATORS}
    if choose is not None:
        pairs = choose(matrices["debiased"])
    mean_layers = list(range(len(pairs)) if mean_layers is None else mean_layers)
    usable = [d for d, (i, j) in enumerate(pairs) if not (of_a.constant[i] or of_b.constant[j])]
    groups = [[d for d in chosen if d in usable] for chosen in (mean_layers, early_layers)]
    found: Influence | None = None
    if usable and n >= INTERVAL_DOCUMENTS:
        positions = [[usable.index(d) for d in group] for group in groups]
        chosen = [pairs[d] for d in usable]
        a, b = left_out()
        on_pairs = (
            {e: _of_pairs(whole.hsic[e], chosen) for e in ESTIMATORS} if a.n == n else hsic_of_pairs(a, b, chosen)
        )
        found = influence(a, b, chosen, on_pairs["debiased"], on_pairs["biased"], positions)

    dimensions = [min(of_a.spectra[i].effective_dim, of_b.spectra[j].effective_dim) for i, j in pairs]

    def mean_interval(members: list[int]) -> tuple[Interval, Interval]:
        """Biased and debiased mean CKA over some of the pairs."""
        if not members:
            nothing = Interval(None, reason="no layer with variance to average over")
            return nothing, nothing
        values = {e: mean_cka([matrices[e][pairs[d]] for d in members]) for e in ESTIMATORS}
        positions = [usable.index(d) for d in members]
        few = [dimensions[d] for d in members]
        biased, debiased = (_interval(e, values, n, found, positions, few) for e in ESTIMATORS)
        return biased, debiased

    layers = []
    for d, (i, j) in enumerate(pairs):
        if d in usable:
            biased, debiased = mean_interval([d])
        else:
            biased = debiased = Interval(None, reason=no_variance(sides, of_a.constant[i]))
        layers.append(LayerPair(i, j, biased, debiased, of_a.spectra[i], of_b.spectra[j], debiased.reason))
    mean, early_mean = (
        MeanDivergence(*(interval.complement() for interval in mean_interval(group))) for group in groups
    )
    without, second = (
        [None if rows is None or d not in usable else rows[usable.index(d)] for d in range(len(pairs))]
        for rows in ((None, None) if found is None else (found.without.cpu().numpy(), found.sample.cpu().numpy()))
    )
    return FeatureComparison(
        n, matrices, layers, mean, early_mean, without, documents, list(early_layers), mean_layers, second
    )


def _interval(
    estimator: Estimator,
    values: dict[Estimator, float],
    n: int,
    found: Influence | None,
    members: list[int],
    dimensions: list[float],
) -> Interval:
    """Interval of mean CKA over some pairs, from what each document does to that mean.

    Args:
        values: the mean in both estimators.
        members: positions of the pairs in `found`. dimensions: effective dimension of each.
    """
    value = values[estimator]
    if found is None:
        return too_few(value, n)
    if estimator == "biased":
        return t_interval(value, mean_variance(found.first_biased[members].mean(0), n))
    second = float(found.second[members[0]]) if len(members) == 1 else found.group_second[found.groups.index(members)]
    variance = debiased_variance(found.without[members].mean(0), second, n)
    interval = t_interval(value, variance)
    if clear_of_zero(value, variance):
        interval = union(interval, logit_interval(value, variance))
    if min(dimensions) < LOW_DIMENSION:
        rank_one = max(dimensions) < RANK_ONE
        joined = correlation_interval(value, values["biased"], variance, n, rank_one=rank_one)
        interval = union(interval, joined)
    return interval


def _cross(
    a: ModelStatistics, b: ModelStatistics, pairs: LayerPairs, *, whole: bool = False
) -> dict[Estimator, Tensor]:
    """HSIC_xy (L_A, L_B) averaged over the draws, of the pairs (NaN elsewhere) or of the whole matrix."""
    if not whole:
        found = pair_hsic(a, b, pairs)
        empty = torch.full((len(a.dims), len(b.dims)), torch.nan, dtype=torch.float64, device=a.device)
        return {e: empty.index_put(_index(pairs, empty), xy) for e, xy in found.items()}
    stats = []
    for draw in range(a.draws):
        stat = LinearCKA(a.dims, b.dims, device=a.device)
        for rows in a.blocks():
            stat.update(
                [a.rows(draw, i, rows) for i in range(len(a.dims))], [b.rows(draw, j, rows) for j in range(len(b.dims))]
            )
        stats.append(stat)
    return {e: xy for e, (xy, _, _) in mean_hsic(stats).items()}


def _index(pairs: LayerPairs, like: Tensor) -> tuple[Tensor, Tensor]:
    i, j = (torch.tensor(side, device=like.device) for side in zip(*pairs, strict=True))
    return i, j


def mean_hsic(stats: Sequence[LinearCKA]) -> dict[Estimator, Hsic]:
    """HSIC of all layer pairs by estimator, averaged over draws: one `LinearCKA` each."""
    found: dict[Estimator, Hsic] = {}
    for e in ESTIMATORS:
        xy, xx, yy = (torch.stack(part).mean(0) for part in zip(*(s.hsic(e) for s in stats), strict=True))
        found[e] = xy, xx, yy
    return found


def _of_pairs(hsic: Hsic, pairs: LayerPairs) -> Hsic:
    xy, xx, yy = hsic
    i, j = _index(pairs, xy)
    return xy[i, j], xx[i], yy[j]


def hsic_of_pairs(a: ModelStatistics, b: ModelStatistics, pairs: LayerPairs) -> dict[Estimator, Hsic]:
    """HSIC_xy, HSIC_xx and HSIC_yy of D layer pairs by estimator, each (D,), averaged over the draws."""
    xy = pair_hsic(a, b, pairs)
    return {
        e: (xy[e], torch.stack([a.own_hsic(i)[e] for i, _ in pairs]), torch.stack([b.own_hsic(j)[e] for _, j in pairs]))
        for e in ESTIMATORS
    }


def _matrix(hsic: Hsic, constant_a: list[bool], constant_b: list[bool]) -> np.ndarray:
    """CKA of all pairs, NaN in the rows and columns of layers without variance."""
    xy, xx, yy = (h.cpu() for h in hsic)
    cka = normalise(xy, xx[:, None], yy[None]).numpy()
    cka[constant_a] = np.nan
    cka[:, constant_b] = np.nan
    return cka


def influence_documents(n: int, seed: int) -> np.ndarray:
    """Documents that are left out in turn: all, or beyond INFLUENCE_DOCUMENTS a seeded subset, ascending."""
    if n <= INFLUENCE_DOCUMENTS:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).choice(n, INFLUENCE_DOCUMENTS, replace=False))
