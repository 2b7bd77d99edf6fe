"""One panel of a comparison, alone at a column's width or on axes of one's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from cka_tools.errors import UserError
from cka_tools.figure_choices import chosen, title_of
from cka_tools.formatting import shown_names
from cka_tools.plotting import layer_curves, style
from cka_tools.plotting.comparison_page import draw_comparison_heatmap, draw_scale, row_names, scale_label
from cka_tools.plotting.style import LOOKS, Look, StyledFigure, figure_style

Record = dict[str, Any]

WIDTHS = {"single": 3.5, "double": style.PAGE_WIDTH}
"""Inches: one column of a two-column page, and both."""

HEIGHTS = {"layers": 2.0, "dimension": 1.7}
"""Inches, without what stands above the axes."""
NAME_LETTERS = 28
OWN = "cka-tools: "
"""Begins the gid of what was drawn on axes of the user's own."""


@figure_style()
def panel_figure(record: Record, arrays: Mapping[str, np.ndarray]) -> Figure:
    """The panel of a comparison that was chosen (`Choices.what`), its legend above it."""
    choices = chosen()
    width = WIDTHS[choices.size or "single"]
    scale = (choices.font or style.TEXT) / style.TEXT
    if choices.what == "heatmap":
        rows, columns = arrays["matrix.debiased"].shape
        height = (width - 1.1 * scale) * min(1.6, max(0.5, rows / columns)) + 0.5 * scale
    else:
        height = HEIGHTS[choices.what] * scale
    figure = StyledFigure(figsize=(width, height), layout="constrained")
    ax = figure.subplots()
    draw = {"layers": _layers, "dimension": _dimension, "heatmap": _heatmap}[choices.what]
    handles = draw(ax, record, arrays, width)
    columns = max(1, min(len(handles), int(width / (1.5 * scale))))
    size = (style.TEXT + 1) * scale
    title = title_of([" against ".join(shown_names(record, NAME_LETTERS)[:2])])
    lines = [line for part in title for line in style.break_lines(part, width - 0.1, size, "bold")]
    above = style.lines_height(lines, size) + 0.16 * scale * -(-len(handles) // columns)
    figure.set_size_inches(width, height + above)
    figure.legend(
        handles=handles, loc="outside upper left", ncols=columns, alignment="left",
        title="\n".join(lines) or None, title_fontproperties={"weight": "bold", "size": size},
    )  # fmt: skip
    return figure


Handles = list[Line2D | Patch]


def _layers(ax: Axes, record: Record, arrays: Mapping[str, np.ndarray], width: float) -> Handles:
    entries, summary = record["layers"], record["summary"]
    layers = [entry["layer_a"] for entry in entries]
    band = layer_curves.draw_early_band(ax, layers, summary["early_layers"])
    handles = layer_curves.draw_divergence(ax, entries, summary["mean_divergence"]["debiased"]["value"])
    if "control" in summary:
        handles += layer_curves.draw_control(ax, entries)
    _layer_axis(ax, record)
    return [*handles, *band]


def _dimension(ax: Axes, record: Record, arrays: Mapping[str, np.ndarray], width: float) -> Handles:
    handles: Handles = [*layer_curves.draw_effective_dimension(ax, record["layers"])]
    _layer_axis(ax, record)
    return handles


def _layer_axis(ax: Axes, record: Record) -> None:
    entries = record["layers"]
    layer_curves.layer_axis(ax, [entry["layer_a"] for entry in entries], row_names(record, "a"))
    ax.set_xlabel(
        "layer" if all(e["layer_a"] == e["layer_b"] for e in entries) else "layer of A, each with its pair in B"
    )


def _heatmap(ax: Axes, record: Record, arrays: Mapping[str, np.ndarray], width: float) -> Handles:
    matrix = arrays["matrix.debiased"]
    mesh, handles = draw_comparison_heatmap(ax, record, matrix, cell=72 * 0.72 * width / max(matrix.shape))
    ax.set_aspect("equal" if 0.5 <= matrix.shape[0] / matrix.shape[1] <= 2 else "auto")
    figure: Any = ax.get_figure(root=True)
    draw_scale(figure.colorbar(mesh, ax=ax, pad=0.02, aspect=30).ax, mesh, scale_label(mesh), 5, "vertical")
    return handles


def _axes(ax: Axes | None) -> Axes:
    if ax is not None:
        return ax
    with figure_style():
        return StyledFigure(figsize=(WIDTHS["single"], HEIGHTS["layers"]), layout="constrained").subplots()


class Panels:
    """The panels of a comparison on axes of your own: `result.plot.layers(ax=ax)`.

    Several results may share one: each gets a colour, a marker and a line style of its own. The axes' other looks are
    yours. Legends are left to you (`ax.legend()`); without `ax` a figure of one column's width is made.
    """

    def __init__(self, record: Record, arrays: Mapping[str, np.ndarray]) -> None:
        self._record, self._arrays = record, arrays

    def layers(
        self, ax: Axes | None = None, *, label: str | None = None, biased: bool = False, interval: bool = True
    ) -> Axes:
        """Debiased divergence 1 − CKA in percent over the layers of A.

        Args:
            label: in the legend; by default what tells the models apart.
            biased: also the biased one, thin.
            interval: 95 % intervals over documents as bars.
        """
        entries = self._record["layers"]
        look, name = self._next(ax := _axes(ax), "layers"), self._label(label)
        x = np.array([entry["layer_a"] for entry in entries])
        y = 100 * (1 - layer_curves.numbers(entries, "cka_debiased"))
        ax.plot(x, y, label=name, gid=f"{OWN}layers", **_SIZE, **look)
        shown = [np.array([0.0]), *(np.asarray(line.get_ydata(), dtype=float) for line in _drawn(ax))]
        if interval:
            low, high = (100 * (1 - layer_curves.numbers(entries, end)) for end in ("ci_high", "ci_low"))
            layer_curves.draw_intervals(ax, x, low, high, look | {"zorder": 3}, f"{OWN}interval of {name}")
            shown += [low, high]
        if biased:
            y = 100 * (1 - layer_curves.numbers(entries, "cka_biased"))
            thin: Look = {"color": look["color"], "linewidth": 0.8, "linestyle": ":", "alpha": 0.8}
            ax.plot(x, y, label=f"{name}, biased", gid=f"{OWN}biased", **thin)
            shown.append(y)
        layer_curves.percent_axis(ax, np.concatenate(shown))
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set(xlabel="layer", ylabel="divergence 1 − CKA (%)")
        return ax

    def dimension(self, ax: Axes | None = None, *, label: str | None = None) -> Axes:
        """Effective dimension of A and of B (hollow) over the layers, on a log axis."""
        look, name = self._next(ax := _axes(ax), "dimension"), self._label(label)
        x = np.array([entry["layer_a"] for entry in self._record["layers"]])
        hollow: Look = {"markerfacecolor": "white", "alpha": 0.8}
        for side, more in (("a", {}), ("b", hollow)):
            y = layer_curves.numbers(self._record["layers"], f"effective_dim_{side}")
            gid = f"{OWN}dimension" if side == "a" else f"{OWN}dimension of B"
            ax.plot(x, y, label=f"{name}: {side.upper()}", gid=gid, **_SIZE, **look, **more)
        layer_curves.dimension_axis(ax, np.concatenate([np.asarray(line.get_ydata(), float) for line in _drawn(ax)]))
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set(xlabel="layer", ylabel="effective dimension")
        return ax

    def heatmap(
        self,
        ax: Axes | None = None,
        *,
        range: tuple[float, float] | None = None,
        cmap: str | None = None,
        annotate: bool = False,
        colorbar: bool = True,
    ) -> Axes:
        """Debiased CKA of every layer of A with every layer of B; paired cells and best matches are marked.

        Args:
            range: ends of the colours; by default from 0 to 1, or narrower where all values lie close to 1.
            cmap: matplotlib's name of the colours. annotate: write values into cells.
            colorbar: draw one beside the axes.
        """
        from cka_tools.figure_choices import HEAT, Choices, drawn_with

        ax = _axes(ax)
        matrix = self._arrays["matrix.debiased"]
        figure: Any = ax.get_figure(root=True)
        box = ax.get_position()
        width, height = figure.get_size_inches()
        cell = 72 * min(box.width * width / matrix.shape[1], box.height * height / matrix.shape[0])
        choices = Choices(what="heatmap", range=range, cmap=cmap or HEAT, annotate=annotate)
        with drawn_with(choices, own=False):
            mesh, _ = draw_comparison_heatmap(ax, self._record, matrix, cell=cell)
            if colorbar:
                draw_scale(figure.colorbar(mesh, ax=ax, pad=0.02).ax, mesh, scale_label(mesh), 5, "vertical")
        return ax

    def _label(self, given: str | None) -> str:
        return " against ".join(shown_names(self._record, NAME_LETTERS)[:2]) if given is None else given

    @staticmethod
    def _next(ax: Axes, what: str) -> Look:
        """The look of the next result on these axes."""
        taken = sum(line.get_gid() == f"{OWN}{what}" for line in ax.get_lines())
        if taken >= len(LOOKS):
            raise UserError(f"these axes hold {taken} results already: give further ones axes of their own")
        return LOOKS[taken]


_SIZE: Look = {"markersize": 3.4, "linewidth": 1.1}


def _drawn(ax: Axes) -> Sequence[Line2D]:
    return [line for line in ax.get_lines() if str(line.get_gid()).startswith(OWN)]
