"""The figure of a probe: F1 by layer of every model, beside the floors."""

from __future__ import annotations

from typing import Any

import numpy as np

from cka_tools.formatting import shorten
from cka_tools.plotting.layer_curves import draw_intervals, layer_axis, numbers
from cka_tools.plotting.style import (
    DASHED,
    FAINT,
    HOLLOW,
    INK,
    LOOKS,
    PAGE_WIDTH,
    Look,
    Page,
    StyledFigure,
    figure_style,
    settings_line,
    warning_notes,
)

# Inches.
LEFT, RIGHT, BELOW, HEIGHT, LINE = 0.58, 0.15, 0.42, 2.3, 0.17
SHOWN = "macro_f1"
NAME_LETTERS = 60
FLOORS: dict[str, Look] = {"majority": DASHED, "bag of words": DASHED | {"color": INK, "linestyle": (0, (1, 1.5))}}


@figure_style()
def probe_figure(record: dict[str, Any]) -> StyledFigure:
    """Draw macro F1 by layer; below it, of several models, the paired difference of each from the first.

    Args:
        record: of a `Probe`.
    """
    models, task = record["models"], record["summary"]["task"]
    apart = [one for one in record["differences"] if one["b"] == 0]
    rows = len(models) + 1
    panels = rows * LINE + HEIGHT + BELOW + ((HEIGHT / 2 + BELOW) if apart else 0.0)
    of_words = task["kind"] == "tags"
    read, noun = ("state of each word's first piece", "sentences") if of_words else ("features", "texts")
    note = (
        f"Logistic regression on each layer's {read}, {noun} of train: {task['train']:,}. Bars: 95 % intervals over "
        f"{noun} of test. A ring: the layer that cross-validation within train chose."
    )
    title = [f"Probe of {task.get('title', task['name'])}"]
    page = Page(title, settings_line(record), panels, [note, *warning_notes(record["summary"], "pair")])
    width = PAGE_WIDTH - LEFT - RIGHT
    bottom = page.ceiling - rows * LINE - HEIGHT
    ax = page.panel(LEFT, bottom, width, HEIGHT)
    layers = sorted({layer["layer"] for model in models for layer in model["layers"]})
    handles: list[Any] = []
    for at, model in enumerate(models):
        look, shift = look_of(at), shift_of(at, len(models))
        entries = [layer["readouts"][SHOWN] for layer in model["layers"]]
        x = np.array([layer["layer"] for layer in model["layers"]]) + shift
        value, low, high = (100 * numbers(entries, end) for end in ("value", "ci_low", "ci_high"))
        handles += ax.plot(x, value, label=shorten(model["name"], NAME_LETTERS), gid=f"model {at}", **look)
        draw_intervals(ax, x, low, high, look, f"model {at}")
        best = [layer["layer"] for layer in model["layers"]].index(model["chosen_layer"])
        ring = {"markerfacecolor": "none", "markeredgecolor": look["color"], "markersize": 8.5, "linestyle": "none"}
        ax.plot(x[best], value[best], marker="o", gid=f"chosen {at}", zorder=6, **ring)
        if record["summary"]["label_shuffle"]:
            chance = 100 * numbers([layer["shuffled"][SHOWN] for layer in model["layers"]], "value")
            faint: Look = {"color": look["color"], "linewidth": 0.8, "linestyle": (0, (3, 1, 1, 1)), "zorder": 2}
            lines = ax.plot(x, chance, label="fitted on shuffled labels", gid=f"shuffled {at}", **faint)
            handles += lines if at == 0 else []
    for floor in record["floors"]:
        level = floor["readouts"][SHOWN]["value"]
        look = FLOORS.get(floor["name"], DASHED)
        handles.append(ax.axhline(100 * level, label=floor["name"], gid=floor["name"], **look))
    handles.sort(key=lambda one: one.get_label() in FLOORS)
    layer_axis(ax, layers)
    ax.set_ylabel("macro F1 of entities (%)" if of_words else "macro F1 (%)")
    ax.set_xlabel("layer")
    ax.grid(axis="y")
    page.legend(handles, LEFT, page.ceiling, 1 if len(models) > 2 else 2)
    if apart:
        below = page.panel(LEFT, bottom - BELOW - HEIGHT / 2, width, HEIGHT / 2)
        below.axhline(0.0, color=FAINT, linewidth=0.8)
        for one in apart:
            look = look_of(one["a"])
            x = np.array([layer["layer_a"] for layer in one["layers"]]) + shift_of(one["a"], len(models))
            entries = [layer["readouts"][SHOWN] for layer in one["layers"]]
            value, low, high = (100 * numbers(entries, end) for end in ("value", "ci_low", "ci_high"))
            below.plot(x, value, gid=f"difference {one['a']}", **look)
            draw_intervals(below, x, low, high, look, f"difference {one['a']}")
        layer_axis(below, layers)
        below.set_ylabel("− first (points)")
        below.set_xlabel("layer")
        below.grid(axis="y")
    return page.figure


def look_of(at: int) -> Look:
    """Of a model by its number."""
    look = LOOKS[at % len(LOOKS)] | (HOLLOW if at % 2 else {})
    return {"zorder": 4} | look


def shift_of(at: int, count: int) -> float:
    """Beside each other, not on top of each other."""
    return 0.0 if count == 1 else (at / (count - 1) - 0.5) * 0.24
