"""The record of an ablation → one tidy table: a row for each cell, seed and layer, and for both means."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from cka_tools.errors import UserError

CELL_COLUMNS: Final = ("axis", "cell", "position", "size", "seed")
COLUMNS: Final = (
    *CELL_COLUMNS,
    "layer",
    "divergence",
    "ci_low",
    "ci_high",
    "control",
    "control_ci_low",
    "control_ci_high",
    "ratio",
    "ratio_ci_low",
    "ratio_ci_high",
    "reason",
    "effective_dim_a",
    "effective_dim_b",
    "top_feature_share_a",
    "top_feature_share_b",
    "noise",
    "data_seed",
    "control_seed",
    "control_data_seed",
    "mask",
    "tokens",
    "n_documents",
    "recipe_sha256",
    "baseline_recipe_sha256",
    "weights_detour",
    "weights_baseline",
    "weights_control",
)
MEANS: Final = ("early", "mean")
PARTS: Final = ("divergence", "control", "ratio")

Row = dict[str, Any]


def rows(cells: list[dict[str, Any]]) -> list[Row]:
    """Return the table's rows: fractions, None where a value cannot be given and `reason` says why."""
    found = []
    for cell in cells:
        shared: Row = {name: value for name, value in cell.items() if name in COLUMNS}
        shared |= {f"weights_{role}": weights for role, weights in cell["weights"].items()}
        for layer in cell["layers"]:
            own = {name: value for name, value in layer.items() if name in COLUMNS and name not in PARTS}
            found.append(_row(shared | own, layer["divergence"], layer["control"], layer["ratio"]))
        for name in MEANS:
            parts = (cell[f"{name}_divergence"], cell[f"control_{name}_divergence"], cell[f"{name}_ratio"])
            found.append(_row(shared | {"layer": name}, *parts))
    return found


def _row(known: Row, divergence: Row, control: Row, ratio: Row) -> Row:
    row = dict.fromkeys(COLUMNS) | known
    for prefix, entry in (("", divergence), ("control_", control), ("ratio_", ratio)):
        row[prefix.removesuffix("_") or "divergence"] = entry["value"]
        row |= {f"{prefix}{end}": entry[end] for end in ("ci_low", "ci_high")}
    reasons = dict.fromkeys(e["reason"] for e in (divergence, control, ratio) if e.get("reason"))
    row["reason"] = "; ".join(reasons) or None
    return row


def to_csv(cells: list[dict[str, Any]]) -> str:
    """Return the table as CSV; an empty field is a value that cannot be given."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows(cells))
    return text.getvalue()


KIND: Final = "ablation"
FORMAT: Final = 1
RESULT, TABLE, FIGURE = "result.json", "ablation.csv", "figure"
PACKAGES: Final = ("torch", "transformers", "tokenizers", "accelerate", "numpy")

JsonObject = dict[str, Any]


def build_record(
    axis: str, cells: list[JsonObject], draw: Any, training: JsonObject, notes: Sequence[str]
) -> JsonObject:
    """Return what `result.json` holds.

    Args:
        cells: what `measure` gave.
        draw: the `DocumentDraw` that all were compared on.
        training: where the checkpoints come from.
    """
    from cka_tools.comparison.provenance import circumstances

    warned: dict[str, JsonObject] = {}
    for cell in cells:
        for warning in cell["warnings"]:
            place = f"{cell['axis']}:{cell['cell']}@{cell['size']} seed {cell['seed']}"
            entry = warned.setdefault(warning["code"], {"code": warning["code"], "cells": []})
            entry["cells"].append(place)
            entry.setdefault("text", f"{place}: {warning['text']}")
    return {
        "kind": KIND,
        "axis": axis,
        "summary": {
            "axis": axis,
            "n_documents": cells[0]["n_documents"] if cells else 0,
            "warnings": list(warned.values()),
            "notes": [*notes, *draw.notes],
        },
        "cells": cells,
        "provenance": {
            "training": training,
            "corpus": {
                "spec": draw.corpus,
                "source": draw.source,
                "seed": draw.seed,
                "fingerprint": draw.fingerprint,
                "counts": draw.counts,
                "document_ids": [document.id for document in draw.documents],
            },
            **circumstances(PACKAGES),
        },
    }


def write_ablation(out: Path, record: JsonObject) -> Path:
    """Write table, figure and, last, `result.json`; each file whole or not at all.

    Raises:
        UserError: the directory cannot be written.
    """
    from cka_tools.plotting import ablation_figure

    figure = ablation_figure(record)
    text = json.dumps({"format": FORMAT, **record}, indent=1, ensure_ascii=False, allow_nan=False)
    files = {TABLE: to_csv(record["cells"]).encode()}
    for suffix in ("pdf", "png"):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=suffix)
        files[f"{FIGURE}.{suffix}"] = buffer.getvalue()
    files[RESULT] = f"{text}\n".encode()
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            staging = out / f".{name}.partial"
            staging.write_bytes(content)
            staging.replace(out / name)
    except OSError as error:
        raise UserError(f"--out {str(out)!r} cannot be written ({error.strerror})") from error
    return out


def read_ablation(run_dir: Path) -> JsonObject:
    """Return the record of an ablation.

    Where it does not say which kind of noise its ratios are to, the control took another order too.

    Raises:
        UserError: none there, damaged, or of a later format.
    """
    try:
        record: JsonObject = json.loads((run_dir / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{str(run_dir)!r} holds no finished ablation ({error}): run it again") from error
    if record.pop("format", 0) > FORMAT:
        raise UserError(f"{str(run_dir)!r} was written by a later version of cka-tools: upgrade to read it")
    for cell in record["cells"]:
        if "noise" not in cell:
            other = cell.get("control_seed")
            cell |= {"data_seed": cell["seed"], "control_data_seed": other}
            cell["noise"] = None if other is None else "order"
    return record
