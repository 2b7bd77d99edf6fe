"""The record and arrays of a run → interactive plots, as plotly's data and layout.

Colours are the page's own names (`--c1` …): it has two sets, for light and for dark. Text is escaped here, as
plotly reads some HTML in it. What a point says when it is pointed at is made here too, as the tables write it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import numpy as np

from cka_tools.comparison.findings import place_in_words, stated, told
from cka_tools.comparison.run_difference import DifferenceTable
from cka_tools.formatting import layer_list, printable, shorten, times, times_interval
from cka_tools.plotting.readout_pages import CALLED, first_quantities

NAME_LETTERS, TICK_LETTERS = 34, 18
MOST_PAIRS = 120
"""Of a matrix, whose layers are drawn pair by pair."""

MOST_NUMBERED = 12
"""Models up to which a cell of their matrix holds its number."""

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


def plots(kind: str, record: Entry, arrays: Mapping[str, np.ndarray]) -> list[Plot]:
    """The plots of a run; none of a kind that has only its static figure."""
    return PLOTS[kind](record, arrays) if kind in PLOTS else []


def label(text: str, letters: int = NAME_LETTERS) -> str:
    """Text as plotly shows it as it is."""
    return escape(shorten(text, letters), quote=False)


def _in_percent(entry: Entry) -> str:
    return stated(entry)


def _in_times(entry: Entry) -> str:
    return f"{times(entry['value'])} ({times_interval(entry) or 'no interval'})" if entry["value"] is not None else "–"


def _series(
    name: str,
    places: Sequence[Any],
    entries: Sequence[Entry],
    look: int = 0,
    *,
    scale: float = 100.0,
    said: Callable[[Entry], str] = _in_percent,
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


def _level(name: str, value: float, ends: tuple[float, float], said: str, look: int, colour: str) -> Trace:
    """A horizontal line over the whole width, which can be pointed at and has a key."""
    return {
        "type": "scatter", "mode": "lines", "name": label(name), "x": list(ends), "y": [value, value],
        "hovertext": [escape(said, quote=False)] * 2, "hoverinfo": "text+name",
        "line": {"color": colour, "width": 1.3, "dash": DASHES[look % len(DASHES)]},
    }  # fmt: skip


def _heat(z: np.ndarray, x: Sequence[Any], y: Sequence[Any], hover: str, title: str, numbers: bool = False) -> Trace:
    """A heatmap whose colours reach over what is there; `hover` is a template of plotly's."""
    trace: Trace = {
        "type": "heatmap", "x": list(x), "y": list(y),
        "z": [[None if not np.isfinite(v) else round(float(v), 4) for v in row] for row in z],
        "colorscale": "Cividis", "hoverongaps": False, "xgap": 0.5, "ygap": 0.5,
        "hovertemplate": f"{hover}<extra></extra>",
        "colorbar": {"title": {"text": title, "side": "right"}, "thickness": 12, "outlinewidth": 0, "len": 1},
    }  # fmt: skip
    return trace | ({"texttemplate": "%{z:.1f}", "textfont": {"size": 10}} if numbers else {})


def _axis(title: str, **more: Any) -> dict[str, Any]:
    return {"title": {"text": escape(title, quote=False)}, **more}


