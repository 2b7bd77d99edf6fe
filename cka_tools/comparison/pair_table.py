"""The entry of a pair of models → rows of a tidy table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

JsonObject = dict[str, Any]

MEANS = ("mean", "early")
"""Over which layers a divergence is averaged: all that are paired, or the early ones."""


_WHOLE = ("layer_a", "layer_b", "tokens", "n_documents")


def tidy(rows: Sequence[JsonObject]) -> pd.DataFrame:
    """Rows as a table; whole numbers stay whole where some are missing."""
    frame = pd.DataFrame(rows)
    return frame.astype({name: "Int64" for name in _WHOLE if name in frame})


def pair_rows(entry: JsonObject, shared: JsonObject) -> list[JsonObject]:
    """Tidy rows of a pair's entry: each layer pair, then the early and the overall mean."""
    rows = []
    for layer in entry["layers"]:
        known = {key: value for key, value in layer.items() if not isinstance(value, dict)}
        named = {"layer": known["layer_a"] if known["layer_a"] == known["layer_b"]
                 else f"{known['layer_a']}/{known['layer_b']}"}  # fmt: skip
        rows.append(shared | named | _interval(layer["divergence"]) | known)
    for name in reversed(MEANS):
        both = entry[f"{name}_divergence"]
        rows.append(
            shared | {"layer": name} | _interval(both["debiased"])
            | {"divergence_biased": both["biased"]["value"]}
        )  # fmt: skip
    return rows


def _interval(entry: JsonObject) -> JsonObject:
    return {
        "divergence": entry["value"],
        "ci_low": entry["ci_low"],
        "ci_high": entry["ci_high"],
        "reason": entry.get("reason"),
    }
