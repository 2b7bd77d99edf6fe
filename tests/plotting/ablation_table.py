"""A made-up ablation's tidy table: every axis, two sizes, two seeds."""

from typing import Any

import pandas as pd

from cka_tools.ablation.axes import make_cells
from cka_tools.ablation.result import COLUMNS

DEPTHS = {"8x128": 8, "4x64": 4}


def ablation_table() -> pd.DataFrame:
    rows = []
    for cell in make_cells("all", DEPTHS):
        for seed in (1, 2):
            base = 0.1 * (0.6 if cell.size == "4x64" else 1.0) * (cell.position or 1.0) ** 0.2 + 0.01 * seed
            for layer in (*range(DEPTHS[cell.size]), "early", "mean"):
                d = base * (1.3 if layer == "early" else 1.0)
                rows.append(
                    dict.fromkeys(COLUMNS)
                    | {"axis": cell.axis, "cell": cell.name, "position": cell.position, "size": cell.size}
                    | {"seed": seed, "layer": layer, "divergence": d, "ci_low": 0.9 * d, "ci_high": 1.1 * d}
                    | {"control": 0.03, "control_ci_low": 0.027, "control_ci_high": 0.033, "tokens": 1000}
                    | {"ratio": d / 0.03, "ratio_ci_low": d / 0.034, "ratio_ci_high": d / 0.026}
                )
    return pd.DataFrame(rows).astype({"position": float})


def ablation_record() -> dict[str, Any]:
    """The record of the same ablation, in which every interval is a tenth of its value to both sides."""

    def entry(value: float) -> dict[str, float]:
        return {"value": value, "ci_low": 0.9 * value, "ci_high": 1.1 * value}

    table = ablation_table()
    names = ["axis", "cell", "position", "size", "seed"]
    cells = []
    for row in table[table["layer"].astype(str) == "mean"].to_dict("records"):
        d = row["divergence"]
        position = None if pd.isna(row["position"]) else row["position"]
        cells.append(
            {name: row[name] for name in names}
            | {"position": position, "mean_divergence": entry(d), "early_divergence": entry(1.3 * d)}
            | {"control_mean_divergence": entry(0.03), "control_early_divergence": entry(0.04)}
            | {"mean_ratio": entry(d / 0.03)}
        )
    return {"axis": "all", "cells": cells, "summary": {"n_documents": 300, "warnings": [], "notes": []}}
