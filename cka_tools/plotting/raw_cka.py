"""Raw CKA by layer, as the paper shows it (biased) and as it should be read (debiased), with its spread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from cka_tools.comparison.comparison import Comparison
from cka_tools.plotting.layer_curves import layer_axis, numbers
from cka_tools.plotting.points import PUBLISHED, Reference, draw_published
from cka_tools.plotting.style import (
    BAND,
    DARK,
    INK,
    MIDDLE,
    PAGE_WIDTH,
    TEXT,
    Look,
    StyledFigure,
    figure_style,
)

LOOKS: dict[str, Look] = {
    "debiased": {"color": DARK, "marker": "o", "linestyle": "-", "zorder": 4},
    "biased": {
        "color": MIDDLE,
        "marker": "s",
        "linestyle": (0, (4, 2)),
        "markerfacecolor": "white",
        "zorder": 3,
    },
}


def raw_cka_figure(
    comparison: Comparison, published: Mapping[str, Sequence[Reference]] | None = None
) -> Figure:
    """Draw CKA of the paired layers, and beside it that of the control where there is one.

    Args:
        comparison: with or without a control.
        published: CKA (0 to 1) of "pair" and "control" by relative depth.
    """
    entries = comparison.layers
    layers = [entry["layer_a"] for entry in entries]
    panels = {"pair": "the pair: CKA by layer"}
    if comparison.control is not None:
        panels["control"] = "the control (two seeds): CKA by layer"
    with figure_style():
        figure = StyledFigure(figsize=(PAGE_WIDTH, 2.4))
        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for ax, (name, title) in zip(axes, panels.items(), strict=True):
            for estimator, look in LOOKS.items():
                ax.plot(layers, _values(comparison, name, estimator), gid=f"{name} {estimator}", **look)
            low, high = _ends(comparison, name)
            ax.vlines(layers, low, high, color=DARK, linewidth=0.9, gid=f"{name} interval")
            depth = layers[-1] - layers[0]
            draw_published(
                ax, [Reference(layers[0] + depth * one.x, one.y) for one in (published or {}).get(name, ())]
            )
            layer_axis(ax, layers)
            ax.set_title(title, loc="left", fontsize=TEXT)
            ax.set_xlabel("layer")
            ax.grid(axis="y", color=BAND, linewidth=0.6)
        axes[0].set_ylim(min(0.0, axes[0].get_ylim()[0]), 1.05)
        keys = [Line2D([], [], label=name, **look) for name, look in LOOKS.items()]
        keys.append(
            Line2D([], [], color=INK, linewidth=0.9, label="95 % interval of the debiased, over documents")
        )
        if published:
            keys.append(Line2D([], [], label="published (biased), by relative depth", **PUBLISHED))
        figure.legend(handles=keys, loc="upper left", ncols=len(keys), bbox_to_anchor=(0.02, 0.99))
        figure.subplots_adjust(left=0.055, right=0.99, bottom=0.165, top=0.83, wspace=0.06)
        return figure


def _values(comparison: Comparison, name: str, estimator: str) -> np.ndarray:
    prefix = "" if name == "pair" else "control."
    matrix = comparison.arrays[f"{prefix}matrix.{estimator}"]
    # The control is of B's depth and shares B's layers.
    rows = {layer: at for at, layer in enumerate(comparison.record["matrix"]["layers_a"])}
    columns = {layer: at for at, layer in enumerate(comparison.record["matrix"]["layers_b"])}
    of = (
        (lambda e: (rows[e["layer_a"]], columns[e["layer_b"]]))
        if name == "pair"
        else (lambda e: (columns[e["layer_b"]], columns[e["layer_b"]]))
    )
    return np.array([matrix[of(entry)] for entry in comparison.layers])


def _ends(comparison: Comparison, name: str) -> tuple[np.ndarray, np.ndarray]:
    if name == "pair":
        return numbers(comparison.layers, "ci_low"), numbers(comparison.layers, "ci_high")
    controls = [entry["control"] for entry in comparison.layers]
    return 1 - numbers(controls, "ci_high"), 1 - numbers(controls, "ci_low")
