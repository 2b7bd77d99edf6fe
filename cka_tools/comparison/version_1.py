"""Records of version 0.1 (format 1) → today's form; values that it did not keep are null with the reason."""

from __future__ import annotations

from cka_tools.comparison.record import ABLATION, COMPARISON, MATRIX, MEANS, TRAJECTORY, JsonObject

NOT_KEPT = {"value": None, "ci_low": None, "ci_high": None, "reason": "version 0.1 did not keep it"}


def upgrade(record: JsonObject, kind: str) -> JsonObject:
    """Bring a record of format 1 to format 2.

    Raises:
        KeyError, TypeError: a record that lacks what its kind has.
    """
    return {COMPARISON: _comparison, TRAJECTORY: _trajectory, MATRIX: _matrix, ABLATION: _ablation}[kind](record)


def _cka_of(layer: JsonObject) -> JsonObject:
    """Debiased CKA of a comparison's layer, as today's record holds an interval."""
    reason = {"reason": layer["reason"]} if layer.get("reason") else {}
    return {"value": layer["cka_debiased"], "ci_low": layer["ci_low"], "ci_high": layer["ci_high"]} | reason


def _minus(value: float | None) -> float | None:
    return None if value is None else 1 - value


def _complement(entry: JsonObject) -> JsonObject:
    """1 − an interval, whose ends change places."""
    ends = {"ci_low": _minus(entry["ci_high"]), "ci_high": _minus(entry["ci_low"])}
    reason = {"reason": entry["reason"]} if entry.get("reason") else {}
    return {"value": _minus(entry["value"]), **ends, **reason}


def _with_cka(layer: JsonObject) -> JsonObject:
    """A layer of a trajectory, matrix or ablation, which kept divergences alone."""
    cka = _complement(layer["divergence"])
    known = {"layer_a": layer["layer"], "layer_b": layer["layer"]} if "layer" in layer else {}
    return (
        {"top_feature_a": None, "top_feature_b": None, "divergence_biased": None}
        | {name: value for name, value in layer.items() if name != "layer"}
        | known
        | {
            "cka_debiased": cka["value"],
            "cka_biased": _minus(layer.get("divergence_biased")),
            "ci_low": cka["ci_low"],
            "ci_high": cka["ci_high"],
            "measures": {"cka": cka},
        }
    )


def _comparison(record: JsonObject) -> JsonObject:
    summary = record["summary"]
    for layer in record["layers"]:
        cka = _cka_of(layer)
        layer["divergence"] = _complement(cka)
        layer["divergence_biased"] = _minus(layer["cka_biased"])
        layer["measures"] = {"cka": cka}
    models = record["provenance"]["models"]
    record["provenance"]["models"] = [{"role": role, **model} for role, model in models.items()]
    pair = {"a": 0, "b": 1, "role": "pair", **{f"{n}_divergence": summary[f"{n}_divergence"] for n in MEANS}}
    if "control" in summary:
        pair["control"] = {f"{n}_divergence": summary["control"][f"{n}_divergence"] for n in MEANS}
        pair["ratio"] = summary["ratio"]
    return {"kind": COMPARISON, **record, "pairs": [pair | {"layers": record["layers"]}]}


def _pair(entry: JsonObject, a: int, b: int, role: str) -> JsonObject:
    layers = [_with_cka(layer) for layer in entry["layers"]]
    return {"a": a, "b": b, "role": role, **entry, "layers": layers}


def _trajectory(record: JsonObject) -> JsonObject:
    models = record["provenance"]["models"]
    checkpoints, control = record.pop("checkpoints"), record.pop("control")
    found = [("reference", models["reference"]), *(("checkpoint", one) for one in models["checkpoints"])]
    found += [("control", models["control"])] if models["control"] else []
    record["provenance"]["models"] = [{"role": role, **model} for role, model in found]
    pairs = [_pair(one, at + 1, 0, "checkpoint") for at, one in enumerate(checkpoints)]
    pairs += [_pair(control, len(pairs) + 1, 0, "control")] if control else []
    return record | {"pairs": pairs}


def _matrix(record: JsonObject) -> JsonObject:
    models = record["provenance"]["models"]
    record["provenance"]["models"] = [{"role": "model", **model} for model in models]
    pairs = [_pair(pair, pair["a"], pair["b"], "pair") for pair in record["pairs"]]
    return record | {"pairs": pairs}


def _ablation(record: JsonObject) -> JsonObject:
    cells: list[JsonObject] = []
    models: list[JsonObject] = []
    places: dict[str, int] = {}

    def place(weights: str | None, role: str) -> int | None:
        if weights is None:
            return None
        if weights not in places:
            places[weights] = len(models)
            models.append({"role": role, "name": weights[:12], "weights_sha256": weights})
        return places[weights]

    for cell in record.pop("cells"):
        known = {
            name: value
            for name, value in cell.items()
            if name not in ("layers", "ratio_range") and not name.endswith(("_divergence", "_ratio"))
        }
        known |= {"noise": "unknown" if cell["weights"]["control"] else None, "data_seed": cell["seed"]}
        both, control = (
            {f"{n}_divergence": {"debiased": cell[f"{of}{n}_divergence"], "biased": dict(NOT_KEPT)} for n in MEANS}
            for of in ("", "control_")
        )
        smallest, largest = cell["ratio_range"] or (None, None)
        ratio = {"mean": cell["mean_ratio"], "early": cell["early_ratio"], "smallest": smallest, "largest": largest}
        cells.append(
            known
            | both
            | {
                "role": "cell",
                "a": place(cell["weights"]["detour"], "detour"),
                "b": place(cell["weights"]["baseline"], "baseline"),
                "control": control,
                "ratio": ratio,
                "layers": [_with_cka(layer) for layer in cell["layers"]],
            }
        )
    for warning in record["summary"]["warnings"]:
        warning["pairs"] = warning.pop("cells")
    origin = record["provenance"]
    origin["models"] = models
    corpus = origin["corpus"]
    draw = {name: value for name, value in corpus.items() if name not in ("spec", "source")}
    origin["corpus"] = {"spec": corpus["spec"], "source": corpus["source"], "draws": [draw]}
    return record | {"pairs": cells}
