"""Models, one corpus: from specs to the divergence of every pair, one pass a model."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from os import PathLike
from typing import TYPE_CHECKING, Unpack

import numpy as np

from cka_tools.comparison.linkage import average_linkage
from cka_tools.comparison.many_models import PairReading, ReadingOptions, read_models
from cka_tools.comparison.many_record import many_provenance, model_provenance, pair_entry, shared_summary
from cka_tools.comparison.many_result import known
from cka_tools.comparison.matrix_result import ModelMatrix
from cka_tools.comparison.pair_table import MEANS
from cka_tools.errors import UserError
from cka_tools.models import ModelGiven
from cka_tools.statistics.hsic import ESTIMATORS

if TYPE_CHECKING:
    import datasets

DIAGONAL = "0 by definition: no model is compared with itself"


def matrix(
    models: Sequence[ModelGiven],
    corpus: str | PathLike[str] | Sequence[str] | datasets.Dataset = "sample",
    **options: Unpack[ReadingOptions],
) -> ModelMatrix:
    """Compare every pair of models.

    Costs one pass over the documents for each model, and none for what the activation store has.

    Args:
        models: two or more; one that is given twice runs once, and its two rows are 0 apart up to rounding.
        options: documents, max_length, pooling, sites, layers, early, dtype, device, seed, batch_tokens,
            tokens_per_document, trust_remote_code, cache, progress, as `compare` takes them.

    Raises:
        UserError: input that does not fit, in one line.
    """
    if isinstance(models, str | PathLike) or len(models) < 2:
        count = 1 if isinstance(models, str | PathLike) else len(models)
        raise UserError(f"{count} model makes no matrix: give two or more")
    positions = list(combinations(range(len(models)), 2))
    many = read_models(models, positions, corpus, options)
    readings = [many.compare(plan) for plan in many.pairs]
    names = [model.name for model in many.models]
    arrays = _arrays(readings, len(models))
    named = [(f"{names[p.plan.a]} (A) and {names[p.plan.b]} (B)", p) for p in readings]
    summary = shared_summary(many, named)
    repeated = [name for at, name in enumerate(names) if name in names[:at] and isinstance(models[at], str)]
    summary["notes"] += [f"{name} is given more than once: it ran once." for name in dict.fromkeys(repeated)]
    record = {
        "kind": ModelMatrix.kind,
        "summary": summary | {"diagonal": DIAGONAL},
        "pairs": [{"a": p.plan.a, "b": p.plan.b, **pair_entry(p)} for p in readings],
        "linkage": average_linkage(arrays["mean.debiased"]),
        "provenance": many_provenance(many, [model_provenance(many, at) for at in range(len(models))]),
    }
    return ModelMatrix(record, arrays)


def _arrays(readings: Sequence[PairReading], models: int) -> dict[str, np.ndarray]:
    depth = max(len(pair.found.layers) for pair in readings)
    arrays: dict[str, np.ndarray] = {}
    for estimator in ESTIMATORS:
        for name in MEANS:
            arrays[f"{name}.{estimator}"] = np.zeros((models, models))
        stack = np.full((depth, models, models), np.nan)
        stack[:, range(models), range(models)] = 0.0
        arrays[f"layers.{estimator}"] = stack
        for pair in readings:
            for place in ((pair.plan.a, pair.plan.b), (pair.plan.b, pair.plan.a)):
                for name in MEANS:
                    mean = getattr(getattr(pair.found, name), estimator)
                    arrays[f"{name}.{estimator}"][place] = known(mean.value)
                for at, layer in enumerate(pair.found.layers):
                    stack[(at, *place)] = known(getattr(layer, estimator).complement().value)
    return arrays
