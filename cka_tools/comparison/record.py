"""Statistics → the record that is saved: plain numbers, null with a reason, warnings, one entry a layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from cka_tools import paper
from cka_tools.comparison.caveats import find_caveats, overlap_caveat
from cka_tools.comparison.reading import ControlReading, Reading
from cka_tools.models import LoadedModel
from cka_tools.statistics.hsic import ESTIMATORS
from cka_tools.statistics.intervals import LEVEL, Interval
from cka_tools.statistics.pair import FeatureComparison, LayerPair, MeanDivergence, ratio_of_means
from cka_tools.statistics.ratio import ROUNDING

NOT_COMPUTED = "pairs 'diagonal': only the paired layers were compared; all other entries are null"


def build_record(
    readings: Sequence[Reading],
    models: tuple[LoadedModel, LoadedModel],
    provenance: dict[str, Any],
    early: Sequence[int],
    protocol: str | None,
) -> dict[str, Any]:
    """The content of `result.json`; numbers are of the first draw, the protocol's spread of all."""
    reading = readings[0]
    plain = reading.plain
    caveats = find_caveats(plain, reading.layers_a, reading.layers_b)
    if len(readings) > 1:
        overlap = overlap_caveat([r.document_ids for r in readings])
        caveats += [overlap] if overlap else []
    summary: dict[str, Any] = {
        **_means(plain),
        "early_layers": [reading.layers_a[plain.layers[at].layer_a] for at in reading.early],
        "n_documents": plain.n,
        "interval": {"level": LEVEL, "over": "documents"},
        "pairing": _pairing(models),
        "warnings": caveats,
        "notes": _notes(readings, models),
    }
    if reading.rescaled is not None:
        summary["rescaled"] = _means(reading.rescaled)
    if reading.control is not None:
        name = provenance["models"]["control"]["name"]
        summary["control"] = {"name": name, **_means(reading.control.plain)}
        summary["ratio"] = _ratio(reading.control)
    if protocol is not None:
        summary["protocol"] = {"name": protocol, "source": paper.CITATION, **_spread(readings)}
    return {
        "summary": summary,
        "n_documents": plain.n,
        "warnings": caveats,
        "layers": [_layer(reading, at, pair) for at, pair in enumerate(plain.layers)],
        "best_match": _best_matches(reading),
        "matrix": {
            "layers_a": reading.layers_a,
            "layers_b": reading.layers_b,
            **_matrices(plain),
            **({} if reading.rescaled is None else {"rescaled": _matrices(reading.rescaled)}),
            **({"reason": NOT_COMPUTED} if reading.diagonal else {}),
        },
        "provenance": provenance,
    }


def build_arrays(reading: Reading) -> dict[str, np.ndarray]:
    """The arrays beside the record: matrices, and each pair's debiased CKA without each document in turn."""
    arrays = _arrays(reading.plain)
    if reading.rescaled is not None:
        arrays |= {f"rescaled.matrix.{e}": reading.rescaled.matrices[e] for e in ESTIMATORS}
    if reading.control is not None:
        arrays |= {f"control.{name}": array for name, array in _arrays(reading.control.plain).items()}
    return arrays


def _arrays(found: FeatureComparison) -> dict[str, np.ndarray]:
    nothing = np.full(len(found.left_out), np.nan)
    without = np.stack([nothing if w is None else w for w in found.leave_one_out])
    return {f"matrix.{e}": found.matrices[e] for e in ESTIMATORS} | {"leave_one_out": without}


def number(value: float | None) -> float | None:
    """A number as JSON holds it: None where it is not finite."""
    return None if value is None or not math.isfinite(value) else float(value)


def interval_entry(interval: Interval) -> dict[str, Any]:
    """An interval as JSON holds it: value, ends, and the reason where one is missing."""
    entry: dict[str, Any] = {
        "value": number(interval.value),
        "ci_low": number(interval.ci_low),
        "ci_high": number(interval.ci_high),
    }
    return entry if interval.reason is None else entry | {"reason": interval.reason}


def _mean(mean: MeanDivergence) -> dict[str, Any]:
    return {e: interval_entry(getattr(mean, e)) for e in ESTIMATORS}


def _means(found: FeatureComparison) -> dict[str, Any]:
    return {"mean_divergence": _mean(found.mean), "early_divergence": _mean(found.early)}


def _cka(pair: LayerPair) -> dict[str, Any]:
    return {
        "cka_biased": number(pair.biased.value),
        "cka_debiased": number(pair.debiased.value),
        "ci_low": number(pair.debiased.ci_low),
        "ci_high": number(pair.debiased.ci_high),
    }


