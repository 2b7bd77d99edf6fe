"""The figure of a matrix of models: a heatmap of mean divergence, its dendrogram beside it."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from cka_tools.comparison.matrix_result import ModelMatrix
from cka_tools.formatting import percent, settings_in_words, shorten
from cka_tools.plotting.heatmap import draw_mesh
from cka_tools.plotting.style import (
    DARK,
    INK,
    MARGIN,
    PAGE_WIDTH,
    SMALL,
    TEXT,
    Page,
    figure_style,
    text_width,
    undefined_key,
    warning_notes,
)

# Inches.
SIDE, TREE, GAP = 3.0, 2.2, 0.1
ABOVE, BELOW, SCALE_HEIGHT, SCALE_GAP = 0.30, 0.36, 0.09, 0.32
NAME_LETTERS, CORPUS_LETTERS = 30, 48
MOST_NUMBERS = 12
"""Models up to which a cell holds its number."""


def matrix_figure(result: ModelMatrix) -> Figure:
    """Draw a matrix of models. Nothing of matplotlib's global state is used or changed."""
    with figure_style():
        return _draw(result)


def _draw(result: ModelMatrix) -> Figure:
    names = [shorten(name, NAME_LETTERS) for name in result.names]
    title = f"Mean divergence of {len(names)} models, all pairs"
    settings = " · ".join([*settings_in_words(result.record, CORPUS_LETTERS), "debiased linear CKA"])
    notes = warning_notes(result.summary)
    if "reason" in result.record["linkage"]:
        notes.append(f"No dendrogram: {result.record['linkage']['reason']}.")
    notes.append(f"Diagonal: {result.summary['diagonal']}.")
    page = Page(title, settings, ABOVE + SIDE + SCALE_GAP + SCALE_HEIGHT + BELOW, notes)
    bottom = page.ceiling - ABOVE - SIDE
    left = MARGIN + 0.12 + max(text_width(_label(at, name), SMALL) for at, name in enumerate(names))
    heat = page.panel(left, bottom, SIDE, SIDE)
    mesh = draw_matrix(heat, result)
    order = result.record["linkage"]["order"]
    heat.set_yticks(range(len(order)), [_label(at, names[at]) for at in order])
    heat.set_xticks(range(len(order)), [str(at + 1) for at in order])
    heat.tick_params(length=0)
    if np.isnan(result.divergence()).any():
        heat.legend(handles=[undefined_key()], loc="lower left", bbox_to_anchor=(0, 1))
    if result.record["linkage"]["merges"]:
        room = PAGE_WIDTH - MARGIN - left - SIDE - GAP
        tree = page.panel(left + SIDE + GAP, bottom, min(TREE, room), SIDE)
        draw_tree(tree, result)
    _scale(page.panel(left, bottom - SCALE_GAP - SCALE_HEIGHT, SIDE, SCALE_HEIGHT), mesh)
    return page.figure


def _label(at: int, name: str) -> str:
    return f"{name}  {at + 1}"


def draw_matrix(ax: Axes, result: ModelMatrix) -> QuadMesh:
    """Mean divergence in percent, models in the order of the dendrogram's leaves, the first one above."""
    order = result.record["linkage"]["order"]
    values = 100 * result.divergence()[np.ix_(order, order)]
    known = values[np.isfinite(values)]
    low, high = min(0.0, *known), max(1.0, *known)
    mesh = draw_mesh(ax, values, low, high, "divergence")
    ax.set_ylim(len(order) - 0.5, -0.5)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_minor_locator(NullLocator())
    if len(order) > MOST_NUMBERS:
        return mesh
    for row, column in np.ndindex(values.shape):
        value = float(values[row, column])
        if row != column and np.isfinite(value):
            dark = (value - low) / (high - low) < 0.55
            ax.text(
                column, row, percent(value / 100), ha="center", va="center", size=SMALL,
                color="white" if dark else INK, gid="value",
            )  # fmt: skip
    return mesh


def draw_tree(ax: Axes, result: ModelMatrix) -> None:
    """The dendrogram, its leaves level with the heatmap's rows; a height below 0 is drawn where it is."""
    linkage: dict[str, Any] = result.record["linkage"]
    places = {leaf: (0.0, float(row)) for row, leaf in enumerate(linkage["order"])}
    for at, merge in enumerate(linkage["merges"]):
        (x_a, y_a), (x_b, y_b) = places[merge["a"]], places[merge["b"]]
        height = 100 * merge["height"]
        ax.plot([x_a, height, height, x_b], [y_a, y_a, y_b, y_b], color=DARK, linewidth=0.9, gid="merge")
        places[len(linkage["order"]) + at] = (height, (y_a + y_b) / 2)
    ax.set_ylim(len(linkage["order"]) - 0.5, -0.5)
    heights = [100 * merge["height"] for merge in linkage["merges"]]
    ax.set_xlim(min(0.0, *heights, 0.0) * 1.05, max(0.0, *heights, 0.1) * 1.05)
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=4, steps=[1, 2, 5, 10]))
    ax.set_xlabel("merged at (%)")
    ax.set_title("average linkage", loc="left", fontsize=TEXT)


def _scale(ax: Axes, mesh: QuadMesh) -> None:
    figure: Any = ax.get_figure(root=True)
    bar = figure.colorbar(mesh, cax=ax, orientation="horizontal")
    bar.locator = MaxNLocator(nbins=6, steps=[1, 2, 5, 10])
    bar.update_ticks()
    bar.ax.tick_params(labelsize=SMALL, length=2, pad=1.5)
    bar.outline.set_linewidth(0.4)
    bar.set_label("mean divergence 1 − CKA (%)", labelpad=1.5)
