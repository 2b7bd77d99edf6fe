"""Base, donor and every graft between them, read over the same documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from cka_tools.compute import FeatureRun, Features, Layers, Progress, Told
from cka_tools.extraction.extract import Extraction, describe
from cka_tools.models import LoadedModel
from cka_tools.models.parts import places_of, tensors_of
from cka_tools.readouts import Inputs, Readout, Rows
from cka_tools.readouts.passes import Cost, Variant, drawn_inputs, read_variants


@dataclass
class Read:
    """What readouts read of one model or hybrid.

    Attributes:
        rows: by readout.
        model: whose provenance and blocks it has.
    """

    name: str
    model: LoadedModel
    rows: dict[str, Rows] = field(default_factory=dict)


def hybrid(name: str, base: LoadedModel, donor: LoadedModel, taken: set[str]) -> Variant:
    """The base with some of the donor's parameters, by name."""
    theirs = {key: tensor for key, tensor in tensors_of(donor).items() if key in taken}
    return Variant(name, base, theirs, units_of(base, taken))


def units_of(base: LoadedModel, taken: set[str]) -> tuple[frozenset[str], ...]:
    """What is taken before the blocks, then in each block."""
    by_block: dict[int, set[str]] = {at: set() for at in range(-1, len(base.blocks))}
    for name, (block, part) in places_of(base).items():
        if name in taken and (block is not None or part == "embeddings"):
            by_block[-1 if block is None else block].add(name)
    return tuple(frozenset(names) for names in by_block.values())


def everything(base: LoadedModel) -> set[str]:
    """The names of all parameters."""
    return set(places_of(base))


def inputs_of(run: FeatureRun, models: Sequence[LoadedModel], readouts: Sequence[Readout]) -> dict[str, Inputs]:
    """What every readout reads, by its name.

    Args:
        models: all that must be able to read the batches, the first one as the run's first model.
    """
    drawn = drawn_inputs(run, 0, models)
    return {readout.name: readout.inputs(models[0], drawn, run.settings) for readout in readouts}


def read_all(
    run: FeatureRun, variants: Sequence[Variant], inputs: dict[str, Inputs], readouts: Sequence[Readout], told: Told
) -> tuple[list[Read], Cost]:
    """Read variants with every readout, batch by batch together."""
    found = [Read(one.name, one.model) for one in variants]
    cost = Cost()
    for readout in readouts:
        own = inputs[readout.name]
        rows, spent = read_variants(variants, own, readout, run.settings, told, run.prepared[0].positions)
        cost += spent
        for one, values in zip(found, rows, strict=True):
            one.rows[readout.name] = values
    return found, cost


def value_arrays(readouts: Sequence[Readout], reads: Sequence[Read]) -> dict[str, np.ndarray]:
    """One number a document of everything that was read, under "readout.quantity", where readouts give some."""
    return {
        f"{readout.name}.{one.name}": np.stack([read.rows[readout.name][one.name] for read in reads])
        for readout in readouts
        for one in readout.quantities
        if one.name in reads[0].rows[readout.name]
    }


@dataclass(frozen=True)
class ReadRun(FeatureRun):
    """A run whose features are there already: the engine compares them as it does any."""

    found: list[list[Features]] = field(default_factory=list)

    def features(self, layers: Sequence[Layers], progress: Progress | None = None) -> list[list[Features]]:
        """Those that were read."""
        return self.found


def as_run(
    run: FeatureRun, found: Sequence[Read], sources: Sequence[Any], provenance: Sequence[dict[str, Any]]
) -> ReadRun:
    """A run of everything that was read, in this order, each a model of its own.

    Args:
        sources: of each, by which it is named.
    """
    first = run.outlines[0]
    outlines = [replace(first, name=source.name) for source in sources]
    for outline, one in zip(outlines, found, strict=True):
        outline.blocks = one.model.blocks
    prepared = replace(run.prepared[0], tables=[run.prepared[0].tables[0]] * len(found))
    order = list(range(len(found)))
    features = [
        [_features(run, one, source, origin)] for one, source, origin in zip(found, sources, provenance, strict=True)
    ]
    return ReadRun(list(sources), outlines, order, run.draws, [prepared], run.settings, run.options, {}, found=features)


def _features(run: FeatureRun, one: Read, source: Any, origin: dict[str, Any]) -> Features:
    prepared = run.prepared[0]
    extraction: Extraction = describe([one.model], replace(prepared, tables=[prepared.tables[0]]), [], [], ["off"])
    layers: dict[int, np.ndarray] = {}
    for name, values in one.rows.get("divergence", {}).items():
        draws = np.ascontiguousarray(values.transpose(1, 0, 2))
        layers[int(name)] = draws if run.settings.draws else draws[0]
    return Features(source.name, len(one.model.blocks), layers, run.ids(0), origin, extraction)
