"""A made-up ablation: every axis, two sizes, two seeds; its record and the table that is made of it."""

from typing import Any

import pandas as pd

from cka_tools.ablation.axes import make_cells
from cka_tools.comparison.results import Ablation

DEPTHS = {"8x128": 8, "4x64": 4}


def entry(value: float) -> dict[str, float]:
    """An interval of a tenth of its value to both sides."""
    return {"value": value, "ci_low": 0.9 * value, "ci_high": 1.1 * value}


def both(value: float) -> dict[str, Any]:
    return {"debiased": entry(value), "biased": entry(value)}


def ablation_record() -> dict[str, Any]:
    pairs = []
    for cell in make_cells("all", DEPTHS):
        for seed in (1, 2):
            d = 0.1 * (0.6 if cell.size == "4x64" else 1.0) * (cell.position or 1.0) ** 0.2 + 0.01 * seed
            layers = [
                {
                    "layer_a": layer,
                    "layer_b": layer,
                    "divergence": entry(d),
                    "divergence_biased": d,
                    **dict.fromkeys(("cka_debiased", "cka_biased", "ci_low", "ci_high"), 1 - d),
                    "control": entry(0.03),
                    "ratio": entry(d / 0.03),
                }
                for layer in range(DEPTHS[cell.size])
            ]
            pairs.append(
                {"role": "cell", "axis": cell.axis, "cell": cell.name, "position": cell.position}
                | {"size": cell.size, "seed": seed, "tokens": 1000, "noise": "masks"}
                | {"mean_divergence": both(d), "early_divergence": both(1.3 * d), "layers": layers}
                | {"control": {"mean_divergence": both(0.03), "early_divergence": both(0.04)}}
                | {"ratio": {"mean": entry(d / 0.03), "early": entry(1.3 * d / 0.04)}}
                | {"weights": dict.fromkeys(("detour", "baseline", "control"), "f" * 64)}
            )
    return {"axis": "all", "pairs": pairs, "summary": {"n_documents": 300, "warnings": [], "notes": []}}


def ablation_table() -> pd.DataFrame:
    return Ablation(ablation_record(), {}).to_frame().astype({"position": float})
