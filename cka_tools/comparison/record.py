"""The record of a run, one schema for all kinds: what `result.json` holds, and the tables made of it.

    format, kind     2; comparison, trajectory, matrix, contrast, ablation, transplant, interpolation, health, probe,
                     needle or evaluation
    summary          documents, interval, early layers, warnings, notes, and what is particular to the kind
    pairs            one entry a pair of models: its role, the two by their position among the models, both
                     mean divergences, every layer pair, and what else the kind knows of it
    provenance       models with their roles, corpus and draws, settings, versions, time, command

A comparison repeats its first pair at the top (`layers`, `matrix`, `n_documents`, `warnings`): others read
these. Fractions throughout; a value that cannot be given is null with its reason.
"""

from __future__ import annotations

import math
import platform
import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cka_tools import __version__
from cka_tools.formatting import printable
from cka_tools.manifest import NoiseKind, noise_kind, read_manifest
from cka_tools.settings import EMBEDDINGS

if TYPE_CHECKING:
    import pandas as pd

    from cka_tools.comparison.pairs import DrawResult, PairResult
    from cka_tools.compute import FeatureRun
    from cka_tools.statistics.intervals import Interval
    from cka_tools.statistics.pair import FeatureComparison, LayerPair

FORMAT = 2
COMPARISON, TRAJECTORY, MATRIX = "comparison", "trajectory", "matrix"
CONTRAST, ABLATION = "contrast", "ablation"
TRANSPLANT, INTERPOLATION, HEALTH, PROBE = "transplant", "interpolation", "health", "probe"
EVALUATION = "evaluation"
NEEDLE = "needle"
COMMANDS = {
    COMPARISON: "compare",
    TRAJECTORY: "trajectory",
    MATRIX: "matrix",
    CONTRAST: "contrast",
    ABLATION: "ablate",
    TRANSPLANT: "transplant",
    INTERPOLATION: "interpolate",
    HEALTH: "health",
    PROBE: "probe",
    EVALUATION: "evaluate",
    NEEDLE: "needle",
}
"""The command that writes a run of each kind."""

ESTIMATORS = ("biased", "debiased")
MEANS = ("mean", "early")
"""Over which layers a divergence is averaged: all that are paired, or the early ones."""

PACKAGES = ("torch", "transformers", "tokenizers", "numpy")

JsonObject = dict[str, Any]


def number(value: float | None) -> float | None:
    """A number as JSON holds it: None where it is not finite."""
    return None if value is None or not math.isfinite(value) else float(value)


def interval_entry(interval: Interval) -> JsonObject:
    """An interval as JSON holds it: value, ends, and the reason where one is missing."""
    entry: JsonObject = {name: number(getattr(interval, name)) for name in ("value", "ci_low", "ci_high")}
    return entry if interval.reason is None else entry | {"reason": interval.reason}


def mean_entries(found: FeatureComparison) -> JsonObject:
    """`mean_divergence` and `early_divergence`, each by estimator."""
    return {
        f"{name}_divergence": {e: interval_entry(getattr(getattr(found, name), e)) for e in ESTIMATORS}
        for name in MEANS
    }


def pair_entry(
    result: PairResult, control: PairResult | None = None, *, best: bool = False, **facts: Any
) -> JsonObject:
    """A pair of models as the record holds it.

    Args:
        control: the pair whose divergence is seed noise for this one.
        best: name the layer of B that matches best, null where only pairs were compared.
        facts: what the kind of run knows of the pair besides.
    """
    entry: JsonObject = {"a": result.pair.a, "b": result.pair.b, **facts, **mean_entries(result.plain)}
    if control is not None and result.ratio is not None:
        ratio = result.ratio
        entry["control"] = mean_entries(control.plain)
        entry["ratio"] = {name: interval_entry(getattr(ratio, name)) for name in MEANS}
        entry["ratio"] |= {"smallest": number(ratio.smallest), "largest": number(ratio.largest)}
    entry["layers"] = [_layer(result, at, control, best=best) for at in range(len(result.plain.layers))]
    return entry


