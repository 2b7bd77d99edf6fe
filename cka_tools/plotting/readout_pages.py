"""Figures of transplants, interpolations and health checks: readouts as dots with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from cka_tools.formatting import NOISE_IN_WORDS, quantities, recovery_refusals, shorten
from cka_tools.plotting.layer_curves import numbers
from cka_tools.plotting.style import (
    BAND,
    DASHED,
    FAINT,
    HOLLOW,
    INK,
    LIGHT,
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
ROW, ABOVE, BELOW = 0.2, 0.42, 0.46
LABELS, GAP, RIGHT = 1.62, 0.28, 0.15
CURVE_HEIGHT = 2.0
LABEL_LETTERS, NAME_LETTERS = 30, 40

DIRECTIONS: dict[str, Look] = {"transplant": LOOKS[0], "control": LOOKS[3], "reverse": LOOKS[1] | HOLLOW}
CALLED = {
    "transplant": "donor's parts in the base",
    "control": "another seed's parts in the base",
    "reverse": "base's parts in the donor",
}
STEP = 0.24
"""Of a row's height, between directions."""

Record = dict[str, Any]


def first_quantities(record: Record) -> list[tuple[str, str, str]]:
    """The first quantity of each readout."""
    found: dict[str, tuple[str, str, str]] = {}
    for one in quantities(record):
        found.setdefault(one[0].rpartition(".")[0], one)
    return list(found.values())


def _axis_label(title: str, unit: str) -> str:
    return f"{title} (nats)" if unit == "nats" else f"{title} (%)"


def _scale(unit: str) -> float:
    return 100.0 if unit == "share" else 1.0


@figure_style()
def transplant_figure(record: Record) -> StyledFigure:
    """Draw a transplant: for each readout the hybrids between base and donor, and their recoveries.

    Args:
        record: of a `Transplant`.
    """
    base, donor = (shorten(end["name"], NAME_LETTERS) for end in record["ends"][:2])
    grafts = list(dict.fromkeys(one["label"] for one in record["hybrids"]))
    shown = first_quantities(record)
    height = ROW * len(grafts)
    notes = [
        "recovery = (hybrid − start) / (end − start): start is the base and end the donor, the other way in reverse; a "
        "control's hybrid is measured by the same gap. Bars: 95 % intervals over documents."
    ]
    if "noise" in record["summary"]:
        notes.append(f"The control is {NOISE_IN_WORDS[record['summary']['noise']]}.")
    notes += [f"No recovery: {line}." for line in recovery_refusals(record)]
    block = ABOVE + height + BELOW
    page = Page(
        [f"Parts of {donor}", f"in {base}"],
        settings_line(record),
        block * len(shown),
        notes + warning_notes(record["summary"], "pair"),
    )
    width = (PAGE_WIDTH - LABELS - GAP - RIGHT) / 2
    for at, (key, title, unit) in enumerate(shown):
        bottom = page.ceiling - block * at - ABOVE - height
        left = page.panel(LABELS, bottom, width, height)
        right = page.panel(LABELS + width + GAP, bottom, width, height)
        _dots(left, record, grafts, key, "value", _scale(unit))
        handles = _ends(left, record, key, _scale(unit))
        _dots(right, record, grafts, key, "recovery", 100.0)
        for edge in (0, 100):
            right.axvline(edge, **DASHED)
        # In reverse the end is the base; layers below the first grafted one cannot move.
        from_first = title.startswith("divergence")
        title = "divergence to the end, from the first grafted layer" if from_first else title
        left.set_xlabel(_axis_label(title, unit))
        right.set_xlabel("recovery: share of the gap (%)")
        for ax in (left, right):
            ax.set_ylim(len(grafts) - 0.5, -0.5)
            ax.set_yticks(range(len(grafts)), [shorten(one, LABEL_LETTERS) for one in grafts] if ax is left else [])
            ax.tick_params(axis="y", length=0)
            ax.grid(axis="x")
            for row in range(len(grafts)):
                ax.axhline(row, color=BAND, linewidth=0.6, zorder=0)
        if at == 0:
            present = {one["direction"] for one in record["hybrids"]}
            keys: list[Any] = [
                Line2D([], [], label=CALLED[name], **(look | {"linestyle": "none"}))
                for name, look in DIRECTIONS.items()
                if name in present
            ]
            page.legend([*keys, *handles], LABELS, bottom + height + ABOVE - 0.02, 3)
    page.letters()
    return page.figure


def _dots(ax: Axes, record: Record, grafts: Sequence[str], key: str, part: str, scale: float) -> None:
    present = [name for name in DIRECTIONS if any(one["direction"] == name for one in record["hybrids"])]
    for number, name in enumerate(present):
        own = [one for one in record["hybrids"] if one["direction"] == name]
        entries = [one["readouts"][key][part] for one in own]
        y = np.array([grafts.index(one["label"]) for one in own]) + (number - (len(present) - 1) / 2) * STEP
        value, low, high = (scale * numbers(entries, end) for end in ("value", "ci_low", "ci_high"))
        look = DIRECTIONS[name] | {"linestyle": "none"}
        ax.hlines(y, low, high, color=look["color"], linewidth=0.9, gid=f"{name} {part} interval")
        ax.plot(value, y, gid=f"{name} {part}", zorder=4, **look)


