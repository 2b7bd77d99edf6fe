"""The figure of a trajectory: mean and early divergence along training, the noise floor, every layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from cka_tools.formatting import model_names, noise_sentence, pairs_of, shorten
from cka_tools.plotting.heatmap import draw_mesh, draw_scale
from cka_tools.plotting.layer_curves import bounds, numbers, thin
from cka_tools.plotting.readout_pages import draw_health
from cka_tools.plotting.style import (
    FIRST,
    INK,
    SECOND,
    Look,
    Page,
    figure_style,
    settings_line,
    undefined_key,
    warning_notes,
)

# Inches.
LEFT, CURVES, GAP, HEAT_WIDTH = 0.55, 3.1, 0.62, 2.2
HEIGHT, ABOVE, BELOW = 2.1, 0.42, 0.46
SCALE_GAP, SCALE_WIDTH = 0.08, 0.09
HEALTH_GAP, HEALTH_HEIGHT = 0.34, 0.95
REFERENCE_LETTERS = 60
DOTTED = (0, (1, 1.5))

CURVE_LOOKS: dict[str, Look] = {"mean": FIRST, "early": SECOND}

Record = dict[str, Any]


@figure_style()
def trajectory_figure(record: Record, arrays: Mapping[str, np.ndarray]) -> Figure:
    """Draw a trajectory. Nothing of matplotlib's global state is used or changed.

    Args:
        record, arrays: of a `Trajectory`.
    """
    summary = record["summary"]
    reference = shorten(model_names(record, "reference")[0], REFERENCE_LETTERS)
    settings = settings_line(record, "debiased linear CKA")
    notes = [noise_sentence("the reference", [summary["noise"]])] if "noise" in summary else []
    notes += warning_notes(summary, "pair")
    below = HEALTH_GAP + HEALTH_HEIGHT if "health" in summary else 0.0
    page = Page([f"Divergence from {reference} along training"], settings, ABOVE + HEIGHT + below + BELOW, notes)
    bottom = page.ceiling - ABOVE - HEIGHT
    curves = page.panel(LEFT, bottom, CURVES, HEIGHT)
    heat = page.panel(LEFT + CURVES + GAP, bottom, HEAT_WIDTH, HEIGHT)
    scale = page.panel(LEFT + CURVES + GAP + HEAT_WIDTH + SCALE_GAP, bottom, SCALE_WIDTH, HEIGHT)
    handles = draw_curves(curves, record, arrays["x"])
    curves.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    draw_layers(heat, scale, record, arrays)
    label = summary["x"]["label"]
    lowest = curves
    if "health" in summary:
        lowest = page.panel(LEFT, bottom - below, CURVES, HEALTH_HEIGHT, sharex=curves)
        told, key = summary["health"], summary["health"]["quantity"]
        entries = [one["health"][key] for one in pairs_of(record, "checkpoint")]
        drawn = draw_health(lowest, arrays["x"], entries, told["reference"][key], f"{told['title']} loss")
        lowest.legend(handles=drawn, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
        curves.tick_params(labelbottom=False)
    lowest.set_xlabel(label)
    heat.set_xlabel("checkpoint, in the order of x" if len(pairs_of(record, "checkpoint")) > 1 else label)
    page.letters()
    return page.figure


def draw_curves(ax: Axes, record: Record, x: np.ndarray) -> list[Line2D | Patch]:
    """Mean and early divergence in percent with bands, and the control's; returns what the legend shows."""
    handles: list[Line2D | Patch] = []
    shown = [0.0]
    for name, look in CURVE_LOOKS.items():
        entries = [one[f"{name}_divergence"]["debiased"] for one in pairs_of(record, "checkpoint")]
        value, low, high = (100 * numbers(entries, key) for key in ("value", "ci_low", "ci_high"))
        (line,) = ax.plot(x, value, label=name, gid=name, zorder=5, **look)
        # One checkpoint has no area to fill: its interval is a bar.
        ax.fill_between(x, low, high, color=look["color"], alpha=0.18, linewidth=0, gid=f"{name} band")
        ax.vlines(x, low, high, color=look["color"], linewidth=0.7, alpha=0.6, gid=f"{name} interval")
        handles.append(line)
        shown += [v for v in (*value, *low, *high) if np.isfinite(v)]
    if control := pairs_of(record, "control"):
        for name, look in CURVE_LOOKS.items():
            entry = control[0][f"{name}_divergence"]["debiased"]
            if entry["value"] is None:
                continue
            ends = [100 * end for end in bounds(entry)]
            floor: Look = {"color": look["color"], "zorder": 1}
            ax.axhspan(*ends, alpha=0.10, linewidth=0, gid=f"{name} floor", **floor)
            ax.axhline(100 * entry["value"], linewidth=0.8, linestyle=DOTTED, gid=f"{name} noise", **floor)
            shown += ends
        handles.append(Line2D([], [], color=INK, linewidth=0.8, linestyle=DOTTED, label="seed noise"))
    handles.append(Patch(facecolor=INK, alpha=0.18, label="95 % interval over documents"))
    low_end, high_end = min(shown), max(1.0, *shown)
    room = 0.05 * (high_end - low_end)
    ax.set_ylim(low_end - room, high_end + room)
    ax.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]))
    ax.set_ylabel("divergence 1 − CKA (%)")
    ax.grid(axis="y")
    _x_axis(ax, x, record["summary"]["x"]["kind"])
    return handles


def _x_axis(ax: Axes, x: np.ndarray, kind: str) -> None:
    if kind == "position":
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    else:
        ax.xaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]))
    if kind == "tokens":
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: tokens_text(value)))
    if len(x) == 1:
        ax.set_xlim(x[0] - 0.5 * (abs(x[0]) or 1), x[0] + 0.5 * (abs(x[0]) or 1))


def tokens_text(count: float) -> str:
    """Tokens on an axis: 1,650,000 → "1.65M"."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(count) >= size:
            return f"{count / size:.3g}{letter}"
    return f"{count:g}"


def draw_layers(ax: Axes, scale: Axes, record: Record, arrays: Mapping[str, np.ndarray]) -> None:
    """Divergence of every layer pair at every checkpoint as a heatmap, the first layer below."""
    values = 100 * arrays["divergence.debiased"].T
    mesh = draw_mesh(ax, values, "layers")
    layers = max((one["layers"] for one in pairs_of(record, "checkpoint")), key=len)
    names = [entry["layer_b"] for entry in layers]
    ticks = thin(range(len(names)))
    ax.set_yticks(ticks, [str(names[at]) for at in ticks])
    columns = thin(range(values.shape[1]), most=6)
    write = tokens_text if record["summary"]["x"]["kind"] == "tokens" else "{:g}".format
    ax.set_xticks(columns, [write(float(arrays["x"][at])) for at in columns])
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_minor_locator(NullLocator())
    ax.set_ylabel("layer of the reference")
    ax.set_title("every layer")
    if not np.isfinite(values).all():
        ax.legend(handles=[undefined_key()], loc="lower right", bbox_to_anchor=(1, 1))
    draw_scale(scale, mesh, "divergence (%)", 5, "vertical")
