"""The figure of an ablation: one row of panels for each axis; mean, early, and the ratio to seed noise."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from cka_tools.formatting import counted, noise_sentence, printable
from cka_tools.plotting import style
from cka_tools.plotting.layer_curves import bounds

# Inches.
LEFT, GAP = 0.55, 0.58
PANEL_HEIGHT, ABOVE, BELOW = 1.45, 0.32, 0.58
PANELS = 3
SPREAD = 0.5
"""Of the distance between two cells: how far the points of all sizes and seeds may lie apart."""

SHARES = {"length": "Phase 1, % of n tokens", "decay": "decay, % of the tokens of Phase 1"}
"""Axes whose cells are shares, and what of."""

LABELS = SHARES | {"freeze": "frozen layers", "size": "size (layers x hidden)", "direction": "model"}

NO_LINE: style.Look = {"linestyle": "none"}

Cells = Sequence[dict[str, Any]]


@style.figure_style()
def ablation_figure(record: dict[str, Any]) -> Figure:
    """Draw an ablation's record.

    Points are seeds with their intervals over documents, dashes are at the seeds' mean, bands are the
    seed noise of the same cell: two baselines. Nothing of matplotlib's global state is used or changed.
    """
    cells: Cells = record["pairs"]
    axes = list(dict.fromkeys(cell["axis"] for cell in cells))
    sizes = list(dict.fromkeys(cell["size"] for cell in cells))
    seeds = sorted({cell["seed"] for cell in cells})
    settings = (
        "detour against baseline, debiased linear CKA over "
        f"{counted(record['summary']['n_documents'], 'document')}; "
        f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
    )
    row = ABOVE + PANEL_HEIGHT + BELOW
    keys = style.lines_height(["x"], style.TEXT)
    title = f"Ablation of the detour: {record['axis']}"
    page = style.Page([title], settings, keys + row * len(axes), _notes(record))
    page.legend(_legend(sizes), style.MARGIN, page.ceiling, len(sizes) + 3)
    width = (style.PAGE_WIDTH - LEFT - style.MARGIN - (PANELS - 1) * GAP) / PANELS
    for at, axis in enumerate(axes):
        bottom = page.ceiling - keys - at * row - ABOVE - PANEL_HEIGHT
        panels = [page.panel(LEFT + k * (width + GAP), bottom, width, PANEL_HEIGHT) for k in range(PANELS)]
        _axis_row(panels, axis, [cell for cell in cells if cell["axis"] == axis], sizes)
    return page.figure


def _axis_row(places: list[Axes], axis: str, cells: Cells, sizes: Sequence[str]) -> None:
    names = list(dict.fromkeys(cell["cell"] for cell in sorted(cells, key=lambda c: c["position"] or 0.0)))
    panels = (("mean_divergence", "mean divergence (%)"), ("early_divergence", "early layers (%)"))
    for ax, (what, title) in zip(places, panels, strict=False):
        _points(ax, cells, names, sizes, what, 100.0)
        _noise(ax, cells, names, sizes, f"control_{what}")
        ax.set_title(title)
        ax.set_ylim(bottom=min(0.0, ax.get_ylim()[0]))
        ax.grid(axis="y")
    ax = places[-1]
    _points(ax, cells, names, sizes, "mean_ratio", 1.0)
    style.ratio_axis(ax)
    ax.set_title("mean, as a multiple of seed noise (log)")
    style.panel_letters(places, 8)
    position = {cell["cell"]: cell["position"] for cell in cells}
    share = axis in SHARES and all(position[name] is not None for name in names)
    labels = [f"{100 * position[name]:g}" if share else printable(name) for name in names]
    crowded = sum(map(len, labels)) > 26
    for ax in places:
        ax.set_xticks(range(len(names)), labels)
        ax.set_xlim(-0.6, len(names) - 0.4)
        ax.set_xlabel(LABELS.get(axis, printable(axis)))
        if crowded:
            ax.tick_params(axis="x", labelrotation=35)
            for label in ax.get_xticklabels():
                label.set_horizontalalignment("right")
                label.set_rotation_mode("anchor")


def _by_size(
    cells: Cells, names: Sequence[str], sizes: Sequence[str]
) -> Iterator[tuple[style.Look, Cells, dict[str, float]]]:
    """Each size's look, its cells, and where each cell of the axis stands: on the tick where cells are sizes."""
    for number, size in enumerate(sizes):
        aside = 0.0 if size in names else (number - (len(sizes) - 1) / 2) * SPREAD / len(sizes)
        own = [cell for cell in cells if cell["size"] == size]
        yield style.LOOKS[number % len(style.LOOKS)], own, {name: at + aside for at, name in enumerate(names)}