def _layer(result: PairResult, at: int, control: PairResult | None, *, best: bool) -> JsonObject:
    pair = result.plain.layers[at]
    entry: JsonObject = {
        "layer_a": result.layers_a[pair.layer_a],
        "layer_b": result.layers_b[pair.layer_b],
        **_place(result, pair),
        "early": at in result.early_layers,
        "divergence": interval_entry(pair.debiased.complement()),
        "divergence_biased": number(pair.biased.complement().value),
        **_cka(pair),
    }
    if best:
        entry["best_layer_b"], entry["best_cka_debiased"] = best_match(result, pair.layer_a)
        chance = result.floors.best[at] if result.floors is not None and result.floors.best else None
        if entry["best_layer_b"] is not None:
            entry |= {"best_floor": None, "best_p": None}
            if chance is not None:
                entry |= {"best_floor": number(chance.mean), "best_p": chance.p}
    for side, spectrum in (("a", pair.spectrum_a), ("b", pair.spectrum_b)):
        entry[f"effective_dim_{side}"] = number(spectrum.effective_dim)
        entry[f"top_feature_share_{side}"] = number(spectrum.top_feature_share)
        entry[f"top_feature_{side}"] = spectrum.top_feature
    if pair.reason is not None:
        entry["reason"] = pair.reason
    if result.rescaled is not None:
        entry["rescaled"] = _cka(result.rescaled.layers[at])
    if control is not None and result.ratio is not None:
        entry["control"] = interval_entry(control.plain.layers[at].debiased.complement())
        entry["ratio"] = interval_entry(result.ratio.layers[at])
    entry["measures"] = {"cka": interval_entry(pair.debiased)} | {
        name: interval_entry(values[at]) for name, values in result.measures.items()
    }
    for name, floors in (result.floors.measures if result.floors is not None else {}).items():
        if (floor := floors[at]) is not None:
            entry["measures"][name] |= {"floor": number(floor.mean), "p": floor.p}
    return entry


def _cka(pair: LayerPair) -> JsonObject:
    values = {f"cka_{e}": number(getattr(pair, e).value) for e in ESTIMATORS}
    return values | {"ci_low": number(pair.debiased.ci_low), "ci_high": number(pair.debiased.ci_high)}


def _place(result: PairResult, pair: LayerPair) -> JsonObject:
    """What a row is where it is not a layer."""
    layers = (result.layers_a[pair.layer_a], result.layers_b[pair.layer_b])
    if EMBEDDINGS in layers:
        return {"place": "embeddings"}
    return {"place": "final norm"} if layers == result.depths else {}


def best_over(result: PairResult) -> list[int]:
    """The layers of B among which a best match is looked for: all that were extracted."""
    return [layer for layer in result.layers_b if 0 <= layer < result.depths[1]] if result.pair.whole else []


def best_match(result: PairResult, at: int) -> tuple[int | None, float | None]:
    """The layer of B that is closest to a layer of A, by its place, and their debiased CKA."""
    among = [result.layers_b.index(layer) for layer in best_over(result)]
    row = result.plain.matrices["debiased"][at, among]
    if not np.isfinite(row).any() or not 0 <= result.layers_a[at] < result.depths[0]:
        return None, None
    best = int(np.nanargmax(row))
    return result.layers_b[among[best]], float(row[best])


def best_matches(result: PairResult) -> list[JsonObject]:
    """For each layer of A the layer of B with the highest debiased CKA; none of the pairs alone."""
    if not result.pair.whole:
        return []
    found = [(layer, *best_match(result, at)) for at, layer in enumerate(result.layers_a)]
    return [{"layer_a": layer, "layer_b": best, "cka_debiased": value} for layer, best, value in found]


def early_of(result: PairResult) -> list[int]:
    """The early layers, by A's own indices."""
    return [result.layers_a[result.plain.layers[at].layer_a] for at in result.early_layers]


def control_noise(run: FeatureRun, of: int, control: int) -> NoiseKind:
    """In what a control differs from the model that it is a control of, by the manifests in their folders.

    Args:
        of, control: positions among the models that were given.
    """
    folders = [run.sources[run.order[at]].folder for at in (of, control)]
    return noise_kind(*map(read_manifest, folders))


def provenance(run: FeatureRun, draws: Sequence[DrawResult], roles: Sequence[str], settings: JsonObject) -> JsonObject:
    """Where the numbers come from; all but `created`, `command` and `cache` can change one.

    Args:
        roles: of each model that was given. settings: what was asked for.
    """
    return {
        "models": [
            {"role": role, "name": name, **origin}
            for role, name, origin in zip(roles, run.names, draws[0].provenance, strict=True)
        ],
        "corpus": {
            "spec": draws[0].draw.corpus,
            "source": draws[0].draw.source,
            "draws": [_draw(one) for one in draws],
        },
        "settings": settings
        | {
            "max_length": run.prepared[0].max_length,
            "dtype": draws[0].provenance[0]["dtype"],
            "device": str(run.options.device),
        },
        **circumstances(),
    }


def _draw(one: DrawResult) -> JsonObject:
    first = one.extractions[0][0]
    splits = list({id(e): e.splits for e, _ in one.extractions}.values())
    plans = [extraction.plan.record() for extraction, _ in one.extractions]
    entry = {
        "seed": one.draw.seed,
        "fingerprint": one.draw.fingerprint,
        "counts": one.draw.counts,
        "document_ids": one.ids,
        "tokens": [extraction.tokens[at] for extraction, at in one.extractions],
        "plan": first.plan.record() | {"splits": [split for some in splits for split in some]},
        "cache": [extraction.cache[at] for extraction, at in one.extractions],
    }
    if any(plan != plans[0] for plan in plans):  # a model that cannot be padded has batches of its own
        entry["plans"] = plans
    return entry if first.streamed is None else entry | {"streamed": first.streamed}


