"""What the paper's figures share: points of seeds, bands of seed noise, published values in grey."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from cka_tools.paper import PublishedValue, published
from cka_tools.plotting.style import FAINT, HOLLOW, INK, LOOKS, Look, plain_log_axis, ratio_axis
from cka_tools.statistics.pair import layer_ratios
from cka_tools.training.recipe import PAPER

PUBLISHED: Look = {
    "color": FAINT,
    "marker": "D",
    "markersize": 3.6,
    "markerfacecolor": "white",
    "markeredgewidth": 0.8,
    "linestyle": "none",
    "zorder": 6,
}
PUBLISHED_TWIN: Look = PUBLISHED | {"marker": "s", "markersize": 3.2}
CITED = "published: Touchent and de la Clergerie 2026 (other models, another corpus, the biased estimator)"
NOISE_ALPHA = 0.22
FLOOR = 0.05
"""Percent of divergence below which a log axis says no more than that it is less, as tables do."""

PERCENT_TOP = 135.0
"""Of a log axis that reaches 100 %: room for a marker there."""


@dataclass(frozen=True)
class Reference:
    """A published value at a place of an axis, with its stated spread; a mean over places reaches to `until`."""

    x: float
    y: float
    spread: float = 0.0
    until: float | None = None


def with_ends(rows: pd.DataFrame, what: str, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a column of an ablation's table and both ends of its intervals, (rows,), NaN where empty."""
    names = (what, f"{what}_low", f"{what}_high")
    value, low, high = (scale * rows[name].to_numpy(dtype=float) for name in names)
    return value, low, high


def seed_steps(rows: pd.DataFrame) -> np.ndarray:
    """How many steps aside the point of each row stands, so that those of different seeds are apart, (rows,)."""
    seeds = sorted(set(rows["seed"]))
    return np.array([seeds.index(seed) - (len(seeds) - 1) / 2 for seed in rows["seed"]], dtype=float)


def draw_seeds(
    ax: Axes, rows: pd.DataFrame, x: Sequence[float] | np.ndarray, what: str, look: Look, *, scale: float = 1.0
) -> None:
    """One point a row with its interval.

    Args:
        rows: of an ablation's table; `what`, and its `…_low` and `…_high`, are drawn where they are given.
        x: where each row stands.
        what: "divergence", "control_divergence" or "ratio".
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
    bounds = np.stack(with_ends(rows, "control_divergence", 100))
    if np.isnan(bounds).all():
        return
    low, high, centre = np.nanmin(bounds), np.nanmax(bounds), np.nanmean(bounds[0])
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
            ax.vlines(one.x, *ends, color=FAINT, linewidth=0.7, zorder=5.5, gid="published spread")
        if one.until is not None:
            ax.hlines(one.y, one.x, one.until, color=FAINT, linewidth=1.0, linestyle=":", gid="published mean")
    places = [one for one in references if one.until is None]
    ax.plot([one.x for one in places], [one.y for one in places], gid="published", **(PUBLISHED | look))


def at_layers(references: Sequence[Reference], layers: Sequence[int]) -> list[Reference]:
    """Published values at relative depths, on our layers' axis."""
    first, span = layers[0], layers[-1] - layers[0]
    return [
        replace(one, x=first + span * one.x, until=None if one.until is None else first + span * one.until)
        for one in references
    ]


def log_axis(ax: Axes, *, percent: bool) -> None:
    """A log axis with plain numbers: of divergences in percent, or of ratios with a line at 1.

    A divergence below `FLOOR`, or below 0, is a triangle at the axis's end.
    """
    if not percent:
        ratio_axis(ax)
        return
    plain_log_axis(ax, (1.0, 2.0, 5.0), 9)
    below = False
    for line in [*ax.lines]:
        x, y = (np.asarray(values, dtype=float) for values in line.get_data())
        if line.get_marker() not in ("None", "none", None) and (small := y < FLOOR).any():
            ax.plot(x[small], np.full(small.sum(), FLOOR), "v", color=line.get_color(), gid="below", clip_on=False)
            below = True
    low, high = ax.get_ylim()
    ax.set_ylim(FLOOR if below else low, high if high < 90 else PERCENT_TOP)


