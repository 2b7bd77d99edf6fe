"""What a control adds to a comparison's figure: seed noise beside the divergence, and the ratio to it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from cka_tools.plotting.layer_curves import VOIDED, LayerEntry, numbers
from cka_tools.plotting.style import BAND, DARK, FAINT, INK, NOISE, VOID, VOID_HATCH, Look

CONTROL: Look = {
    "color": NOISE,
    "marker": "D",
    "markersize": 2.8,
    "linestyle": (0, (5, 1.5, 1, 1.5)),
    "zorder": 3,
}
RATIO: Look = {"color": DARK, "marker": "o", "linestyle": "-", "zorder": 5}
NARROWEST_RANGE = (0.8, 2.0)
"""Ratios that the axis shows at least."""

TICKS = ((1000.0, (1.0,)), (60.0, (1.0, 3.0)), (8.0, (1.0, 2.0, 5.0)), (0.0, (1.0, 1.5, 2.0, 3.0, 4.0, 6.0)))
"""Multiples of powers of ten that are labelled where the axis spans more than a factor."""


def draw_control(ax: Axes, entries: Sequence[LayerEntry]) -> list[Line2D]:
    """The control's divergence in percent with its band; returns what the legend shows."""
    x = np.array([e["layer_a"] for e in entries])
    control = [e["control"] for e in entries]
    low, high = (100 * numbers(control, end) for end in ("ci_low", "ci_high"))
    ax.fill_between(x, low, high, color=CONTROL["color"], alpha=0.25, linewidth=0, gid="control: band")
    y = 100 * numbers(control, "value")
    handles = ax.plot(x, y, label="seed noise", gid="control", **CONTROL)
    # The axis was made for the pair's values: it takes the control's in as well.
    shown = np.concatenate([y, low, high])
    shown = shown[np.isfinite(shown)]
    if len(shown):
        bottom, top = ax.get_ylim()
        room = 0.05 * (max(top, shown.max()) - min(bottom, shown.min()))
        ax.set_ylim(min(bottom, shown.min() - room), max(top, shown.max() + room))
    return handles


def draw_ratio(ax: Axes, entries: Sequence[LayerEntry], mean: float | None) -> list[Line2D | Patch]:
    """The ratio by layer on a log axis with a line at 1; layers without one are hatched.

    Args:
        mean: ratio of the mean divergences.

    Returns:
        What the legend shows.
    """
    x = np.array([e["layer_a"] for e in entries])
    ratios = [e["ratio"] for e in entries]
    y, low, high = (numbers(ratios, key) for key in ("value", "ci_low", "ci_high"))
    handles: list[Line2D | Patch] = list(ax.plot(x, y, label="divergence / seed noise", gid="ratio", **RATIO))
    bars: Look = {"color": RATIO["color"], "linewidth": 0.9, "zorder": RATIO["zorder"] - 0.5}
    ax.vlines(x, low, high, gid="ratio: bars", **bars)
    ax.plot(
        np.r_[x, x], np.r_[low, high], gid="ratio: caps", marker="_", markersize=3.5, linestyle="none", **bars
    )
    ax.axhline(1.0, color=INK, linewidth=0.6, linestyle=":", zorder=1, gid="one")
    if mean is not None:
        look: Look = {"color": FAINT, "linewidth": 0.8, "linestyle": (0, (6, 3)), "zorder": 1}
        handles.append(ax.axhline(mean, label="of the means", gid="ratio: mean", **look))
    refused = x[np.isnan(y)]
    for layer in refused:
        ax.axvspan(layer - 0.5, layer + 0.5, gid="no ratio", **VOIDED)
    if len(refused):
        handles.append(
            Patch(facecolor=VOID, edgecolor=FAINT, hatch=VOID_HATCH, linewidth=0, label="none: see note")
        )
    _ratio_axis(ax, np.concatenate([y, low, high, [] if mean is None else [mean]]))
    ax.set_ylabel("ratio")
    return handles


def _ratio_axis(ax: Axes, values: np.ndarray) -> None:
    """A log axis that holds all values, 1 and some room, with plain numbers."""
    known = values[np.isfinite(values) & (values > 0)]
    low = min(NARROWEST_RANGE[0], *known / 1.15) if len(known) else NARROWEST_RANGE[0]
    high = max(NARROWEST_RANGE[1], *known * 1.15) if len(known) else NARROWEST_RANGE[1]
    ax.set_yscale("log")
    ax.set_ylim(low, high)
    spread = high / low
    subs = next(ticks for least, ticks in TICKS if spread > least)
    ax.yaxis.set_major_locator(LogLocator(subs=subs, numticks=12))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.yaxis.set_minor_locator(NullLocator())
    ax.grid(axis="y", color=BAND, linewidth=0.6)
