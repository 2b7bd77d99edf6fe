"""A comparison as it is read in a terminal: settings, table by layer, what to be wary of, one sentence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from cka_tools.comparison import Comparison
from cka_tools.formatting import (
    NOTHING,
    counted,
    layer_list,
    percent,
    percent_interval,
    printable,
    ratio_refusals,
    ratio_sentence,
    settings_in_words,
    times,
    times_interval,
)
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
    debiased = [e["divergence"] for e in entries]
    values = [d["value"] for d in debiased] + [m["debiased"]["value"] for m in means]
    intervals = [percent_interval(d) or NOTHING for d in debiased]
    intervals += [percent_interval(m["debiased"]) or NOTHING for m in means]
    biased = [e["divergence_biased"] for e in entries] + [m["biased"]["value"] for m in means]
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
    for name in entries[0]["measures"] if entries else ():
        if name != "cka":
            cells = [_value(e["measures"][name]["value"]) for e in entries]
            columns.append(Column(name, [*_texts(cells), *blank], 8))
    for side in "ab":
        cells = [_dimension(e[f"effective_dim_{side}"]) for e in entries]
        columns.append(Column(f"eff.\ndim {side.upper()}", [*_texts(cells), *blank], 5))
    for side in "ab":
        shares = [_share(e[f"top_feature_share_{side}"]) for e in entries]
        columns.append(Column(f"top\n{side.upper()} %", [*shares, *blank], 3))
    best = [NOTHING if e["best_layer_b"] is None else str(e["best_layer_b"]) for e in entries]
    if any(e["best_layer_b"] is not None for e in entries):
        columns.append(Column("best\nin B", [*_texts(best), *blank], 2))
    return columns


def _control_columns(entries: list[dict[str, Any]], summary: dict[str, Any], means: list[str]) -> list[Column]:
    noise = [e["control"]["value"] for e in entries]
    noise += [summary["control"][f"{name}_divergence"]["debiased"]["value"] for name in means]
    ratios = [e["ratio"] for e in entries] + [summary["ratio"][name] for name in means]
    intervals = [times_interval(ratio) or NOTHING for ratio in ratios]
    return [
        Column("seed\nnoise %", _texts(map(percent, noise)), ALWAYS),
        Column("ratio\nto it", _texts(times(ratio["value"]) for ratio in ratios), ALWAYS),
        Column(f"{_level(summary)} interval\nof ratio", _texts(intervals), ALWAYS),
    ]


def _level(summary: dict[str, Any]) -> str:
    return f"{100 * summary['interval']['level']:g} %"


def _texts(cells: Any) -> list[Text]:
    return [Text(cell) for cell in cells]


def _minus(cka: float | None) -> float | None:
    return None if cka is None else 1 - cka


def _value(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.3f}"


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


__all__ = ["layer_table", "print_comparison", "summary_sentence"]


def summary_sentence(comparison: Comparison) -> str:
    """Mean and early divergence, debiased, with intervals; documents; how many warnings."""
    summary = comparison.summary
    level = f"{100 * summary['interval']['level']:g} % interval "
    early = summary["early_layers"]
    parts = [f"Mean divergence {_stated(summary['mean_divergence']['debiased'], level)}"]
    if early:
        plural = "s" if len(early) > 1 else ""
        stated = _stated(summary["early_divergence"]["debiased"], "")
        parts.append(f"early layer{plural} {layer_list(early)} {stated}")
    parts.append(f"debiased, over {counted(summary['n_documents'], 'document')}")
    warnings = len(comparison.warnings)
    return f"{', '.join(parts)}; {counted(warnings, 'warning') if warnings else 'no warnings'}."


def _stated(entry: dict[str, Any], level: str) -> str:
    if entry["value"] is None:
        return f"undefined ({printable(entry['reason'])})" if entry.get("reason") else "undefined"
    interval = percent_interval(entry)
    return f"{percent(entry['value'])} % ({f'{level}{interval}' if interval else 'no interval'})"


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Print names, table, protocol, remarks, and the sentence last; nothing given is read as markup."""

    def say(text: Text) -> None:
        console.print(text, highlight=False, overflow="fold")

    names = Table.grid(padding=(0, 2, 0, 0))
    names.add_column(no_wrap=True)
    names.add_column(overflow="fold")
    for side, name in zip("AB", comparison.names, strict=True):
        names.add_row(Text(side, style="bold"), Text(printable(name)))
    if comparison.control is not None:
        names.add_row(Text("control", style="bold"), Text(printable(comparison.control)))
    console.print(names, highlight=False)
    say(Text(", ".join(settings_in_words(comparison.record)), style="dim"))
    console.print()
    console.print(layer_table(comparison, console.width), highlight=False)
    protocol = comparison.summary.get("protocol")
    console.print()
    if protocol:
        seeds = ", ".join(str(seed) for seed in protocol["seeds"])
        say(Text(f"Protocol {printable(protocol['name'])} ({printable(protocol['source'])}), seeds {seeds}:"))
        console.print(protocol_table(comparison), highlight=False)
        if "ratio" in protocol:
            say(Text(_ratio_over_draws(protocol)))
    remarks = _remarks(comparison)
    for remark in remarks:
        say(remark)
    if remarks:
        console.print()
    say(Text(summary_sentence(comparison), style="bold"))
    if comparison.control is not None:
        say(Text(ratio_sentence(comparison.summary), style="bold"))