def _ticks(names: Sequence[str], places: Sequence[int]) -> dict[str, Any]:
    """Names at places where some are no numbers; else plotly's own ticks, at whole numbers."""
    if list(names) == [str(at) for at in places]:
        return {"tickmode": "auto", "nticks": 12, "tickformat": "d"} if len(places) > 12 else {"dtick": 1}
    every = -(-len(places) // 12)
    return {"tickvals": list(places[::every]), "ticktext": [label(name, 8) for name in names[::every]]}


def _layer_axis(layers: Sequence[int], names: Sequence[str] | None = None, title: str = "layer") -> dict[str, Any]:
    axis = _axis(title, range=[layers[0] - 0.6, layers[-1] + 0.6], unifiedhovertitle={"text": "layer %{x}"})
    return axis | _ticks(names or [str(at) for at in layers], layers)


def _bands(layers: Sequence[int], early: Sequence[int]) -> dict[str, Any]:
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


def _log_axis(title: str, *groups: Sequence[Entry]) -> dict[str, Any]:
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
    return _axis(title, type="log", tickvals=ticks, ticktext=[f"{tick:,g}" for tick in ticks])


def _rows(record: Entry) -> tuple[list[int], list[str]]:
    """Layers of A and what they are called."""
    layers = record["layers"]
    return [one["layer_a"] for one in layers], [one.get("place") or str(one["layer_a"]) for one in layers]


def _comparison(record: Entry, arrays: Mapping[str, np.ndarray]) -> list[Plot]:
    layers, summary = record["layers"], record["summary"]
    x, names = _rows(record)
    early = _bands(x, summary["early_layers"])
    ends = (x[0] - 0.5, x[-1] + 0.5)

    def entries(of: Callable[[Entry], float | None]) -> list[Entry]:
        return [{"value": of(one)} for one in layers]

    mean = summary["mean_divergence"]["debiased"]
    data = [
        _series("debiased", x, [one["divergence"] for one in layers]),
        _series("biased", x, entries(lambda o: o["divergence_biased"]), 1, said=_bare),
    ]
    if "rescaled" in summary:
        rescaled = entries(lambda o: None if (cka := o["rescaled"]["cka_debiased"]) is None else 1 - cka)
        data.append(_series("rescaled", x, rescaled, 2, said=_bare))
    if "control" in summary:
        data.append(_series("seed noise", x, [one["control"] for one in layers], 3))
    if mean["value"] is not None:
        data.append(_level("mean", 100 * mean["value"], ends, stated(mean), 4, FAINT))
    axis = _layer_axis(x, names)
    found = [Plot("Divergence by layer", data, {"xaxis": axis, "yaxis": _axis(PERCENT), **UNIFIED, **early})]
    if "control" in summary:
        ratio = summary["ratio"]["mean"]
        data = [_series("ratio", x, [one["ratio"] for one in layers], scale=1, said=_in_times)]
        if ratio["value"] is not None:
            data.append(_level("of the means", ratio["value"], ends, _in_times(ratio), 4, FAINT))
        heights = _log_axis("divergence / seed noise", [one["ratio"] for one in layers], [{"value": 1.0}])
        layout = {"xaxis": axis, "yaxis": heights, **UNIFIED, **_with_one(early)}
        found.append(Plot("As a multiple of seed noise", data, layout))
    data, sizes = [], []
    for at, side in enumerate("ab"):
        own = entries(lambda o, s=side: o[f"effective_dim_{s}"])  # type: ignore[misc]
        shares = [one[f"top_feature_share_{side}"] for one in layers]
        trace = _series(side.upper(), x, own, at, scale=1, said=_dimension)
        trace["hovertext"] = [
            text if share is None else f"{text}, top feature {100 * share:.1f} % of variance"
            for text, share in zip(trace["hovertext"], shares, strict=True)
        ]
        data.append(trace)
        sizes.append(own)
    layout = {"xaxis": axis, "yaxis": _log_axis("dimensions", *sizes), **UNIFIED, **early}
    found.append(Plot("Effective dimension", data, layout))
    return [*found, _layer_heat(record, arrays["matrix.debiased"])]


def _with_one(layout: dict[str, Any]) -> dict[str, Any]:
    """A line at a ratio of 1."""
    line = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": 1, "y1": 1,
            "line": {"color": FAINT, "width": 1, "dash": "dot"}}  # fmt: skip
    return layout | {"shapes": [*layout.get("shapes", []), line]}


def _bare(entry: Entry) -> str:
    return "–" if entry["value"] is None else f"{100 * entry['value']:z.1f} %"


def _dimension(entry: Entry) -> str:
    return "–" if entry["value"] is None else f"{entry['value']:,.1f}"


