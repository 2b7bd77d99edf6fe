"""The figure of a comparison: one page, everything a reader needs in order to judge it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from cka_tools.figure_choices import chosen
from cka_tools.formatting import model_names, percent, percent_interval, ratio_refusals, ratio_sentence, shown_names
from cka_tools.plotting import layer_curves
from cka_tools.plotting.heatmap import draw_heatmap, draw_scale
from cka_tools.plotting.style import Page, figure_style, panel_letters, settings_line

# Inches. Every panel has its place; the page grows with the lines of its title and of its warnings.
LEFT, CURVES_WIDTH = 0.58, 3.02
HEAT_LEFT, HEAT_SIDE = 4.22, 2.80
DIVERGENCE, DIMENSION, RATIO, BETWEEN = 1.75, 1.15, 1.15, 0.30
ABOVE, BELOW = 0.46, 0.42
LEGEND_COLUMNS, LEGEND_LINES, LEGEND_LINE = 3, 2, 0.13  # lines of a legend that ABOVE holds, height of more
SCALE_HEIGHT, HEAT_LABELS = 0.09, 0.37
NARROWEST = 0.35  # of the heatmap's side: its shorter side where depths differ
NAME_LETTERS = 44
SHORT_PLACES = {"embeddings": "emb", "final norm": "norm"}

Record = dict[str, Any]


@figure_style()
def comparison_figure(record: Record, arrays: Mapping[str, np.ndarray]) -> Figure:
    """Divergence by layer, effective dimension under it, the layer × layer heatmap beside it.

    Nothing of matplotlib's global state is used or changed. The same comparison gives the same file.

    Args:
        record, arrays: of a `Comparison`.
    """
    summary = record["summary"]
    a, b = shown_names(record, NAME_LETTERS)[:2]
    with_control = bool(model_names(record, "control"))
    stack = DIVERGENCE + BETWEEN + DIMENSION + (BETWEEN + RATIO if with_control else 0.0)
    above = ABOVE + LEGEND_LINE * max(0, _legend_lines(record) - LEGEND_LINES)
    page = Page((f"{a} (A)", f"against {b} (B)"), settings_line(record), above + stack + BELOW, _footnotes(record))
    floor, ceiling = page.floor + BELOW, page.ceiling - above
    page.write(LEFT, page.ceiling - 0.03, _numbers(summary))
    heat = "the paired layers" if "reason" in record["matrix"] else "every layer of A with every layer of B"
    page.write(HEAT_LEFT, page.ceiling - 0.03, f"Debiased CKA of {heat}")
    upper = page.panel(LEFT, ceiling - DIVERGENCE, CURVES_WIDTH, DIVERGENCE)
    lower = page.panel(LEFT, floor, CURVES_WIDTH, DIMENSION, sharex=upper)
    _curves(record, upper, lower)
    heatmap = _heat(record, arrays["matrix.debiased"], page, ceiling)
    panels = [upper, heatmap, lower]
    if with_control:
        ratio = page.panel(LEFT, floor + DIMENSION + BETWEEN, CURVES_WIDTH, RATIO, sharex=upper)
        _ratio(record, ratio)
        panels.insert(2, ratio)
    panel_letters(panels, 10)
    return page.figure


def _curves(record: Record, upper: Axes, lower: Axes) -> None:
    entries, summary = record["layers"], record["summary"]
    layers = [entry["layer_a"] for entry in entries]
    band = layer_curves.draw_early_band(upper, layers, summary["early_layers"])
    layer_curves.draw_early_band(lower, layers, summary["early_layers"])
    handles = layer_curves.draw_divergence(upper, entries, summary["mean_divergence"]["debiased"]["value"])
    if model_names(record, "control"):
        handles += layer_curves.draw_control(upper, entries)
    upper.legend(handles=[*handles, *band], loc="lower left", bbox_to_anchor=(0, 1), ncols=LEGEND_COLUMNS)
    dimensions = layer_curves.draw_effective_dimension(lower, entries)
    lower.legend(handles=dimensions, loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
    layer_curves.layer_axis(upper, layers, row_names(record, "a"))
    upper.tick_params(labelbottom=False)
    same = all(entry["layer_a"] == entry["layer_b"] for entry in entries)
    lower.set_xlabel("layer" if same else "layer of A, each with its pair in B")
    for ax in (upper, lower):
        ax.yaxis.set_label_coords(-0.38 / CURVES_WIDTH, 0.5)


def row_names(record: Record, side: str) -> dict[int, str]:
    """What rows beside the layers are called on an axis, by their number."""
    return {e[f"layer_{side}"]: SHORT_PLACES[e["place"]] for e in record["layers"] if "place" in e}


def _legend_lines(record: Record) -> int:
    """Lines of the legend over the curves, which has an entry for everything that can be there."""
    summary = record["summary"]
    shown = [
        True,  # debiased
        chosen().biased,
        "rescaled" in summary,
        summary["mean_divergence"]["debiased"]["value"] is not None,
        any(entry["cka_debiased"] is None for entry in record["layers"]),
        bool(model_names(record, "control")),
        bool(summary["early_layers"]),
    ]
    return -(-sum(shown) // LEGEND_COLUMNS)


def _ratio(record: Record, ax: Axes) -> None:
    entries, summary = record["layers"], record["summary"]
    layer_curves.draw_early_band(ax, [entry["layer_a"] for entry in entries], summary["early_layers"])
    handles = layer_curves.draw_ratio(ax, entries, summary["ratio"]["mean"]["value"])
    ax.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
    ax.tick_params(labelbottom=False)
    ax.yaxis.set_label_coords(-0.38 / CURVES_WIDTH, 0.5)


def _heat(record: Record, matrix: np.ndarray, page: Page, ceiling: float) -> Axes:
    rows, columns = matrix.shape
    scale = HEAT_SIDE / max(rows, columns)
    tall, wide = (max(side * scale, NARROWEST * HEAT_SIDE) for side in (rows, columns))
    bottom = ceiling - tall
    ax = page.panel(HEAT_LEFT, bottom, wide, tall)
    mesh, handles = draw_comparison_heatmap(ax, record, matrix, cell=72 * min(tall / rows, wide / columns))
    ax.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
    under = bottom - HEAT_LABELS - SCALE_HEIGHT
    lying = page.panel(HEAT_LEFT, under, max(wide, 0.6 * HEAT_SIDE), SCALE_HEIGHT)
    draw_scale(lying, mesh, scale_label(mesh), 5)
    return ax


def draw_comparison_heatmap(
    ax: Axes, record: Record, matrix: np.ndarray, cell: float
) -> tuple[QuadMesh, list[Line2D | Patch]]:
    """The heatmap of a comparison's record, its pairs and best matches marked; as `draw_heatmap`."""
    names = [row_names(record, side) for side in "ab"]
    layers = [[own.get(at, at) for at in record["matrix"][f"layers_{s}"]] for s, own in zip("ab", names, strict=True)]
    both = [(entry["layer_a"], entry["layer_b"]) for entry in record["layers"]]
    return draw_heatmap(
        ax,
        matrix,
        layers[0],
        layers[1],
        [(names[0].get(i, i), names[1].get(j, j)) for i, j in both],
        [(m["layer_a"], m["layer_b"]) for m in record["best_match"] if m["layer_b"] is not None],
        cell=cell,
        absent="not computed" if "reason" in record["matrix"] else "undefined",
    )


