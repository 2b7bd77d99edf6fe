"""The record of a run of readouts → interactive plots: grafts, lines, health, probes, needles, fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from cka_tools.comparison.evaluation_table import headlines
from cka_tools.comparison.findings import stated, told
from cka_tools.formatting import NEEDLE_PROBES, percent, quantities, shorten
from cka_tools.plotting.readout_pages import CALLED, first_quantities
from cka_tools.report.plotly_parts import (
    FAINT,
    PERCENT,
    TICK_LETTERS,
    UNIFIED,
    Entry,
    Plot,
    label,
    layer_axis,
    level_line,
    series,
    titled,
)


def transplant(record: Entry, _arrays: Mapping[str, np.ndarray]) -> list[Plot]:
    grafts = list(dict.fromkeys(one["label"] for one in record["hybrids"]))
    present = [name for name in CALLED if any(one["direction"] == name for one in record["hybrids"])]
    ticks = {"tickvals": list(range(len(grafts))), "ticktext": [label(one, 24) for one in grafts]}
    rows = titled("", **ticks, range=[len(grafts) - 0.4, -0.6], zeroline=False)
    found = []
    for key, title, unit in first_quantities(record):
        for part, head in (("value", title), ("recovery", f"{title}: recovery, the share of the gap that moves")):
            data = []
            for at, name in enumerate(present):
                own = [one for one in record["hybrids"] if one["direction"] == name]
                y = [grafts.index(one["label"]) + (at - (len(present) - 1) / 2) * 0.24 for one in own]
                shown = "share" if part == "recovery" else unit
                data.append(
                    series(
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
            layout = {"xaxis": titled(text), "yaxis": rows, "shapes": shapes, "hovermode": "closest"}
            found.append(Plot(f"{head[0].upper()}{head[1:]}", data, layout, 150 + 28 * len(grafts)))
    return found


def interpolation(record: Entry, _arrays: Mapping[str, np.ndarray]) -> list[Plot]:
    points = record["points"]
    x = [point["alpha"] for point in points]
    axis = titled("share of the second model", unifiedhovertitle={"text": "share %{x}"})
    found = []
    for key, title, unit in first_quantities(record):
        if key in points[0]["readouts"]:
            entries = [point["readouts"][key]["value"] for point in points]
            scale = 100.0 if unit == "share" else 1.0
            curve = series(title, x, entries, scale=scale, said=lambda one, u=unit: told(one, u))  # type: ignore[misc]
            ends = [None if entries[at]["value"] is None else scale * entries[at]["value"] for at in (0, -1)]
            chord = {
                "type": "scatter", "mode": "lines", "name": "line between the ends", "x": [x[0], x[-1]], "y": ends,
                "hoverinfo": "skip", "line": {"color": FAINT, "width": 1.2, "dash": "dash"},
            }  # fmt: skip
            text = f"{title} ({'nats' if unit == 'nats' else '%'})"
            layout = {"xaxis": axis, "yaxis": titled(text), **UNIFIED}
            found.append(Plot(f"{title[0].upper()}{title[1:]}", [curve, chord], layout))
    if "divergence" in points[0]:
        names = record["summary"]["names"]
        data = [
            series(f"from {shorten(names[at], TICK_LETTERS)}", x, [point["divergence"][end] for point in points], at)
            for at, end in enumerate("ab")
        ]
        found.append(Plot("Divergence from both ends", data, {"xaxis": axis, "yaxis": titled(PERCENT), **UNIFIED}))
    return found


def health(record: Entry, _arrays: Mapping[str, np.ndarray]) -> list[Plot]:
    models = record["models"]
    ticks = {"tickvals": list(range(len(models))), "ticktext": [label(one["name"], 24) for one in models]}
    rows = titled("", **ticks, range=[len(models) - 0.4, -0.6], zeroline=False)
    found = []
    for at, (key, title, unit) in enumerate(quantities(record)):
        data = series(
            title, range(len(models)), [one["readouts"][key] for one in models], at,
            scale=100.0 if unit == "share" else 1.0, said=lambda one, u=unit: told(one, u),  # type: ignore[misc]
            where=[label(one["name"]) for one in models], lying=True, lines=False,
        )  # fmt: skip
        text = f"{title} ({'nats' if unit == 'nats' else '%'})"
        layout = {"xaxis": titled(text), "yaxis": rows, "hovermode": "closest", "showlegend": False}
        found.append(Plot(f"{title[0].upper()}{title[1:]}", [data], layout, 150 + 26 * len(models)))
    return found


def probe(record: Entry, _arrays: Mapping[str, np.ndarray]) -> list[Plot]:
    models = record["models"]
    layers = sorted({layer["layer"] for model in models for layer in model["layers"]})
    ends = (layers[0] - 0.5, layers[-1] + 0.5)
    data = []
    for at, model in enumerate(models):
        x = [layer["layer"] for layer in model["layers"]]
        trace = series(model["name"], x, [layer["readouts"]["macro_f1"] for layer in model["layers"]], at)
        chosen = x.index(model["chosen_layer"])
        trace["marker"]["size"] = [12 if one == chosen else 7 for one in range(len(x))]
        trace["hovertext"][chosen] += ", chosen within train"
        data.append(trace)
    for at, floor in enumerate(record["floors"]):
        entry = floor["readouts"]["macro_f1"]
        if entry["value"] is not None:
            data.append(level_line(floor["name"], 100 * entry["value"], ends, stated(entry), at + 1, FAINT))
    axis = layer_axis(layers)
    found = [Plot("Macro F1 by layer", data, {"xaxis": axis, "yaxis": titled("macro F1 (%)"), **UNIFIED})]
    apart = [
        series(
            f"{shorten(models[one['a']]['name'], TICK_LETTERS)} less the first",
            [layer["layer_a"] for layer in one["layers"]],
            [layer["readouts"]["macro_f1"] for layer in one["layers"]],
            one["a"],
        )
        for one in record["differences"]
        if one["b"] == 0
    ]
    if apart:
        layout = {"xaxis": axis, "yaxis": titled("difference (points)"), **UNIFIED}
        found.append(Plot("Difference from the first, paired", apart, layout))
    return found


def needle(record: Entry, _arrays: Mapping[str, np.ndarray]) -> list[Plot]:
    models, groups, summary = record["models"], record["groups"], record["summary"]
    lengths, positions = summary["lengths"], [None, *summary["positions"]]
    chance = 100 * summary["chance"]
    step = len(lengths) + 1  # a position's lengths, and a gap
    members = [
        next((at for at, one in enumerate(groups) if (one["length"], one["position"]) == (length, position)), None)
        for position in positions
        for length in (*lengths, None)
    ]
    members = [None if at % step == step - 1 else member for at, member in enumerate(members)]
    names = ["all positions" if position is None else label(position) for position in positions]
    heads = [
        {"xref": "x", "yref": "paper", "x": at * step + (len(lengths) - 1) / 2, "y": 1, "yanchor": "top",
         "text": name, "showarrow": False, "font": {"size": 11, "color": FAINT}}
        for at, name in enumerate(names)
    ]  # fmt: skip
    places = [at for at, member in enumerate(members) if member is not None]
    ticks = {"tickvals": places, "ticktext": [f"{groups[members[at]]['length']:,}" for at in places]}
    axis = titled("tokens", range=[-0.6, len(members) - 1.4], zeroline=False, **ticks)
    where = [
        "" if member is None else f"{names[at // step]}, {groups[member]['length']:,} tokens"
        for at, member in enumerate(members)
    ]
    found = []
    for probe_name, title in NEEDLE_PROBES.items():
        data = []
        for at, model in enumerate(models):
            (output,) = [layer for layer in model["layers"] if layer["output"]]
            accuracy = output["probes"][probe_name]["accuracy"]
            entries = [{"value": None} if member is None else accuracy[member] for member in members]
            apart = (at - (len(models) - 1) / 2) * 0.12
            x = [place + apart for place in range(len(members))]
            data.append(series(model["name"], x, entries, at, where=where))
        data.append(_chance(chance, (-0.6, len(members) - 1.4), len(models)))
        layout = {"xaxis": axis, "yaxis": titled("accuracy (%)"), "annotations": heads, "hovermode": "closest"}
        found.append(Plot(f"{title[0].upper()}{title[1:]}: accuracy by position and length", data, layout, wide=True))
    if any(len(model["layers"]) > 1 for model in models):
        found += [_needle_layers(record, probe_name, title) for probe_name, title in NEEDLE_PROBES.items()]
    return found


def _chance(level: float, ends: tuple[float, float], look: int) -> Entry:
    return level_line("chance", level, ends, f"{percent(level / 100)} %", look, FAINT)


def _needle_layers(record: Entry, probe_name: str, title: str) -> Plot:
    """Accuracy over all examples of every layer that was read; what leaves the encoder stands last."""
    layers = sorted({layer["layer"] for model in record["models"] for layer in model["layers"]})
    whole = next(at for at, one in enumerate(record["groups"]) if one["length"] is None and one["position"] is None)
    data = [
        series(
            model["name"],
            [layer["layer"] for layer in model["layers"]],
            [layer["probes"][probe_name]["accuracy"][whole] for layer in model["layers"]],
            at,
        )
        for at, model in enumerate(record["models"])
    ]
    data.append(_chance(100 * record["summary"]["chance"], (layers[0] - 0.5, layers[-1] + 0.5), len(data)))
    layout = {"xaxis": layer_axis(layers), "yaxis": titled("accuracy (%)"), **UNIFIED}
    return Plot(f"{title[0].upper()}{title[1:]}: accuracy by layer, all examples", data, layout)


def evaluation(record: Entry, _arrays: Mapping[str, np.ndarray]) -> list[Plot]:
    models, tasks = record["models"], record["summary"]["tasks"]
    ticks = {"tickvals": list(range(len(models))), "ticktext": [label(one["name"], 24) for one in models]}
    rows = titled("", **ticks, range=[len(models) - 0.4, -0.6], zeroline=False)
    found = []
    for at, head in enumerate(headlines(record)):
        t = at if at < len(tasks) else None
        scores = [one for m in range(len(models)) for one in record["scores"] if (one["task"], one["model"]) == (t, m)]
        best = {one["model"] for one in record["best"] if one["task"] == t and one["clear"]}
        means = series(
            "mean over seeds", range(len(models)), [one["readouts"][head.name] for one in scores],
            where=[label(one["name"]) for one in models], lying=True, lines=False,
        )  # fmt: skip
        for m in best:
            means["hovertext"][m] += ", clearly the best"
        means["marker"] |= {"size": [12 if m in best else 8 for m in range(len(models))]}
        each = [(run["seed"], one["model"], run["readouts"][head.name]) for one in scores for run in one["runs"]]
        seeds = series(
            "a seed", [m for _, m, _ in each], [{"value": value} for *_, value in each], 3, lying=True, lines=False,
            said=lambda one: f"{percent(one['value'])} %", colour=FAINT,
            where=[f"{label(models[m]['name'])}, seed {seed}" for seed, m, _ in each],
        )  # fmt: skip
        seeds["marker"] |= {"size": 4}
        data = [*([seeds] if each else []), means]
        for look, floor in enumerate((one for one in record["floors"] if one["task"] == t), 1):
            entry = floor["readouts"][head.name]
            if entry["value"] is not None:
                line = level_line(
                    floor["name"], 100 * entry["value"], (-0.6, len(models) - 0.4), stated(entry), look, FAINT
                )
                data.append(line | {"x": line["y"], "y": line["x"]})
        title = " ".join(f"{head.task} {head.quantity}".split())
        layout = {"xaxis": titled("score (%)"), "yaxis": rows, "hovermode": "closest"}
        found.append(Plot(title, data, layout, 190 + 28 * len(models)))
    return found
