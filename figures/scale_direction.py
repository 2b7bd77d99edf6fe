"""Divergence by size, and encoders beside decoders.

    python figures/scale_direction.py [RUN] [--out PATH]

With no argument: the recorded ablation of the demo family.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from figure_files import ablation_argument, parser, read_table, write
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from points import (
    Reference,
    by_capacity,
    draw_keys,
    draw_noise,
    draw_published,
    draw_seeds,
    legend_keys,
    log_axis,
    look_of,
    mean_divergences,
    panel_room,
    published_key,
    seed_steps,
)

from cka_tools.errors import UserError
from cka_tools.plotting.style import FAINT, PAGE_WIDTH, TINY, StyledFigure, figure_style, panel_letters

ASIDE = 0.14
"""Between seeds."""

HALF = 0.3
"""Of the band of seed noise."""


def scale_direction_figure(table: pd.DataFrame, published: Sequence[tuple[str, Reference]] | None = None) -> Figure:
    """Draw mean and early divergence by size and direction, and their ratio to each one's own seed noise.

    Args:
        table: an ablation's tidy table with the axis `size` or `direction`.
        published: names of models and their published mean divergences in percent (x is not used).

    Raises:
        UserError: neither axis in the table.
    """
    rows = table[table["axis"].isin(["size", "direction"])].copy()
    if rows.empty:
        raise UserError("the ablation has neither axis 'size' nor 'direction': run `cka ablate direction`")
    rows["kind"] = np.where(rows["cell"] == "decoder", "decoder", "encoder")
    # Both axes hold the encoder's detour: one run, two names.
    rows = rows.drop_duplicates(["kind", "size", "seed", "layer"])
    sizes = by_capacity(list(rows["size"]))
    groups = [
        (kind, size)
        for kind in ("encoder", "decoder")
        for size in reversed(sizes)
        if ((rows["kind"] == kind) & (rows["size"] == size)).any()
    ]
    names = [f"{size}\n{kind}" for kind, size in groups]
    with figure_style():
        figure = StyledFigure(figsize=(PAGE_WIDTH, 2.45 + panel_room(bool(published))))
        panels = figure.subplots(1, 3, width_ratios=[1.55 if published else 1, 1, 1])
        for ax, layers, what in zip(
            panels, ("mean", "early", "mean"), ("divergence", "divergence", "ratio"), strict=True
        ):
            for at, (kind, size) in enumerate(groups):
                chosen = (rows["kind"] == kind) & (rows["size"] == size)
                own = rows[chosen & (rows["layer"].astype(str) == layers)]
                look = look_of(size, sizes)
                if what == "divergence":
                    draw_noise(ax, own, at - HALF, at + HALF, look)
                draw_seeds(ax, own, at + seed_steps(own) * ASIDE, what, look, scale=100 if what == "divergence" else 1)
            labels = list(names)
            if layers == "mean" and what == "divergence" and published:
                labels += _add_published(ax, published, len(groups))
            ax.set_xticks(range(len(labels)), labels, fontsize=TINY)
            ax.set_xlim(-0.6, len(labels) - 0.4)
            ax.tick_params(axis="x", length=0)
            log_axis(ax, percent=what == "divergence")
        titles = (
            "all layers: divergence (%, log)",
            "early layers: divergence (%, log)",
            "all layers: × seed noise (log)",
        )
        for ax, title in zip(panels, titles, strict=True):
            ax.set_title(title)
        top = draw_keys(figure, legend_keys(sizes), [published_key()] if published else [])
        panel_letters(list(panels), 8)
        figure.subplots_adjust(left=0.055, right=0.99, bottom=0.15, top=top, wspace=0.18)
        return figure


def _add_published(ax: Axes, published: Sequence[tuple[str, Reference]], first: int) -> list[str]:
    """Published models to the right of ours, behind a line; returns their labels."""
    places = [Reference(first + i, one.y, one.spread) for i, (_, one) in enumerate(published)]
    draw_published(ax, places)
    ax.axvline(first - 0.5, color=FAINT, linewidth=0.6, linestyle=":")
    return [name for name, _ in published]


def main() -> None:
    made = parser(__doc__, __file__)
    ablation_argument(made)
    options = made.parse_args()
    known = None if options.no_published else mean_divergences()
    write(scale_direction_figure(read_table(options.run), known), options.out)


if __name__ == "__main__":
    main()
