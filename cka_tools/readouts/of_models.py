"""A language-model readout of each model of a run, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cka_tools.compute import FeatureRun, Progress, Told
from cka_tools.errors import UserError
from cka_tools.extraction.tokens import tokenizer_of
from cka_tools.models import head_of
from cka_tools.models.language import HEADS
from cka_tools.planning import Work, announce, stop_if_planning
from cka_tools.readouts import Quantity, Readout, find_readout
from cka_tools.readouts.passes import Variant, drawn_inputs, read_variants
from cka_tools.statistics.paired import Reading

OF_HEAD = {"masked": "mlm", "causal": "clm"}
"""The readout of each kind of language-model head."""


def language_readout(run: FeatureRun, name: str | None = None) -> Readout:
    """The readout `name`, or else the one that the models' heads are made for, before any weights are read.

    Raises:
        UserError: a model without a head, heads of two kinds, or a readout that needs the other kind.
    """
    kinds = [head_of(source, run.options.with_head()) for source in run.sources]
    found = find_readout(OF_HEAD[kinds[0]] if name is None else name)
    for source, kind in zip(run.sources, kinds, strict=True):
        if found.head not in (None, kind):
            fits = f"give --readout {OF_HEAD[kind]}" if len(set(kinds)) == 1 else "give models of one kind"
            raise UserError(
                f"readout {found.name!r} needs a {HEADS[found.head]} head, and {source.name!r} has a {HEADS[kind]} "
                f"one: {fits}"
            )
    return found


@dataclass(frozen=True)
class ModelReadings:
    """What a readout says of one model.

    Attributes:
        readings: by quantity. values: by quantity one number a document, (n,) float64.
        provenance: of the model. tokenizer: its content hash: only models of one share their targets.
    """

    readings: dict[str, Reading]
    values: dict[str, np.ndarray]
    provenance: dict[str, Any]
    tokenizer: str
    notes: list[str]


def read_models(run: FeatureRun, readout: Readout, progress: Progress | None = None) -> list[ModelReadings]:
    """Read every distinct model of a run: loaded, one pass over the documents, let go.

    Raises:
        UserError: as `ModelSource.load` and `read_variants`.
    """
    announce_readings(run)
    stop_if_planning()
    told: Told | None = None
    found: list[ModelReadings] = []
    for at, source in enumerate(run.sources):
        first = run.copies.get(at)
        if first is not None:
            found.append(found[first])
            continue
        loaded = source.load(run.options.with_head(readout.head is not None))
        inputs = readout.inputs(loaded, drawn_inputs(run, at, [loaded]), run.settings)
        told = told or Told(progress, len(inputs.documents) * (len(run.sources) - len(run.copies)))
        rows, _ = read_variants([Variant(source.name, loaded)], inputs, readout, run.settings, told)
        notes = [*loaded.notes, *inputs.notes]
        readings = readout.readings(rows[0], inputs)
        found.append(ModelReadings(readings, rows[0], loaded.provenance, tokenizer_of(loaded), notes))
    return found


def announce_readings(run: FeatureRun) -> None:
    """Tell of the passes of `read_models`."""
    announce(Work(run, "readings", {at: 1.0 for at in range(len(run.sources)) if at not in run.copies}))


def quantities_of(readouts: Sequence[Readout]) -> dict[str, Quantity]:
    """Every quantity under "readout.quantity", in order."""
    return {f"{readout.name}.{one.name}": one for readout in readouts for one in readout.quantities}
