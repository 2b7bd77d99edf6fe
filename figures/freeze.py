"""What is left of the mark when a third of the layers may not learn.

    python figures/freeze.py [RUN] [--out PATH]

With no argument: the recorded ablation of the demo family.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from figure_files import ablation_argument, parser, read_table, write
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from points import (
    PUBLISHED,
    by_capacity,
    draw_keys,
    gains_kept,
    look_of,
    panel_room,
    published_key,
    seed_steps,
    with_ends,
)

from cka_tools.errors import UserError
from cka_tools.plotting.style import BAND, DASHED, HOLLOW, INK, PAGE_WIDTH, StyledFigure, figure_style, panel_letters

CITED_F1 = "published: Touchent and de la Clergerie 2026 (other models, another corpus, downstream F1)"
ASIDE, APART = 0.09, 0.26
"""Of rows' height: between seeds, and between sizes."""


def freeze_figure(table: pd.DataFrame, published: Sequence[tuple[str, float]] | None = None) -> Figure:
    """Draw, for each intervention, mean and early divergence and the multiple of seed noise, as dots.

    Args:
        table: an ablation's tidy table with the axis `freeze`.
        published: interventions in the table's order (none first) with the share of the detour's downstream
            gain over the baseline that the paper's model keeps, a fraction.

    Raises:
        UserError: no such axis in the table.
    """
    rows = table[table["axis"] == "freeze"]
    if rows.empty:
        raise UserError("the ablation has no axis 'freeze': run `cka ablate freeze`")
    sizes = by_capacity(list(rows["size"]))
    kinds = list(dict.fromkeys(_kind(cell) for cell in rows["cell"]))
    panels = [
        ("mean", "divergence", "all layers: divergence (%)"),
        ("early", "divergence", "early layers: divergence (%)"),
    ]
    panels += [("mean", "ratio", "all layers: × seed noise")]
    with figure_style():
        figure = StyledFigure(figsize=(PAGE_WIDTH, 0.95 + 0.36 * len(kinds) + panel_room(bool(published))))
        columns = figure.subplots(1, len(panels) + bool(published), sharey=True, squeeze=False)[0]
        for ax, (layers, what, title) in zip(columns, panels, strict=False):
            for size in sizes:
                own = rows[(rows["size"] == size) & (rows["layer"].astype(str) == layers)]
                _dots(ax, own, kinds, what, size, sizes)
            ax.set_title(title)
            ax.set_xlim(left=0)
            if what == "ratio":
                ax.axvline(1, **(DASHED | {"zorder": 2}))
        if published:
            _published(columns[-1], published)
        for ax in columns:
            ax.grid(axis="x")
            for at in range(len(kinds)):
                ax.axhline(at, color=BAND, linewidth=0.6, zorder=0)
            ax.tick_params(axis="y", length=0)
        columns[0].set_yticks(range(len(kinds)), [_label(kind) for kind in kinds])
        columns[0].set_ylim(len(kinds) - 0.5, -0.5)
        keys = [Line2D([], [], label=size, **(look_of(size, sizes) | HOLLOW | {"linestyle": "none"})) for size in sizes]
        keys.append(Line2D([], [], color=INK, linewidth=0.9, label="95 % interval over documents; one dot a seed"))
        top = draw_keys(figure, keys, [published_key(CITED_F1)] if published else [])
        panel_letters(list(columns))
        bottom = 0.3 / figure.get_figheight()
        figure.subplots_adjust(left=0.12, right=0.985, bottom=bottom, top=top, wspace=0.14)
        return figure


def _kind(cell: str) -> str:
    """What is frozen when, told apart from which layers a size calls so: "low CLM", "middle CLM"…"""
    if cell == "none":
        return "none"
    span, _, phase = cell.partition(" in ")
    return f"{'low' if span.split('-')[0] == '0' else 'middle'} {phase}"


def _label(kind: str) -> str:
    if kind == "none":
        return "nothing frozen"
    third, phase = kind.split()
    return f"{third} third\nin {'the CLM phase' if phase == 'CLM' else 'the decay'}"


def _dots(ax: Axes, own: pd.DataFrame, kinds: Sequence[str], what: str, size: str, sizes: Sequence[str]) -> None:
    look = look_of(size, sizes)
    rows = np.array([kinds.index(_kind(cell)) for cell in own["cell"]], dtype=float)
    y = rows + (list(sizes).index(size) - (len(sizes) - 1) / 2) * APART + seed_steps(own) * ASIDE
    values, low, high = with_ends(own, what, 100.0 if what == "divergence" else 1.0)
    ax.hlines(y, low, high, color=look["color"], linewidth=0.9, gid=f"{what} interval")
    ax.plot(values, y, gid=what, color=look["color"], marker=look["marker"], markerfacecolor="white", linestyle="none")


def _published(ax: Axes, published: Sequence[tuple[str, float]]) -> None:
    y = range(len(published))
    ax.plot([100 * share for _, share in published], y, gid="published", **PUBLISHED)
    ax.set_xlim(0, 110)
    ax.set_title("published: F1 gain kept (%)")


def main() -> None:
    made = parser(__doc__, __file__)
    ablation_argument(made)
    options = made.parse_args()
    write(freeze_figure(read_table(options.run), None if options.no_published else gains_kept()), options.out)


if __name__ == "__main__":
    main()
