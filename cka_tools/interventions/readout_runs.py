"""What transplants, interpolations and health checks share: their readouts, what is refused, and their records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Protocol

from cka_tools.comparison.pairs import DrawResult
from cka_tools.comparison.record import JsonObject
from cka_tools.compute import FeatureRun
from cka_tools.errors import UserError
from cka_tools.extraction.extract import describe
from cka_tools.readouts import Quantity, Readout, find_readout
from cka_tools.readouts.features import DIVERGENCE
from cka_tools.readouts.of_models import language_readout
from cka_tools.settings import Settings
from cka_tools.statistics.intervals import LEVEL

ROLES = ("the base", "the donor", "the control")


def choose_readouts(run: FeatureRun, names: Sequence[str] | None, also: Sequence[str] = ()) -> list[Readout]:
    """Readouts by name, each once; by default the language model's own.

    Args:
        also: names that the default has besides.

    Raises:
        UserError: an unknown name, or one that needs another kind of model.
    """
    if names is None:
        return [language_readout(run), *map(find_readout, also)]
    if not names:
        raise UserError("readout: the list is empty; name at least one, such as mlm")
    found = [find_readout(name) for name in dict.fromkeys(names)]
    called = [one.name for one in found]
    if twice := next((name for at, name in enumerate(called) if name in called[:at]), None):
        raise UserError(f"two readouts have the name {twice!r}: rename a file, or leave one out")
    return [one if one.head is None else language_readout(run, one.name) for one in found]


def refuse_same(names: Sequence[str], identities: Sequence[Any], roles: Sequence[str] = ("A", "B")) -> None:
    """Raise a UserError where two of the models are one.

    Args:
        identities: equal for equal models. roles: what each model is called.
    """
    for at, identity in enumerate(identities):
        first = identities.index(identity)
        if first < at:
            raise UserError(
                f"{names[at]!r} is {roles[at]}, and {names[first]!r}, {roles[first]}, holds the same weights: nothing "
                "lies between them; give models that differ"
            )


def check_room(run: FeatureRun, readouts: Sequence[Readout], models: int) -> None:
    """Raise a UserError where the features of so many models would take more than may be kept."""
    if any(one.name == DIVERGENCE for one in readouts):
        size = run.size([None] * len(run.sources)) // len(run.sources) * models
        if size > run.settings.keep_bytes:
            raise UserError(
                f"readout 'divergence' keeps the features of {models} models, {size:,} bytes, more than "
                f"--keep-features {run.settings.keep_bytes:,}: raise it, or take fewer documents or hybrids"
            )


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