def _layer(reading: Reading, at: int, pair: LayerPair) -> dict[str, Any]:
    row = np.empty(0) if reading.diagonal else reading.plain.matrices["debiased"][pair.layer_a]
    best, best_cka = _best(row)
    entry: dict[str, Any] = {
        "layer_a": reading.layers_a[pair.layer_a],
        "layer_b": reading.layers_b[pair.layer_b],
        "early": at in reading.early,
        **_cka(pair),
        "best_layer_b": None if best is None else reading.layers_b[best],
        "best_cka_debiased": best_cka,
    }
    for side, spectrum in (("a", pair.spectrum_a), ("b", pair.spectrum_b)):
        entry[f"effective_dim_{side}"] = number(spectrum.effective_dim)
        entry[f"top_feature_share_{side}"] = number(spectrum.top_feature_share)
        entry[f"top_feature_{side}"] = spectrum.top_feature
    if pair.reason is not None:
        entry["reason"] = pair.reason
    if reading.rescaled is not None:
        entry["rescaled"] = _cka(reading.rescaled.layers[at])
    if reading.control is not None:
        entry["control"] = interval_entry(reading.control.plain.layers[at].debiased.complement())
        entry["ratio"] = interval_entry(reading.control.ratio.layers[at])
    return entry


def _ratio(control: ControlReading) -> dict[str, Any]:
    """Ratios of the means, with the range over layers beside them."""
    found = control.ratio
    return {
        "mean": interval_entry(found.mean),
        "early": interval_entry(found.early),
        "smallest": number(found.smallest),
        "largest": number(found.largest),
    }


def _best(row: np.ndarray) -> tuple[int | None, float | None]:
    if not np.isfinite(row).any():
        return None, None
    best = int(np.nanargmax(row))
    return best, float(row[best])


def _best_matches(reading: Reading) -> list[dict[str, Any]]:
    """For each layer of A the layer of B with the highest debiased CKA."""
    if reading.diagonal:
        return []
    matches = []
    for layer, row in zip(reading.layers_a, reading.plain.matrices["debiased"], strict=True):
        best, value = _best(row)
        matches.append(
            {
                "layer_a": layer,
                "layer_b": None if best is None else reading.layers_b[best],
                "cka_debiased": value,
            }
        )
    return matches


def _matrices(found: FeatureComparison) -> dict[str, Any]:
    return {e: [[number(v) for v in row] for row in found.matrices[e]] for e in ESTIMATORS}


def _pairing(models: tuple[LoadedModel, LoadedModel]) -> str:
    a, b = (len(m.blocks) for m in models)
    if a == b:
        return "index by index"
    return f"by relative depth: {a} layers of A against {b} of B"


def _notes(readings: Sequence[Reading], models: tuple[LoadedModel, LoadedModel]) -> list[str]:
    notes: list[str] = []
    if len(models[0].blocks) != len(models[1].blocks):
        notes.append(f"The models have different depths; layers are paired {_pairing(models)}.")
    if readings[0].diagonal:
        notes.append("Only paired layers were compared (pairs 'diagonal'): no other entry, no best match.")
    for reading in readings:
        notes += [note for note in (*reading.draw.notes, *reading.extraction.notes) if note not in notes]
    return notes


def _spread(readings: Sequence[Reading]) -> dict[str, Any]:
    """Mean and standard deviation (divisor draws − 1) over the draws, of means and of each layer."""
    spread: dict[str, Any] = {"seeds": [r.draw.seed for r in readings]}
    spread |= _spread_of([r.plain for r in readings])
    controls = [r.control for r in readings if r.control is not None]
    if controls:
        spread["control"] = _spread_of([c.plain for c in controls])
        spread["ratio"] = {of: _ratio_spread(readings, of) for of in ("mean", "early")}
    return spread


def _spread_of(found: Sequence[FeatureComparison]) -> dict[str, Any]:
    spread: dict[str, Any] = {}
    for name, of in (("mean_divergence", "mean"), ("early_divergence", "early")):
        spread[name] = {e: _over_draws([getattr(getattr(f, of), e).value for f in found]) for e in ESTIMATORS}
    spread["layers"] = [
        {e: _over_draws([getattr(f.layers[at], e).value for f in found]) for e in ESTIMATORS}
        for at in range(len(found[0].layers))
    ]
    return spread


def _ratio_spread(readings: Sequence[Reading], of: str) -> dict[str, Any]:
    """Ratio of the means in each draw: of the biased ones, as published, and of the debiased ones."""
    controls = [(r, r.control) for r in readings if r.control is not None]
    return {
        "biased": _over_draws([_biased_ratio(r.plain, c.plain, of) for r, c in controls]),
        "debiased": _over_draws([getattr(c.ratio, of).value for _, c in controls]),
    }


def _biased_ratio(pair: FeatureComparison, control: FeatureComparison, of: str) -> float | None:
    d, e = (getattr(found, of).biased.value for found in (pair, control))
    if d is None or e is None or e <= ROUNDING:
        return None
    return ratio_of_means([1 - d], [1 - e])


def _over_draws(values: Sequence[float | None]) -> dict[str, Any]:
    known = [v for v in values if v is not None]
    if len(known) < len(values):
        return {"mean": None, "std": None, "draws": list(values), "reason": "undefined in one of the draws"}
    return {"mean": float(np.mean(known)), "std": float(np.std(known, ddof=1)), "draws": known}
