"""The figure of an evaluation: every model's score on every task, seed by seed, with its interval."""

from __future__ import annotations

from typing import Any

import numpy as np

from cka_tools.formatting import counted, fine_tuning_in_words, printable, shorten
from cka_tools.plotting.layer_curves import numbers
from cka_tools.plotting.probe_page import FLOORS
from cka_tools.plotting.style import (
    DASHED,
    FAINT,
    HOLLOW,
    LOOKS,
    PAGE_WIDTH,
    Look,
    Page,
    StyledFigure,
    figure_style,
    warning_notes,
)

# Inches.
LEFT, RIGHT, ROW, HEAD, BELOW, LINE = 1.75, 0.25, 0.2, 0.28, 0.34, 0.17
NAME_LETTERS, TASK_LETTERS = 26, 60


@figure_style()
def evaluation_figure(record: dict[str, Any]) -> StyledFigure:
    """Draw a panel a task: a row a model, its mean with the interval over seeds, and a small dot a seed.

    Args:
        record: of an `Evaluation`.
    """
    summary, models = record["summary"], record["models"]
    tasks, seeds = summary["tasks"], summary["seeds"]
    rows = len(models)
    panel = HEAD + rows * ROW + BELOW
    note = (
        f"Score on test of the epoch that is best on dev, mean of {counted(len(seeds), 'seed')}; small dots are seeds, "
        "bars 95 % intervals over seeds. A filled star: its paired difference from every other model is clear of 0, "
        "over seeds and documents."
    )
    settings = record["provenance"]["settings"]
    line = " · ".join(fine_tuning_in_words(settings))
    page = Page(["Fine-tuned on tasks"], line, len(tasks) * panel + LINE, [note, *warning_notes(summary, "pair")])
    width = PAGE_WIDTH - LEFT - RIGHT
    handles: list[Any] = []
    for t, task in enumerate(tasks):
        bottom = page.ceiling - LINE - t * panel - HEAD - rows * ROW
        ax = page.panel(LEFT, bottom, width, rows * ROW)
        shown = task["headline"]
        title = next(one["title"] for one in task["quantities"] if one["name"] == shown)
        page.write(LEFT, bottom + rows * ROW + 0.17, shorten(str(task.get("title", task["name"])), TASK_LETTERS))
        scores = {one["model"]: one for one in record["scores"] if one["task"] == t}
        clear = {one["model"] for one in record["best"] if one["task"] == t and one["clear"]}
        for m in range(rows):
            y, look = rows - 1 - m, _look(m)
            entry = scores[m]["readouts"][shown]
            value, low, high = (100 * numbers([entry], end) for end in ("value", "ci_low", "ci_high"))
            ax.plot([low[0], high[0]], [y, y], color=look["color"], linewidth=1.0, gid=f"interval {t} {m}")
            each = [100 * run["readouts"][shown] for run in scores[m]["runs"]]
            ax.plot(each, [y] * len(each), "o", color=FAINT, markersize=2.2, zorder=3, gid=f"seeds {t} {m}")
            marker: Look = {"marker": "*", "markersize": 8.0} if m in clear else {"markersize": 5.0}
            ax.plot(value, [y], gid=f"mean {t} {m}", **(look | {"linestyle": "none"} | marker))
        for floor in record["floors"]:
            if floor["task"] == t and floor["readouts"][shown]["value"] is not None:
                level, how = 100 * floor["readouts"][shown]["value"], FLOORS.get(floor["name"], DASHED)
                drawn = ax.axvline(level, label=f"floor: {floor['name']}", gid=f"floor {t} {floor['name']}", **how)
                if drawn.get_label() not in [one.get_label() for one in handles]:
                    handles.append(drawn)
        ax.set_yticks(np.arange(rows)[::-1], [shorten(printable(one["name"]), NAME_LETTERS) for one in models])
        ax.set_ylim(-0.6, rows - 0.4)
        left, right = ax.get_xlim()  # of few seeds an interval may leave what a score can be
        ax.set_xlim(max(left, -3.0), min(right, 103.0))
        ax.set_xlabel(f"{title} (%)")
        ax.grid(axis="x")
    if handles:
        page.legend(handles, LEFT, page.ceiling, 3)
    return page.figure


def _look(at: int) -> Look:
    return {"zorder": 4} | LOOKS[at % len(LOOKS)] | (HOLLOW if at % 2 else {})
