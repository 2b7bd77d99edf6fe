"""The tables that a report or a notebook shows of a run: few columns, percentages, each number with its interval."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cka_tools.comparison.evaluation_table import headlines, rows_of
from cka_tools.comparison.findings import NAME_LETTERS
from cka_tools.comparison.readout_results import Evaluation, Health, Interpolation, Needle, Probe, Transplant
from cka_tools.comparison.results import Ablation, Comparison, Contrast, ModelMatrix, RunResult, Trajectory
from cka_tools.formatting import (
    MASSIVE_SHARE,
    NEEDLE_PROBES,
    NOTHING,
    interval_in_unit,
    layer_list,
    level_in_words,
    p_value,
    percent,
    percent_interval,
    printable,
    quantities,
    shown_names,
    three_decimals,
    three_digits,
    times,
    times_interval,
)

if TYPE_CHECKING:
    import pandas as pd

Entry = dict[str, Any]


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        cells: as they are read. values: numbers to sort by, None where there is none; without them it is text.
    """

    head: str
    cells: Sequence[str]
    values: Sequence[float | None] | None = None


@dataclass(frozen=True)
class ShownTable:
    """A table as it is read, and what is downloaded for it.

    Attributes:
        last: rows at its end that stay there however it is sorted.
        file: name of the CSV. frame: makes its table.
    """

    title: str
    columns: Sequence[Column]
    file: str
    frame: Callable[[], pd.DataFrame]
    last: int = 0


def shown_tables(result: RunResult) -> list[ShownTable]:
    """The tables of a result of any kind, the main one first; its CSV is the one that is saved with the run."""
    title, columns, last = TABLES.get(result.kind, _any)(result)
    tables = [ShownTable(title, columns, result.table, result.to_frame, last)]
    if isinstance(result, ModelMatrix):
        tables.append(ShownTable("Models", _models(result), "models.csv", lambda: _frame(_models(result))))
    return tables


