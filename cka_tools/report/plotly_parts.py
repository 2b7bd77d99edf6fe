"""Parts of interactive plots, as plotly takes them: values with intervals, levels, heatmaps, axes.

Colours are the page's own names (`--c1` …): it has two sets, for light and for dark. Text is escaped here, as
plotly reads some HTML in it. What a point says when it is pointed at is made here too, as the tables write it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import numpy as np

from cka_tools.comparison.findings import stated
from cka_tools.formatting import NOTHING, layer_list, shorten, times, times_interval

NAME_LETTERS, TICK_LETTERS = 34, 18
COLOURS = ("--c1", "--c2", "--c3", "--c4", "--c5")
SYMBOLS = ("circle", "square", "triangle-up", "diamond", "triangle-down")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
NOISE, FAINT, BAND = "--c4", "--faint", "--band"

Entry = dict[str, Any]
Trace = dict[str, Any]


@dataclass
class Plot:
    """One plot.

    Attributes:
        title: over it. data, layout: as plotly takes them. height: in pixels. wide: takes the page's whole width.
    """

    title: str
    data: list[Trace]
    layout: dict[str, Any] = field(default_factory=dict)
    height: int = 380
    wide: bool = False


def label(text: str, letters: int = NAME_LETTERS) -> str:
    """Text as plotly shows it as it is."""
    return escape(shorten(text, letters), quote=False)


def in_percent(entry: Entry) -> str:
    return stated(entry)


def in_times(entry: Entry) -> str:
    return (
        f"{times(entry['value'])} ({times_interval(entry) or 'no interval'})" if entry["value"] is not None else NOTHING
    )


def series(
    name: str,
    places: Sequence[Any],
    entries: Sequence[Entry],
    look: int = 0,
    *,
    scale: float = 100.0,
    said: Callable[[Entry], str] = in_percent,
    where: Sequence[str] | None = None,
    lying: bool = False,
    lines: bool = True,
    colour: str | None = None,
    digits: int = 5,
) -> Trace:
    """Values with their intervals.

    Args:
        entries: intervals of the record; a value without one has no bar.
        look: which colour, symbol and dash. where: what each place is called when it is pointed at.
        lying: places are on the vertical axis.
    """
    value, low, high = (
        [None if one.get(key) is None else round(scale * one[key], digits) for one in entries]
        for key in ("value", "ci_low", "ci_high")
    )
    above = [None if v is None or h is None else max(0.0, h - v) for v, h in zip(value, high, strict=True)]
    below = [None if v is None or n is None else max(0.0, v - n) for v, n in zip(value, low, strict=True)]
    colour = colour or COLOURS[look % len(COLOURS)]
    texts = [escape(said(one), quote=False) for one in entries]
    if where is not None:
        texts = [f"{at}<br>{label(name)}: {text}" for at, text in zip(where, texts, strict=True)]
    across, along = ("y", "x") if lying else ("x", "y")
    trace: Trace = {
        "type": "scatter",
        "mode": "lines+markers" if lines else "markers",
        "name": label(name),
        across: list(places),
        along: value,
        "hovertext": texts,
        "hoverinfo": "text" if where is not None else "text+name",
        "line": {"color": colour, "width": 1.8, "dash": DASHES[look % len(DASHES)]},
        "marker": {"color": colour, "size": 7, "symbol": SYMBOLS[look % len(SYMBOLS)]},
    }
    if any(one is not None for one in (*above, *below)):
        trace[f"error_{along}"] = {
            "type": "data", "symmetric": False, "array": above, "arrayminus": below, "color": colour,
            "thickness": 1.1, "width": 3,
        }  # fmt: skip
    return trace


def level_line(name: str, value: float, ends: tuple[float, float], said: str, look: int, colour: str) -> Trace:
    """A horizontal line over the whole width, which can be pointed at and has a key."""
    return {
        "type": "scatter", "mode": "lines", "name": label(name), "x": list(ends), "y": [value, value],
        "hovertext": [escape(said, quote=False)] * 2, "hoverinfo": "text+name",
        "line": {"color": colour, "width": 1.3, "dash": DASHES[look % len(DASHES)]},
    }  # fmt: skip


def heatmap(z: np.ndarray, x: Sequence[Any], y: Sequence[Any], hover: str, title: str, numbers: bool = False) -> Trace:
    """A heatmap whose colours reach over what is there; `hover` is a template of plotly's."""
    trace: Trace = {
        "type": "heatmap", "x": list(x), "y": list(y),
        "z": [[None if not np.isfinite(v) else round(float(v), 4) for v in row] for row in z],
        "colorscale": "Cividis", "hoverongaps": False, "xgap": 0.5, "ygap": 0.5,
        "hovertemplate": f"{hover}<extra></extra>",
        "colorbar": {"title": {"text": title, "side": "right"}, "thickness": 12, "outlinewidth": 0, "len": 1},
    }  # fmt: skip
    return trace | ({"texttemplate": "%{z:.3r}", "textfont": {"size": 10}} if numbers else {})


