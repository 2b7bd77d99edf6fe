"""A reference and checkpoints, one corpus: from specs to a trajectory, one pass a model."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from cka_tools.comparison.checkpoint_series import LABELS, CheckpointSeries, find_series
from cka_tools.comparison.many_models import ManyModels, PairReading, ReadingOptions, read_models
from cka_tools.comparison.many_record import many_provenance, model_provenance, pair_entry, shared_summary
from cka_tools.comparison.many_result import known
from cka_tools.comparison.trajectory_result import Trajectory
from cka_tools.errors import UserError
from cka_tools.models import ModelGiven, as_source

if TYPE_CHECKING:
    import datasets


def trajectory(
    reference: ModelGiven,
    checkpoints: ModelGiven | Sequence[ModelGiven],
    corpus: str | PathLike[str] | Sequence[str] | datasets.Dataset = "sample",
    *,
    control: ModelGiven | None = None,
    x: Sequence[float] | None = None,
    **options: Unpack[ReadingOptions],
) -> Trajectory:
    """Follow the divergence of checkpoints from a reference along a training.

    Costs one pass over the documents for each model, the reference and the control among them, and none for
    what the activation store has.

    Args:
        reference: the model that all are compared with, such as the start or a baseline.
        checkpoints: models, or directories of a training run, which stand for its checkpoints.
        control: a model that differs from the reference by its seed alone; its divergence is the noise floor.
        x: one number a checkpoint; None takes the tokens of the manifests, or else the position.
        options: documents, max_length, pooling, sites, layers, early, dtype, device, seed, batch_tokens,
            tokens_per_document, trust_remote_code, cache, progress, as `compare` takes them.

    Raises:
        UserError: input that does not fit, in one line.
    """
    single = isinstance(checkpoints, str | PathLike | tuple)
    series = find_series([checkpoints] if single else list(checkpoints), x)  # type: ignore[list-item,arg-type]
    if control is not None and as_source(control) == as_source(reference):
        raise UserError(f"the control {str(control)!r} is the reference itself: name a model of another seed")
    models = [reference, *series.checkpoints, *([] if control is None else [control])]
    many = read_models(models, [(at, 0) for at in range(1, len(models))], corpus, options)
    readings = [many.compare(plan) for plan in many.pairs]
    return Trajectory(_record(many, readings, series), _arrays(readings[: len(series.x)], series))


def _record(many: ManyModels, readings: Sequence[PairReading], series: CheckpointSeries) -> dict[str, Any]:
    count = len(series.x)
    named = [(f"{many.models[pair.plan.a].name} (A) and the reference (B)", pair) for pair in readings]
    summary = shared_summary(many, named)
    summary["notes"] = [*series.notes, *summary["notes"]]
    if count < len(readings) and _same_weights(many, count + 1):
        summary["notes"].append("The control holds the reference's weights: its divergence is no floor.")
    early = [readings[0].layers_a[readings[0].found.layers[at].layer_a] for at in readings[0].plan.early]
    entries = [
        {
            "name": many.models[at + 1].name,
            "tokens": series.tokens[at] if at < count else None,
            "weights_sha256": many.models[at + 1].provenance["weights_sha256"],
            **({"x": series.x[at]} if at < count else {}),
            **pair_entry(pair),
        }
        for at, pair in enumerate(readings)
    ]
    return {
        "kind": Trajectory.kind,
        "summary": summary
        | {"early_layers": early, "x": {"kind": series.kind, "label": LABELS[series.kind]}},
        "checkpoints": entries[:count],
        "control": entries[count] if count < len(entries) else None,
        "provenance": many_provenance(
            many,
            {
                "reference": model_provenance(many, 0),
                "checkpoints": [model_provenance(many, at + 1) for at in range(count)],
                "control": model_provenance(many, count + 1) if count < len(entries) else None,
            },
        ),
    }


def _same_weights(many: ManyModels, at: int) -> bool:
    return many.models[at].provenance["weights_sha256"] == many.models[0].provenance["weights_sha256"]


def _arrays(readings: Sequence[PairReading], series: CheckpointSeries) -> dict[str, np.ndarray]:
    layers = max(len(pair.found.layers) for pair in readings)
    arrays = {"x": np.array(series.x, dtype=np.float64)}
    for estimator in ("debiased", "biased"):
        values = np.full((len(readings), layers), np.nan)
        for at, pair in enumerate(readings):
            found = [known(getattr(layer, estimator).complement().value) for layer in pair.found.layers]
            values[at, : len(found)] = found
        arrays[f"divergence.{estimator}"] = values
    return arrays
