"""Pairs of models over the same documents: what `compare`, `trajectory`, `matrix` and `ablate` are made of.

Every model runs once, its own statistics are made once, and every pair costs what a pair costs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any

import numpy as np

from cka_tools.comparison.floors import Floors, check_permutations, pair_floors
from cka_tools.comparison.layer_pairs import LayerPairing, choose_pairing
from cka_tools.comparison.record import best_over
from cka_tools.comparison.streaming import StreamedDraw, Wanted, stream_draw
from cka_tools.compute import FeatureRun, Features, Layers, Progress, Told
from cka_tools.documents import DocumentDraw
from cka_tools.errors import UserError
from cka_tools.extraction.extract import Extraction
from cka_tools.planning import Work, announce, stop_if_planning
from cka_tools.processes import from_first
from cka_tools.settings import FINAL_NORM, Settings
from cka_tools.statistics.differences import deciding_documents
from cka_tools.statistics.features import ModelStatistics
from cka_tools.statistics.hsic import MINIMUM_SAMPLES, normalise
from cka_tools.statistics.intervals import Interval
from cka_tools.statistics.measures import Measure, find_measure, measure_pairs
from cka_tools.statistics.pair import FeatureComparison, compare_statistics, hsic_of_pairs, mean_divergence
from cka_tools.statistics.ratio import DivergenceRatio, divergence_ratio, ratio_second_order


@dataclass(frozen=True)
class Pair:
    """Two of the models that were given, by position.

    Attributes:
        control: the position among the pairs of the one whose divergence is seed noise for this one; both
            have the same second model.
        whole: CKA of all layers of the first with all of the second is wanted, not of the layer pairs alone.
        floors: values for permuted documents are wanted too.
        called: what the two are called in reasons.
    """

    a: int
    b: int
    control: int | None = None
    whole: bool = False
    floors: bool = False
    called: tuple[str, str] = ("A", "B")


@dataclass(frozen=True)
class PairResult:
    """What one draw of documents says of a pair.

    Attributes:
        layers_a, layers_b: the models' own indices of the layers that were extracted; EMBEDDINGS, and the
            number of a model's layers for what leaves its final norm.
        depths: numbers of layers of A and of B.
        candidates: layers of B that a layer of A was paired with the best of; None where pairs were fixed.
        early_layers: positions among the layer pairs that count as early.
        plain, rescaled: the comparison, and that of features scaled to unit variance where it was asked for.
        measures: of each measure beside CKA one interval a layer pair.
        ratio: the divergence over the control pair's, where there is one.
        floors: values for permuted documents; None where they are not wanted.
        deciding: rows of the few documents that hold half of the mean's sampling variance; none where they are
            not few. without_deciding: the mean debiased divergence without them; None where it is not known.
    """

    pair: Pair
    layers_a: list[int]
    layers_b: list[int]
    depths: tuple[int, int]
    candidates: list[int] | None
    early_layers: list[int]
    plain: FeatureComparison
    rescaled: FeatureComparison | None = None
    measures: dict[str, list[Interval]] = field(default_factory=dict)
    ratio: DivergenceRatio | None = None
    floors: Floors | None = None
    deciding: list[int] = field(default_factory=list)
    without_deciding: float | None = None


@dataclass(frozen=True)
class DrawResult:
    """One draw of documents, read by all models.

    Attributes:
        ids: of the documents that entered, in row order.
        pairs: in the order asked for.
        extractions: of each model that was given, how its features came about, and its place among the
            models of that extraction.
        provenance: of each model that was given.
    """

    draw: DocumentDraw
    ids: list[str]
    pairs: list[PairResult]
    extractions: list[tuple[Extraction, int]]
    provenance: list[dict[str, Any]]

    @property
    def notes(self) -> list[str]:
        """What the user should know of the draw and of the features, each once."""
        found = [note for extraction, _ in self.extractions for note in extraction.notes]
        return list(dict.fromkeys([*self.draw.notes, *found]))


def compare_pairs(run: FeatureRun, pairs: Sequence[Pair], progress: Progress | None = None) -> list[DrawResult]:
    """Compare pairs of a run's models in each of its draws.

    Features beyond `keep_features` are streamed: all models are then in memory together.

    Raises:
        UserError: as `compute_features`; layers that a model does not have, measures that cannot stream.
    """
    plan = check_pairs(run, pairs)
    if plan.is_kept:
        kept = run.features(plan.layers, progress)
        return [_kept_draw(run, plan, [one[draw] for one in kept], draw) for draw in range(len(run.draws))]
    return _streamed_draws(run, plan, progress)


def check_pairs(run: FeatureRun, pairs: Sequence[Pair]) -> _Plan:
    """What is needed to compare pairs, once it is clear that they can be, before any model runs.

    Raises:
        UserError: layers that a model does not have, too few documents, measures that cannot stream.
    """
    plan = _Plan.of(run, pairs)
    if few := [n for one in run.prepared if (n := len(one.kept)) < MINIMUM_SAMPLES]:
        raise UserError(f"{few[0]} documents are too few for CKA: give at least {MINIMUM_SAMPLES}")
    if any(pair.floors for pair in pairs):
        for one in run.prepared:
            check_permutations(run.settings, len(one.kept), streams=not plan.is_kept)
    for measure in _beside_cka(run.settings):
        most = measure.most_documents
        if most is not None and (many := [n for one in run.prepared if (n := len(one.kept)) > most]):
            raise UserError(
                f"measure {measure.name!r} compares every document with every other: {many[0]:,} documents are too "
                f"many, give at most {most:,}"
            )
    refused = next((measure.name for measure in _beside_cka(run.settings) if not measure.streams), None)
    if refused and not plan.is_kept:
        raise UserError(
            f"measure {refused!r} needs features that are kept, and these take more than --keep-features "
            f"{run.settings.keep_bytes:,} bytes: raise it, or take fewer documents or layers"
        )
    return plan


def _beside_cka(settings: Settings) -> list[Measure]:
    return [find_measure(name) for name in settings.measures if name != "cka"]


@dataclass(frozen=True)
class _Plan:
    """What each pair needs, and so each distinct model; whether the features of all are kept."""

    pairs: list[Pair]
    wanted: list[Wanted]
    layers: list[Layers]
    indices: list[list[int]]
    pairings: list[LayerPairing]
    depths: list[int]
    is_kept: bool

    @classmethod
    def of(cls, run: FeatureRun, pairs: Sequence[Pair]) -> _Plan:
        settings, depths = run.settings, run.depths
        own = [choose_pairing(depths[pair.a], depths[pair.b], settings) for pair in pairs]
        for at, pair in enumerate(pairs):
            if own[at].candidates and (pair.control is not None or not pair.whole):
                lacks = "a control is of fixed pairs" if pair.whole else "only pairs of layers are compared here"
                raise UserError(f"pairing 'best' does not fit: {lacks}; choose relative, index or a list of pairs")
            # A control is as deep as B: it is compared in B's layers of the pair, position by position.
            if pair.control is not None:
                second = own[at].needed[1]
                both = [(layer, layer) for _, layer in own[at].pairs]
                own[pair.control] = replace(own[at], pairs=both, needed=(second, second))
        needed: list[set[int]] = [set() for _ in run.sources]
        for pair, chosen in zip(pairs, own, strict=True):
            for model, asked in zip((pair.a, pair.b), chosen.needed, strict=True):
                needed[run.order[model]].update(range(depths[model]) if asked is None else asked)
        layers: list[Layers] = [
            None if some == set(range(len(outline.blocks))) else tuple(sorted(some))
            for some, outline in zip(needed, run.outlines, strict=True)
        ]
        indices = [
            list(range(len(outline.blocks))) if some is None else list(some)
            for outline, some in zip(run.outlines, layers, strict=True)
        ]
        wanted = []
        for pair, chosen in zip(pairs, own, strict=True):
            one, other = run.order[pair.a], run.order[pair.b]
            within = [(indices[one].index(i), indices[other].index(j)) for i, j in chosen.pairs]
            among = None if chosen.candidates is None else [indices[other].index(j) for j in chosen.candidates]
            wanted.append(Wanted(one, other, within, chosen.early, chosen.counted, pair.whole, among))
        places = [
            [len(outline.blocks) if layer == FINAL_NORM else layer for layer in some]
            for some, outline in zip(indices, run.outlines, strict=True)
        ]
        return cls(list(pairs), wanted, layers, places, own, depths, run.size(layers) <= settings.keep_bytes)

    def result(self, at: int, plain: FeatureComparison, **more: Any) -> PairResult:
        wanted, pair = self.wanted[at], self.pairs[at]
        return PairResult(
            pair,
            self.indices[wanted.first],
            self.indices[wanted.second],
            (self.depths[pair.a], self.depths[pair.b]),
            self.pairings[at].candidates,
            wanted.early_layers,
            plain,
            **more,
        )


def _kept_draw(run: FeatureRun, plan: _Plan, features: Sequence[Features], draw: int) -> DrawResult:
    return DrawResult(
        run.draws[draw],
        run.ids(draw),
        from_first(lambda: _kept_pairs(run, plan, features, run.rounding(draw), first=draw == 0)),
        [(features[at].extraction, 0) for at in run.order],
        [features[at].provenance for at in run.order],
    )


def _kept_pairs(
    run: FeatureRun, plan: _Plan, features: Sequence[Features], rounding: float, *, first: bool
) -> list[PairResult]:
    """The pairs of one draw; permuted documents are of the first alone, whose values the record holds."""
    settings = run.settings

    @cache
    def statistics(model: int) -> ModelStatistics:
        return ModelStatistics(list(features[model].layers.values()), device=run.device, rounding=rounding)

    @cache
    def rescaled_statistics(model: int) -> ModelStatistics:
        return statistics(model).rescaled()

    def compared(at: int, like: FeatureComparison | None = None) -> FeatureComparison:
        """The comparison, or that of rescaled features in the layer pairs of the plain one."""
        one, of = plan.wanted[at], statistics if like is None else rescaled_statistics
        return compare_statistics(
            of(one.first),
            of(one.second),
            one.pairs if like is None else like.pairs,
            one.early_layers,
            one.mean_layers,
            seed=settings.seed,
            matrices=one.whole,
            sides=plan.pairs[at].called,
            choose=one.choose() if like is None else None,
        )

    def ratio(at: int, control: int) -> DivergenceRatio:
        one, other = plan.wanted[at], plan.wanted[control]
        a, twin, b = (statistics(model) for model in (one.first, other.first, one.second))
        second = ratio_second_order(a, twin, b, plain[at], plain[control])
        return divergence_ratio(plain[at], plain[control], second)

    def measured(at: int) -> dict[str, list[Interval]]:
        one = plan.wanted[at]
        a, b, called = statistics(one.first), statistics(one.second), plan.pairs[at].called
        return {m.name: measure_pairs(m, a, b, plain[at].pairs, sides=called) for m in _beside_cka(settings)}

    def floors(one: PairResult, wanted: Wanted) -> Floors | None:
        if not (one.pair.floors and first):
            return None
        columns = [one.layers_b.index(layer) for layer in best_over(one)]
        a, b = statistics(wanted.first), statistics(wanted.second)
        return pair_floors(settings, a, b, one.plain, one.measures, columns)

    def both(wanted: Wanted) -> tuple[ModelStatistics, ModelStatistics]:
        return statistics(wanted.first), statistics(wanted.second)

    positions = range(len(plan.pairs))
    plain = [compared(at) for at in positions]
    rescaled = [compared(at, plain[at]) if settings.rescale else None for at in positions]
    ratios = [None if pair.control is None else ratio(at, pair.control) for at, pair in enumerate(plan.pairs)]
    found = [
        plan.result(at, plain[at], rescaled=rescaled[at], measures=measured(at), ratio=ratios[at]) for at in positions
    ]
    return [
        replace(one, floors=floors(one, wanted), **_deciding(one.plain, partial(both, wanted)))
        for one, wanted in zip(found, plan.wanted, strict=True)
    ]


def _deciding(plain: FeatureComparison, features: Callable[[], tuple[ModelStatistics, ModelStatistics]]) -> Any:
    """`deciding` and `without_deciding` of a pair.

    Args:
        features: of the documents that are left out in turn, called where a few decide.
    """
    known = {at: one for at in plain.mean_layers if (one := plain.leave_one_out[at]) is not None}
    if not known:
        return {}
    chosen = deciding_documents(np.mean(list(known.values()), axis=0))
    if not len(chosen):
        return {}
    mean = None
    if len(plain.left_out) == plain.n:
        rest = np.setdiff1d(np.arange(plain.n), chosen)
        a, b = (side.on(rest) for side in features())
        cka = normalise(*hsic_of_pairs(a, b, [plain.pairs[at] for at in known])["debiased"])
        mean = mean_divergence(cka.cpu().numpy())
    return {"deciding": plain.left_out[chosen].tolist(), "without_deciding": mean}


def _streamed_draws(run: FeatureRun, plan: _Plan, progress: Progress | None) -> list[DrawResult]:
    """As kept features would give it; models that are compared with each other are in memory together."""
    groups = _groups(plan.wanted)
    documents = sum(len(prepared.kept) for prepared in run.prepared)
    passes = Counter(at for chosen, _ in groups for at in chosen)
    announce(Work(run, "streamed", {at: float(times * len(run.draws)) for at, times in passes.items()}))
    stop_if_planning()
    told = Told(progress, documents * len(groups))
    draws = range(len(run.draws))
    found: list[dict[int, PairResult]] = [{} for _ in draws]
    extractions: list[dict[int, tuple[Extraction, int]]] = [{} for _ in draws]
    origins: dict[int, dict[str, Any]] = {}
    for chosen, members in groups:
        models = [run.load(at) for at in chosen]
        origins |= {at: model.provenance for at, model in zip(chosen, models, strict=True)}
        wanted = [
            replace(one, first=chosen.index(one.first), second=chosen.index(one.second))
            for one in (plan.wanted[at] for at in members)
        ]
        layers = [plan.layers[at] for at in chosen]
        for draw in draws:
            streamed = stream_draw(run, chosen, models, draw, layers, wanted, told)
            extractions[draw] |= {at: (streamed.extraction, place) for place, at in enumerate(chosen)}
            found[draw] |= from_first(partial(_streamed_pairs, run, plan, streamed, members, wanted))
            streamed.snapshot.finish()
    return [
        DrawResult(
            run.draws[draw],
            run.ids(draw),
            [found[draw][at] for at in range(len(plan.pairs))],
            [extractions[draw][at] for at in run.order],
            [origins[at] for at in run.order],
        )
        for draw in draws
    ]


def _groups(wanted: Sequence[Wanted]) -> list[tuple[list[int], list[int]]]:
    """Models that are linked by pairs, and those pairs; each model is in one group."""
    groups: list[tuple[set[int], list[int]]] = []
    for at, one in enumerate(wanted):
        models, members = {one.first, one.second}, [at]
        apart = []
        for group in groups:
            if group[0] & models:
                models, members = models | group[0], [*group[1], *members]
            else:
                apart.append(group)
        groups = [*apart, (models, members)]
    return [(sorted(models), sorted(members)) for models, members in groups]


def _streamed_pairs(
    run: FeatureRun, plan: _Plan, streamed: StreamedDraw, members: Sequence[int], wanted: Sequence[Wanted]
) -> dict[int, PairResult]:
    plain = {at: streamed.compare(one, called=plan.pairs[at].called) for at, one in zip(members, wanted, strict=True)}
    results = {}
    for at, one in zip(members, wanted, strict=True):
        control = plan.pairs[at].control
        results[at] = plan.result(
            at,
            plain[at],
            rescaled=streamed.compare(one, plain[at]) if run.settings.rescale else None,
            ratio=None
            if control is None
            else streamed.ratio(one, wanted[members.index(control)], plain[at], plain[control]),
            floors=Floors(reason="features were streamed") if plan.pairs[at].floors else None,
            **_deciding(plain[at], partial(streamed.sums.left_out, layers=streamed.sides.layers(one))),
        )
    return results


def known(value: float | None) -> float:
    """A number of the record in an array: NaN where it is null."""
    return np.nan if value is None else value


def divergences(pair: PairResult, estimator: str) -> np.ndarray:
    """Divergence of each layer pair, (pairs,) float64, NaN where undefined."""
    return np.array([known(getattr(layer, estimator).complement().value) for layer in pair.plain.layers])


def without_each(pair: PairResult) -> np.ndarray:
    """Debiased CKA of each layer pair without each document in turn, (pairs, documents), NaN where undefined."""
    nothing = np.full(len(pair.plain.left_out), np.nan)
    return np.stack([nothing if one is None else one for one in pair.plain.leave_one_out])