def scale_label(mesh: QuadMesh) -> str:
    """What the colours are; said where they do not reach from 0 to 1."""
    low, high = mesh.get_clim()
    return "CKA, debiased" + ("" if (low, high) == (0, 1) else f" (colours from {low:.3g} to {high:.3g})")


def _numbers(summary: Record) -> str:
    shown = []
    for name in ("mean", "early"):
        entry = summary[f"{name}_divergence"]["debiased"]
        interval = percent_interval(entry)
        value = "undefined" if entry["value"] is None else f"{percent(entry['value'])} %"
        shown.append(f"{name} {value}" + (f" ({interval})" if interval else ""))
    return f"debiased: {', '.join(shown)}"


def _footnotes(record: Record) -> list[str]:
    notes, summary = [], record["summary"]
    control = model_names(record, "control")
    if control:
        notes.append(f"The control is {shown_names(record, NAME_LETTERS)[2]}. {ratio_sentence(summary)}")
        notes += [f"No ratio {line}." for line in ratio_refusals(record["layers"])]
    protocol = summary.get("protocol")
    if protocol:
        spreads = []
        for name in ("mean", "early"):
            over = protocol[f"{name}_divergence"]["biased"]
            known = over["mean"] is not None
            spreads.append(
                f"{name} {percent(over['mean'])} % ± {percent(over['std'])}" if known else f"{name} undefined"
            )
        notes.append(
            f"Protocol {protocol['name']} (biased, seeds {', '.join(map(str, protocol['seeds']))}): "
            f"{', '.join(spreads)} over {len(protocol['seeds'])} draws."
        )
    return notes + [f"[{warning['code']}] {warning['text']}" for warning in summary["warnings"]]