def _points(ax: Axes, cells: Cells, names: Sequence[str], sizes: Sequence[str], what: str, scale: float) -> None:
    """Each seed's value with its interval, and a dash at the seeds' mean."""
    for look, own, middles in _by_size(cells, names, sizes):
        seeds = sorted({cell["seed"] for cell in own})
        apart = min(0.12, SPREAD / len(sizes) / max(len(seeds), 1))
        values = defaultdict(list)
        for cell in own:
            entry = _entry(cell, what)
            if entry["value"] is None:
                continue
            values[cell["cell"]].append(entry["value"])
            x = middles[cell["cell"]] + (seeds.index(cell["seed"]) - (len(seeds) - 1) / 2) * apart
            if entry["ci_low"] is not None:
                ends = scale * entry["ci_low"], scale * entry["ci_high"]
                ax.vlines(x, *ends, color=look["color"], linewidth=0.9, gid=f"{what} interval")
            ax.plot(x, scale * entry["value"], gid=what, zorder=4, **(look | style.HOLLOW | {"linestyle": "none"}))
        if len(values) > 1 and all(cell["position"] is not None for cell in own):
            known = [name for name in names if name in values]
            means = [scale * float(np.mean(values[name])) for name in known]
            # No line: a few cells are no course.
            dash = NO_LINE | {"color": look["color"], "marker": "_", "markersize": 9, "zorder": 5}
            ax.plot([middles[name] for name in known], means, gid=f"{what} mean", **dash)


def _entry(cell: dict[str, Any], what: str) -> dict[str, Any]:
    """The interval of "mean_divergence", of "control_mean_divergence" or of "mean_ratio"; early likewise."""
    if what.endswith("_ratio"):
        return cell["ratio"][what.removesuffix("_ratio")]
    of = cell["control"] if what.startswith("control_") else cell
    return of[what.removeprefix("control_")]["debiased"]


def _noise(ax: Axes, cells: Cells, names: Sequence[str], sizes: Sequence[str], what: str) -> None:
    """Bands from the lowest to the highest bound of the control's intervals in a cell."""
    half = 0.5 * SPREAD / max(len(sizes), 1)
    for look, own, middles in _by_size(cells, names, sizes):
        for name, middle in middles.items():
            entries = [_entry(cell, what) for cell in own if cell["cell"] == name]
            entries = [entry for entry in entries if entry["value"] is not None]
            if not entries:
                continue
            ends = [100 * end for entry in entries for end in bounds(entry)]
            corner, height = (middle - half, min(ends)), max(ends) - min(ends)
            ax.add_patch(Rectangle(corner, 2 * half, height, facecolor=look["color"], alpha=0.25, gid="control"))
            # A band may be thinner than a line.
            centre = float(np.mean([100 * entry["value"] for entry in entries]))
            ax.hlines(centre, middle - half, middle + half, color=look["color"], linewidth=0.7, alpha=0.6)
    ax.autoscale_view()


def _legend(sizes: Sequence[str]) -> list[Artist]:
    handles: list[Artist] = [
        Line2D([], [], label=printable(size), **(style.LOOKS[number % len(style.LOOKS)] | style.HOLLOW | NO_LINE))
        for number, size in enumerate(sizes)
    ]
    handles.append(Line2D([], [], color=style.INK, linewidth=0.9, label="95 % interval over documents"))
    handles.append(Line2D([], [], color=style.INK, marker="_", markersize=9, label="mean of the seeds", **NO_LINE))
    handles.append(Patch(facecolor=style.INK, alpha=0.25, label="seed noise: two baselines"))
    return handles


def _notes(record: dict[str, Any]) -> list[str]:
    kinds = [cell["noise"] for cell in record["pairs"] if cell["noise"]]
    notes = [noise_sentence("the baseline", kinds)] if kinds else []
    notes += style.warning_notes(record["summary"], "comparison")
    missing = [c for c in record["pairs"] if c["ratio"]["mean"]["value"] is None]
    if missing:
        reason = missing[0]["ratio"]["mean"].get("reason", "undefined")
        notes.append(f"No ratio in {counted(len(missing), 'comparison')}: {reason}.")
    return notes