def _ends(ax: Axes, record: Record, key: str, scale: float) -> list[Any]:
    """Base and donor as lines with their intervals as bands; returns what the legend shows."""
    handles: list[Any] = []
    for end, style, color in zip(record["ends"][:2], ("-", (0, (4, 2))), (FAINT, LIGHT), strict=True):
        entry = end["readouts"][key]
        if entry["value"] is None:
            continue
        line = ax.axvline(
            scale * entry["value"], color=color, linestyle=style, linewidth=1.0, zorder=2, gid=end["role"]
        )
        line.set_label(f"the {end['role']}")
        handles.append(line)
        if entry["ci_low"] is not None:
            ax.axvspan(
                scale * entry["ci_low"], scale * entry["ci_high"], color=color, alpha=0.13, linewidth=0, zorder=1
            )
    return handles


@figure_style()
def health_figure(record: Record) -> StyledFigure:
    """Draw a health check: every quantity of every model with its interval.

    Args:
        record: of a `Health`.
    """
    models, shown = record["models"], quantities(record)
    height = max(ROW * len(models), 0.5)
    notes = ["Bars: 95 % intervals over documents; differences between models are paired and narrower (in the table)."]
    page = Page(
        ["Health of checkpoints"],
        settings_line(record),
        height + 0.12 + BELOW,
        notes + warning_notes(record["summary"], "pair"),
    )
    width = (PAGE_WIDTH - LABELS - RIGHT - GAP * (len(shown) - 1)) / len(shown)
    for at, (key, title, unit) in enumerate(shown):
        ax = page.panel(LABELS + at * (width + GAP), page.ceiling - 0.12 - height, width, height)
        entries = [model["readouts"][key] for model in models]
        value, low, high = (_scale(unit) * numbers(entries, end) for end in ("value", "ci_low", "ci_high"))
        y = np.arange(len(models))
        look = LOOKS[at % len(LOOKS)] | {"linestyle": "none"}
        ax.hlines(y, low, high, color=look["color"], linewidth=0.9, gid=f"{key} interval")
        ax.plot(value, y, gid=key, zorder=4, **look)
        ax.set_ylim(len(models) - 0.5, -0.5)
        ax.set_yticks(y, [shorten(model["name"], LABEL_LETTERS) for model in models] if at == 0 else [])
        ax.tick_params(axis="y", length=0)
        ax.grid(axis="both")
        ax.set_xlabel(_axis_label(title, unit))
    page.letters()
    return page.figure


@figure_style()
def interpolation_figure(record: Record) -> StyledFigure:
    """Draw readouts, and the divergence from both ends, along the straight line between two models.

    Args:
        record: of an `Interpolation`.
    """
    points = record["points"]
    a, b = (shorten(name, NAME_LETTERS) for name in record["summary"]["names"])
    x = np.array([point["alpha"] for point in points])
    shown = [one for one in first_quantities(record) if one[0] in points[0]["readouts"]]
    panels = len(shown) + ("divergence" in points[0])
    page = Page(
        [f"From {a}", f"to {b} in a straight line"],
        settings_line(record),
        ABOVE + CURVE_HEIGHT + BELOW,
        ["Bands: 95 % intervals over documents.", *warning_notes(record["summary"], "pair")],
    )
    left, between = 0.58, 0.6
    width = (PAGE_WIDTH - left - RIGHT - between * (panels - 1)) / panels
    axes = [
        page.panel(left + at * (width + between), page.ceiling - ABOVE - CURVE_HEIGHT, width, CURVE_HEIGHT)
        for at in range(panels)
    ]
    for ax, (key, title, unit) in zip(axes, shown, strict=False):
        handles = [_curve(ax, x, [point["readouts"][key]["value"] for point in points], LOOKS[0], title, _scale(unit))]
        ends = [_scale(unit) * points[at]["readouts"][key]["value"]["value"] for at in (0, -1)]
        handles += ax.plot([0, 1], ends, label="line between the ends", gid="chord", **DASHED)
        ax.set_ylabel(_axis_label(title, unit))
        ax.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    if "divergence" in points[0]:
        ax = axes[-1]
        drawn = [
            _curve(ax, x, [point["divergence"][end] for point in points], look, f"from {name}", 100.0)
            for end, name, look in (("a", a, LOOKS[0]), ("b", b, LOOKS[1] | HOLLOW))
        ]
        ax.set_ylabel("mean divergence 1 − CKA (%)")
        ax.legend(handles=drawn, loc="lower left", bbox_to_anchor=(0, 1), ncols=1)
        ax.set_ylim(bottom=min(0.0, ax.get_ylim()[0]))
    for ax in axes:
        ax.set_xlabel("share of the second model")
        ax.grid(axis="y")
    page.letters()
    return page.figure


def _curve(ax: Axes, x: np.ndarray, entries: Sequence[Record], look: Look, label: str, scale: float) -> Line2D:
    value, low, high = (scale * numbers(entries, end) for end in ("value", "ci_low", "ci_high"))
    (line,) = ax.plot(x, value, label=label, gid=label, zorder=4, **look)
    ax.fill_between(x, low, high, color=look["color"], alpha=0.18, linewidth=0, gid=f"{label} band")
    return line


def draw_health(
    ax: Axes, x: np.ndarray, entries: Sequence[Record], reference: Record, title: str
) -> list[Line2D | Patch]:
    """The loss of checkpoints along training with its band, and the reference's as a line, in nats."""
    handles: list[Line2D | Patch] = [_curve(ax, x, entries, LOOKS[2], title, 1.0)]
    if reference["value"] is not None:
        line = ax.axhline(reference["value"], color=INK, linewidth=0.8, linestyle=(0, (1, 1.5)), gid="reference loss")
        line.set_label("the reference")
        handles.append(line)
    ax.set_ylabel("loss (nats)")
    ax.grid(axis="y")
    return handles
