"""The table by layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from cka_tools.comparison import Comparison
from cka_tools.formatting import NOTHING, layer_list, percent, percent_interval, times, times_interval
from cka_tools.statistics.features import MASSIVE_SHARE

Row = list[Text]

WIDE = 120
EARLY_STYLE, MASSIVE_STYLE, MASSIVE_MARK = "bold", "yellow", "!"


@dataclass(frozen=True)
class Column:
    """A column: the fewer columns fit, the higher the `keep` must be."""

    head: str
    cells: list[Text]
    keep: int
    justify: Literal["left", "right"] = "right"


ALWAYS = 9


def layer_table(comparison: Comparison, width: int = WIDE) -> Table:
    """One row a layer pair, percentages; the early rows first and apart, the means last.

    Columns that do not fit `width` are left out, the least needed first; the caption names them.
    """
    columns = _columns(comparison)
    left_out: list[Column] = []
    while True:
        table = _build(comparison, [c for c in columns if c not in left_out], left_out)
        # A console of its own: what is measured must not depend on the terminal's width.
        measured = Measurement.get(ruler := Console(width=1000), ruler.options, table).maximum
        spare = [c for c in columns if c.keep < ALWAYS and c not in left_out]
        if measured <= width or not spare:
            return table
        left_out.append(min(spare, key=lambda c: c.keep))


def _build(comparison: Comparison, columns: list[Column], left_out: list[Column]) -> Table:
    captions = []
    if any(str(cell).endswith(MASSIVE_MARK) for column in columns for cell in column.cells):
        captions.append(f"{MASSIVE_MARK} one feature carries more than half of the variance.")
    if left_out:
        names = ", ".join(" ".join(column.head.split()) for column in left_out)
        captions.append(f"Too narrow for: {names} (in layers.csv).")
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        caption=Text("\n".join(captions)) if captions else None,
        caption_justify="left",
    )
    for column in columns:
        table.add_column(Text(column.head), justify=column.justify, no_wrap=True, vertical="bottom")
    early = [entry["early"] for entry in comparison.layers]
    for at, is_early in enumerate(early):
        table.add_row(
            *(column.cells[at] for column in columns),
            style=EARLY_STYLE if is_early else None,
            end_section=at + 1 == len(early) or early[at + 1] != is_early,
        )
    for at in range(len(early), len(columns[0].cells)):
        table.add_row(*(column.cells[at] for column in columns))
    return table


def _columns(comparison: Comparison) -> list[Column]:
    entries, summary = comparison.layers, comparison.summary
    same = all(entry["layer_a"] == entry["layer_b"] for entry in entries)
    layers = [f"{e['layer_a']}" if same else f"{e['layer_a']}/{e['layer_b']}" for e in entries]
    early = layer_list(summary["early_layers"])
    last = {"early": f"early {early}", "mean": "mean"} if early else {"mean": "mean"}
    means = [summary[f"{name}_divergence"] for name in last]
    debiased = [_complement(e) for e in entries]
    values = [d["value"] for d in debiased] + [m["debiased"]["value"] for m in means]
    intervals = [percent_interval(d) or NOTHING for d in debiased]
    intervals += [percent_interval(m["debiased"]) or NOTHING for m in means]
    biased = [_minus(e["cka_biased"]) for e in entries] + [m["biased"]["value"] for m in means]
    columns = [
        Column("layer" if same else "layer\nA/B", _texts([*layers, *last.values()]), ALWAYS, "left"),
        Column("divergence\ndebiased %", _texts(map(percent, values)), ALWAYS),
        Column(f"{_level(summary)} interval", _texts(intervals), ALWAYS),
        Column("biased %", _texts(map(percent, biased)), ALWAYS),
    ]
    if "rescaled" in summary:
        rescaled = [_minus(e["rescaled"]["cka_debiased"]) for e in entries]
        rescaled += [summary["rescaled"][f"{n}_divergence"]["debiased"]["value"] for n in last]
        columns.append(Column("rescaled %", _texts(map(percent, rescaled)), 4))
    if "control" in summary:
        columns += _control_columns(entries, summary, list(last))
    blank = [Text("")] * len(last)
    for side in "ab":
        cells = [_dimension(e[f"effective_dim_{side}"]) for e in entries]
        columns.append(Column(f"eff.\ndim {side.upper()}", [*_texts(cells), *blank], ALWAYS))
    for side in "ab":
        shares = [_share(e[f"top_feature_share_{side}"]) for e in entries]
        columns.append(Column(f"top\n{side.upper()} %", [*shares, *blank], 3))
    best = [NOTHING if e["best_layer_b"] is None else str(e["best_layer_b"]) for e in entries]
    if any(e["best_layer_b"] is not None for e in entries):
        columns.append(Column("best\nin B", [*_texts(best), *blank], 2))
    return columns


def _control_columns(
    entries: list[dict[str, Any]], summary: dict[str, Any], means: list[str]
) -> list[Column]:
    noise = [e["control"]["value"] for e in entries]
    noise += [summary["control"][f"{name}_divergence"]["debiased"]["value"] for name in means]
    ratios = [e["ratio"] for e in entries] + [summary["ratio"][name] for name in means]
    intervals = [times_interval(ratio) or NOTHING for ratio in ratios]
    return [
        Column("seed\nnoise %", _texts(map(percent, noise)), ALWAYS),
        Column("ratio\nto it", _texts(times(ratio["value"]) for ratio in ratios), ALWAYS),
        Column(f"{_level(summary)} interval\nof ratio", _texts(intervals), 7),
    ]


def _level(summary: dict[str, Any]) -> str:
    return f"{100 * summary['interval']['level']:g} %"


def _texts(cells: Any) -> list[Text]:
    return [Text(cell) for cell in cells]


def _minus(cka: float | None) -> float | None:
    return None if cka is None else 1 - cka


def _complement(entry: dict[str, Any]) -> dict[str, float | None]:
    """Divergence of a layer with its interval, whose ends change places."""
    return {
        "value": _minus(entry["cka_debiased"]),
        "ci_low": _minus(entry["ci_high"]),
        "ci_high": _minus(entry["ci_low"]),
    }


def _dimension(value: float | None) -> str:
    if value is None:
        return NOTHING
    return f"{value:.1f}" if value < 1000 else f"{value:,.0f}"


def _share(share: float | None) -> Text:
    """Top-feature share; one that decides the layer has a mark."""
    if share is None:
        return Text(NOTHING)
    heavy = share > MASSIVE_SHARE
    return Text(percent(share) + (MASSIVE_MARK if heavy else " "), style=MASSIVE_STYLE if heavy else "")
