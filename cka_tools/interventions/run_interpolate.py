"""The straight line between two models: is there a barrier, and how do representations change along it?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cka_tools.comparison.pairs import Pair, PairResult, compare_pairs
from cka_tools.comparison.readout_results import Interpolation
from cka_tools.comparison.record import INTERPOLATION, JsonObject, interval_entry, pair_entry, provenance
from cka_tools.comparison.warnings import grouped_warnings
from cka_tools.compute import CorpusGiven, FeatureRun, Progress, Told, open_run
from cka_tools.errors import UserError
from cka_tools.interventions.hybrids import Read, as_run, inputs_of, read_all, value_arrays
from cka_tools.interventions.readout_runs import (
    check_room,
    choose_readouts,
    draw_of,
    kept_settings,
    readout_summary,
    refuse_same,
)
from cka_tools.models import InterpolatedSource, ModelGiven, as_source
from cka_tools.models.folder import hash_json
from cka_tools.models.graft import interpolated, load_two
from cka_tools.models.parts import check_fit
from cka_tools.planning import Work, announce, stop_if_planning
from cka_tools.readouts import Inputs, Quantity, Readout
from cka_tools.readouts.features import DIVERGENCE
from cka_tools.readouts.of_models import quantities_of
from cka_tools.readouts.passes import Variant
from cka_tools.settings import Settings, takes_settings
from cka_tools.statistics.intervals import LEVEL, Interval
from cka_tools.statistics.paired import Reading

FEWEST_POINTS, MOST_POINTS = 3, 101


@takes_settings("interpolate")
def interpolate(
    model_a: ModelGiven,
    model_b: ModelGiven,
    corpus: CorpusGiven = "sample",
    *,
    points: int = 11,
    readout: Sequence[str] | None = None,
    settings: Settings | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Interpolation:
    """Read models along the straight line between the parameters of two.

    The excess of a point is how much worse it reads than the straight line between the ends' readings; the
    barrier is the largest excess between the ends. Its interval is simultaneous over the points (Bonferroni),
    so that choosing the largest does not make it too short. `models.interpolate` gives one such point as a model.

    Args:
        points: along the line, both ends among them, evenly apart.
        readout: names; by default the language model's own and "divergence" (to both ends).
        settings, options, progress: as `compare` takes them.

    Source: Frankle et al. (2020), Linear Mode Connectivity and the Lottery Ticket Hypothesis.

    Raises:
        UserError: input that does not fit, in one line.
    """
    if isinstance(points, bool) or not isinstance(points, int) or not FEWEST_POINTS <= points <= MOST_POINTS:
        raise UserError(f"points {points!r} is not a whole number from {FEWEST_POINTS} to {MOST_POINTS}")
    sources = [as_source(one) for one in (model_a, model_b)]
    refuse_same([one.name for one in sources], list(sources))
    run = open_run(sources, corpus, Settings.of(options, settings))
    check_fit(*run.outlines)
    refuse_same(run.names, [one.provenance.get("weights_sha256", at) for at, one in enumerate(run.outlines)])
    readouts = choose_readouts(run, readout, also=(DIVERGENCE,))
    check_room(run, readouts, points)
    announce(Work(run, "hybrids", {0: float(points * len(readouts))}))
    stop_if_planning()
    alphas = np.linspace(0, 1, points)
    found, inputs, origins = _read(run, alphas, readouts, progress)
    return _result(run, alphas, readouts, found, inputs, origins)


def _read(
    run: FeatureRun, alphas: np.ndarray, readouts: Sequence[Readout], progress: Progress | None
) -> tuple[list[Read], dict[str, Inputs], list[dict[str, Any]]]:
    """One point after the other: two models and the point's own parameters are in memory."""
    heads = any(one.head is not None for one in readouts)
    a, b = load_two(run.sources[0], run.sources[1], run.options.with_head(heads))
    found: list[Read] = []
    inputs = inputs_of(run, [a, b], readouts)
    told = Told(progress, sum(len(one.documents) for one in inputs.values()) * len(alphas))
    for alpha in alphas.tolist():
        variant = Variant(f"{a.name} at {alpha:g}", a, interpolated(a, b, alpha))
        found += read_all(run, [variant], inputs, readouts, told)[0]
    return found, inputs, [a.provenance, b.provenance]


