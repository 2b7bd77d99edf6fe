"""Parts of one model in another: how much of what they differ in moves with each part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cka_tools.comparison.layer_pairs import early_layers
from cka_tools.comparison.pairs import DrawResult, Pair, PairResult, compare_pairs
from cka_tools.comparison.readout_results import Transplant
from cka_tools.comparison.record import TRANSPLANT, JsonObject, control_noise, interval_entry, pair_entry, provenance
from cka_tools.comparison.warnings import grouped_warnings
from cka_tools.compute import CorpusGiven, FeatureRun, Progress, Told, open_run
from cka_tools.interventions.hybrids import Read, as_run, everything, hybrid, inputs_of, read_all, value_arrays
from cka_tools.interventions.plan import THIRDS, Graft, Groups, plan_grafts
from cka_tools.interventions.readout_runs import (
    ROLES,
    check_room,
    choose_readouts,
    draw_of,
    kept_settings,
    readout_summary,
    refuse_same,
)
from cka_tools.interventions.save import check_target, save_graft
from cka_tools.models import GraftSource, LoadedModel, ModelGiven, as_source
from cka_tools.models.folder import hash_json
from cka_tools.models.graft import load_two
from cka_tools.models.parts import check_fit, check_heads, select
from cka_tools.planning import Work, announce, stop_if_planning
from cka_tools.processes import from_first
from cka_tools.readouts import Inputs, Readout
from cka_tools.readouts.features import DIVERGENCE
from cka_tools.readouts.of_models import quantities_of
from cka_tools.readouts.passes import Cost
from cka_tools.settings import Settings, takes_settings
from cka_tools.statistics.intervals import Interval
from cka_tools.statistics.paired import Reading, divergence_reading, share_of_gap

FORWARD, CONTROL, REVERSE = "transplant", "control", "reverse"


@takes_settings("transplant")
def transplant(
    base: ModelGiven,
    donor: ModelGiven,
    corpus: CorpusGiven = "sample",
    *,
    layers: Groups = THIRDS,
    parts: Sequence[str | Sequence[str]] = ("all", "attention", "mlp"),
    readout: Sequence[str] | None = None,
    control: ModelGiven | None = None,
    reverse: bool = False,
    save: str | Path | None = None,
    settings: Settings | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Transplant:
    """Graft parts of a donor into a base and read how far each hybrid moves from the base to the donor.

    recovery = (hybrid − base) / (donor − base), with Fieller's interval over documents; it is refused where the
    gap donor − base is not clear of 0. For `divergence` it is 1 − d(hybrid, donor) / d(base, donor) over the
    layers from the first grafted one on, as none below can move.

    Args:
        layers: groups of layers; "thirds", or a list of lists. Each is grafted with each of `parts`, then all
            layers, where the groups hold all.
        parts: see `models.graft`; a sequence within it is grafted together.
        readout: names, such as "mlm", "clm", "divergence"; by default the language model's own.
        control: the base trained with another seed, as donor: what any mismatch costs, as a share of the gap
            between base and donor.
        reverse: also graft the base's parts into the donor.
        save: directory to make of the one graft that is asked for, as `save_pretrained` writes it, with a card.
        settings, options, progress: as `compare` takes them.

    Raises:
        UserError: input that does not fit, in one line.
    """
    sources = [as_source(one) for one in (base, donor, *([] if control is None else [control]))]
    refuse_same([source.name for source in sources], list(sources), ROLES)
    run = open_run(sources, corpus, Settings.of(options, settings))
    for other in run.outlines[1:]:
        check_fit(run.outlines[0], other)
    refuse_same(run.names, [one.provenance.get("weights_sha256", at) for at, one in enumerate(run.outlines)], ROLES)
    grafts = plan_grafts(run.depths[0], layers, parts)
    readouts = choose_readouts(run, readout)
    check_room(run, readouts, len(grafts) * (1 + (control is not None) + reverse) + 2)
    if save is not None:
        from_first(lambda: check_target(Path(save), grafts))
    announce(Work(run, "hybrids", {0: _passes(run, grafts, reverse=reverse) * len(readouts)}))
    stop_if_planning()
    done = _read(run, grafts, readouts, reverse=reverse, progress=progress)
    result = _result(run, grafts, readouts, done, reverse=reverse)
    if save is not None:
        made = GraftSource(sources[0], sources[1], grafts[0].layers, grafts[0].parts)
        from_first(lambda: save_graft(made, Path(save), run.options))
        result.summary["notes"].append(f"The graft is saved in {save}.")
    return result


def _passes(run: FeatureRun, grafts: Sequence[Graft], *, reverse: bool) -> float:
    """Whole passes of the hybrids, each from its first block that differs on, and of the models themselves; at most."""
    depth = run.depths[0]
    shares = sum((depth - first) / depth for one in grafts if (first := one.first_block()) is not None)
    controls = len(run.sources) - 2
    return 2 + shares * (1 + reverse) + controls * (2 + shares)


@dataclass
class _Done:
    """Everything that was read: base, donor, the grafts of each direction, the control itself."""

    base: Read
    donor: Read
    grafted: dict[str, list[Read]]
    inputs: dict[str, Inputs]
    cost: Cost
    origins: list[dict[str, Any]]
    control: Read | None = None


def _read(
    run: FeatureRun, grafts: Sequence[Graft], readouts: Sequence[Readout], *, reverse: bool, progress: Progress | None
) -> _Done:
    """Two models at a time: base and donor with both directions, then base and control."""
    heads = any(one.head is not None for one in readouts)
    options = run.options.with_head(heads)
    groups = len(run.sources) - 1
    base, donor = load_two(run.sources[0], run.sources[1], options)
    taken = [select(base, one.layers, one.parts) for one in grafts]
    all_of_it = everything(base)

    def variants(other: LoadedModel, sets: Sequence[set[str]]) -> list[Any]:
        return [hybrid(other.name, base, other, names) for names in sets]

    sets = [set(), all_of_it, *taken, *([all_of_it - names for names in taken] if reverse else [])]
    inputs = inputs_of(run, [base, donor], readouts)
    told = Told(progress, sum(len(one.documents) for one in inputs.values()) * groups)
    found, cost = read_all(run, variants(donor, sets), inputs, readouts, told)
    count = len(grafts)
    grafted = {FORWARD: found[2 : 2 + count]} | ({REVERSE: found[2 + count :]} if reverse else {})
    done = _Done(found[0], found[1], grafted, inputs, cost, [base.provenance, donor.provenance])
    if groups > 1:
        del donor
        twin = run.sources[2].load(options)
        check_heads(base, twin)
        of_twin = inputs_of(run, [base, twin], readouts)
        found, cost = read_all(run, variants(twin, [set(), all_of_it, *taken]), of_twin, readouts, told)
        done.control, done.grafted[CONTROL] = found[1], found[2:]
        done.cost += cost
        done.origins.append(twin.provenance)
    return done


def _result(
    run: FeatureRun, grafts: Sequence[Graft], readouts: Sequence[Readout], done: _Done, *, reverse: bool
) -> Transplant:
    directions = [name for name in (FORWARD, CONTROL, REVERSE) if name in done.grafted]
    ends = [done.base, done.donor, *([] if done.control is None else [done.control])]
    reads = [*ends, *(one for name in directions for one in done.grafted[name])]
    roles = ["base", "donor", "control"][: len(ends)] + [f"{name} hybrid" for name in directions for _ in grafts]
    sources: list[Any] = list(run.sources)
    origins = list(done.origins)
    for name in directions:
        a, b = {FORWARD: (0, 1), CONTROL: (0, 2), REVERSE: (1, 0)}[name]
        for one in grafts:
            made = GraftSource(run.sources[a], run.sources[b], one.layers, one.parts)
            identity = hash_json([done.origins[at]["weights_sha256"] for at in (a, b)] + [made.recipe()])
            origins.append(
                done.origins[a] | {"spec": made.name, "kind": "made", **made.recipe(), "weights_sha256": identity}
            )
            sources.append(made)
    whole = as_run(run, reads, sources, origins)
    pairs = _pairs(len(ends), directions, len(grafts)) if any(one.name == DIVERGENCE for one in readouts) else []
    draw = compare_pairs(whole, pairs)[0] if pairs else draw_of(whole, origins)
    readings = _Readings(readouts, done.inputs, reads, draw.pairs)
    entries = []
    at = len(ends)
    for name in directions:
        for one in grafts:
            entries.append(_hybrid(readings, name, one, at))
            at += 1
    record: JsonObject = {
        "kind": TRANSPLANT,
        "summary": _summary(run, readouts, done, draw, roles),
        "ends": [
            {"role": role, "name": source.name, "readouts": readings.entries(at)}
            for at, (role, source) in enumerate(zip(roles[: len(ends)], sources, strict=False))
        ],
        "gap": readings.gaps(),
        "hybrids": entries,
        "additivity": _additivity(readings, directions, grafts, len(ends)),
        "pairs": [
            pair_entry(pair, role="to donor" if pair.pair.called[1] == "the donor" else "to base")
            for pair in draw.pairs
        ],
        "provenance": provenance(whole, [draw], roles, kept_settings(run.settings, readouts)),
    }
    return Transplant(record, value_arrays(readouts, reads))


def _pairs(ends: int, directions: Sequence[str], count: int) -> list[Pair]:
    """Every hybrid, and the control, with donor and base; base and donor first."""
    called = ("the hybrid", "the base"), ("the hybrid", "the donor")
    pairs = [Pair(0, 1, called=("the base", "the donor"))]
    for at in range(2, ends + len(directions) * count):
        pairs += [Pair(at, 0, called=called[0]), Pair(at, 1, called=called[1])]
    return pairs


class _Readings:
    """Readings of every model by quantity; divergences are of pairs."""

    def __init__(
        self, readouts: Sequence[Readout], inputs: dict[str, Inputs], reads: Sequence[Read], pairs: Sequence[PairResult]
    ) -> None:
        self.quantities = quantities_of(readouts)
        self._own: list[dict[str, Reading]] = []
        for read in reads:
            found: dict[str, Reading] = {}
            for readout in readouts:
                if readout.name != DIVERGENCE:
                    of = readout.readings(read.rows[readout.name], inputs[readout.name])
                    found |= {f"{readout.name}.{name}": reading for name, reading in of.items()}
            self._own.append(found)
        self._pairs = {(pair.pair.a, pair.pair.b): pair for pair in pairs}

    def own(self, at: int, quantity: str) -> Reading:
        return self._own[at][quantity]

    def is_own(self, quantity: str) -> bool:
        return not quantity.startswith(DIVERGENCE)

    def entries(self, at: int) -> JsonObject:
        """Of base, donor or control: every quantity with its interval; the divergence is that from the donor."""
        found = {}
        for name in self.quantities:
            if self.is_own(name):
                found[name] = interval_entry(self.own(at, name).interval())
            elif at == 1:
                found[name] = interval_entry(Interval(0.0, 0.0, 0.0))
            else:
                found[name] = interval_entry(_from(self._pairs[at, 1], 0).interval())
        return found

    def gaps(self) -> JsonObject:
        """donor − base of every quantity."""
        found = {}
        for name in self.quantities:
            own = self.is_own(name)
            gap = self.own(1, name) - self.own(0, name) if own else -1.0 * _from(self._pairs[0, 1], 0)
            found[name] = interval_entry(gap.interval())
        return found

    def parts(
        self, at: int, direction: str, quantity: str, first: int | None
    ) -> tuple[Reading, Reading, Reading] | str:
        """Value, hybrid − start and end − start of a hybrid, or why there are none.

        Args:
            first: the first layer that may change.
        """
        start, end = (1, 0) if direction == REVERSE else (0, 1)
        if self.is_own(quantity):
            value, begun = self.own(at, quantity), self.own(start, quantity)
            return value, value - begun, self.own(end, quantity) - begun
        if first is None:
            return "no layer's output changes: only what lies behind the last layer is grafted"
        value, whole = _from(self._pairs[at, end], first), _from(self._pairs[0, 1], first)
        return value, value - whole, -1.0 * whole


def _from(pair: PairResult, first: int) -> Reading:
    """Mean divergence over the layers from one on."""
    chosen = [at for at, layer in enumerate(pair.plain.layers) if pair.layers_a[layer.layer_a] >= first]
    return divergence_reading(pair.plain, chosen)


def _hybrid(readings: _Readings, direction: str, graft: Graft, at: int) -> JsonObject:
    found: JsonObject = {}
    for name in readings.quantities:
        parts = readings.parts(at, direction, name, graft.first_block())
        if isinstance(parts, str):
            nothing = interval_entry(Interval(None, reason=parts))
            found[name] = {"value": nothing, "difference": nothing, "recovery": nothing}
            continue
        value, difference, gap = parts
        found[name] = {
            "value": interval_entry(value.interval()),
            "difference": interval_entry(difference.interval()),
            "recovery": interval_entry(share_of_gap(difference, gap, "the gap between base and donor")),
        }
    layers = None if graft.layers is None else list(graft.layers)
    return {
        "direction": direction,
        "layers": layers,
        "parts": list(graft.parts),
        "label": graft.label,
        "model": at,
        "readouts": found,
    }


def _additivity(readings: _Readings, directions: Sequence[str], grafts: Sequence[Graft], ends: int) -> list[JsonObject]:
    """The sum of the groups' recoveries beside that of all layers at once, for each of the parts."""
    found = []
    for number, direction in enumerate(directions):
        if direction == CONTROL:
            continue
        for at, whole in enumerate(grafts):
            groups = [
                i for i, one in enumerate(grafts) if one.parts == whole.parts and one.layers is not None and one.layers
            ]
            if whole.layers is not None or len(groups) < 2:
                continue
            for name in filter(readings.is_own, readings.quantities):
                place = ends + number * len(grafts)
                parts = [readings.parts(place + i, direction, name, 0) for i in (at, *groups)]
                (_, of_whole, gap), *each = [one for one in parts if not isinstance(one, str)]
                total = each[0][1]
                for one in each[1:]:
                    total = total + one[1]
                shares = {"sum": total, "whole": of_whole, "difference": total - of_whole}
                entry = {key: interval_entry(share_of_gap(part, gap)) for key, part in shares.items()}
                found.append({"direction": direction, "parts": list(whole.parts), "quantity": name, **entry})
    return found


def _summary(
    run: FeatureRun, readouts: Sequence[Readout], done: _Done, draw: DrawResult, roles: Sequence[str]
) -> JsonObject:
    names = [f"{roles[pair.pair.a]} and {roles[pair.pair.b]}" for pair in draw.pairs]
    notes = [*draw.notes, *(note for one in done.inputs.values() for note in one.notes)]
    summary = readout_summary(len(draw.ids), readouts, notes, grouped_warnings(zip(names, draw.pairs, strict=True)))
    summary |= {"early_layers": list(early_layers(run.depths[0], run.settings.early))}
    summary |= {"cost": {"blocks": done.cost.blocks, "blocks_naive": done.cost.naive}}
    return summary | ({} if done.control is None else {"noise": control_noise(run, 0, 2)})
