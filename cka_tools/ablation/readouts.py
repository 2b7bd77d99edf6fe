"""What readouts say of an ablation's checkpoints: each cell's detour, baseline and control, and what is between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cka_tools.ablation.fine_tuned import EVALUATE, FineTuned, fine_tuned
from cka_tools.comparison.record import JsonObject, interval_entry
from cka_tools.compute import FeatureRun, Progress
from cka_tools.errors import UserError
from cka_tools.interventions.readout_runs import choose_readouts
from cka_tools.readouts import Readout
from cka_tools.readouts.features import DIVERGENCE
from cka_tools.readouts.of_models import read_models
from cka_tools.readouts.passes import drawn_inputs
from cka_tools.statistics.intervals import Interval
from cka_tools.statistics.paired import Reading


def readouts_of(run: FeatureRun, names: Sequence[str]) -> list[Readout | FineTuned]:
    """The readouts that were asked for, none by default; checked as far as that needs no weights.

    Raises:
        UserError: an unknown name, one that needs another kind of model, or divergence, which every cell has.
    """
    if DIVERGENCE in names:
        raise UserError("readout 'divergence' is what an ablation compares anyway: leave it out")
    if bare := [name for name in names if name in (EVALUATE, EVALUATE.rstrip(":"))]:
        raise UserError(f"readout {bare[0]!r} does not fit: write it like {EVALUATE}TASK")
    plain = [name for name in names if not name.startswith(EVALUATE)]
    found = choose_readouts(run, plain) if plain else []
    for readout in found:
        readout.inputs(run.outlines[0], drawn_inputs(run, 0, run.outlines), run.settings)
    tuned = [fine_tuned(run, name) for name in dict.fromkeys(names) if name not in plain]
    called = [one.name for one in tuned]
    if twice := next((name for at, name in enumerate(called) if name in called[:at]), None):
        raise UserError(f"two readouts have the name {twice!r}: rename a file, or leave one out")
    return [*found, *tuned]


@dataclass(frozen=True)
class CellReadouts:
    """Readings of the distinct models of a run, by quantity ("readout.quantity").

    Attributes:
        of: of each model that was given.
    """

    of: Sequence[Mapping[str, Reading]]
    notes: list[str]

    def entry(self, detour: int, baseline: int, control: int | None) -> JsonObject:
        """What a cell's record holds of every quantity: three values, and both differences from the baseline.

        Args:
            detour, baseline, control: positions among the models that were given.
        """
        nothing = interval_entry(Interval(None, reason="no baseline of another seed"))
        found: JsonObject = {}
        for name, base in self.of[baseline].items():
            own, twin = self.of[detour][name], None if control is None else self.of[control][name]
            found[name] = {
                "detour": interval_entry(own.interval()),
                "baseline": interval_entry(base.interval()),
                "control": nothing if twin is None else interval_entry(twin.interval()),
                "difference": interval_entry((own - base).interval()),
                "noise": nothing if twin is None else interval_entry((twin - base).interval()),
            }
        return found


def read_cells(
    run: FeatureRun,
    readouts: Sequence[Readout | FineTuned],
    progress: Progress | None = None,
    parts: Path | None = None,
) -> CellReadouts:
    """Read every distinct checkpoint, one pass a readout; or fine-tune it.

    Args:
        parts: where finished fine-tunings are kept and found again.

    Raises:
        UserError: as `read_models`.
    """
    whole = replace(run, settings=replace(run.settings, layers=None))  # a readout's last layer is the model's
    each: list[dict[str, Reading]] = [{} for _ in run.sources]
    notes: list[str] = []
    for readout in readouts:
        if isinstance(readout, FineTuned):
            for own, scores in zip(each, readout.read(run, parts, progress), strict=True):
                own |= {f"{readout.name}.{name}": reading for name, reading in scores.items()}
            notes.append(readout.note())
            continue
        for own, found in zip(each, read_models(whole, readout, progress), strict=True):
            own |= {f"{readout.name}.{name}": reading for name, reading in found.readings.items()}
            notes += found.notes
    return CellReadouts([each[at] for at in run.order], list(dict.fromkeys(notes)))
