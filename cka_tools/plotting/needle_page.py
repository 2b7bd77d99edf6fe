"""The figure of a needle run: accuracy by length and position of every model, beside chance."""

from __future__ import annotations

from typing import Any

import numpy as np

from cka_tools.formatting import CORPUS_LETTERS, NEEDLE_PROBES, needle_in_words, shorten
from cka_tools.plotting.layer_curves import draw_intervals, numbers
from cka_tools.plotting.probe_page import look_of, shift_of
from cka_tools.plotting.style import (
    DASHED,
    PAGE_WIDTH,
    SMALL,
    Page,
    StyledFigure,
    figure_style,
    text_width,
    warning_notes,
)

# Inches.
LEFT, RIGHT, GAP, BELOW, HEIGHT, LINE, HEAD, TITLE = 0.58, 0.15, 0.32, 0.42, 1.75, 0.17, 0.2, 0.24
NAME_LETTERS = 60
CHANCE = "chance"
KEY = 0.5
"""Width of a legend's key with what is around it, inches."""


@figure_style()
def needle_figure(record: dict[str, Any]) -> StyledFigure:
    """Draw a row a probe, in it a panel for all positions and one for each, over lengths.

    Args:
        record: of a `Needle`.
    """
    models, summary, groups = record["models"], record["summary"], record["groups"]
    panels: list[str | None] = [None, *summary["positions"]] if len(summary["positions"]) > 1 else summary["positions"]
    names = [shorten(model["name"], NAME_LETTERS) for model in models]
    widest = KEY + max(text_width(name, SMALL) for name in [*names, CHANCE])
    lines = -(-(len(names) + 1) // max(1, int((PAGE_WIDTH - LEFT - RIGHT) / widest)))
    columns, keys = -(-(len(names) + 1) // lines), lines * LINE
    row_height = TITLE + HEAD + HEIGHT + BELOW
    height = keys + len(NEEDLE_PROBES) * row_height
    note = (
        f"Probes of what leaves the frozen encoder ({record['provenance']['settings']['pooling']}), fitted on "
        f"{summary['examples']['train']:,} examples. Bars: 95 % intervals over examples of test."
    )
    words = " · ".join(needle_in_words(record, CORPUS_LETTERS))
    page = Page(["Needle in a haystack"], words, height, [note, *warning_notes(summary, "pair")])
    width = (PAGE_WIDTH - LEFT - RIGHT - (len(panels) - 1) * GAP) / len(panels)
    handles: list[Any] = []
    lengths = summary["lengths"]
    for row, (probe, title) in enumerate(NEEDLE_PROBES.items()):
        top = page.ceiling - keys - row * row_height
        bottom = top - TITLE - HEAD - HEIGHT
        page.write(LEFT, top - TITLE / 3, title[:1].upper() + title[1:], weight="bold")
        drawn: list[Any] = []
        shown = [100 * summary["chance"]]
        for number, position in enumerate(panels):
            ax = page.panel(LEFT + number * (width + GAP), bottom, width, HEIGHT)
            members = [groups.index(one) for one in groups if one["position"] == position and one["length"] in lengths]
            for at, model in enumerate(models):
                (found,) = [layer for layer in model["layers"] if layer["output"]]
                entries = [found["probes"][probe]["accuracy"][member] for member in members]
                x = np.arange(len(lengths)) + shift_of(at, len(models))
                value, low, high = (100 * numbers(entries, end) for end in ("value", "ci_low", "ci_high"))
                look = look_of(at)
                line = ax.plot(x, value, label=names[at], gid=f"{probe} {position or 'all'} {at}", **look)
                draw_intervals(ax, x, low, high, look, f"{probe} {position or 'all'} {at}")
                handles += line if row == number == 0 else []
                shown += [v for v in (*value, *low, *high) if np.isfinite(v)]
            floor = ax.axhline(100 * summary["chance"], label=CHANCE, gid=CHANCE, **DASHED)
            if row == number == 0:
                handles.append(floor)
            ax.set_xticks(range(len(lengths)), [f"{length:,}" for length in lengths])
            ax.set_xlim(-0.5, len(lengths) - 0.5)
            ax.set_title(position or "all positions")
            ax.grid(axis="y")
            if number == 0:
                ax.set_ylabel("accuracy (%)")
            else:
                ax.tick_params(labelleft=False)
            if row == len(NEEDLE_PROBES) - 1:
                ax.set_xlabel("tokens")
            drawn.append(ax)
        room = 0.08 * (max(shown) - min(shown)) + 0.5
        for ax in drawn:
            ax.set_ylim(min(shown) - room, max(shown) + room)
    page.legend(handles, LEFT, page.ceiling, columns)
    return page.figure