def share_axis(ax: Axes, shares: Sequence[float], others: Sequence[float] = ()) -> None:
    """A log x-axis with a tick at each of these shares, and room for others."""
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(FixedLocator(list(shares)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}"))
    ax.xaxis.set_minor_locator(NullLocator())
    shown = [*shares, *others]
    ax.set_xlim(min(shown) / 1.35, max(shown) * 1.35)


Keys = list[Line2D | Patch]


def legend_keys(sizes: Sequence[str]) -> Keys:
    """What the legend shows: a size each, the seeds' mean, the interval, seed noise."""
    point: Look = {"linestyle": "none"}
    keys: Keys = [Line2D([], [], label=size, **(look_of(size, sizes) | HOLLOW | point)) for size in sizes]
    keys.append(Line2D([], [], color=INK, linewidth=0.9, label="95 % interval over documents; one point a seed"))
    keys.append(Patch(facecolor=INK, alpha=NOISE_ALPHA, linewidth=0, label="seed noise"))
    return keys


KEY_LINE, TITLE_ROOM = 0.155, 0.36


def draw_keys(figure: Figure, keys: Sequence[Line2D | Patch], published: Sequence[Line2D] = ()) -> float:
    """The legend over all panels, published values on a line of their own; returns how high panels may reach."""
    height = figure.get_figheight()
    for at, line in enumerate((keys, published)):
        if line:
            place = 0.01, 1 - (0.02 + at * KEY_LINE) / height
            figure.legend(handles=list(line), loc="upper left", bbox_to_anchor=place, ncols=len(line))
    return 1 - (TITLE_ROOM + KEY_LINE * (1 + bool(published))) / height


def published_key(label: str = CITED, look: Look = PUBLISHED) -> Line2D:
    """The legend's key for published values."""
    return Line2D([], [], label=label, **look)


def panel_room(published: bool) -> float:
    """Inches that a figure is higher by where it has published values."""
    return KEY_LINE if published else 0.0


def look_of(size: str, sizes: Sequence[str]) -> Look:
    """The look of a size among all."""
    return LOOKS[list(sizes).index(size) % len(LOOKS)]


def by_capacity(sizes: Sequence[str]) -> list[str]:
    """Sizes such as "8x128", the largest first."""

    def capacity(size: str) -> tuple[int, ...]:
        parts = [int(part) for part in size.split("x") if part.isdigit()]
        return tuple(parts)

    return sorted(dict.fromkeys(sizes), key=capacity, reverse=True)


# --- what is published

PAIR, CONTROL = "detour-baseline", "baseline-baseline"
BILLION = 1e9


def along_the_decay() -> dict[str, list[Reference]]:
    """Divergence in percent by the decay's share of Phase 1: one trajectory of a decay of 10B after 10B."""
    return {
        name: [
            Reference((v.at or 0.0) * BILLION / PAPER.phase1_tokens, 100 * v.value)
            for v in published().of(f"{name} divergence", "along the decay")
        ]
        for name in ("mean", "early")
    }


def mean_divergences() -> list[tuple[str, Reference]]:
    """Mean divergence in percent of the three models, with its spread over draws."""
    cases = {"Base": "encoder, Base", "Large": "encoder, Large", "270M\ndecoder": "decoder, reverse detour"}
    return [(label, _percent(published().of("mean divergence", case)[0])) for label, case in cases.items()]


def gains_kept() -> list[tuple[str, float]]:
    """Share of the detour's F1 gain over the baseline that is kept when layers are frozen."""
    f1 = {v.case: v.value for v in published().of("downstream F1")}
    gain = f1["detour"] - f1["baseline"]
    frozen = [(v.case, (v.value - f1["baseline"]) / gain) for v in published().of("freeze F1")]
    return [("none", 1.0), *frozen]


def cka_by_depth() -> dict[str, list[Reference]]:
    """CKA of the pair and of the control by relative depth."""
    layers = published().layers
    return {name: _by_depth(layers[key].cka) for name, key in (("pair", PAIR), ("control", CONTROL))}


def mechanism_values() -> dict[str, list[Reference]]:
    """Divergences in percent and ratios by relative depth; divergences along the decay by its share done."""
    layers = published().layers
    pair, control = (layers[key].cka for key in (PAIR, CONTROL))
    return {
        "pair": _by_depth([100 * (1 - cka) for cka in pair]) + _by_region(PAIR, len(pair)),
        "control": _by_depth([100 * (1 - cka) for cka in control]) + _by_region(CONTROL, len(control)),
        "ratio": _by_depth(layer_ratios(pair, control).tolist()),
        **along_the_decay(),
    }


def _by_depth(values: Sequence[float]) -> list[Reference]:
    return [Reference(at / (len(values) - 1), value) for at, value in enumerate(values)]


def _by_region(pair: str, layers: int) -> list[Reference]:
    """Means over a region's layers, in percent of divergence, from its first to its last layer's depth."""
    found = []
    for value in published().of("divergence by region", pair):
        first, last = (at / (layers - 1) for at in value.layers or ())
        found.append(Reference(first, 100 * value.value, until=last))
    return found


def _percent(value: PublishedValue) -> Reference:
    return Reference(0.0, 100 * value.value, 100 * (value.std or 0.0))
