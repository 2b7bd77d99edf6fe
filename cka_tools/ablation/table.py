"""The record of an ablation → one tidy table: a row for each cell, seed and layer, and for both means."""

from __future__ import annotations

import csv
import io
from typing import Any, Final

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
