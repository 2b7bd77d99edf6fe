"""A comparison as it is read in a terminal: settings, table, what to be wary of, one sentence."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Console
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
)
from cka_tools.terminal.layer_table import layer_table

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
        f"layer{'s' if len(layers) > 1 else ''} {layer_list(layers)}: {reason}"
        for reason, layers in by_reason.items()
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
