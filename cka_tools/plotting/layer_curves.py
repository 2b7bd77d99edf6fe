"""Curves over layers: divergence, seed noise, their ratio, effective dimension."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from cka_tools.figure_choices import chosen
from cka_tools.formatting import MASSIVE_SHARE, layer_list
from cka_tools.plotting import style
from cka_tools.plotting.style import Look

MOST_LABELS, MOST_TICKS = 14, 60


def thin(positions: Sequence[float], most: int = MOST_LABELS) -> list[int]:
    """Which of ascending positions get a label: at most about `most`, evenly apart, the first always."""
    if not positions:
        return []
    extent = positions[-1] - positions[0] + 1
    apart = max(1.0, -(-extent // most))
    chosen = [0]
    for at, position in enumerate(positions):
        if position - positions[chosen[-1]] >= apart:
            chosen.append(at)
    return chosen


LayerEntry = dict[str, Any]

DEBIASED: Look = style.FIRST | {"zorder": 5}
BIASED: Look = style.SECOND | {"zorder": 4}
RESCALED: Look = style.LOOKS[2] | {"zorder": 3}
VOIDED: Look = style.HATCHED | {"facecolor": "white", "zorder": 0.5}
_RING: Look = {"markerfacecolor": "none", "markeredgecolor": style.INK, "markeredgewidth": 0.7}
MASSIVE: Look = {"marker": "o", "markersize": 7.5, "linestyle": "none", **_RING}
MOST_EARLY_LETTERS = 16


def numbers(entries: Sequence[LayerEntry], key: str) -> np.ndarray:
    """One value an entry, NaN where it is null."""
    return np.array([np.nan if e.get(key) is None else e[key] for e in entries], dtype=np.float64)


def bounds(entry: dict[str, Any]) -> tuple[float, float]:
    """Both ends of an entry's interval; its value, which is not null, where it has none."""
    low, high = (entry["value"] if entry[end] is None else entry[end] for end in ("ci_low", "ci_high"))
    return low, high


def layer_axis(ax: Axes, layers: Sequence[int], names: Mapping[int, str] | None = None) -> None:
    """Ticks at the layers, half a layer of room on both sides; `names` of rows that are no layers."""
    shown = [layers[at] for at in thin(layers)]
    ax.set_xticks(shown, [(names or {}).get(layer, str(layer)) for layer in shown])
    ax.xaxis.set_minor_locator(FixedLocator(layers) if len(layers) <= MOST_TICKS else NullLocator())
    ax.set_xlim(layers[0] - 0.6, layers[-1] + 0.6)


def draw_early_band(ax: Axes, layers: Sequence[int], early: Sequence[int]) -> list[Patch]:
    """Shade the early layers, one span for each unbroken run of them; returns what the legend shows."""
    edges = [layers[0] - 0.6, *((a + b) / 2 for a, b in pairwise(layers)), layers[-1] + 0.6]
    runs: list[list[float]] = []
    for at, layer in enumerate(layers):
        if layer not in early:
            continue
        if runs and runs[-1][1] == edges[at]:
            runs[-1][1] = edges[at + 1]
        else:
            runs.append([edges[at], edges[at + 1]])
    for low, high in runs:
        ax.axvspan(low, high, color=style.BAND, linewidth=0, zorder=0, gid="early")
    text = f"early {layer_list(early)}"
    label = text if len(text) <= MOST_EARLY_LETTERS else "early layers"
    return [Patch(facecolor=style.BAND, edgecolor=style.FAINT, linewidth=0.4, label=label)] if runs else []


def draw_divergence(ax: Axes, entries: Sequence[LayerEntry], mean: float | None) -> list[Line2D | Patch]:
    """Divergence in percent over the layers of A; returns what the legend shows.

    Args:
        entries: `layers` of the record.
        mean: the mean debiased divergence, a fraction.
    """
    x = np.array([e["layer_a"] for e in entries])
    curves = [("debiased, 95 % interval", entries, "cka_debiased", DEBIASED)]
    curves += [("biased", entries, "cka_biased", BIASED)] if chosen().biased else []
    if any("rescaled" in e for e in entries):
        curves.append(("rescaled", [e.get("rescaled", {}) for e in entries], "cka_debiased", RESCALED))
    shown: list[np.ndarray] = [np.array([0.0])]
    handles: list[Line2D | Patch] = []
    for label, rows, key, look in curves:
        y = 100 * (1 - numbers(rows, key))
        (line,) = ax.plot(x, y, label=label, gid=label, **look)
        handles.append(line)
        shown.append(y)
        if key == "cka_debiased":
            low, high = (100 * (1 - numbers(rows, end)) for end in ("ci_high", "ci_low"))
            draw_intervals(ax, x, low, high, look, label)
            shown += [low, high]
    if mean is not None:
        handles.append(ax.axhline(100 * mean, label="mean", **style.DASHED))
    handles += _voids(ax, x[np.isnan(numbers(entries, "cka_debiased"))], "undefined")
    percent_axis(ax, np.concatenate(shown))
    ax.set_ylabel("divergence 1 − CKA (%)")
    return handles


