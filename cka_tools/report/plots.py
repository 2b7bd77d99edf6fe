"""The record and arrays of a run → interactive plots, by kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from cka_tools.comparison.findings import place_in_words, stated, told
from cka_tools.comparison.run_difference import DifferenceTable
from cka_tools.formatting import NOTHING, percent, printable, shown_names, three_digits
from cka_tools.plotting.trajectory_page import tokens_text
from cka_tools.report.plotly_parts import (
    COLOURS,
    FAINT,
    NAME_LETTERS,
    NOISE,
    PERCENT,
    TICK_LETTERS,
    UNIFIED,
    Entry,
    Plot,
    Trace,
    early_bands,
    heatmap,
    in_times,
    label,
    layer_axis,
    layer_ticks,
    level_line,
    log_axis,
    series,
    titled,
    with_one,
)
from cka_tools.report.readout_plots import evaluation, health, interpolation, needle, probe, transplant

HOVER = "%{customdata}<br>%{z:.3r} %"
"""Of a cell of a heatmap of divergences."""

MOST_PAIRS = 120
"""Of a matrix, whose layers are drawn pair by pair."""

MOST_NUMBERED = 12
"""Models up to which a cell of their matrix holds its number."""


def plots(kind: str, record: Entry, arrays: Mapping[str, np.ndarray]) -> list[Plot]:
    """The plots of a run; none of a kind that has only its static figure."""
    return PLOTS[kind](record, arrays) if kind in PLOTS else []


def _rows(record: Entry) -> tuple[list[int], list[str]]:
    """Layers of A and what they are called."""
    layers = record["layers"]
    return [one["layer_a"] for one in layers], [one.get("place") or str(one["layer_a"]) for one in layers]


def _comparison(record: Entry, arrays: Mapping[str, np.ndarray]) -> list[Plot]:
    layers, summary = record["layers"], record["summary"]
    x, names = _rows(record)
    early = early_bands(x, summary["early_layers"])
    ends = (x[0] - 0.5, x[-1] + 0.5)

    def entries(of: Callable[[Entry], float | None]) -> list[Entry]:
        return [{"value": of(one)} for one in layers]

    mean = summary["mean_divergence"]["debiased"]
    data = [
        series("debiased", x, [one["divergence"] for one in layers]),
        series("biased", x, entries(lambda o: o["divergence_biased"]), 1, said=_bare),
    ]
    if "rescaled" in summary:
        rescaled = entries(lambda o: None if (cka := o["rescaled"]["cka_debiased"]) is None else 1 - cka)
        data.append(series("rescaled", x, rescaled, 2, said=_bare))
    if "control" in summary:
        data.append(series("seed noise", x, [one["control"] for one in layers], 3))
    if mean["value"] is not None:
        data.append(level_line("mean", 100 * mean["value"], ends, stated(mean), 4, FAINT))
    axis = layer_axis(x, names)
    found = [Plot("Divergence by layer", data, {"xaxis": axis, "yaxis": titled(PERCENT), **UNIFIED, **early})]
    if "control" in summary:
        ratio = summary["ratio"]["mean"]
        data = [series("ratio", x, [one["ratio"] for one in layers], scale=1, said=in_times)]
        if ratio["value"] is not None:
            data.append(level_line("of the means", ratio["value"], ends, in_times(ratio), 4, FAINT))
        heights = log_axis("divergence / seed noise", [one["ratio"] for one in layers], [{"value": 1.0}])
        layout = {"xaxis": axis, "yaxis": heights, **UNIFIED, **with_one(early)}
        found.append(Plot("As a multiple of seed noise", data, layout))
    data, sizes = [], []
    for at, side in enumerate("ab"):
        own = entries(lambda o, s=side: o[f"effective_dim_{s}"])  # type: ignore[misc]
        shares = [one[f"top_feature_share_{side}"] for one in layers]
        trace = series(side.upper(), x, own, at, scale=1, said=_dimension)
        trace["hovertext"] = [
            text if share is None else f"{text}, top feature {percent(share)} % of variance"
            for text, share in zip(trace["hovertext"], shares, strict=True)
        ]
        data.append(trace)
        sizes.append(own)
    layout = {"xaxis": axis, "yaxis": log_axis("dimensions", *sizes), **UNIFIED, **early}
    found.append(Plot("Effective dimension", data, layout))
    return [*found, _layer_heat(record, arrays["matrix.debiased"])]


def _bare(entry: Entry) -> str:
    return NOTHING if entry["value"] is None else f"{percent(entry['value'])} %"


def _dimension(entry: Entry) -> str:
    return three_digits(entry["value"])


def _layer_heat(record: Entry, matrix: np.ndarray) -> Plot:
    layers_a, layers_b = record["matrix"]["layers_a"], record["matrix"]["layers_b"]
    known = {side: {one[f"layer_{side}"]: one["place"] for one in record["layers"] if "place" in one} for side in "ab"}
    names = [[known[side].get(at, str(at)) for at in own] for side, own in (("a", layers_a), ("b", layers_b))]
    row, column = ({layer: at for at, layer in enumerate(own)} for own in (layers_a, layers_b))
    trace = heatmap(
        matrix, range(len(layers_b)), range(len(layers_a)), "%{customdata}<br>CKA %{z:.3f}", "CKA, debiased"
    )
    trace["customdata"] = [[f"A {a}, B {b}" for b in names[1]] for a in names[0]]
    paired = [(row[one["layer_a"]], column[one["layer_b"]]) for one in record["layers"]]
    best = [(row[one["layer_a"]], column[one["layer_b"]]) for one in record["best_match"] if one["layer_b"] is not None]
    data = [trace, _marks("paired", paired, "square-open", 9)]
    if best:
        data.append(_marks("best in B", best, "circle", 4))
    layout = {
        "xaxis": titled("layer of B", constrain="domain", **layer_ticks(names[1], range(len(layers_b)))),
        "yaxis": titled(
            "layer of A", scaleanchor="x", constrain="domain", **layer_ticks(names[0], range(len(layers_a)))
        ),
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
    names = shown_names(record, NAME_LETTERS)
    where = [f"{label(names[one['a']])}<br>{place_in_words(one['x'], kind)}" for one in points]
    data = [
        series(name, x, [one[f"{name}_divergence"]["debiased"] for one in points], at, where=where)
        for at, name in enumerate(("mean", "early"))
    ]
    for one in control:
        for at, name in enumerate(("mean", "early")):
            noise = one[f"{name}_divergence"]["debiased"]
            if noise["value"] is not None:
                level = 100 * noise["value"]
                data.append(level_line(f"seed noise, {name}", level, (min(x), max(x)), stated(noise), 2, COLOURS[at]))
    axis = titled(title)
    found = [Plot("Divergence along training", data, {"xaxis": axis, "yaxis": titled(PERCENT)})]
    if "health" in summary:
        health = summary["health"]
        entries = [one["health"][health["quantity"]] for one in points]
        name = f"{health['title']} loss"
        loss = series(name, x, entries, 2, scale=1, said=lambda one: told(one, "nats"), where=where)
        own = health["reference"][health["quantity"]]
        level = level_line("the reference", own["value"], (min(x), max(x)), told(own, "nats"), 4, FAINT)
        found.append(
            Plot(f"{name[0].upper()}{name[1:]}", [loss, level], {"xaxis": axis, "yaxis": titled(f"{name} (nats)")})
        )
    longest = max((one["layers"] for one in points), key=len)
    rows = [one.get("place") or str(one["layer_b"]) for one in longest]
    heat = heatmap(
        100 * arrays["divergence.debiased"].T, range(len(points)), range(len(rows)),
        HOVER, "divergence (%)",
    )  # fmt: skip
    heat["customdata"] = [[f"layer {row}, {place}" for place in where] for row in rows]
    short = [f"{at:.3g}" for at in x] if kind != "tokens" else [tokens_text(at) for at in x]
    layout = {
        "xaxis": titled(title, tickvals=list(range(len(x)))[:: -(-len(x) // 8)], ticktext=short[:: -(-len(x) // 8)]),
        "yaxis": titled("layer of the reference", **layer_ticks(rows, range(len(rows)))),
    }
    return [*found, Plot("Every layer", [heat], layout)]


def _matrix(record: Entry, arrays: Mapping[str, np.ndarray]) -> list[Plot]:
    order = record["linkage"]["order"]
    names = shown_names(record, NAME_LETTERS)
    values = 100 * arrays["mean.debiased"][np.ix_(order, order)]
    np.fill_diagonal(values, np.nan)
    short = [f"{label(names[at], TICK_LETTERS)}  {at + 1}" for at in order]
    heat = heatmap(
        values, range(len(order)), range(len(order)), HOVER, "mean divergence (%)",
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
        "xaxis": titled("", **place, ticktext=[str(at + 1) for at in order], constrain="domain"),
        "yaxis": titled("", **place, ticktext=short, autorange="reversed", scaleanchor="x", constrain="domain"),
    }
    found = [Plot("Mean divergence of all pairs", [heat], layout, max(380, 120 + 22 * len(order)))]
    if record["linkage"]["merges"]:
        layout = {
            "xaxis": titled("merged at (%)"), "yaxis": titled("", **place, ticktext=short, autorange="reversed"),
            "showlegend": False, "hovermode": "closest",
        }  # fmt: skip
        found.append(Plot("Average linkage", _tree(record["linkage"]), layout, max(380, 120 + 22 * len(order))))
    pairs = record["pairs"]
    by_layer = arrays.get("layers.debiased")
    if by_layer is not None and len(pairs) <= MOST_PAIRS:
        values = 100 * np.array([by_layer[:, pair["a"], pair["b"]] for pair in pairs])
        heat = heatmap(values, range(values.shape[1]), range(len(pairs)), HOVER, "divergence (%)")
        called = [f"{pair['a'] + 1} and {pair['b'] + 1}" for pair in pairs]
        heat["customdata"] = [[f"{name}, layer {at}" for at in range(values.shape[1])] for name in called]
        every = -(-len(pairs) // 24)
        ticks = {"tickvals": list(range(len(pairs)))[::every], "ticktext": called[::every]}
        layout = {"xaxis": layer_axis(range(values.shape[1])), "yaxis": titled("pair", **ticks, autorange="reversed")}
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
        knots.append((height, (y_a + y_b) / 2, f"{merge['size']} models merged at {percent(merge['height'])} %"))
    lines = {"type": "scatter", "mode": "lines", "x": x, "y": y, "hoverinfo": "skip", "line": {"color": "--c1"}}
    points = {
        "type": "scatter", "mode": "markers", "x": [k[0] for k in knots], "y": [k[1] for k in knots],
        "hovertext": [k[2] for k in knots], "hoverinfo": "text", "marker": {"color": "--c1", "size": 6},
    }  # fmt: skip
    return [lines, points]


def _contrast(record: Entry, _arrays: Mapping[str, np.ndarray]) -> list[Plot]:
    layers, summary = record["layers"], record["summary"]
    x = [one["layer"] for one in layers]
    early = early_bands(x, summary["early_layers"])
    data = [
        series(f"{name} groups", x, [one[name] for one in layers], look)
        for name, look in (("between", 0), ("within", 3))
    ]
    axis = layer_axis(x)
    first = Plot("Divergence by layer", data, {"xaxis": axis, "yaxis": titled(PERCENT), **UNIFIED, **early})
    ratios = series("between / within", x, [one["ratio"] for one in layers], scale=1, said=in_times)
    ratios["hovertext"] = [
        f"{text}, p = {one['p']:.2g}" if one["p"] is not None else text
        for text, one in zip(ratios["hovertext"], layers, strict=True)
    ]
    heights = log_axis("between / within", [one["ratio"] for one in layers], [{"value": 1.0}])
    layout = {"xaxis": axis, "yaxis": heights, **UNIFIED, **with_one(early)}
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
            divergence.append(series(size, x, means, at, where=where, lines=False))
            if any(one["value"] is not None for one in noise):
                name = "seed noise" if len(sizes) == 1 else f"seed noise, {size}"
                dots = series(name, x, noise, at, where=where, lines=False, colour=NOISE)
                divergence.append(dots | {"marker": dots["marker"] | {"symbol": "line-ew-open"}})
            ratios = [cell["ratio"]["mean"] for cell in some]
            ratio.append(series(size, x, ratios, at, scale=1, said=in_times, where=where, lines=False))
        ticks = {"tickvals": list(range(len(names))), "ticktext": [label(name, TICK_LETTERS) for name in names]}
        place = titled("", range=[-0.6, len(names) - 0.4], **ticks)
        named = printable(axis)
        found.append(
            Plot(
                f"{named}: mean divergence", divergence, {"xaxis": place, "yaxis": titled(PERCENT, rangemode="tozero")}
            )
        )
        heights = log_axis("divergence / seed noise", [one["ratio"]["mean"] for one in own], [{"value": 1.0}])
        layout = {"xaxis": place, "yaxis": heights, **with_one({})}
        found.append(Plot(f"{named}: as a multiple of seed noise", ratio, layout))
    return found


def difference_plot(found: DifferenceTable) -> Plot:
    """The difference of two comparisons by layer, with intervals for each layer and for all at once."""
    rows = [row for row in found.rows if row["row"] not in ("mean", "early")]
    x = list(range(len(rows)))
    data = [
        series("for all layers at once", x, [row["together"] for row in rows], 4, colour=FAINT, lines=False),
        series("difference", x, [row["difference"] for row in rows]),
    ]
    axis = layer_axis(x, [row["row"] for row in rows])
    return Plot("Difference by layer", data, {"xaxis": axis, "yaxis": titled("difference (points)"), **UNIFIED})


PLOTS: dict[str, Callable[[Entry, Mapping[str, np.ndarray]], list[Plot]]] = {
    "comparison": _comparison,
    "trajectory": _trajectory,
    "matrix": _matrix,
    "contrast": _contrast,
    "ablation": _ablation,
    "transplant": transplant,
    "interpolation": interpolation,
    "health": health,
    "probe": probe,
    "needle": needle,
    "evaluation": evaluation,
}
"""The plots of each kind of run."""
