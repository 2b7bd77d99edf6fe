"""What a study costs before it runs: a few batches of every model are timed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

import torch

from cka_tools.comparison.record import JsonObject
from cka_tools.compute import FeatureRun
from cka_tools.extraction.batches import make_batch
from cka_tools.models import ModelSource
from cka_tools.studies.run_study import Prepared

BATCHES = 3
"""Timed of a model, after one that also pays for what is set up once."""

MODELS_IN_MEMORY = 2
"""At once: grafts and interpolations hold two."""


@dataclass(frozen=True)
class Speed:
    """How fast a model is.

    Attributes:
        seconds: a pass over one token. parameters: their bytes.
    """

    seconds: float
    parameters: int


def measure(
    samples: Mapping[ModelSource, tuple[FeatureRun, int]], told: Callable[[str], None] | None = None
) -> dict[ModelSource, Speed]:
    """Load every model that is to run, which makes the checks of loading, and time a few of its batches.

    Args:
        samples: as `Costs` has them. told: called with the name of each model.

    Raises:
        UserError: a model that does not load.
    """
    speeds: dict[ModelSource, Speed] = {}
    for source, (run, at) in samples.items():
        if told is not None:
            told(source.name)
        speeds[source] = _measure(run, at)
    return speeds


def _measure(run: FeatureRun, at: int) -> Speed:
    model, prepared = run.load(at), run.prepared[0]
    table, batches = prepared.tables[at], prepared.plan.batches
    # Evenly apart: batches are sorted by length.
    chosen = [batches[at * (len(batches) - 1) // max(1, BATCHES - 1)] for at in range(BATCHES)]
    times = []
    for rows in [chosen[0], *chosen]:
        if model.needs_equal_lengths:
            rows = rows[:1]
        batch = make_batch(table, rows, model.device)
        began = time.perf_counter()
        with model.evaluating():
            model.run(batch.input_ids, batch.attention_mask, return_dict=True)
            if model.device.type == "cuda":
                torch.cuda.synchronize(model.device)
        tokens = int(sum(table.lengths[list(rows)]))
        times.append((time.perf_counter() - began) / max(1, tokens))
    size = sum(p.numel() * p.element_size() for p in model.model.parameters())
    return Speed(median(times[1:]), size)


def estimate(prepared: Prepared, speeds: dict[ModelSource, Speed]) -> JsonObject:
    """Passes, tokens, seconds, memory and disk of what is to be run; statistics and figures are not counted.

    Memory is that of the largest models at once and of the features of the largest run; disk that of features
    which the store does not have.
    """
    todo = [one for one in prepared.costs.passes if not one.there]
    by_job: dict[str, int] = {}
    for one in prepared.costs.passes:
        by_job[one.job] = by_job.get(one.job, 0) + one.bytes
    largest = max((one.parameters for one in speeds.values()), default=0)
    return {
        "passes": sum(one.passes for one in todo),
        "tokens": round(sum(one.passes * one.tokens for one in todo)),
        "seconds": sum(one.passes * one.tokens * speeds[one.source].seconds for one in todo),
        "memory": MODELS_IN_MEMORY * largest + max(by_job.values(), default=0),
        "disk": sum(one.bytes for one in todo),
    }
