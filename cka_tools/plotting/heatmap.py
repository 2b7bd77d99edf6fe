"""CKA of all layer pairs as a heatmap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator, NullLocator

from cka_tools.plotting.layer_curves import thin
from cka_tools.plotting.style import HATCHED, HEAT, INK, SMALL, VOID, Look, undefined_key


def draw_mesh(ax: Axes, values: np.ndarray, gid: str) -> QuadMesh:
    """Draw a matrix cell by cell, hatched where it is NaN; row and column k are centred on k.

    The colours reach over all values, and from 0 to 1 at least.
    """
    known = values[np.isfinite(values)]
    ax.patch.set(facecolor=VOID, **HATCHED)
    return ax.pcolormesh(
        np.arange(values.shape[1] + 1) - 0.5,
        np.arange(values.shape[0] + 1) - 0.5,
        np.ma.masked_invalid(values),
        cmap=HEAT,
        vmin=min([0.0, *known]),
        vmax=max([1.0, *known]),
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
    mesh = draw_mesh(ax, matrix, "cka")
    row, column = ({layer: at for at, layer in enumerate(layers)} for layers in (layers_a, layers_b))
    size = min(0.55 * cell, 7.0)
    thickness = min(0.6, 0.1 * cell)
    halo = [withStroke(linewidth=2.0 * thickness + 0.3, foreground=INK)]
    square: Look = {"marker": "s", "markerfacecolor": "none", "linestyle": "none"}
    dot: Look = {"marker": "o", "markerfacecolor": "white", "markeredgecolor": INK, "linestyle": "none"}
    paired: Look = {"markersize": size, "markeredgewidth": thickness, "path_effects": halo, "markeredgecolor": "white"}
    matched: Look = {"markersize": 0.45 * size, "markeredgewidth": 0.6 * thickness}
    for marked, gid, look in ((pairs, "paired", square | paired), (best, "best", dot | matched)):
        ax.plot([column[b] for _, b in marked], [row[a] for a, _ in marked], gid=gid, **look)
    for axis, layers in ((ax.xaxis, layers_b), (ax.yaxis, layers_a)):
        ticks = thin(range(len(layers)))
        axis.set_ticks(ticks, [str(layers[at]) for at in ticks])
        axis.set_minor_locator(NullLocator())
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


def draw_scale(
    ax: Axes, mesh: QuadMesh, label: str, ticks: Sequence[float] | int, orientation: str = "horizontal"
) -> None:
    """The colour bar of a heatmap.

    Args:
        ticks: where they stand, or about how many there are.
    """
    figure: Any = ax.get_figure(root=True)
    horizontal = orientation == "horizontal"
    bar = figure.colorbar(mesh, cax=ax, orientation=orientation)
    if isinstance(ticks, int):
        bar.locator = MaxNLocator(nbins=ticks, steps=[1, 2, 5, 10])
        bar.update_ticks()
    else:
        bar.set_ticks(ticks, labels=[f"{tick:g}" for tick in ticks])
    bar.ax.tick_params(labelsize=SMALL, length=2, pad=1.5)
    bar.outline.set_linewidth(0.4)
    bar.set_label(label, labelpad=1.5 if horizontal else 2)