def _result(
    run: FeatureRun,
    alphas: np.ndarray,
    readouts: Sequence[Readout],
    found: list[Read],
    inputs: dict[str, Inputs],
    ends: list[dict[str, Any]],
) -> Interpolation:
    last = len(alphas) - 1
    sources: list[Any] = [InterpolatedSource(run.sources[0], run.sources[1], alpha) for alpha in alphas.tolist()]
    origins = [
        ends[0]
        | {"spec": source.name, "kind": "made", **source.recipe()}
        | {"weights_sha256": hash_json([*(end["weights_sha256"] for end in ends), source.recipe()])}
        for source in sources
    ]
    sources[0], sources[last] = run.sources
    origins[0], origins[last] = ends
    whole = as_run(run, found, sources, origins)
    wanted = [Pair(at, end, called=("the point", f"the end {'ab'[end > 0].upper()}"))
              for at in range(len(alphas)) for end in (0, last) if at != end]  # fmt: skip
    compared = any(one.name == DIVERGENCE for one in readouts)
    own = [one for one in readouts if one.name != DIVERGENCE]
    draw = compare_pairs(whole, wanted)[0] if compared else draw_of(whole, origins)
    by_place = {(pair.pair.a, pair.pair.b): pair for pair in draw.pairs}
    points: list[JsonObject] = [{"alpha": alpha, "readouts": {}} for alpha in alphas.tolist()]
    barrier: JsonObject = {}
    readings = {one.name: [one.readings(read.rows[one.name], inputs[one.name]) for read in found] for one in own}
    for name, quantity in quantities_of(own).items():
        readout = next(one for one in own if name == f"{one.name}.{quantity.name}")
        read = [one[quantity.name] for one in readings[readout.name]]
        excesses = [excess(read[0], one, read[-1], alpha, quantity) for one, alpha in zip(read, alphas, strict=True)]
        for point, value, more in zip(points, read, excesses, strict=True):
            entry = {"value": interval_entry(value.interval()), "excess": interval_entry(more.interval())}
            point["readouts"][name] = entry
        at, interval = largest_excess(excesses[1:-1])
        barrier[name] = {**interval_entry(interval), "alpha": float(alphas[at + 1])}
    if compared:
        for at, point in enumerate(points):
            point["divergence"] = {
                letter: interval_entry(_mean(by_place.get((at, end)))) for letter, end in (("a", 0), ("b", last))
            }
    names = [f"the point {alphas[pair.pair.a]:g} and {pair.pair.called[1]}" for pair in draw.pairs]
    notes = [*draw.notes, *(note for one in inputs.values() for note in one.notes)]
    warnings = grouped_warnings(zip(names, draw.pairs, strict=True))
    summary = readout_summary(len(draw.ids), readouts, notes, warnings)
    summary |= {"names": run.names}
    roles = ["end", *["point"] * (last - 1), "end"]
    record: JsonObject = {
        "kind": INTERPOLATION,
        "summary": summary,
        "points": points,
        "barrier": barrier,
        "pairs": [pair_entry(pair, role=f"to {'ab'[pair.pair.b > 0]}") for pair in draw.pairs],
        "provenance": provenance(whole, [draw], roles, kept_settings(run.settings, readouts)),
    }
    return Interpolation(record, {"alpha": alphas} | value_arrays(readouts, found))


def _mean(pair: PairResult | None) -> Interval:
    """Mean divergence of a point from an end; of the end from itself 0."""
    return Interval(0.0, 0.0, 0.0) if pair is None else pair.plain.mean.debiased


def excess(start: Reading, value: Reading, end: Reading, alpha: float, quantity: Quantity) -> Reading:
    """How much worse a point reads than the straight line between the ends."""
    more = value - ((1 - alpha) * start + alpha * end)
    return more if quantity.better == "lower" else -1.0 * more


def largest_excess(excesses: Sequence[Reading]) -> tuple[int, Interval]:
    """Which point's excess is largest, and its interval, simultaneous over all of them.

    With bounds that hold for all points together, the largest true excess lies between the largest lower and
    the largest upper one.
    """
    level = 1 - (1 - LEVEL) / len(excesses)
    at = int(np.argmax([one.value for one in excesses]))
    intervals = [one.interval(level) for one in excesses]
    lows = [one.ci_low for one in intervals if one.ci_low is not None]
    highs = [one.ci_high for one in intervals if one.ci_high is not None]
    if not lows:
        return at, intervals[at]
    return at, Interval(excesses[at].value, max(lows), max(highs))
