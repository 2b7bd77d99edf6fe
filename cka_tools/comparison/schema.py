"""What the record and arrays of a run must hold, checked when a run is read: it may come from anywhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np

from cka_tools.comparison.record import (
    ABLATION,
    COMPARISON,
    CONTRAST,
    ESTIMATORS,
    EVALUATION,
    HEALTH,
    INTERPOLATION,
    MATRIX,
    MEANS,
    NEEDLE,
    PROBE,
    TRAJECTORY,
    TRANSPLANT,
    JsonObject,
)
from cka_tools.formatting import DIFFER_IN, NEEDLE_PROBES, NOISE_IN_WORDS
from cka_tools.forms import NUMBER, TEXT, WHOLE, Form, fault_in

INTERVAL = {"value": NUMBER, "ci_low": NUMBER, "ci_high": NUMBER, "reason?": TEXT}
VALUE = {"value": float, "ci_low": NUMBER, "ci_high": NUMBER, "reason?": TEXT}
REASONED = (VALUE, {"value": None, "ci_low": None, "ci_high": None, "reason": str})
"""An interval that says why, where it is not given."""

BOTH = dict.fromkeys(ESTIMATORS, INTERVAL)
BOTH_MEANS = {f"{name}_divergence": BOTH for name in MEANS}
RATIO = {"mean": REASONED, "early": REASONED, "smallest": NUMBER, "largest": NUMBER}
CKA = {"cka_biased": NUMBER, "cka_debiased": NUMBER, "ci_low": NUMBER, "ci_high": NUMBER}
SPECTRUM = {
    f"{name}_{side}": form
    for side in "ab"
    for name, form in (("effective_dim", NUMBER), ("top_feature_share", NUMBER), ("top_feature", WHOLE))
}
LAYER = CKA | SPECTRUM | {
    "layer_a": int, "layer_b": int, "early": bool, "divergence": INTERVAL, "divergence_biased": NUMBER,
    "reason?": TEXT, "rescaled?": CKA, "control?": INTERVAL, "ratio?": REASONED, "best_layer_b?": WHOLE,
    "best_cka_debiased?": NUMBER,
}  # fmt: skip
PAIR = BOTH_MEANS | {"a": WHOLE, "b": WHOLE, "role": str, "control?": BOTH_MEANS, "ratio?": RATIO, "layers": [LAYER]}
WITH_INTERVAL = {"interval": {"level": float, "over": str, "reason?": TEXT}, "early_layers": [int]}
SUMMARY = {
    "n_documents": int, "notes": [str], "noise?": (set(NOISE_IN_WORDS), None),
    "warnings": [{"code": str, "text": str, "layers?": [int], "pairs?": [str]}],
}  # fmt: skip
READING = {"max_length": int, "dtype": str, "protocol?": TEXT}
SETTINGS = READING | {"pooling": str, "sites": str}
PROVENANCE = {
    "models": [{"role": str, "name": str, "weights_sha256?": TEXT}],
    "corpus": {
        "spec": str,
        "source": {"columns?": dict, "units?": dict, "column?": str},
        "draws?": [{"fingerprint": str, "tokens?": ([{"tokens": float, "truncated": float}], [None], None)}],
    },
    "settings?": READING,
}
SHARED = {"summary": SUMMARY, "pairs": [PAIR], "provenance": PROVENANCE}

SPREAD = {"mean": NUMBER, "std": NUMBER}
PROTOCOL = {
    "name": str, "source": str, "seeds": [int],
    **{f"{name}_divergence": dict.fromkeys(ESTIMATORS, SPREAD) for name in MEANS},
    "ratio?": {name: dict.fromkeys(ESTIMATORS, SPREAD) for name in MEANS},
}  # fmt: skip
SHARES = {"p": NUMBER, "p_single": NUMBER, "seed_share": NUMBER}
DIFFERENCE = SHARES | {"between": INTERVAL, "within": INTERVAL, "difference": REASONED, "ratio": REASONED}
GROUP = {"name": str, "members": int, "noise": [set(DIFFER_IN)]}
IN_CELL = dict.fromkeys(("detour", "baseline", "control", "difference", "noise"), INTERVAL)
CELL = PAIR | {
    "axis": str, "cell": str, "size": str, "seed": int, "n_documents": int, "tokens": WHOLE, "data_seed?": WHOLE,
    "control_seed?": WHOLE, "control_data_seed?": WHOLE, "noise": (set(NOISE_IN_WORDS), None), "position": NUMBER,
    "control": BOTH_MEANS, "ratio": RATIO, "weights": dict, "layers": [LAYER | {"control?": INTERVAL}],
}  # fmt: skip

READOUT = {"name": str, "title": str, "quantities": [{"name": str, "title": str, "unit": str, "better": str}]}
READ = SUMMARY | {"interval": WITH_INTERVAL["interval"], "readouts": [READOUT]}
EACH = {"*": INTERVAL}
OF_HYBRID = {"*": {"value": INTERVAL, "difference": INTERVAL, "recovery": INTERVAL}}
OF_POINT = {"*": {"value": INTERVAL, "excess": INTERVAL}}
TRANSPLANTED = {
    "summary": READ | {"early_layers": [int], "cost": {"blocks": int, "blocks_naive": int}},
    "ends": [{"role": str, "name": str, "readouts": EACH}],
    "gap": EACH,
    "hybrids": [
        {"direction": str, "layers": ([int], None), "parts": [str], "label": str, "model": int, "readouts": OF_HYBRID}
    ],
    "additivity": [
        {"direction": str, "parts": [str], "quantity": str, "sum": INTERVAL, "whole": INTERVAL, "difference": INTERVAL}
    ],
}
INTERPOLATED = {
    "summary": READ | {"names": [str]},
    "points": [{"alpha": float, "readouts": OF_POINT, "divergence": EACH}],
    "barrier": {"*": INTERVAL | {"alpha": NUMBER}},
}
MEASURED = {
    "summary": READ,
    "models": [{"name": str, "tokens": WHOLE, "weights_sha256": TEXT, "readouts": EACH}],
    "differences": [{"a": int, "b": int, "readouts": EACH}],
}

OF_PROBE = dict.fromkeys(("macro_f1", "micro_f1", "accuracy"), INTERVAL)
PROBED_LAYER = {
    "layer": int, "strength": float, "cv_macro_f1": NUMBER, "readouts": OF_PROBE, "above_words": OF_PROBE,
    "shuffled?": OF_PROBE, "selectivity?": OF_PROBE,
}  # fmt: skip
APART = {"layer_a": int, "layer_b": int, "readouts": OF_PROBE}
PROBED = {
    "summary": READ | {
        "label_shuffle": bool,
        "task": {
            "name": str, "kind": {"label", "labels", "tags"}, "train": int, "dev": int, "test": int, "classes": [str],
        },
    },
    "models": [{"name": str, "weights_sha256": TEXT, "chosen_layer": int, "layers": [PROBED_LAYER]}],
    "floors": [{"name": str, "readouts": OF_PROBE}],
    "differences": [{"a": int, "b": int, "layers": [APART], "chosen": APART}],
}  # fmt: skip

TUNED = READING | {"lr": float, "weight_decay": float, "batch_size": int, "epochs": {"*": int}}
OF_SEEDS = {"over_seeds": INTERVAL, "over_both": INTERVAL}
OF_TASK = {
    "name": str, "kind": {"label", "labels", "tags"}, "train": int, "dev": int, "test": int, "classes": [str],
    "headline": str, "quantities": READOUT["quantities"], "notes": [str], "title?": str, "metric?": str,
}  # fmt: skip
EVALUATED = {
    "summary": SUMMARY | {"interval": WITH_INTERVAL["interval"], "seeds": [int], "tasks": [OF_TASK]},
    "models": [{"name": str, "weights_sha256": TEXT}],
    "scores": [
        {"task": WHOLE, "model": int, "readouts": EACH,
         "runs": [{"seed": int, "best_epoch": int, "dev": [float], "readouts": {"*": float}}]}
    ],
    "floors": [{"task": int, "name": str, "readouts": EACH}],
    "differences": [{"task": WHOLE, "a": int, "b": int, "readouts": {"*": OF_SEEDS}}],
    "best": [{"task": WHOLE, "model": int, "clear": bool}],
}  # fmt: skip

READ_OUT = {"accuracy": [INTERVAL], "shuffled?": [INTERVAL], "epoch?": int, "dev_accuracy?": float, "strength?": float}
BOTH_PROBES = dict.fromkeys(NEEDLE_PROBES, READ_OUT)
NEEDLES = {
    "summary": SUMMARY | {
        "interval": WITH_INTERVAL["interval"], "examples": dict.fromkeys(("train", "dev", "test"), int),
        "lengths": [int], "positions": [str], "templates": [str], "measured_by": str, "label_shuffle": bool,
        "chance": float, "haystack_documents": int, "power": {"difference": float, "independent": float},
    },
    "groups": [{"length": WHOLE, "position": TEXT, "examples": int}],
    "models": [
        {
            "name": str, "weights_sha256": TEXT, "depth": int,
            "layers": [{"layer": int, "output": bool, "probes": BOTH_PROBES}],
        }
    ],
    "differences": [
        {"a": int, "b": int, "layers": [{"layer_a": int, "layer_b": int, "output": bool, "probes": BOTH_PROBES}]}
    ],
}  # fmt: skip


def _form(record: JsonObject, kind: str) -> Form:
    """The form of a record, some of which depends on what else it holds."""
    summary = record["summary"]
    beside = {"control": INTERVAL, "ratio": REASONED}
    if kind == COMPARISON:
        controlled = {"control": BOTH_MEANS, "ratio": RATIO} if "control" in summary else {}
        scaled = {"rescaled": CKA} if "rescaled" in summary else {}
        layer = LAYER | (beside if controlled else {}) | scaled | {"best_layer_b": WHOLE, "measures": dict}
        means = WITH_INTERVAL | BOTH_MEANS | {"rescaled?": BOTH_MEANS, "protocol?": PROTOCOL, **controlled}
        means |= {"best_over?": [int], "floors?": {"permutations": {"*": int}}}
        pair = PAIR | controlled | {"layers": [layer]}
        return SHARED | {
            "summary": SUMMARY | means,
            "layers": [layer],
            "matrix": {"layers_a": [int], "layers_b": [int]},
            "best_match": list,
            "pairs": [({"role": {"pair"}} | pair, PAIR)],
        }
    if kind == TRAJECTORY:
        known = PAIR | {"name": str, "tokens": WHOLE, "weights_sha256": TEXT}
        checkpoint = known | {"role": {"checkpoint"}, "x": float}
        pairs = [(checkpoint, known | {"role": {"control"}})]
        return SHARED | {"summary": SUMMARY | WITH_INTERVAL | {"x": {"kind": str, "label": str}}, "pairs": pairs}
    if kind == MATRIX:
        merge = {"a": int, "b": int, "height": float, "size": int}
        linkage = {"order": [int], "merges": ([merge], None), "reason?": TEXT}
        return SHARED | {"linkage": linkage, "pairs": [PAIR | {"a": int, "b": int}]}
    if kind == CONTRAST:
        test = {"relabelings": int, "exact": bool, "smallest_p": float}
        extra = WITH_INTERVAL | {"groups": [GROUP], "test": test, "mean": DIFFERENCE, "early": DIFFERENCE}
        layers = [DIFFERENCE | {"layer": int, "early": bool}]
        return SHARED | {"summary": SUMMARY | extra, "layers": layers}
    if kind == ABLATION:
        return SHARED | {"summary": SUMMARY | {"readouts?": [READOUT]}, "axis": str, "pairs": [CELL]}
    others = {
        TRANSPLANT: TRANSPLANTED, INTERPOLATION: INTERPOLATED, HEALTH: MEASURED, PROBE: PROBED, NEEDLE: NEEDLES,
        EVALUATION: EVALUATED,
    }  # fmt: skip
    return SHARED | others.get(kind, {})


def find_fault(record: JsonObject, arrays: Mapping[str, np.ndarray], kind: str) -> str | None:
    """What is wrong with a run, in words; None where nothing is."""
    fault = fault_in(record, {"summary": dict, "pairs": list, "provenance": dict})
    fault = fault or fault_in(record, _form(record, kind))
    if not fault and kind != ABLATION:  # version 0.1 kept none of those
        settings = READING if kind in (TRANSPLANT, HEALTH) else TUNED if kind == EVALUATION else SETTINGS
        fault = fault_in(record["provenance"], {"settings": settings}, "provenance")
    return fault or _unfit(record, arrays, kind)


def _unfit(record: JsonObject, arrays: Mapping[str, np.ndarray], kind: str) -> str | None:
    """What parts of a sound form say that cannot be true together."""
    models, pairs = record["provenance"]["models"], record["pairs"]
    roles = [model["role"] for model in models]
    beyond = [i for i, pair in enumerate(pairs) for side in "ab" if not 0 <= (pair[side] or 0) < max(1, len(models))]
    if beyond:
        return f"pairs[{beyond[0]}] is of a model that is not in provenance.models"
    shapes: dict[str, tuple[int, ...]] = {}
    if kind == COMPARISON:
        needed = {"a": 1, "b": 1, "control": int("control" in record["summary"])}
        if lacking := [role for role, number in needed.items() if roles.count(role) != number]:
            return f"provenance.models has {roles.count(lacking[0])} models of the role {lacking[0]!r}"
        if not record["layers"] or not any(pair["role"] == "pair" for pair in pairs):
            return "it has no layers, or no pair"
        measures = dict.fromkeys(record["layers"][0]["measures"], INTERVAL)
        if fault := fault_in(record["layers"], [{"measures": measures}], "layers"):
            return fault
        size = (len(record["matrix"]["layers_a"]), len(record["matrix"]["layers_b"]))
        shapes = {f"matrix.{estimator}": size for estimator in ESTIMATORS}
    elif kind == TRAJECTORY:
        checkpoints = [pair for pair in pairs if pair["role"] == "checkpoint"]
        if roles.count("reference") != 1 or not checkpoints:
            return "it has no reference, or no checkpoint"
        depth = max(len(pair["layers"]) for pair in checkpoints)
        shapes = {"x": (len(checkpoints),), "divergence.debiased": (len(checkpoints), depth)}
    elif kind == MATRIX:
        if fault := fault_in(models, [{"weights_sha256": TEXT}], "provenance.models"):
            return fault
        if sorted(record["linkage"]["order"]) != list(range(len(models))):
            return "linkage.order does not name every model once"
        shapes = {"mean.debiased": (len(models),) * 2}
    elif kind in (TRANSPLANT, INTERPOLATION, HEALTH):
        if fault := _unfit_readouts(record, kind):
            return fault
    elif kind == ABLATION and "readouts" in record["summary"]:
        readouts = record["summary"]["readouts"]
        if not all(one["quantities"] for one in readouts):
            return "a readout of summary.readouts has no quantity"
        names = [f"{one['name']}.{q['name']}" for one in readouts for q in one["quantities"]]
        if fault := fault_in(pairs, [{"readouts": dict.fromkeys(names, IN_CELL)}], "pairs"):
            return fault
    elif kind == CONTRAST and len(record["summary"]["groups"]) != 2:
        return f"summary.groups has {len(record['summary']['groups'])} groups, not 2"
    elif kind == PROBE:
        found = record["models"]
        if len(found) != len(models) or not all(one["layers"] for one in found):
            return "models are not those of provenance.models, or have no layers"
        if any(one["chosen_layer"] not in [layer["layer"] for layer in one["layers"]] for one in found):
            return "a model's chosen layer is not among its layers"
        if any(not 0 <= one[side] < len(found) for one in record["differences"] for side in "ab"):
            return "a difference is of a model that is not there"
        if len(record["summary"]["readouts"]) != 1:
            return "summary.readouts is not of one readout"
        shuffled = dict.fromkeys(("shuffled", "selectivity"), OF_PROBE) if record["summary"]["label_shuffle"] else {}
        if fault := fault_in(found, [{"layers": [shuffled]}], "models"):
            return fault
        depth = max(len(one["layers"]) for one in found)
        shapes = {"accuracy": (len(found), depth, record["summary"]["n_documents"])}
    elif kind == EVALUATION:
        if fault := _unfit_evaluation(record):
            return fault
        size = (len(models), len(record["summary"]["seeds"]))
        for t, task in enumerate(record["summary"]["tasks"]):
            shapes |= {f"{t}.{quantity['name']}": size for quantity in task["quantities"]}
    elif kind == NEEDLE:
        if fault := _unfit_needles(record):
            return fault
        n = record["summary"]["n_documents"]
        depth = max(len(one["layers"]) for one in record["models"])
        shapes = {name: (len(models), depth, n) for name in BOTH_PROBES}
        shapes |= {f"example.{name}": (n,) for name in ("length", "position", "place", "label", "template")}
    for pair in pairs:
        for layer in pair["layers"]:
            if "ratio" in layer and "control" not in layer:
                return "a layer has a ratio, and no control"
            # Tables of several pairs name the measures once.
            measures = dict.fromkeys(pair["layers"][0].get("measures", {}), INTERVAL)
            if fault := fault_in(layer.get("measures", {}), measures, "measures"):
                return fault
    for name, shape in shapes.items():
        if name not in arrays:
            return f"there is no array {name!r}"
        if arrays[name].shape != shape or arrays[name].dtype != np.float64:
            return f"array {name!r} is {arrays[name].dtype} of shape {arrays[name].shape}, not float64 of {shape}"
    return None


def _unfit_evaluation(record: JsonObject) -> str | None:
    """The same for fine-tuning: every model has every task's scores, and every seed's."""
    models, tasks, seeds = record["models"], record["summary"]["tasks"], record["summary"]["seeds"]
    if not tasks or not seeds or len(models) != len(record["provenance"]["models"]) or not models:
        return "it has no tasks, no seeds, or not the models of provenance.models"
    columns = [*range(len(tasks)), *([None] if len(tasks) > 1 else [])]
    places = [(one["task"], one["model"]) for one in record["scores"]]
    if sorted(places, key=str) != sorted(((t, m) for t in columns for m in range(len(models))), key=str):
        return "scores are not one a task and model"
    if [one["task"] for one in record["best"]] != columns or any(
        not 0 <= one["model"] < len(models) for one in record["best"]
    ):
        return "best does not name a model of every task"
    if any(not 0 <= one["task"] < len(tasks) for one in record["floors"]):
        return "a floor is of a task that is not there"
    for one in (*record["scores"], *record["floors"], *record["differences"]):
        if one["task"] not in columns:
            return "a difference is of a task that is not there"
        names = ["mean"] if one["task"] is None else [q["name"] for q in tasks[one["task"]]["quantities"]]
        if one["task"] is not None and tasks[one["task"]]["headline"] not in names:
            return "a task's headline is not among its quantities"
        if fault := fault_in(one["readouts"], dict.fromkeys(names, dict), "readouts"):
            return fault
        if any(not 0 <= one[side] < len(models) for side in "ab" if side in one):
            return "a difference is of a model that is not there"
        if "runs" in one and one["task"] is not None:
            if [run["seed"] for run in one["runs"]] != seeds:
                return "scores are not of the seeds of the summary"
            if fault := fault_in(one["runs"], [{"readouts": dict.fromkeys(names, float)}], "runs"):
                return fault
    return None


def _unfit_needles(record: JsonObject) -> str | None:
    """The same for a needle: every model is told of at its output, and every number of every group."""
    models, summary, groups = record["models"], record["summary"], record["groups"]
    if len(models) != len(record["provenance"]["models"]) or not groups:
        return "models are not those of provenance.models, or there are no groups"
    told = [(one["length"], one["position"]) for one in groups]
    lengths, positions = summary["lengths"], summary["positions"]
    whole = [(a, b) for a in (None, *lengths) for b in (None, *positions)]
    if sorted(map(str, told)) != sorted(map(str, whole)):
        return "groups are not those of summary.lengths and summary.positions"
    if any(not 0 <= one[side] < len(models) for one in record["differences"] for side in "ab"):
        return "a difference is of a model that is not there"
    for one in (*models, *record["differences"]):
        if sum(layer["output"] for layer in one["layers"]) != 1:
            return "a model or difference does not tell of one output"
        for layer in one["layers"]:
            for probe in layer["probes"].values():
                if summary["label_shuffle"] and one in models and "shuffled" not in probe:
                    return "a probe lacks its control of shuffled labels"
                if any(len(probe[name]) != len(groups) for name in ("accuracy", "shuffled") if name in probe):
                    return "a probe does not tell of every group"
    return None


def _unfit_readouts(record: JsonObject, kind: str) -> str | None:
    """The same for a run of readouts: every quantity is told of everything that was read."""
    readouts = record["summary"]["readouts"]
    names = [f"{one['name']}.{quantity['name']}" for one in readouts for quantity in one["quantities"]]
    if not names or not record.get("models", record.get("ends", record.get("points"))):
        return "it reads nothing, or of nothing"
    if kind == INTERPOLATION:  # divergences stand in a place of their own
        names = [name for name in names if not name.startswith("divergence.")]
    form = {"readouts": dict.fromkeys(names, dict)}
    parts = {TRANSPLANT: ("ends", "hybrids"), INTERPOLATION: ("points",), HEALTH: ("models",)}[kind]
    if fault := next((found for part in parts if (found := fault_in(record[part], [form], part))), None):
        return fault
    if kind == HEALTH:
        told = {name: dict for name in names if not name.endswith(".perplexity")}
        return fault_in(record["differences"], [{"readouts": told}], "differences")
    if kind == INTERPOLATION:
        if len(record["summary"]["names"]) != 2:
            return f"summary.names has {len(record['summary']['names'])} names, not 2"
        ends = [one["divergence"] for one in record["points"]]
        return fault_in(ends, [dict.fromkeys(ends[0], INTERVAL)], "points.divergence")
    sizes = Counter(one["direction"] for one in record["hybrids"])
    if len(set(sizes.values())) != 1:
        return "its directions have different numbers of hybrids"
    return fault_in(record["gap"], dict.fromkeys(names, INTERVAL), "gap")
