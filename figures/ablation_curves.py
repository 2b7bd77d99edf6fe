"""Divergence against the length of the detour and of the decay.

    python figures/ablation_curves.py [RUN] [--out PATH]

With no argument: the recorded ablation of the demo family.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
from figure_files import ablation_argument, parser, read_table, write
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from points import (
    Reference,
    along_the_decay,
    by_capacity,
    draw_keys,
    draw_noise,
    draw_published,
    draw_seeds,
    legend_keys,
    log_axis,
    look_of,
    panel_room,
    published_key,
    seed_steps,
    share_axis,
)

from cka_tools.errors import UserError
from cka_tools.plotting.ablation_page import SHARES
from cka_tools.plotting.style import INK, PAGE_WIDTH, StyledFigure, figure_style, panel_letters

X_LABELS = {name: f"{label} (log)" for name, label in SHARES.items()}
LAYERS = {"mean": "all layers", "early": "early layers"}
ASIDE = 1.05
"""Factor on x between two seeds, so that their points stand apart."""


def ablation_curves_figure(
    table: pd.DataFrame, published_decay: Mapping[str, Sequence[Reference]] | None = None
) -> Figure:
    """Draw mean and early divergence along the axes `length` and `decay`, and their ratio to seed noise.

    Args:
        table: an ablation's tidy table.
        published_decay: published divergences in percent by "mean" and "early", at shares of the decay.

    Raises:
        UserError: neither axis in the table.
    """
    axes = [axis for axis in X_LABELS if (table["axis"] == axis).any()]
    if not axes:
        raise UserError("the ablation has neither axis 'length' nor 'decay': run `cka ablate length`")
    sizes = by_capacity(list(table["size"]))
    shown = [published_key()] if published_decay is not None and "decay" in axes else []
    with figure_style():
        figure = StyledFigure(figsize=(PAGE_WIDTH, 0.55 + 1.85 * len(axes) + panel_room(bool(shown))))
        grid = figure.subplots(len(axes), 3, squeeze=False)
        for row, axis in zip(grid, axes, strict=True):
            own = table[table["axis"] == axis]
            for ax, layers in zip(row, LAYERS, strict=False):
                references = (published_decay or {}).get(layers, ()) if axis == "decay" else ()
                _curves(ax, own[own["layer"].astype(str) == layers], sizes, "divergence", references)
                ax.set_title(f"{LAYERS[layers]}: divergence (%, log)")
            _curves(row[2], own[own["layer"].astype(str) == "mean"], sizes, "ratio")
            row[2].set_title("all layers: × seed noise (log)")
            for ax in row:
                ax.set_xlabel(X_LABELS[axis])
        mean = Line2D([], [], color=INK, marker="_", markersize=9, linestyle="none", label="mean of the seeds")
        top = draw_keys(figure, [*legend_keys(sizes), mean], shown)
        panel_letters(list(grid.flat), 8)
        figure.subplots_adjust(left=0.055, right=0.99, bottom=0.105, top=top, wspace=0.2, hspace=0.55)
        return figure


def _curves(
    ax: Axes, rows: pd.DataFrame, sizes: Sequence[str], what: str, references: Sequence[Reference] = ()
) -> None:
    """Seeds and their mean along an axis, "divergence" in percent over seed noise, or "ratio"."""
    percent = what == "divergence"
    scale = 100 if percent else 1
    for size in sizes:
        own, look = rows[rows["size"] == size], look_of(size, sizes)
        if own.empty:
            continue
        for share, cell in own.groupby("position") if percent else ():
            assert isinstance(share, float | int)
            draw_noise(ax, cell, share / 1.12, share * 1.12, look)
        places = own["position"].to_numpy(dtype=float) * ASIDE ** seed_steps(own)
        draw_seeds(ax, own, places, what, look, scale=scale)
        means = own.groupby("position")[what].mean()
        # No line: a few cells are no course.
        ax.plot(means.index, scale * means, "_", color=look["color"], markersize=9, zorder=5, gid="mean of seeds")
    if references:
        draw_published(ax, references)
    share_axis(ax, sorted(set(rows["position"])), [one.x for one in references])
    log_axis(ax, percent=percent)


def main() -> None:
    made = parser(__doc__, __file__)
    ablation_argument(made)
    options = made.parse_args()
    known = None if options.no_published else along_the_decay()
    write(ablation_curves_figure(read_table(options.run), known), options.out)


if __name__ == "__main__":
    main()
