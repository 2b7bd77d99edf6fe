"""What records of transplants, interpolations and health checks share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Protocol

from cka_tools.comparison.pairs import DrawResult
from cka_tools.comparison.record import JsonObject
from cka_tools.compute import FeatureRun
from cka_tools.extraction.extract import describe
from cka_tools.readouts import Quantity, Readout
from cka_tools.settings import Settings
from cka_tools.statistics.intervals import LEVEL

NO_FEATURES = ("pooling", "sites", "layers", "early", "pairs", "measures", "rescale", "tokens_per_document")
"""Settings that say nothing where no features are made."""


class Described(Protocol):
    """What has a name and quantities: a readout, or another way to read models."""

    name: str
    title: str
    quantities: Sequence[Quantity]


def describe_readouts(readouts: Sequence[Described]) -> list[JsonObject]:
    """Names, titles and quantities, as summaries hold them."""
    return [
        {"name": one.name, "title": one.title, "quantities": [asdict(quantity) for quantity in one.quantities]}
        for one in readouts
    ]


def readout_summary(
    n_documents: int, readouts: Sequence[Readout], notes: Sequence[str], warnings: Sequence[JsonObject] = ()
) -> JsonObject:
    """The part of a summary that they share."""
    return {
        "n_documents": n_documents,
        "interval": {"level": LEVEL, "over": "documents"},
        "readouts": describe_readouts(readouts),
        "warnings": list(warnings),
        "notes": list(dict.fromkeys(notes)),
    }


def kept_settings(settings: Settings, readouts: Sequence[Readout]) -> JsonObject:
    """What provenance keeps: without features nothing that is of features."""
    kept = settings.record()
    return kept if any(one.pooled for one in readouts) else {k: v for k, v in kept.items() if k not in NO_FEATURES}


def draw_of(run: FeatureRun, provenance: Sequence[dict[str, Any]]) -> DrawResult:
    """A draw of documents that models read, without pairs.

    Args:
        provenance: of each model that was given.
    """
    extraction = describe(run.outlines, run.prepared[0], [], [], ["off"] * len(run.sources))
    return DrawResult(run.draws[0], run.ids(0), [], [(extraction, at) for at in run.order], list(provenance))
