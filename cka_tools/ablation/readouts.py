"""What readouts say of an ablation's checkpoints: each cell's detour, baseline and control, and what is between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from cka_tools.comparison.record import JsonObject, interval_entry
from cka_tools.compute import FeatureRun, Progress
from cka_tools.errors import UserError
from cka_tools.interventions.readout_choice import choose_readouts
from cka_tools.readouts import Readout
from cka_tools.readouts.features import DIVERGENCE
from cka_tools.readouts.of_models import read_models
from cka_tools.readouts.passes import drawn_inputs
from cka_tools.statistics.intervals import Interval
from cka_tools.statistics.paired import Reading


def readouts_of(run: FeatureRun, names: Sequence[str]) -> list[Readout]:
    """The readouts that were asked for, none by default; checked as far as that needs no weights.

    Raises:
        UserError: an unknown name, one that needs another kind of model, or divergence, which every cell has.
    """
    if DIVERGENCE in names:
        raise UserError("readout 'divergence' is what an ablation compares anyway: leave it out")
    found = choose_readouts(run, names) if names else []
    for readout in found:
        readout.inputs(run.outlines[0], drawn_inputs(run, 0, run.outlines), run.settings)
    return found


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


def read_cells(run: FeatureRun, readouts: Sequence[Readout], progress: Progress | None = None) -> CellReadouts:
    """Read every distinct checkpoint, one pass a readout.

    Raises:
        UserError: as `read_models`.
    """
    whole = replace(run, settings=replace(run.settings, layers=None))  # a readout's last layer is the model's
    each: list[dict[str, Reading]] = [{} for _ in run.sources]
    notes: list[str] = []
    for readout in readouts:
        for own, found in zip(each, read_models(whole, readout, progress), strict=True):
            own |= {f"{readout.name}.{name}": reading for name, reading in found.readings.items()}
            notes += found.notes
    return CellReadouts([each[at] for at in run.order], list(dict.fromkeys(notes)))