def _frame(columns: Sequence[Column]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame({column.head: list(column.values or column.cells) for column in columns})


Shown = tuple[str, list[Column], int]


def _values(head: str, entries: Sequence[Entry | None], level: str = "interval") -> list[Column]:
    """A column of percentages and one of their intervals."""
    return _pair(head, level, entries, percent, percent_interval)


def _times(head: str, entries: Sequence[Entry | None], level: str = "interval") -> list[Column]:
    return _pair(head, level, entries, times, times_interval)


def _pair(
    head: str,
    level: str,
    entries: Sequence[Entry | None],
    write: Callable[[float | None], str],
    both: Callable[[Entry], str | None],
) -> list[Column]:
    given = [one or {"value": None} for one in entries]
    values = [one["value"] for one in given]
    lows = [one.get("ci_low") for one in given]
    return [
        Column(head, [write(value) for value in values], values),
        Column(level, [both(one) or NOTHING for one in given], lows),
    ]


def _in_unit(head: str, entries: Sequence[Entry | None], unit: str, sign: str = " %") -> list[Column]:
    """The same of a readout, in its unit; `sign` follows the head of a share."""
    if unit == "share":
        return _values(f"{head}{sign}", entries)
    return _pair(head, "interval", entries, three_decimals, lambda one: interval_in_unit(one, unit))


def _plain(head: str, values: Sequence[float | None], write: Callable[[float | None], str]) -> Column:
    return Column(head, [write(value) for value in values], values)


def _comparison(result: Any) -> Shown:
    run: Comparison = result
    layers, summary = run.layers, run.summary
    early = layer_list(summary["early_layers"])
    last = {"early": f"early {early}", "mean": "mean"} if early else {"mean": "mean"}
    means = [summary[f"{name}_divergence"] for name in last]
    none: list[Any] = [None] * len(last)
    names = [
        one.get("place") or str(one["layer_a"]) + ("" if one["layer_a"] == one["layer_b"] else f"/{one['layer_b']}")
        for one in layers
    ]
    columns = [
        Column("layer", [*names, *last.values()], [*map(float, range(len(names))), *none]),
        *_values(
            "divergence %",
            [one["divergence"] for one in layers] + [one["debiased"] for one in means],
            f"{level_in_words(summary)} interval",
        ),
        _plain("biased %", [o["divergence_biased"] for o in layers] + [o["biased"]["value"] for o in means], percent),
    ]
    if "rescaled" in summary:
        values = [None if (cka := one["rescaled"]["cka_debiased"]) is None else 1 - cka for one in layers]
        values += [summary["rescaled"][f"{name}_divergence"]["debiased"]["value"] for name in last]
        columns.append(_plain("rescaled %", values, percent))
    if "control" in summary:
        noise = [one["control"] for one in layers]
        noise += [summary["control"][f"{name}_divergence"]["debiased"] for name in last]
        columns.append(_plain("seed noise %", [one["value"] for one in noise], percent))
        columns += _times("ratio to it", [one["ratio"] for one in layers] + [summary["ratio"][n] for n in last])
    for name in layers[0]["measures"]:
        if name != "cka":
            values = [one["measures"][name]["value"] for one in layers]
            columns.append(_plain(name, [*values, *none], three_decimals))
    for side in "ab":
        values = [one[f"effective_dim_{side}"] for one in layers]
        columns.append(_plain(f"eff. dim {side.upper()}", [*values, *none], three_digits))
    for side in "ab":
        values = [one[f"top_feature_share_{side}"] for one in layers]
        columns.append(_plain(f"top {side.upper()} %", [*values, *none], _share))
    if any(one["best_layer_b"] is not None for one in layers):
        columns.append(_plain("best in B", [*(one["best_layer_b"] for one in layers), *none], _whole))
    return "By layer", columns, len(last)


def _share(value: float | None) -> str:
    return percent(value) + (" !" if value is not None and value > MASSIVE_SHARE else "")


def _whole(value: float | None) -> str:
    return NOTHING if value is None else f"{value:,.0f}"


def _means(pairs: Sequence[Entry]) -> list[Column]:
    columns = []
    for name in ("mean", "early"):
        columns += _values(f"{name} %", [one[f"{name}_divergence"]["debiased"] for one in pairs])
    return columns


def _ratios(pairs: Sequence[Entry]) -> list[Column]:
    if not any("ratio" in one for one in pairs):
        return []
    return _times("ratio to seed noise", [one.get("ratio", {}).get("mean") for one in pairs])


def _trajectory(result: Any) -> Shown:
    run: Trajectory = result
    pairs = run.checkpoints + ([] if run.control is None else [run.control])
    x = [one.get("x") for one in pairs]
    names = shown_names(run.record, NAME_LETTERS)
    columns = [
        Column("checkpoint", [names[one["a"]] for one in pairs]),
        Column(run.summary["x"]["label"], ["control" if at is None else f"{at:,.10g}" for at in x], x),
        *_means(pairs),
        *_ratios(pairs),
    ]
    if "health" in run.summary:
        told = run.summary["health"]
        found = [one.get("health", {}).get(told["quantity"]) for one in pairs]
        columns += _in_unit(f"{told['title']} loss", found, "nats")
    return "By checkpoint", columns, len(pairs) - len(run.checkpoints)


def _matrix(result: Any) -> Shown:
    run: ModelMatrix = result
    numbers = [f"{pair['a'] + 1} and {pair['b'] + 1}" for pair in run.pairs]
    names = shown_names(run.record, NAME_LETTERS)
    both = [" and ".join(names[pair[side]] for side in "ab") for pair in run.pairs]
    columns = [Column("pair", numbers, [float(at) for at in range(len(numbers))]), Column("models", both)]
    return "By pair", [*columns, *_means(run.pairs)], 0


def _models(run: ModelMatrix) -> list[Column]:
    numbers = [at + 1 for at in range(len(run.names))]
    return [
        Column("number", [str(at) for at in numbers], [float(at) for at in numbers]),
        Column("model", [printable(name) for name in run.names]),
    ]


def _contrast(result: Any) -> Shown:
    run: Contrast = result
    rows = [*run.layers, run.summary["early"], run.summary["mean"]]
    names = [str(one["layer"]) for one in run.layers]
    columns = [
        Column("layer", [*names, "early", "mean"], [*(float(one["layer"]) for one in run.layers), None, None]),
        *_values("between %", [one["between"] for one in rows]),
        *_values("within %", [one["within"] for one in rows]),
        *_values("difference, points", [one["difference"] for one in rows]),
        *_times("ratio", [one["ratio"] for one in rows]),
        _plain("p", [one["p"] for one in rows], p_value),
    ]
    return "By layer", columns, 2


def _ablation(result: Any) -> Shown:
    run: Ablation = result
    cells = run.cells
    columns = [Column(name, [printable(str(cell[name])) for cell in cells]) for name in ("axis", "cell", "size")]
    columns.append(_plain("seed", [cell["seed"] for cell in cells], _whole))
    columns += _means(cells)
    columns += _values("seed noise %", [cell["control"]["mean_divergence"]["debiased"] for cell in cells])
    return "By cell", [*columns, *_ratios(cells)], 0


def _transplant(result: Any) -> Shown:
    run: Transplant = result
    ends, hybrids = run.record["ends"], run.hybrids
    columns = [
        Column("graft", [printable(end["name"]) for end in ends] + [printable(one["label"]) for one in hybrids]),
        Column("direction", [end["role"] for end in ends] + [one["direction"] for one in hybrids]),
    ]
    for key, title, unit in quantities(run.record):
        columns += _in_unit(
            title, [end["readouts"].get(key) for end in ends] + [o["readouts"][key]["value"] for o in hybrids], unit
        )
        shares: list[Entry | None] = [None] * len(ends)
        columns += _values("recovery %", shares + [one["readouts"][key]["recovery"] for one in hybrids])
    return "By graft", columns, 0


def _interpolation(result: Any) -> Shown:
    run: Interpolation = result
    points = run.points
    columns = [_plain("share of B", [point["alpha"] for point in points], lambda at: f"{at:.3g}")]
    for key, title, unit in quantities(run.record):
        if key in points[0]["readouts"]:
            for part, head in (("value", title), ("excess", f"{title}, excess")):
                columns += _in_unit(head, [point["readouts"][key][part] for point in points], unit)
    for end in "ab" if "divergence" in points[0] else ():
        columns += _values(f"to {end.upper()} %", [point["divergence"][end] for point in points])
    return "By point", columns, 0


def _health(result: Any) -> Shown:
    run: Health = result
    models = run.models
    columns = [Column("model", [printable(one["name"]) for one in models])]
    if any(one["tokens"] is not None for one in models):
        columns.append(_plain("tokens", [one["tokens"] for one in models], _whole))
    from_first = {one["a"]: one["readouts"] for one in run.record["differences"] if one["b"] == 0}
    for key, title, unit in quantities(run.record):
        columns += _in_unit(title, [one["readouts"][key] for one in models], unit)
        if from_first:
            apart = [from_first.get(at, {}).get(key) for at in range(len(models))]
            head = f"{title}, less the first{', points' if unit == 'share' else ''}"
            columns += _in_unit(head, apart, unit, sign="")
    return "By model", columns, 0


def _probe(result: Any) -> Shown:
    run: Probe = result
    rows = [(model, layer) for model in run.models for layer in model["layers"]]
    floors = run.record["floors"]
    none: list[Any] = [None] * len(floors)
    names = [printable(model["name"]) for model, _ in rows] + [printable(floor["name"]) for floor in floors]
    layers = [f"{one['layer']}{' chosen' if one['layer'] == model['chosen_layer'] else ''}" for model, one in rows]
    numbers = [*(float(layer["layer"]) for _, layer in rows), *none]
    columns = [Column("model", names), Column("layer", [*layers, *[NOTHING] * len(floors)], numbers)]
    for quantity in run.summary["readouts"][0]["quantities"]:
        key = quantity["name"]
        columns += _values(
            f"{quantity['title']} %", [one["readouts"][key] for _, one in rows] + [f["readouts"][key] for f in floors]
        )
    columns += _values("macro F1 above a bag of words", [one["above_words"]["macro_f1"] for _, one in rows] + none)
    if run.summary["label_shuffle"]:
        columns += _values("selectivity, macro F1", [one["selectivity"]["macro_f1"] for _, one in rows] + none)
    return "By model and layer", columns, len(floors)


def _needle(result: Any) -> Shown:
    run: Needle = result
    layers = [(model, layer) for model in run.models for layer in model["layers"]]
    rows = [(model, layer, at) for model, layer in layers for at in range(len(run.groups))]
    groups = [run.groups[at] for *_, at in rows]
    chance: list[Any] = [{"value": run.summary["chance"]}]
    columns = [Column("model", [*(printable(model["name"]) for model, *_ in rows), "chance"])]
    if len(layers) > len(run.models):
        names = ["output" if layer["output"] else str(layer["layer"]) for _, layer, _ in rows]
        columns.append(Column("layer", [*names, NOTHING], [*(float(layer["layer"]) for _, layer, _ in rows), None]))
    lengths = [one["length"] for one in groups]
    columns += [
        Column("tokens", [*("all" if one is None else f"{one:,}" for one in lengths), NOTHING], [*lengths, None]),
        Column("position", [*(printable(one["position"] or "all") for one in groups), NOTHING]),
        _plain("examples", [*(one["examples"] for one in groups), None], _whole),
    ]
    for name, title in NEEDLE_PROBES.items():
        for key, head in (("accuracy", title), ("shuffled", f"{title}, shuffled labels")):
            if key == "accuracy" or run.summary["label_shuffle"]:
                entries = [layer["probes"][name][key][at] for _, layer, at in rows]
                columns += _values(f"{head} %", entries + chance)
    return "By model, length and position", columns, 1


def _evaluation(result: Any) -> Shown:
    run: Evaluation = result
    rows = rows_of(run.record)
    columns = [Column("model", [printable(row.name) for row in rows])]
    for at, head in enumerate(headlines(run.record)):
        name = " ".join(f"{printable(head.task)} {head.quantity} %".split())
        columns += _values(name, [row.entries[at] for row in rows])
    return "By model and task", columns, sum(row.floor for row in rows)


def _any(result: RunResult) -> Shown:
    """The saved table of a kind without one of its own, but for columns that say the same in every row."""
    import pandas as pd

    frame = result.to_frame()
    columns = []
    for name in frame.columns:
        values = [None if pd.isna(value) else value for value in frame[name]]
        if len(values) > 1 and len(set(map(str, values))) == 1:
            continue
        if pd.api.types.is_numeric_dtype(frame[name]) and not pd.api.types.is_bool_dtype(frame[name]):
            columns.append(_plain(str(name), values, lambda value: NOTHING if value is None else f"{value:,.4g}"))
        else:
            cells = [NOTHING if value is None else printable(str(value)) for value in values]
            columns.append(Column(str(name).replace("_", " "), cells))
    return "Results", columns, 0


TABLES: dict[str, Callable[[Any], Shown]] = {
    Comparison.kind: _comparison,
    Trajectory.kind: _trajectory,
    ModelMatrix.kind: _matrix,
    Contrast.kind: _contrast,
    Ablation.kind: _ablation,
    Transplant.kind: _transplant,
    Interpolation.kind: _interpolation,
    Health.kind: _health,
    Probe.kind: _probe,
    Needle.kind: _needle,
    Evaluation.kind: _evaluation,
}
"""How each kind of run is tabulated."""
