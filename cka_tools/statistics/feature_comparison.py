"""The whole comparison of two sets of features: matrices, layer pairs, means, intervals, spectra."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cka_tools.errors import UserError
from cka_tools.statistics.feature_set import FeatureSet, Spectrum
from cka_tools.statistics.hsic import ESTIMATORS, MINIMUM_SAMPLES, Estimator, normalise
from cka_tools.statistics.influence import Hsic, Influence, influence
from cka_tools.statistics.intervals import (
    LOW_DIMENSION,
    MINIMUM_DOCUMENTS,
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

INFLUENCE_DOCUMENTS = 4096
"""Above this many documents the influence is taken on a seeded subset: its cost grows with their square."""

NO_VARIANCE = "the layer of {side} has no variance over these documents"


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
        early_positions: positions in `layers` that count as early.
    """

    n: int
    matrices: dict[Estimator, np.ndarray]
    layers: list[LayerPair]
    mean: MeanDivergence
    early: MeanDivergence
    leave_one_out: list[np.ndarray | None]
    left_out: np.ndarray
    early_positions: list[int]


def compare_features(
    features_a: Sequence[np.ndarray | Tensor],
    features_b: Sequence[np.ndarray | Tensor],
    pairs: Sequence[tuple[int, int]],
    early: Sequence[int],
    *,
    rescale: bool = False,
    device: torch.device | str = "cpu",
    seed: int = 42,
    diagonal: bool = False,
) -> FeatureComparison:
    """Compare the layers of two models over the same n documents.

    Args:
        features_a, features_b: for each layer an array (n, p), or (K, n, p) with K draws a document; HSIC is
            averaged over draws.
        pairs: layer pairs (ℓ, m) that get intervals and enter the means.
        early: positions in `pairs` that count as early.
        rescale: divide each feature by its standard deviation first. Intervals then hold the scales fixed.
        device: where the sums are computed, in float64.
        seed: chooses the documents of the influence beyond INFLUENCE_DOCUMENTS.
        diagonal: compute `pairs` only; the matrices hold NaN elsewhere.

    Raises:
        UserError: fewer than four documents, or features that do not belong together.
    """
    a = FeatureSet(features_a, device=device, rescale=rescale)
    b = FeatureSet(features_b, device=device, rescale=rescale)
    if (a.n, a.draws) != (b.n, b.draws):
        raise UserError(
            f"features of {a.n} × {a.draws} and {b.n} × {b.draws} documents × draws: give both the same ones"
        )
    if a.n < MINIMUM_SAMPLES:
        raise UserError(f"{a.n} documents are too few for CKA: give at least {MINIMUM_SAMPLES}")
    n, hsic = a.n, _hsic(a, b, pairs if diagonal else None)
    constant_a, constant_b = a.constant_layers(), b.constant_layers()
    matrices = {e: _matrix(hsic[e], constant_a, constant_b) for e in ESTIMATORS}
    spectra_a = [a.spectrum(i, float(h)) for i, h in enumerate(hsic["debiased"][1])]
    spectra_b = [b.spectrum(j, float(h)) for j, h in enumerate(hsic["debiased"][2])]

    usable = [d for d, (i, j) in enumerate(pairs) if not (constant_a[i] or constant_b[j])]
    groups = [usable, [d for d in early if d in usable]]
    documents = _influence_documents(a.n, seed)
    found: Influence | None = None
    if usable and a.n >= MINIMUM_DOCUMENTS:
        positions = [[usable.index(d) for d in group] for group in groups]
        if len(documents) < a.n:
            a = FeatureSet(features_a, device=device, rescale=rescale, documents=documents)
            b = FeatureSet(features_b, device=device, rescale=rescale, documents=documents)
            hsic = _hsic(a, b, [pairs[d] for d in usable])
        chosen = [pairs[d] for d in usable]
        on_pairs = {e: _of_pairs(hsic[e], chosen) for e in ESTIMATORS}
        found = influence(a, b, chosen, on_pairs["debiased"], on_pairs["biased"], positions)

    dimensions = [min(spectra_a[i].effective_dim, spectra_b[j].effective_dim) for i, j in pairs]

    def mean_cka(members: list[int]) -> tuple[Interval, Interval]:
        """Biased and debiased mean CKA over some of the pairs."""
        if not members:
            nothing = Interval(None, reason="no layer with variance to average over")
            return nothing, nothing
        values = {e: float(np.mean([matrices[e][pairs[d]] for d in members])) for e in ESTIMATORS}
        positions = [usable.index(d) for d in members]
        few = [dimensions[d] for d in members]
        biased, debiased = (_interval(e, values, n, found, positions, few) for e in ESTIMATORS)
        return biased, debiased

    layers = []
    for d, (i, j) in enumerate(pairs):
        if d in usable:
            biased, debiased = mean_cka([d])
        else:
            biased = debiased = Interval(None, reason=NO_VARIANCE.format(side="A" if constant_a[i] else "B"))
        layers.append(LayerPair(i, j, biased, debiased, spectra_a[i], spectra_b[j], debiased.reason))
    mean, early_mean = (MeanDivergence(*(cka.complement() for cka in mean_cka(group))) for group in groups)
    without = [
        None if found is None or d not in usable else found.without[usable.index(d)].cpu().numpy()
        for d in range(len(pairs))
    ]
    return FeatureComparison(n, matrices, layers, mean, early_mean, without, documents, list(early))


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
    second = (
        float(found.second[members[0]])
        if len(members) == 1
        else found.group_second[found.groups.index(members)]
    )
    variance = debiased_variance(found.without[members].mean(0), second, n)
    interval = t_interval(value, variance)
    if clear_of_zero(value, variance):
        interval = union(interval, logit_interval(value, variance))
    if min(dimensions) < LOW_DIMENSION:
        rank_one = max(dimensions) < RANK_ONE
        joined = correlation_interval(value, values["biased"], variance, n, rank_one=rank_one)
        interval = union(interval, joined)
    return interval


