"""How well checkpoints still do what they were trained for, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np

from cka_tools.comparison.readout_entries import readout_entries
from cka_tools.comparison.readout_results import Health
from cka_tools.comparison.record import HEALTH, JsonObject, interval_entry, provenance
from cka_tools.compute import CorpusGiven, Progress, open_run
from cka_tools.errors import UserError
from cka_tools.interventions.readout_runs import draw_of, kept_settings, readout_summary
from cka_tools.manifest import read_manifest, trained_tokens
from cka_tools.models import ModelGiven
from cka_tools.readouts.of_models import ModelReadings, language_readout, quantities_of, read_models
from cka_tools.settings import Settings, takes_settings


@takes_settings("health")
def health(
    models: Sequence[ModelGiven],
    corpus: CorpusGiven = "sample",
    *,
    readout: str | None = None,
    settings: Settings | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Health:
    """Read the language-model loss and accuracy of checkpoints over the same documents and the same targets.

    Costs one pass a model. Differences between models of one tokenizer are paired over documents.

    Args:
        readout: "mlm" or "clm"; by default what the models' heads are made for.
        settings, options, progress: as `compare` takes them.

    Raises:
        UserError: input that does not fit, in one line; a model without a language-model head.
    """
    if not models:
        raise UserError("no model is given: name one or more")
    run = open_run(models, corpus, Settings.of(options, settings))
    found = language_readout(run, readout)
    if found.head is None:
        raise UserError(f"readout {found.name!r} is not of a language model: give mlm or clm")
    each = read_models(run, found, progress)
    read = [each[at] for at in run.order]
    notes = [*run.draws[0].notes, *run.prepared[0].notes, *(note for one in read for note in one.notes)]
    if len({one.tokenizer for one in read}) > 1:
        notes.append("Models of different tokenizers predict other tokens: their losses are not compared.")
    draw = draw_of(run, [one.provenance for one in read])
    quantities = quantities_of([found])
    record: JsonObject = {
        "kind": HEALTH,
        "summary": readout_summary(len(draw.ids), [found], notes),
        "models": [
            {
                "name": name,
                "tokens": trained_tokens(read_manifest(run.sources[at].folder)),
                "weights_sha256": one.provenance["weights_sha256"],
                "readouts": readout_entries(found.name, one),
            }
            for name, at, one in zip(run.names, run.order, read, strict=True)
        ],
        "differences": [
            {"a": a, "b": b, "readouts": _differences(found.name, read[a], read[b])}
            for b, a in combinations(range(len(read)), 2)
            if read[a].tokenizer == read[b].tokenizer
        ],
        "pairs": [],
        "provenance": provenance(run, [draw], ["model"] * len(read), kept_settings(run.settings, [found])),
    }
    n = len(draw.ids)
    arrays = {
        name: np.stack([one.values[name.rpartition(".")[2]] for one in read]).reshape(len(read), n)
        for name in quantities
    }
    return Health(record, arrays)


def _differences(readout: str, a: ModelReadings, b: ModelReadings) -> JsonObject:
    """a − b."""
    return {
        f"{readout}.{name}": interval_entry((reading - b.readings[name]).interval())
        for name, reading in a.readings.items()
    }