def circumstances(packages: Sequence[str] = PACKAGES) -> JsonObject:
    """Versions, time and command of a run."""
    return {
        "versions": {
            "cka-tools": __version__,
            "python": platform.python_version(),
            **{name: version(name) for name in packages},
        },
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": f"{_program(Path(sys.argv[0]))} {shlex.join(sys.argv[1:])}".rstrip(),
    }


def _program(path: Path) -> str:
    """What starts this program again: `python -m cka_tools` leaves the path of a module."""
    own = path.name == "__main__.py" and path.parent.name == "cka_tools"
    return "python -m cka_tools" if own else shlex.quote(path.name)


# Tables: one row a layer pair, then one for each mean.


def pair_rows(entry: JsonObject, shared: JsonObject, *, means: bool = True) -> list[JsonObject]:
    """Tidy rows of a pair: every layer pair and, if asked, the early and the overall mean.

    A name means one thing in every table: `divergence`, `divergence_low`, `divergence_high` are debiased
    1 − CKA with its interval, `cka_…` the CKA itself, `control_…` that of the control, `ratio_…` the ratio.
    """
    rows = []
    for layer in entry["layers"]:
        same = layer["layer_a"] == layer["layer_b"]
        row = shared | {
            "layer": layer["layer_a"] if same else f"{layer['layer_a']}/{layer['layer_b']}",
            **columns("divergence", layer["divergence"]),
            "divergence_biased": layer["divergence_biased"],
            **_cka_columns("cka", layer),
            "reason": layer["divergence"].get("reason"),
            **{k: v for k, v in layer.items() if not isinstance(v, dict) and k not in _CKA_KEYS},
        }
        if "rescaled" in layer:
            row |= _cka_columns("rescaled_cka", layer["rescaled"])
        if "ratio" in layer:
            row |= _beside_control(layer["control"], layer["ratio"])
        for name, value in layer.get("measures", {}).items():
            row |= {} if name == "cka" else columns(name, value, name)
            row |= {f"{name}_{of}": value[of] for of in ("floor", "p") if of in value}
        rows.append(row)
    for name in reversed(MEANS) if means else ():
        both = entry[f"{name}_divergence"]
        row = shared | {"layer": name, **columns("divergence", both["debiased"])}
        row |= {"divergence_biased": both["biased"]["value"], "reason": both["debiased"].get("reason")}
        if "ratio" in entry:
            row |= _beside_control(entry["control"][f"{name}_divergence"]["debiased"], entry["ratio"][name])
        rows.append(row)
    return rows


_CKA_KEYS = ("cka_biased", "cka_debiased", "ci_low", "ci_high", "reason")
_SEEDS = ("seed", "data_seed", "control_seed", "control_data_seed")
_WHOLE = (*_SEEDS, "layer_a", "layer_b", "best_layer_b", "top_feature_a", "top_feature_b", "tokens", "n_documents")


def columns(name: str, entry: JsonObject, reason: str | None = None) -> JsonObject:
    """An interval of the record as three columns of a table, and its reason as one if that has a name."""
    found = {name: entry["value"], f"{name}_low": entry["ci_low"], f"{name}_high": entry["ci_high"]}
    return found if reason is None else found | {f"{reason}_reason": entry.get("reason")}


def _beside_control(noise: JsonObject, ratio: JsonObject) -> JsonObject:
    return columns("control_divergence", noise, "control") | columns("ratio", ratio, "ratio")


def _cka_columns(name: str, entry: JsonObject) -> JsonObject:
    return columns(name, entry | {"value": entry["cka_debiased"]}) | {f"{name}_biased": entry["cka_biased"]}


def tidy(rows: Sequence[JsonObject]) -> pd.DataFrame:
    """Rows as a table; whole numbers stay whole where some are missing."""
    import pandas as pd

    frame = pd.DataFrame(rows)
    return frame.astype({name: "Int64" for name in _WHOLE if name in frame})


def csv_bytes(frame: pd.DataFrame) -> bytes:
    """A table as CSV in UTF-8, of which a spreadsheet computes nothing and a terminal obeys nothing.

    Text that a spreadsheet would take for a formula has an apostrophe before it; numbers stay numbers.
    """
    frame = frame.copy()
    for name in frame.select_dtypes(exclude=["number", "bool"]):
        frame[name] = frame[name].map(_harmless)
    text = frame.to_csv(index=False, lineterminator="\n")
    return text.encode("utf-8", "backslashreplace")


def _harmless(cell: Any) -> Any:
    if not isinstance(cell, str):
        return cell
    cell = printable(cell)
    return f"'{cell}" if cell.startswith(("=", "+", "-", "@")) and not _is_number(cell) else cell


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