def draw_intervals(ax: Axes, x: np.ndarray, low: np.ndarray, high: np.ndarray, look: Look, name: str) -> None:
    """Bars with caps, behind the curve that they belong to."""
    bars: Look = {"color": look["color"], "linewidth": 0.9, "zorder": look["zorder"] - 0.5}
    ax.vlines(x, low, high, gid=f"{name}: bars", **bars)
    caps: Look = {"marker": "_", "markersize": 3.5, "linestyle": "none", **bars}
    ax.plot(np.r_[x, x], np.r_[low, high], gid=f"{name}: caps", **caps)


def _voids(ax: Axes, layers: np.ndarray, gid: str, label: str = "undefined") -> list[Patch]:
    """Hatch layers that have no value; returns what the legend shows."""
    for layer in layers:
        ax.axvspan(layer - 0.5, layer + 0.5, gid=gid, **VOIDED)
    return [style.undefined_key(label)] if len(layers) else []


def percent_axis(ax: Axes, shown: np.ndarray) -> None:
    """All values inside; 0 always, 100 (CKA 0) where they come near it."""
    low, high = float(np.nanmin(shown)), max(1.0, float(np.nanmax(shown)))
    high = max(high, 100.0) if high > 80 else high
    room = 0.05 * (high - low)
    ax.set_ylim(low - room, high + room)
    ax.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]))
    ax.grid(axis="y")
    if high > 100:
        ax.axhline(100, color=style.INK, linewidth=0.6, linestyle=":", zorder=1)


def draw_effective_dimension(ax: Axes, entries: Sequence[LayerEntry]) -> list[Line2D]:
    """Effective dimension of both models on a log axis; returns what the legend shows."""
    x = np.array([e["layer_a"] for e in entries])
    handles: list[Line2D] = []
    drawn: list[np.ndarray] = []
    massive = np.zeros((0, 2))
    for side, look in (("a", style.FIRST), ("b", style.SECOND)):
        y = numbers(entries, f"effective_dim_{side}")
        label = f"model {side.upper()}"
        handles += ax.plot(x, y, label=label, gid=label, **look)
        drawn.append(y[y > 0])
        heavy = numbers(entries, f"top_feature_share_{side}") > MASSIVE_SHARE
        massive = np.concatenate([massive, np.stack([x, y], axis=1)[heavy]])
    if len(massive):
        label = f"one feature > {100 * MASSIVE_SHARE:.0f} % of variance"
        handles += ax.plot(*massive.T, label=label, gid="massive", zorder=6, **MASSIVE)
    dimension_axis(ax, np.concatenate(drawn))
    ax.set_ylabel("eff. dimension (log)")
    return handles


def dimension_axis(ax: Axes, values: np.ndarray) -> None:
    """A log axis over at least a factor of ten."""
    low, high = (float(values.min()), float(values.max())) if len(values) else (1.0, 10.0)
    widen = max(1.35, (10 * low / high) ** 0.5)
    low, high = low / widen, high * widen
    style.plain_log_axis(ax, (1.0,) if high / low > 300 else (1.0, 3.0) if high / low > 30 else (1.0, 2.0, 5.0))
    ax.set_ylim(low, high)


CONTROL: Look = style.LOOKS[3] | {"markersize": 2.8, "zorder": 3}
RATIO: Look = DEBIASED
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


def draw_ratio(
    ax: Axes, entries: Sequence[LayerEntry], mean: float | None, label: str = "divergence / seed noise"
) -> list[Line2D | Patch]:
    """The ratio by layer on a log axis with a line at 1; layers without one are hatched.

    Args:
        mean: ratio of the mean divergences.
        label: what the ratio is of.

    Returns:
        What the legend shows.
    """
    x = np.array([e["layer_a"] for e in entries])
    ratios = [e["ratio"] for e in entries]
    y, low, high = (numbers(ratios, key) for key in ("value", "ci_low", "ci_high"))
    handles: list[Line2D | Patch] = list(ax.plot(x, y, label=label, gid="ratio", **RATIO))
    draw_intervals(ax, x, low, high, RATIO, "ratio")
    ax.axhline(1.0, color=style.INK, linewidth=0.6, linestyle=":", zorder=1, gid="one")
    if mean is not None:
        handles.append(ax.axhline(mean, label="of the means", gid="ratio: mean", **style.DASHED))
    handles += _voids(ax, x[np.isnan(y)], "no ratio", "none: see note")
    _ratio_axis(ax, np.concatenate([y, low, high, [] if mean is None else [mean]]))
    ax.set_ylabel("ratio (log)")
    return handles


def _ratio_axis(ax: Axes, values: np.ndarray) -> None:
    """A log axis that holds all values, 1 and some room."""
    known = values[np.isfinite(values) & (values > 0)]
    low, high = style.NARROWEST_RATIOS
    low, high = min([low, *known / 1.15]), max([high, *known * 1.15])
    style.plain_log_axis(ax, next(subs for least, subs in TICKS if high / low > least))
    ax.set_ylim(low, high)