def _layer_heat(record: Entry, matrix: np.ndarray) -> Plot:
    layers_a, layers_b = record["matrix"]["layers_a"], record["matrix"]["layers_b"]
    known = {side: {one[f"layer_{side}"]: one["place"] for one in record["layers"] if "place" in one} for side in "ab"}
    names = [[known[side].get(at, str(at)) for at in own] for side, own in (("a", layers_a), ("b", layers_b))]
    row, column = ({layer: at for at, layer in enumerate(own)} for own in (layers_a, layers_b))
    trace = _heat(matrix, range(len(layers_b)), range(len(layers_a)), "%{customdata}<br>CKA %{z:.3f}", "CKA, debiased")
    trace["customdata"] = [[f"A {a}, B {b}" for b in names[1]] for a in names[0]]
    paired = [(row[one["layer_a"]], column[one["layer_b"]]) for one in record["layers"]]
    best = [(row[one["layer_a"]], column[one["layer_b"]]) for one in record["best_match"] if one["layer_b"] is not None]
    data = [trace, _marks("paired", paired, "square-open", 9)]
    if best:
        data.append(_marks("best in B", best, "circle", 4))
    layout = {
        "xaxis": _axis("layer of B", constrain="domain", **_ticks(names[1], range(len(layers_b)))),
        "yaxis": _axis("layer of A", scaleanchor="x", constrain="domain", **_ticks(names[0], range(len(layers_a)))),
        "hovermode": "closest",
        "showlegend": False,
    }
    told = "squares: paired" + (", dots: best in B" if best else "")
    return Plot(f"Every layer with every layer ({told})", data, layout)


def _marks(name: str, places: Sequence[tuple[int, int]], symbol: str, size: int) -> Trace:
    return {
        "type": "scatter", "mode": "markers", "name": name, "x": [b for _, b in places], "y": [a for a, _ in places],
        "hoverinfo": "skip", "marker": {"symbol": symbol, "size": size, "color": "--mark", "line": {"width": 1.2}},
    }  # fmt: skip


