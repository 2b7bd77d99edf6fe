"""The figure of a matrix of models: a heatmap of mean divergence, its dendrogram beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cka_tools.formatting import percent, shown_names
from cka_tools.plotting import style
from cka_tools.plotting.heatmap import draw_mesh, draw_scale

# Inches.
SIDE, TREE, GAP = 3.0, 2.2, 0.1
ABOVE, BELOW, SCALE_HEIGHT, SCALE_GAP = 0.30, 0.36, 0.09, 0.32
NAME_LETTERS = 30
MOST_NUMBERS = 12
"""Models up to which a cell holds its number."""

DARK_CELLS = 0.52
"""Of the colours' range: below it white has the higher contrast, above it black."""

Record = dict[str, Any]


@style.figure_style()
def matrix_figure(record: Record, arrays: Mapping[str, np.ndarray]) -> Figure:
    """Draw a matrix of models. Nothing of matplotlib's global state is used or changed.

    Args:
        record, arrays: of a `ModelMatrix`.
    """
    linkage = record["linkage"]
    order = linkage["order"]
    names = shown_names(record, NAME_LETTERS)
    labels = [f"{name}  {at + 1}" for at, name in enumerate(names)]
    settings = style.settings_line(record, "debiased linear CKA")
    notes = style.warning_notes(record["summary"], "pair")
    if "reason" in linkage:
        notes.append(f"No dendrogram: {linkage['reason']}.")
    notes.append(f"Diagonal: {record['summary']['diagonal']}.")
    title = f"Mean divergence of {len(names)} models, all pairs"
    page = style.Page([title], settings, ABOVE + SIDE + SCALE_GAP + SCALE_HEIGHT + BELOW, notes)
    bottom = page.ceiling - ABOVE - SIDE
    left = style.MARGIN + 0.12 + max(style.text_width(label, style.SMALL) for label in labels)
    heat = page.panel(left, bottom, SIDE, SIDE)
    values = 100 * arrays["mean.debiased"][np.ix_(order, order)]
    mesh = draw_matrix(heat, values)
    heat.set_yticks(range(len(order)), [labels[at] for at in order])
    heat.set_xticks(range(len(order)), [str(at + 1) for at in order])
    heat.tick_params(length=0)
    if np.isnan(values).any():
        heat.legend(handles=[style.undefined_key()], loc="lower left", bbox_to_anchor=(0, 1))
    if linkage["merges"]:
        room = style.PAGE_WIDTH - style.MARGIN - left - SIDE - GAP
        draw_tree(page.panel(left + SIDE + GAP, bottom, min(TREE, room), SIDE), linkage)
    scale = page.panel(left, bottom - SCALE_GAP - SCALE_HEIGHT, SIDE, SCALE_HEIGHT)
    draw_scale(scale, mesh, "mean divergence 1 − CKA (%)", 6)
    return page.figure


def draw_matrix(ax: Axes, values: np.ndarray) -> QuadMesh:
    """Percentages (M, M) cell by cell, the first row above; each with its number where models are few."""
    mesh = draw_mesh(ax, values, "divergence")
    low, high = mesh.get_clim()
    ax.set_ylim(len(values) - 0.5, -0.5)
    for row, column in np.ndindex(values.shape) if len(values) <= MOST_NUMBERS else ():
        value = float(values[row, column])
        if row != column and np.isfinite(value):
            colour = "white" if (value - low) / (high - low) < DARK_CELLS else style.INK
            look: style.Look = {"ha": "center", "va": "center", "size": style.SMALL, "color": colour}
            ax.text(column, row, percent(value / 100), gid="value", **look)
    return mesh


def draw_tree(ax: Axes, linkage: Record) -> None:
    """The dendrogram, its leaves level with the heatmap's rows; a height below 0 is drawn where it is.

    Debiased divergences may be negative, which the dendrograms of scipy and seaborn do not take.
    """
    places = {leaf: (0.0, float(row)) for row, leaf in enumerate(linkage["order"])}
    for at, merge in enumerate(linkage["merges"]):
        (x_a, y_a), (x_b, y_b) = places[merge["a"]], places[merge["b"]]
        height = 100 * merge["height"]
        ax.plot([x_a, height, height, x_b], [y_a, y_a, y_b, y_b], color=style.DARK, linewidth=0.9, gid="merge")
        places[len(linkage["order"]) + at] = (height, (y_a + y_b) / 2)
    ax.set_ylim(len(linkage["order"]) - 0.5, -0.5)
    heights = [100 * merge["height"] for merge in linkage["merges"]]
    ax.set_xlim(min([0.0, *heights]) * 1.05, max([0.1, *heights]) * 1.05)
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=4, steps=[1, 2, 5, 10]))
    ax.set_xlabel("merged at (%)")
    ax.set_title("average linkage")
