"""The figure of a contrast: divergence between and within two groups by layer, and their ratio."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from cka_tools.formatting import contrast_sentence, level_in_words, ratio_refusals, shorten, significant_layers
from cka_tools.plotting import layer_curves
from cka_tools.plotting.style import (
    INK,
    Look,
    Page,
    StyledFigure,
    figure_style,
    settings_line,
    undefined_key,
    warning_notes,
)

# Inches.
LEFT, WIDTH, GAP = 0.58, 2.95, 0.58
HEIGHT, ABOVE, BELOW = 2.0, 0.32, 0.42
NAME_LETTERS = 30

BETWEEN: Look = layer_curves.DEBIASED
WITHIN: Look = layer_curves.CONTROL
SIGNIFICANT: Look = {"marker": "*", "markersize": 6.5, "color": INK, "markeredgewidth": 0, "linestyle": "none"}

Record = dict[str, Any]


@figure_style()
def contrast_figure(record: Record) -> StyledFigure:
    """Draw a contrast of two groups. Nothing of matplotlib's global state is used or changed.

    Args:
        record: of a `Contrast`.
    """
    summary = record["summary"]
    groups = summary["groups"]
    title = " and ".join(f"{shorten(g['name'], NAME_LETTERS)} ({g['members']} checkpoints)" for g in groups)
    settings = settings_line(record, "debiased linear CKA")
    page = Page([title], settings, ABOVE + HEIGHT + BELOW, _footnotes(record))
    bottom = page.floor + BELOW
    left = page.panel(LEFT, bottom, WIDTH, HEIGHT)
    right = page.panel(LEFT + WIDTH + GAP, bottom, WIDTH, HEIGHT)
    layers = [entry["layer"] for entry in record["layers"]]
    handles = draw_groups(left, record)
    band = layer_curves.draw_early_band(left, layers, summary["early_layers"])
    left.legend(handles=[*handles, *band], loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
    layer_curves.draw_early_band(right, layers, summary["early_layers"])
    entries = [entry | {"layer_a": entry["layer"]} for entry in record["layers"]]
    ratios = layer_curves.draw_ratio(right, entries, summary["mean"]["ratio"]["value"], "between / within")
    right.legend(handles=ratios, loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
    for ax in (left, right):
        layer_curves.layer_axis(ax, layers)
        ax.set_xlabel("layer")
    page.letters()
    return page.figure


def draw_groups(ax: Axes, record: Record) -> list[Line2D | Patch]:
    """Divergence between and within by layer with intervals, significant layers starred; gives the legend."""
    x = np.array([entry["layer"] for entry in record["layers"]])
    handles: list[Line2D | Patch] = []
    shown = [np.array([0.0])]
    top = np.zeros(len(x))
    for name, look in (("between", BETWEEN), ("within", WITHIN)):
        entries = [entry[name] for entry in record["layers"]]
        y, low, high = (100 * layer_curves.numbers(entries, key) for key in ("value", "ci_low", "ci_high"))
        handles += ax.plot(x, y, label=f"{name} groups", gid=name, **look)
        layer_curves.draw_intervals(ax, x, low, high, look, name)
        shown += [y, low, high]
        top = np.fmax(top, np.fmax(y, high))
    starred = np.isin(x, significant_layers(record))
    if starred.any():
        room = 0.06 * (np.nanmax(np.concatenate(shown)) - np.nanmin(np.concatenate(shown)))
        stars = ax.plot(x[starred], top[starred] + room, label="p ≤ 5 %", gid="significant", **SIGNIFICANT)
        handles += stars
        shown.append(top[starred] + 2 * room)
    if np.isnan(layer_curves.numbers([entry["between"] for entry in record["layers"]], "value")).any():
        handles.append(undefined_key())
    layer_curves.percent_axis(ax, np.concatenate(shown))
    ax.set_ylabel("mean divergence 1 − CKA (%)")
    return handles


def _footnotes(record: Record) -> list[str]:
    summary = record["summary"]
    interval = summary["interval"]
    reason = f" alone: {interval['reason']}" if "reason" in interval else ""
    bars = f"Bars: {level_in_words(summary)} intervals over {interval['over']}{reason}."
    if significant_layers(record):
        bars += " Stars: layers in which the groups differ, with one error rate of 5 % for all layers "
        bars += "(maximum statistic over them)."
    notes = [contrast_sentence(record), bars]
    entries = [entry | {"layer_a": entry["layer"]} for entry in record["layers"]]
    notes += [f"No ratio {line}." for line in ratio_refusals(entries)]
    return notes + warning_notes(summary, "pair")
