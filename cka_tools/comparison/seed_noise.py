"""The ratio to seed noise in words: one sentence, and why layers have none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cka_tools.comparison.caveats import layer_list
from cka_tools.formatting import printable, times, times_interval


def ratio_sentence(summary: dict[str, Any]) -> str:
    """How many times the seed noise a pair's divergence is; `summary` is of a comparison with a control."""
    ratio = summary["ratio"]
    level = f"{100 * summary['interval']['level']:g} % interval "
    mean = ratio["mean"]
    if mean["value"] is None:
        return f"The pair's mean divergence has no ratio to the seed noise; {printable(mean['reason'])}."
    text = f"The pair's mean divergence is {_stated(mean, level)}"
    early = summary["early_layers"]
    if early:
        where = f"layer{'s' if len(early) > 1 else ''} {layer_list(early)}"
        text += f", in early {where} {_stated(ratio['early'], '')}"
    if ratio["smallest"] != ratio["largest"]:
        text += f"; by layer {times(ratio['smallest'])} to {times(ratio['largest'])}"
    return f"{text}."


def _stated(entry: dict[str, Any], level: str) -> str:
    if entry["value"] is None:
        return f"not given ({printable(entry['reason'])})"
    interval = times_interval(entry)
    stated = f"{times(entry['value'])} times the seed noise" if level else times(entry["value"])
    return f"{stated} ({f'{level}{interval}' if interval else 'no interval'})"


def ratio_refusals(layers: Sequence[dict[str, Any]]) -> list[str]:
    """Why layers have no ratio: one line a kind of reason, "in layers 0–3: …", with one layer's numbers."""
    by_kind: dict[str, list[tuple[int, str]]] = {}
    for entry in layers:
        ratio = entry.get("ratio")
        if ratio is not None and ratio["value"] is None:
            kind = ratio["reason"].split(":")[0]
            by_kind.setdefault(kind, []).append((entry["layer_a"], ratio["reason"]))
    lines = []
    for found in by_kind.values():
        refused = [layer for layer, _ in found]
        first, reason = found[0]
        example = f" (layer {first})" if len(refused) > 1 and ":" in reason else ""
        plural = "s" if len(refused) > 1 else ""
        lines.append(f"in layer{plural} {layer_list(refused)}: {printable(reason)}{example}")
    return lines