def _hsic(
    a: FeatureSet, b: FeatureSet, pairs: Sequence[tuple[int, int]] | None = None
) -> dict[Estimator, Hsic]:
    """HSIC_xy (L_A, L_B), HSIC_xx (L_A,) and HSIC_yy (L_B,), averaged over the draws."""
    by_draw: dict[Estimator, list[Hsic]] = {e: [] for e in ESTIMATORS}
    for draw in range(a.draws):
        stat = LinearCKA(a.dims, b.dims, pairs="all" if pairs is None else pairs, device=a.device)
        for rows in a.blocks():
            stat.update(
                [a.rows(draw, i, rows) for i in range(len(a.dims))],
                [b.rows(draw, j, rows) for j in range(len(b.dims))],
            )
        for e in ESTIMATORS:
            by_draw[e].append(stat.hsic(e))
    return {e: _average(draws) for e, draws in by_draw.items()}


def _average(draws: list[Hsic]) -> Hsic:
    xy, xx, yy = (torch.stack(part).mean(0) for part in zip(*draws, strict=True))
    return xy, xx, yy


def _of_pairs(hsic: Hsic, pairs: Sequence[tuple[int, int]]) -> Hsic:
    xy, xx, yy = hsic
    i, j = (torch.tensor(side, device=xy.device) for side in zip(*pairs, strict=True))
    return xy[i, j], xx[i], yy[j]


def _matrix(hsic: Hsic, constant_a: list[bool], constant_b: list[bool]) -> np.ndarray:
    """CKA of all pairs, NaN in the rows and columns of layers without variance."""
    xy, xx, yy = (h.cpu() for h in hsic)
    cka = normalise(xy, xx[:, None], yy[None]).numpy()
    cka[constant_a] = np.nan
    cka[:, constant_b] = np.nan
    return cka


def _influence_documents(n: int, seed: int) -> np.ndarray:
    if n <= INFLUENCE_DOCUMENTS:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).choice(n, INFLUENCE_DOCUMENTS, replace=False))