def titled(title: str, **more: Any) -> dict[str, Any]:
    return {"title": {"text": escape(title, quote=False)}, **more}


def layer_ticks(names: Sequence[str], places: Sequence[int]) -> dict[str, Any]:
    """Names at places where some are no numbers; else plotly's own ticks, at whole numbers."""
    if list(names) == [str(at) for at in places]:
        return {"tickmode": "auto", "nticks": 12, "tickformat": "d"} if len(places) > 12 else {"dtick": 1}
    every = -(-len(places) // 12)
    return {"tickvals": list(places[::every]), "ticktext": [label(name, 8) for name in names[::every]]}


def layer_axis(layers: Sequence[int], names: Sequence[str] | None = None, title: str = "layer") -> dict[str, Any]:
    axis = titled(title, range=[layers[0] - 0.6, layers[-1] + 0.6], unifiedhovertitle={"text": "layer %{x}"})
    return axis | layer_ticks(names or [str(at) for at in layers], layers)


def early_bands(layers: Sequence[int], early: Sequence[int]) -> dict[str, Any]:
    """Shade the early layers, and say so."""
    runs: list[list[int]] = []
    for at in (at for at in layers if at in early):
        if runs and at == runs[-1][1] + 1:
            runs[-1][1] = at
        else:
            runs.append([at, at])
    if not runs:
        return {}
    shapes = [
        {"type": "rect", "xref": "x", "yref": "paper", "x0": first - 0.5, "x1": last + 0.5, "y0": 0, "y1": 1,
         "fillcolor": BAND, "line": {"width": 0}, "layer": "below"}
        for first, last in runs
    ]  # fmt: skip
    text = {
        "xref": "x", "yref": "paper", "x": runs[0][0] - 0.5, "y": 1, "xanchor": "left", "yanchor": "top",
        "text": f"early {layer_list(early)}", "showarrow": False, "font": {"size": 10, "color": FAINT},
    }  # fmt: skip
    return {"shapes": shapes, "annotations": [text]}


UNIFIED = {"hovermode": "x unified"}
PERCENT = "divergence 1 − CKA (%)"


def log_axis(title: str, *groups: Sequence[Entry]) -> dict[str, Any]:
    """A logarithmic axis for entries of the record, with plain numbers at three ticks or more."""
    known = [
        one[key]
        for group in groups
        for one in group
        for key in ("value", "ci_low", "ci_high")
        if (one.get(key) or 0) > 0
    ]
    low, high = min(known, default=1.0), max(known, default=10.0)
    for subs in ((1, 10), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7), (1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 3.5, *range(4, 10))):
        steps = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        ticks = sorted({sub * 10.0**step for step in steps for sub in subs})
        if sum(low <= tick <= high for tick in ticks) > 2:
            break
    return titled(title, type="log", tickvals=ticks, ticktext=[f"{tick:,g}" for tick in ticks])


def with_one(layout: dict[str, Any]) -> dict[str, Any]:
    """A line at a ratio of 1."""
    line = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": 1, "y1": 1,
            "line": {"color": FAINT, "width": 1, "dash": "dot"}}  # fmt: skip
    return layout | {"shapes": [*layout.get("shapes", []), line]}