def _trajectory(record: Entry, arrays: Mapping[str, np.ndarray]) -> list[Plot]:
    summary = record["summary"]
    points = [pair for pair in record["pairs"] if pair["role"] == "checkpoint"]
    control = [pair for pair in record["pairs"] if pair["role"] == "control"]
    x = [one["x"] for one in points]
    kind, title = summary["x"]["kind"], summary["x"]["label"]
    where = [f"{label(one['name'])}<br>{place_in_words(one['x'], kind)}" for one in points]
    data = [
        _series(name, x, [one[f"{name}_divergence"]["debiased"] for one in points], at, where=where)
        for at, name in enumerate(("mean", "early"))
    ]
    for one in control:
        for at, name in enumerate(("mean", "early")):
            noise = one[f"{name}_divergence"]["debiased"]
            if noise["value"] is not None:
                level = 100 * noise["value"]
                data.append(_level(f"seed noise, {name}", level, (min(x), max(x)), stated(noise), 2, COLOURS[at]))
    axis = _axis(title)
    found = [Plot("Divergence along training", data, {"xaxis": axis, "yaxis": _axis(PERCENT)})]
    if "health" in summary:
        health = summary["health"]
        entries = [one["health"][health["quantity"]] for one in points]
        name = f"{health['title']} loss"
        loss = _series(name, x, entries, 2, scale=1, said=lambda one: told(one, "nats"), where=where)
        own = health["reference"][health["quantity"]]
        level = _level("the reference", own["value"], (min(x), max(x)), told(own, "nats"), 4, FAINT)
        found.append(
            Plot(f"{name[0].upper()}{name[1:]}", [loss, level], {"xaxis": axis, "yaxis": _axis(f"{name} (nats)")})
        )
    longest = max((one["layers"] for one in points), key=len)
    rows = [one.get("place") or str(one["layer_b"]) for one in longest]
    heat = _heat(
        100 * arrays["divergence.debiased"].T, range(len(points)), range(len(rows)),
        "%{customdata}<br>%{z:.1f} %", "divergence (%)",
    )  # fmt: skip
    heat["customdata"] = [[f"layer {row}, {place}" for place in where] for row in rows]
    short = [f"{at:.3g}" for at in x] if kind != "tokens" else [_tokens(at) for at in x]
    layout = {
        "xaxis": _axis(title, tickvals=list(range(len(x)))[:: -(-len(x) // 8)], ticktext=short[:: -(-len(x) // 8)]),
        "yaxis": _axis("layer of the reference", **_ticks(rows, range(len(rows)))),
    }
    return [*found, Plot("Every layer", [heat], layout)]


def _tokens(count: float) -> str:
    from cka_tools.plotting.trajectory_page import tokens_text

    return tokens_text(count)


def _matrix(record: Entry, arrays: Mapping[str, np.ndarray]) -> list[Plot]:
    order = record["linkage"]["order"]
    names = [model["name"] for model in record["provenance"]["models"]]
    values = 100 * arrays["mean.debiased"][np.ix_(order, order)]
    np.fill_diagonal(values, np.nan)
    short = [f"{label(names[at], TICK_LETTERS)}  {at + 1}" for at in order]
    heat = _heat(
        values, range(len(order)), range(len(order)), "%{customdata}<br>%{z:.1f} %", "mean divergence (%)",
        len(order) <= MOST_NUMBERED,
    )  # fmt: skip
    between = {(pair["a"], pair["b"]): pair["mean_divergence"]["debiased"] for pair in record["pairs"]}

    def words(a: int, b: int) -> str:
        entry = between.get((a, b)) or between.get((b, a))
        both = f"{a + 1} {label(names[a])}<br>{b + 1} {label(names[b])}"
        return both if entry is None else f"{both}<br>{escape(stated(entry), quote=False)}"

    heat["customdata"] = [[words(a, b) for b in order] for a in order]
    heat["hovertemplate"] = "%{customdata}<extra></extra>"
    place = {"tickvals": list(range(len(order)))}
    layout: dict[str, Any] = {
        "xaxis": _axis("", **place, ticktext=[str(at + 1) for at in order], constrain="domain"),
        "yaxis": _axis("", **place, ticktext=short, autorange="reversed", scaleanchor="x", constrain="domain"),
    }
    found = [Plot("Mean divergence of all pairs", [heat], layout, max(380, 120 + 22 * len(order)))]
    if record["linkage"]["merges"]:
        layout = {
            "xaxis": _axis("merged at (%)"), "yaxis": _axis("", **place, ticktext=short, autorange="reversed"),
            "showlegend": False, "hovermode": "closest",
        }  # fmt: skip
        found.append(Plot("Average linkage", _tree(record["linkage"]), layout, max(380, 120 + 22 * len(order))))
    pairs = record["pairs"]
    by_layer = arrays.get("layers.debiased")
    if by_layer is not None and len(pairs) <= MOST_PAIRS:
        values = 100 * np.array([by_layer[:, pair["a"], pair["b"]] for pair in pairs])
        heat = _heat(values, range(values.shape[1]), range(len(pairs)), "%{customdata}<br>%{z:.1f} %", "divergence (%)")
        called = [f"{pair['a'] + 1} and {pair['b'] + 1}" for pair in pairs]
        heat["customdata"] = [[f"{name}, layer {at}" for at in range(values.shape[1])] for name in called]
        every = -(-len(pairs) // 24)
        ticks = {"tickvals": list(range(len(pairs)))[::every], "ticktext": called[::every]}
        layout = {"xaxis": _layer_axis(range(values.shape[1])), "yaxis": _axis("pair", **ticks, autorange="reversed")}
        found.append(Plot("Every pair by layer", [heat], layout, min(900, 180 + 14 * len(pairs)), wide=True))
    return found


def _tree(linkage: Entry) -> list[Trace]:
    """The dendrogram as one broken line, and a point to hover at each merge."""
    places = {leaf: (0.0, float(row)) for row, leaf in enumerate(linkage["order"])}
    x: list[float | None] = []
    y: list[float | None] = []
    knots: list[tuple[float, float, str]] = []
    for at, merge in enumerate(linkage["merges"]):
        (x_a, y_a), (x_b, y_b) = places[merge["a"]], places[merge["b"]]
        height = 100 * merge["height"]
        x += [x_a, height, height, x_b, None]
        y += [y_a, y_a, y_b, y_b, None]
        places[len(linkage["order"]) + at] = (height, (y_a + y_b) / 2)
        knots.append((height, (y_a + y_b) / 2, f"{merge['size']} models merged at {height:z.1f} %"))
    lines = {"type": "scatter", "mode": "lines", "x": x, "y": y, "hoverinfo": "skip", "line": {"color": "--c1"}}
    points = {
        "type": "scatter", "mode": "markers", "x": [k[0] for k in knots], "y": [k[1] for k in knots],
        "hovertext": [k[2] for k in knots], "hoverinfo": "text", "marker": {"color": "--c1", "size": 6},
    }  # fmt: skip
    return [lines, points]


def _contrast(record: Entry, _arrays: Mapping[str, np.ndarray]) -> list[Plot]:
    layers, summary = record["layers"], record["summary"]
    x = [one["layer"] for one in layers]
    early = _bands(x, summary["early_layers"])
    data = [
        _series(f"{name} groups", x, [one[name] for one in layers], look)
        for name, look in (("between", 0), ("within", 3))
    ]
    axis = _layer_axis(x)
    first = Plot("Divergence by layer", data, {"xaxis": axis, "yaxis": _axis(PERCENT), **UNIFIED, **early})
    ratios = _series("between / within", x, [one["ratio"] for one in layers], scale=1, said=_in_times)
    ratios["hovertext"] = [
        f"{text}, p = {one['p']:.2g}" if one["p"] is not None else text
        for text, one in zip(ratios["hovertext"], layers, strict=True)
    ]
    heights = _log_axis("between / within", [one["ratio"] for one in layers], [{"value": 1.0}])
    layout = {"xaxis": axis, "yaxis": heights, **UNIFIED, **_with_one(early)}
    return [first, Plot("As a multiple of that within groups", [ratios], layout)]


def _ablation(record: Entry, _arrays: Mapping[str, np.ndarray]) -> list[Plot]:
    found = []
    cells = record["pairs"]
    for axis in dict.fromkeys(cell["axis"] for cell in cells):
        own = sorted((cell for cell in cells if cell["axis"] == axis), key=lambda cell: cell["position"] or 0.0)
        names = list(dict.fromkeys(cell["cell"] for cell in own))
        sizes = list(dict.fromkeys(cell["size"] for cell in own))
        divergence: list[Trace] = []
        ratio: list[Trace] = []
        for at, size in enumerate(sizes):
            some = [cell for cell in own if cell["size"] == size]
            apart = 0.0 if size in names else (at - (len(sizes) - 1) / 2) * 0.16
            seeds = sorted({cell["seed"] for cell in some})
            x = [names.index(c["cell"]) + apart + (seeds.index(c["seed"]) - (len(seeds) - 1) / 2) * 0.08 for c in some]
            where = [f"{label(c['cell'])}, {label(c['size'])}, seed {c['seed']}" for c in some]
            means = [cell["mean_divergence"]["debiased"] for cell in some]
            noise = [cell["control"]["mean_divergence"]["debiased"] for cell in some]
            divergence.append(_series(size, x, means, at, where=where, lines=False))
            if any(one["value"] is not None for one in noise):
                name = "seed noise" if len(sizes) == 1 else f"seed noise, {size}"
                dots = _series(name, x, noise, at, where=where, lines=False, colour=NOISE)
                divergence.append(dots | {"marker": dots["marker"] | {"symbol": "line-ew-open"}})
            ratios = [cell["ratio"]["mean"] for cell in some]
            ratio.append(_series(size, x, ratios, at, scale=1, said=_in_times, where=where, lines=False))
        ticks = {"tickvals": list(range(len(names))), "ticktext": [label(name, TICK_LETTERS) for name in names]}
        place = _axis("", range=[-0.6, len(names) - 0.4], **ticks)
        named = printable(axis)
        found.append(
            Plot(f"{named}: mean divergence", divergence, {"xaxis": place, "yaxis": _axis(PERCENT, rangemode="tozero")})
        )
        heights = _log_axis("divergence / seed noise", [one["ratio"]["mean"] for one in own], [{"value": 1.0}])
        layout = {"xaxis": place, "yaxis": heights, **_with_one({})}
        found.append(Plot(f"{named}: as a multiple of seed noise", ratio, layout))
    return found


def _transplant(record: Entry, _arrays: Mapping[str, np.ndarray]) -> list[Plot]:
    grafts = list(dict.fromkeys(one["label"] for one in record["hybrids"]))
    present = [name for name in CALLED if any(one["direction"] == name for one in record["hybrids"])]
    ticks = {"tickvals": list(range(len(grafts))), "ticktext": [label(one, 24) for one in grafts]}
    rows = _axis("", **ticks, range=[len(grafts) - 0.4, -0.6], zeroline=False)
    found = []
    for key, title, unit in first_quantities(record):
        for part, head in (("value", title), ("recovery", f"{title}: recovery, the share of the gap that moves")):
            data = []
            for at, name in enumerate(present):
                own = [one for one in record["hybrids"] if one["direction"] == name]
                y = [grafts.index(one["label"]) + (at - (len(present) - 1) / 2) * 0.24 for one in own]
                shown = "share" if part == "recovery" else unit
                data.append(
                    _series(
                        CALLED[name], y, [one["readouts"][key][part] for one in own], (0, 3, 1)[at % 3],
                        scale=100.0 if shown == "share" else 1.0, said=lambda one, u=shown: told(one, u),  # type: ignore[misc]
                        where=[label(one["label"]) for one in own], lying=True, lines=False,
                    )
                )  # fmt: skip
            shapes = []
            edges = [0.0, 100.0]
            if part == "value":
                scale = 100.0 if unit == "share" else 1.0
                edges = [
                    scale * end["readouts"][key]["value"]
                    for end in record["ends"][:2]
                    if end["readouts"][key]["value"] is not None
                ]
            for edge, dash in zip(edges, ("solid", "dash"), strict=False):
                shapes.append(
                    {"type": "line", "yref": "paper", "y0": 0, "y1": 1, "x0": edge, "x1": edge,
                     "line": {"color": FAINT, "width": 1.2, "dash": dash}}
                )  # fmt: skip
            text = "recovery (%)" if part == "recovery" else f"{title} ({'nats' if unit == 'nats' else '%'})"
            layout = {"xaxis": _axis(text), "yaxis": rows, "shapes": shapes, "hovermode": "closest"}
            found.append(Plot(f"{head[0].upper()}{head[1:]}", data, layout, 150 + 28 * len(grafts)))
    return found


def _interpolation(record: Entry, _arrays: Mapping[str, np.ndarray]) -> list[Plot]:
    points = record["points"]
    x = [point["alpha"] for point in points]
    axis = _axis("share of the second model", unifiedhovertitle={"text": "share %{x}"})
    found = []
    for key, title, unit in first_quantities(record):
        if key in points[0]["readouts"]:
            entries = [point["readouts"][key]["value"] for point in points]
            scale = 100.0 if unit == "share" else 1.0
            curve = _series(title, x, entries, scale=scale, said=lambda one, u=unit: told(one, u))  # type: ignore[misc]
            ends = [None if entries[at]["value"] is None else scale * entries[at]["value"] for at in (0, -1)]
            chord = {
                "type": "scatter", "mode": "lines", "name": "line between the ends", "x": [x[0], x[-1]], "y": ends,
                "hoverinfo": "skip", "line": {"color": FAINT, "width": 1.2, "dash": "dash"},
            }  # fmt: skip
            text = f"{title} ({'nats' if unit == 'nats' else '%'})"
            layout = {"xaxis": axis, "yaxis": _axis(text), **UNIFIED}
            found.append(Plot(f"{title[0].upper()}{title[1:]}", [curve, chord], layout))
    if "divergence" in points[0]:
        names = record["summary"]["names"]
        data = [
            _series(f"from {shorten(names[at], TICK_LETTERS)}", x, [point["divergence"][end] for point in points], at)
            for at, end in enumerate("ab")
        ]
        found.append(Plot("Divergence from both ends", data, {"xaxis": axis, "yaxis": _axis(PERCENT), **UNIFIED}))
    return found


def _health(record: Entry, _arrays: Mapping[str, np.ndarray]) -> list[Plot]:
    models = record["models"]
    ticks = {"tickvals": list(range(len(models))), "ticktext": [label(one["name"], 24) for one in models]}
    rows = _axis("", **ticks, range=[len(models) - 0.4, -0.6], zeroline=False)
    found = []
    from cka_tools.plotting.readout_pages import quantities

    for at, (key, title, unit) in enumerate(quantities(record)):
        data = _series(
            title, range(len(models)), [one["readouts"][key] for one in models], at,
            scale=100.0 if unit == "share" else 1.0, said=lambda one, u=unit: told(one, u),  # type: ignore[misc]
            where=[label(one["name"]) for one in models], lying=True, lines=False,
        )  # fmt: skip
        text = f"{title} ({'nats' if unit == 'nats' else '%'})"
        layout = {"xaxis": _axis(text), "yaxis": rows, "hovermode": "closest", "showlegend": False}
        found.append(Plot(f"{title[0].upper()}{title[1:]}", [data], layout, 150 + 26 * len(models)))
    return found


def _probe(record: Entry, _arrays: Mapping[str, np.ndarray]) -> list[Plot]:
    models = record["models"]
    layers = sorted({layer["layer"] for model in models for layer in model["layers"]})
    ends = (layers[0] - 0.5, layers[-1] + 0.5)
    data = []
    for at, model in enumerate(models):
        x = [layer["layer"] for layer in model["layers"]]
        trace = _series(model["name"], x, [layer["readouts"]["macro_f1"] for layer in model["layers"]], at)
        chosen = x.index(model["chosen_layer"])
        trace["marker"]["size"] = [12 if one == chosen else 7 for one in range(len(x))]
        trace["hovertext"][chosen] += ", chosen within train"
        data.append(trace)
    for at, floor in enumerate(record["floors"]):
        entry = floor["readouts"]["macro_f1"]
        if entry["value"] is not None:
            data.append(_level(floor["name"], 100 * entry["value"], ends, stated(entry), at + 1, FAINT))
    axis = _layer_axis(layers)
    found = [Plot("Macro F1 by layer", data, {"xaxis": axis, "yaxis": _axis("macro F1 (%)"), **UNIFIED})]
    apart = [
        _series(
            f"{shorten(models[one['a']]['name'], TICK_LETTERS)} less the first",
            [layer["layer_a"] for layer in one["layers"]],
            [layer["readouts"]["macro_f1"] for layer in one["layers"]],
            one["a"],
        )
        for one in record["differences"]
        if one["b"] == 0
    ]
    if apart:
        layout = {"xaxis": axis, "yaxis": _axis("difference (points)"), **UNIFIED}
        found.append(Plot("Difference from the first, paired", apart, layout))
    return found


def difference_plot(found: DifferenceTable) -> Plot:
    """The difference of two comparisons by layer, with intervals for each layer and for all at once."""
    rows = [row for row in found.rows if row["row"] not in ("mean", "early")]
    x = list(range(len(rows)))
    data = [
        _series("for all layers at once", x, [row["together"] for row in rows], 4, colour=FAINT, lines=False),
        _series("difference", x, [row["difference"] for row in rows]),
    ]
    axis = _layer_axis(x, [row["row"] for row in rows])
    return Plot("Difference by layer", data, {"xaxis": axis, "yaxis": _axis("difference (points)"), **UNIFIED})


PLOTS: dict[str, Callable[[Entry, Mapping[str, np.ndarray]], list[Plot]]] = {
    "comparison": _comparison,
    "trajectory": _trajectory,
    "matrix": _matrix,
    "contrast": _contrast,
    "ablation": _ablation,
    "transplant": _transplant,
    "interpolation": _interpolation,
    "health": _health,
    "probe": _probe,
}
"""The plots of each kind of run."""
