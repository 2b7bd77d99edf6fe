"""CKA of all layer pairs as a heatmap."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from cka_tools.figure_choices import chosen
from cka_tools.plotting.layer_curves import MOST_TICKS, thin
from cka_tools.plotting.style import HATCHED, INK, SMALL, VOID, Look, undefined_key


def _whole(known: np.ndarray) -> tuple[float, float]:
    return min([0.0, *known]), max([1.0, *known])


def _narrowed(known: np.ndarray) -> tuple[float, float]:
    """From a round number below the smallest value, if differences would else be lost in a few colours of many."""
    low, high = _whole(known)
    if not len(known) or known.min() < LEAST_NARROWED:
        return low, high
    apart = 1.0 - float(known.min())
    step = next(step for step in STEPS if apart > 2 * step or step == STEPS[-1])
    return min(math.floor(float(known.min()) / step + 1e-9) * step, 1.0 - step), high


LEAST_NARROWED, STEPS = 0.5, (0.1, 0.05, 0.02, 0.01)


def draw_mesh(ax: Axes, values: np.ndarray, gid: str, *, narrow: bool = False) -> QuadMesh:
    """Draw a matrix cell by cell, hatched where it is NaN; row and column k are centred on k.

    The colours reach over all values, and from 0 to 1 at least, unless others were chosen.

    Args:
        narrow: where all values lie between 0.5 and 1, the colours end below the smallest.
    """
    low, high = chosen().range or (_narrowed if narrow else _whole)(values[np.isfinite(values)])
    ax.patch.set(facecolor=VOID, **HATCHED)
    return ax.pcolormesh(
        np.arange(values.shape[1] + 1) - 0.5,
        np.arange(values.shape[0] + 1) - 0.5,
        np.ma.masked_invalid(values),
        cmap=chosen().cmap,
        vmin=low,
        vmax=high,
        rasterized=False,
        edgecolors="face",
        linewidth=0.1,
        gid=gid,
    )


def draw_heatmap(
    ax: Axes,
    matrix: np.ndarray,
    layers_a: Sequence[int | str],
    layers_b: Sequence[int | str],
    pairs: Sequence[tuple[int | str, int | str]],
    best: Sequence[tuple[int, int]],
    cell: float,
    absent: str = "undefined",
) -> tuple[QuadMesh, list[Line2D | Patch]]:
    """Draw (L_A, L_B) with layer 0 at the lower left; returns the mesh and what the legend shows.

    Args:
        matrix: CKA, NaN where undefined.
        layers_a, layers_b: the layers its rows and columns stand for.
        pairs, best: layer pairs marked as paired, and as the best match of their row.
        cell: size of a cell's shorter side in points.
        absent: what the legend calls a NaN.
    """
    mesh = draw_mesh(ax, matrix, "cka", narrow=True)
    if chosen().annotate:
        annotate(ax, mesh, matrix, cell)
    row, column = ({layer: at for at, layer in enumerate(layers)} for layers in (layers_a, layers_b))
    # With numbers in the cells the marks go around them.
    size, aside = (0.84 * cell, 0.33) if chosen().annotate else (min(0.55 * cell, 7.0), 0)
    thickness = min(0.6, 0.1 * cell)
    halo = [withStroke(linewidth=2.0 * thickness + 0.3, foreground=INK)]
    square: Look = {"marker": "s", "markerfacecolor": "none", "linestyle": "none"}
    dot: Look = {"marker": "o", "markerfacecolor": "white", "markeredgecolor": INK, "linestyle": "none"}
    paired: Look = {"markersize": size, "markeredgewidth": thickness, "path_effects": halo, "markeredgecolor": "white"}
    matched: Look = {"markersize": 0.45 * min(0.55 * cell, 7.0), "markeredgewidth": 0.6 * thickness}
    for marked, gid, look, off in ((pairs, "paired", square | paired, 0), (best, "best", dot | matched, aside)):
        ax.plot([column[b] + off for _, b in marked], [row[a] + off for a, _ in marked], gid=gid, **look)
    for axis, layers in ((ax.xaxis, layers_b), (ax.yaxis, layers_a)):
        ticks = thin(range(len(layers)))
        axis.set_ticks(ticks, [str(layers[at]) for at in ticks])
        axis.set_minor_locator(FixedLocator(range(len(layers))) if len(layers) <= MOST_TICKS else NullLocator())
        axis.set_tick_params(which="minor", length=1.2, width=0.4)
    ax.set_xlabel("layer of B")
    ax.set_ylabel("layer of A")
    handles: list[Line2D | Patch] = [
        Line2D([], [], label="paired", markeredgecolor=INK, markersize=5, markeredgewidth=0.7, **square)
    ]
    if best:
        handles.append(Line2D([], [], label="best match in B", markersize=3.2, markeredgewidth=0.5, **dot))
    if not np.isfinite(matrix).all():
        handles.append(undefined_key(absent))
    return mesh, handles


def annotate(ax: Axes, mesh: QuadMesh, values: np.ndarray, cell: float) -> None:
    """Write each value into its cell, in black or white, whichever has the higher contrast.

    Args:
        cell: size of a cell's shorter side in points.
    """
    for row, column in np.argwhere(np.isfinite(values)):
        red, green, blue, _ = mesh.to_rgba(np.array([values[row, column]]))[0]
        dark = 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2 < CONTRAST
        look: Look = {"ha": "center", "va": "center", "size": min(SMALL, 0.36 * cell)}
        text = f"{values[row, column]:.2f}".replace("0.", ".", 1)
        ax.text(column, row, text, gid="value", zorder=6, color="white" if dark else "black", **look)


CONTRAST = 0.179
"""Relative luminance at which black and white have the same contrast (WCAG 2)."""


def draw_scale(
    ax: Axes, mesh: QuadMesh, label: str, ticks: Sequence[float] | int, orientation: str = "horizontal"
) -> None:
    """The colour bar of a heatmap.

    Args:
        ticks: where they stand, or about how many there are.
    """
    figure: Any = ax.get_figure(root=True)
    horizontal = orientation == "horizontal"
    values: np.ndarray = np.ma.masked_invalid(np.ma.asarray(mesh.get_array())).compressed()
    low, high = mesh.get_clim()
    beyond = (bool((values < low - 1e-9).any()), bool((values > high + 1e-9).any()))
    extend = {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}[beyond]
    bar = figure.colorbar(mesh, cax=ax, orientation=orientation, extend=extend)
    if isinstance(ticks, int):
        bar.locator = MaxNLocator(nbins=ticks, steps=[1, 2, 5, 10])
        bar.update_ticks()
    else:
        bar.set_ticks(ticks, labels=[f"{tick:g}" for tick in ticks])
    bar.ax.tick_params(labelsize=mpl.rcParams["xtick.labelsize"], length=2, pad=1.5)
    bar.outline.set_linewidth(0.4)
    bar.set_label(label, labelpad=1.5 if horizontal else 2)