def _remarks(comparison: Comparison) -> list[Text]:
    remarks = [Text.assemble(("not given ", "bold"), line) for line in null_reasons(comparison)]
    remarks += [Text.assemble(("no ratio ", "bold"), line) for line in ratio_refusals(comparison.layers)]
    for note in comparison.summary["notes"]:
        remarks.append(Text.assemble(("note ", "bold"), printable(note)))
    for warning in comparison.warnings:
        code = (f"[{warning['code']}] ", "yellow")
        remarks.append(Text.assemble(("warning ", "bold yellow"), code, printable(warning["text"])))
    return remarks


def null_reasons(comparison: Comparison) -> list[str]:
    """Why values are missing, one line a reason, unless a warning says it of the same layers."""
    said = {layer for w in comparison.warnings if w["code"] == "no-variance" for layer in w["layers"]}
    few = any(w["code"] == "few-documents" for w in comparison.warnings)
    by_reason: dict[str, list[int]] = {}
    for entry in comparison.layers:
        explained = entry["layer_a"] in said if entry["cka_debiased"] is None else few
        if entry.get("reason") and not explained:
            by_reason.setdefault(printable(entry["reason"]), []).append(entry["layer_a"])
    return [
        f"layer{'s' if len(layers) > 1 else ''} {layer_list(layers)}: {reason}" for reason, layers in by_reason.items()
    ]


def _ratio_over_draws(protocol: dict[str, Any]) -> str:
    """Ratios of the draws' means to the control's, mean and standard deviation."""
    parts = []
    for name in ("mean", "early"):
        for estimator in ("biased", "debiased"):
            over = protocol["ratio"][name][estimator]
            known = over["mean"] is not None
            shown = f"{times(over['mean'])} ± {times(over['std'])}" if known else NOTHING
            parts.append(f"{name} {shown} ({estimator})")
    return f"Ratio to the control over {len(protocol['seeds'])} draws: {', '.join(parts)}."


def protocol_table(comparison: Comparison) -> Table:
    """The protocol's mean and standard deviation over draws, beside our interval over documents."""
    summary = comparison.summary
    protocol = summary["protocol"]
    draws = len(protocol["seeds"])
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("divergence %")
    level = f"{100 * summary['interval']['level']:g} % interval"
    for head in (f"{draws} draws, mean ± std", "first draw", level):
        table.add_column(head, justify="right")
    for name in ("mean", "early"):
        for estimator in ("biased", "debiased"):
            spread = protocol[f"{name}_divergence"][estimator]
            entry = summary[f"{name}_divergence"][estimator]
            known = spread["mean"] is not None
            table.add_row(
                f"{name}, {estimator}",
                f"{percent(spread['mean'])} ± {percent(spread['std'])}" if known else NOTHING,
                percent(entry["value"]),
                percent_interval(entry) or NOTHING,
            )
    return table
