"""What the records of trajectories and matrices have in common: entries of pairs, warnings, provenance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cka_tools.comparison.caveats import find_caveats
from cka_tools.comparison.many_models import ManyModels, PairReading
from cka_tools.comparison.pair_table import MEANS
from cka_tools.comparison.provenance import circumstances
from cka_tools.comparison.record import interval_entry, number
from cka_tools.statistics.hsic import ESTIMATORS
from cka_tools.statistics.intervals import LEVEL

JsonObject = dict[str, Any]


def pair_entry(pair: PairReading) -> JsonObject:
    """A pair of models as `result.json` holds it: both means and every layer pair, fractions."""
    found, layers = pair.found, []
    for at, layer in enumerate(found.layers):
        entry: JsonObject = {
            "layer_a": pair.layers_a[layer.layer_a],
            "layer_b": pair.layers_b[layer.layer_b],
            "early": at in pair.plan.early,
            "divergence": interval_entry(layer.debiased.complement()),
            "divergence_biased": number(layer.biased.complement().value),
        }
        for side, spectrum in (("a", layer.spectrum_a), ("b", layer.spectrum_b)):
            entry[f"effective_dim_{side}"] = number(spectrum.effective_dim)
            entry[f"top_feature_share_{side}"] = number(spectrum.top_feature_share)
        layers.append(entry)
    means = {
        f"{name}_divergence": {e: interval_entry(getattr(getattr(found, name), e)) for e in ESTIMATORS}
        for name in MEANS
    }
    return {**means, "layers": layers}


def grouped_warnings(pairs: Sequence[tuple[str, PairReading]]) -> list[JsonObject]:
    """One warning a code: the pairs that it concerns by name, and its text for the first of them."""
    grouped: dict[str, JsonObject] = {}
    for name, pair in pairs:
        for caveat in find_caveats(pair.found, pair.layers_a, pair.layers_b):
            first = {"code": caveat["code"], "text": f"{name}: {caveat['text']}", "pairs": []}
            grouped.setdefault(caveat["code"], first)["pairs"].append(name)
    return list(grouped.values())


def shared_summary(many: ManyModels, pairs: Sequence[tuple[str, PairReading]]) -> JsonObject:
    """The part of a summary that does not depend on the kind of run."""
    notes = list(many.notes)
    if len({model.depth for model in many.models}) > 1:
        notes.append("The models have different depths; layers are paired by relative depth.")
    return {
        "n_documents": len(many.document_ids),
        "interval": {"level": LEVEL, "over": "documents"},
        "warnings": grouped_warnings(pairs),
        "notes": notes,
    }


def many_provenance(many: ManyModels, models: Any) -> JsonObject:
    """Where the numbers come from; `models` says which model had which part."""
    settings, first = many.settings, many.models[0]
    splits = [split for model in many.models for split in model.extraction.splits]
    return {
        "models": models,
        "corpus": {
            "spec": many.draw.corpus,
            "source": many.draw.source,
            "draws": [
                {
                    "seed": many.draw.seed,
                    "fingerprint": many.draw.fingerprint,
                    "counts": many.draw.counts,
                    "document_ids": many.document_ids,
                    "tokens": [model.extraction.tokens[0] | {"model": model.name} for model in many.models],
                    "plan": many.prepared.plan.record() | {"splits": splits},
                    "cache": [model.extraction.cache[0] for model in many.models],
                }
            ],
        },
        "settings": {
            "pooling": settings.pooling,
            "sites": settings.sites,
            "max_length": many.prepared.max_length,
            "tokens_per_document": settings.tokens_per_document if settings.pooling == "token" else None,
            "dtype": first.provenance["dtype"],
            "device": str(many.device),
            "seed": settings.seed,
        },
        **circumstances(),
    }


def model_provenance(many: ManyModels, at: int) -> JsonObject:
    """One model's name and what it was loaded from."""
    return {"name": many.models[at].name, **many.models[at].provenance}
