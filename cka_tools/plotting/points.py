"""Seeds as points with their intervals, seed noise as bands, published values as marked reference points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from cka_tools.plotting.style import BAND, DARK, FAINT, INK, LIGHT, MIDDLE, Look

LOOKS: tuple[Look, ...] = (
    {"color": DARK, "marker": "o", "linestyle": "-"},
    {"color": MIDDLE, "marker": "s", "linestyle": (0, (4, 2))},
    {"color": LIGHT, "marker": "^", "linestyle": (0, (1, 1.5))},
)
PUBLISHED: Look = {
    "color": INK,
    "marker": "D",
    "markersize": 3.6,
    "markerfacecolor": "white",
    "markeredgewidth": 0.8,
    "linestyle": "none",
    "zorder": 6,
}
NOISE_ALPHA = 0.22
PERCENT_TOP = 135.0
"""Of a log axis that reaches 100 %: room for a marker there."""


@dataclass(frozen=True)
class Reference:
    """A published value at a place of an axis, with its stated spread."""

    x: float
    y: float
    spread: float = 0.0


def with_ends(rows: pd.DataFrame, what: str, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a column of an ablation's table and both ends of its intervals, (rows,), NaN where empty."""
    prefix = "" if what == "divergence" else f"{what}_"
    names = (what, f"{prefix}ci_low", f"{prefix}ci_high")
    value, low, high = (scale * rows[name].to_numpy(dtype=float) for name in names)
    return value, low, high


def draw_seeds(
    ax: Axes,
    rows: pd.DataFrame,
    x: Sequence[float] | np.ndarray,
    what: str,
    look: Look,
    *,
    scale: float = 1.0,
) -> None:
    """One point a row with its interval.

    Args:
        rows: of an ablation's table; `what`, and its `ci_low` and `ci_high`, are drawn where they are given.
        x: where each row stands.
        what: "divergence", "control" or "ratio".
        scale: 100 for percent.
    """
    values, low, high = with_ends(rows, what, scale)
    places = np.asarray(x, dtype=float)
    ax.vlines(places, low, high, color=look["color"], linewidth=0.9, gid=f"{what} interval", zorder=3)
    ax.plot(
        places,
        values,
        gid=what,
        color=look["color"],
        marker=look["marker"],
        markerfacecolor="white",
        linestyle="none",
        zorder=4,
    )


def draw_noise(ax: Axes, rows: pd.DataFrame, left: float, right: float, look: Look) -> None:
    """A band from the lowest to the highest bound of the control's intervals, in percent."""
    bounds = 100 * rows[["control_ci_low", "control_ci_high", "control"]].to_numpy(dtype=float)
    if np.isnan(bounds).all():
        return
    low, high, centre = np.nanmin(bounds), np.nanmax(bounds), np.nanmean(bounds[:, 2])
    band = Rectangle((left, low), right - left, high - low, facecolor=look["color"], alpha=NOISE_ALPHA)
    band.set(gid="control", linewidth=0)
    ax.add_patch(band)
    ax.update_datalim([(left, low), (right, high)])
    # A band may be thinner than a line.
    ax.hlines(centre, left, right, color=look["color"], linewidth=0.7, alpha=0.6)


def draw_published(ax: Axes, references: Sequence[Reference], **look: Any) -> None:
    """Published values with their spread."""
    for one in references:
        if one.spread:
            ends = one.y - one.spread, one.y + one.spread
            ax.vlines(one.x, *ends, color=INK, linewidth=0.7, zorder=5.5, gid="published spread")
    x, y = [one.x for one in references], [one.y for one in references]
    ax.plot(x, y, gid="published", **(PUBLISHED | look))


def log_axis(ax: Axes, *, percent: bool) -> None:
    """A log axis with plain numbers: of divergences in percent, or of ratios with a line at 1."""
    ax.set_yscale("log")
    low, high = ax.get_ylim()
    if percent:
        ax.set_ylim(low, high if high < 90 else PERCENT_TOP)
    else:
        ax.set_ylim(min(low, 0.8), max(high, 2.0))
        ax.axhline(1.0, color=FAINT, linewidth=0.8, linestyle=(0, (6, 3)), zorder=1)
    ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=9))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.yaxis.set_minor_locator(NullLocator())
    ax.grid(axis="y", color=BAND, linewidth=0.6)


def share_axis(ax: Axes, shares: Sequence[float]) -> None:
    """A log x-axis with a tick at each of these shares."""
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(FixedLocator(list(shares)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}"))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlim(min(shares) / 1.35, max(shares) * 1.35)


def legend_keys(sizes: Sequence[str], *, published: bool, noise: bool = True) -> list[Line2D | Patch]:
    """What the legend shows: a size each, the interval, seed noise, published values."""
    keys: list[Line2D | Patch] = [
        Line2D([], [], label=size, markerfacecolor="white", **look_of(size, sizes)) for size in sizes
    ]
    keys.append(Line2D([], [], color=INK, linewidth=0.9, label="95 % interval over documents"))
    if noise:
        keys.append(Patch(facecolor=INK, alpha=NOISE_ALPHA, linewidth=0, label="seed noise"))
    if published:
        keys.append(Line2D([], [], label="published", **PUBLISHED))
    return keys


def look_of(size: str, sizes: Sequence[str]) -> Look:
    """The look of a size among all."""
    return LOOKS[list(sizes).index(size) % len(LOOKS)]


def by_capacity(sizes: Sequence[str]) -> list[str]:
    """Sizes such as "8x128", the largest first."""

    def capacity(size: str) -> tuple[int, ...]:
        parts = [int(part) for part in size.split("x") if part.isdigit()]
        return tuple(parts)

    return sorted(dict.fromkeys(sizes), key=capacity, reverse=True)
