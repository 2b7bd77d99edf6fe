"""Loss curves of a family of runs, and held-out losses beside that of guessing by token frequency."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from cka_tools.plotting.points import LOOKS
from cka_tools.plotting.style import (
    BAND,
    FAINT,
    PAGE_WIDTH,
    TEXT,
    Look,
    StyledFigure,
    figure_style,
)

TITLES = {"clm": "next token (CLM)", "mlm": "masked token (MLM)"}


def training_losses_figure(table: pd.DataFrame, unigram: float, margin: float | None = None) -> Figure:
    """Draw training loss as lines and held-out loss as points, one panel an objective.

    Args:
        table: `run`, `kind` ("train" or "held-out"), `objective`, `tokens` (from the start of the run),
            `loss` in nats a target.
        unigram: nats a token of guessing by token frequency.
        margin: nats below it that count as having learnt; a line of its own.
    """
    runs = list(dict.fromkeys(table["run"]))
    with figure_style():
        figure = StyledFigure(figsize=(PAGE_WIDTH, 2.6))
        panels = figure.subplots(1, 2, sharey=True)
        for ax, (objective, title) in zip(panels, TITLES.items(), strict=True):
            for run, look in zip(runs, _looks(runs).values(), strict=True):
                own = table[(table["run"] == run) & (table["objective"] == objective)].sort_values("tokens")
                trained, held_out = (own[own["kind"] == kind] for kind in ("train", "held-out"))
                ax.plot(
                    trained["tokens"] / 1e6,
                    trained["loss"],
                    color=look["color"],
                    linewidth=0.6,
                    alpha=0.6,
                    gid=f"{run} train",
                )
                ax.plot(
                    held_out["tokens"] / 1e6,
                    held_out["loss"],
                    gid=f"{run} held-out",
                    markerfacecolor="white",
                    zorder=5,
                    **look,
                )
            ax.axhline(unigram, color=FAINT, linewidth=0.9, linestyle=(0, (6, 3)), gid="unigram")
            if margin is not None:
                ax.axhline(unigram - margin, color=FAINT, linewidth=0.7, linestyle=":", gid="margin")
            ax.set_title(f"{title}: loss (nats a target)", loc="left", fontsize=TEXT)
            ax.set_xlabel("tokens after θ0 (millions)")
            ax.xaxis.set_major_locator(MaxNLocator(6))
            ax.grid(axis="y", color=BAND, linewidth=0.6)
        figure.legend(
            handles=_keys(_looks(runs), unigram, margin),
            loc="upper left",
            ncols=6,
            bbox_to_anchor=(0.02, 0.99),
        )
        figure.subplots_adjust(left=0.055, right=0.99, bottom=0.15, top=0.84, wspace=0.06)
        return figure


def _looks(runs: list[str]) -> Mapping[str, Look]:
    return {run: LOOKS[at % len(LOOKS)] for at, run in enumerate(runs)}


def _keys(looks: Mapping[str, Look], unigram: float, margin: float | None) -> list[Line2D]:
    keys = [
        Line2D([], [], label=f"{run}, held out", markerfacecolor="white", **look)
        for run, look in looks.items()
    ]
    keys.append(Line2D([], [], color=FAINT, linewidth=0.6, label="training"))
    keys.append(
        Line2D(
            [], [], color=FAINT, linestyle=(0, (6, 3)), linewidth=0.9, label=f"token frequency, {unigram:.2f}"
        )
    )
    if margin is not None:
        keys.append(Line2D([], [], color=FAINT, linestyle=":", linewidth=0.7, label=f"{margin:g} nats below"))
    return keys
