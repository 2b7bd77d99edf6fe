"""Trajectories, matrices, contrasts and several runs side by side, as they are read in a terminal."""

from __future__ import annotations

from collections import Counter
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cka_tools.comparison.results import Contrast, ModelMatrix, RunResult, Trajectory
from cka_tools.comparison.summary import Column as SummaryColumn
from cka_tools.comparison.summary import SummaryTable
from cka_tools.formatting import (
    DIFFER_IN,
    NOTHING,
    contrast_sentence,
    counted,
    layers_in_words,
    level_in_words,
    noise_sentence,
    p_value,
    percent,
    percent_interval,
    printable,
    ratio_refusals,
    shown_names,
    significant_layers,
    three_decimals,
    times,
    times_interval,
)
from cka_tools.terminal.output import say, say_remarks, say_settings
from cka_tools.terminal.tables import Column, divergence_columns, fitted_table, natural_width, print_table

NAME_LETTERS = 24
MOST_COLUMNS = 9
"""Models whose matrix fits 80 columns."""

MOST_PAIRS = 45
"""Pairs that are listed one by one."""


def print_trajectory(result: Trajectory, console: Console) -> None:
    """Print one row a checkpoint, the control below; nothing given is read as markup."""
    summary = result.summary
    say(console, ("Reference ", "bold"), printable(result.reference))
    say_settings(console, result.record)
    pairs = result.checkpoints + ([] if result.control is None else [result.control])
    places = [f"{one['x']:,.10g}" for one in result.checkpoints] + ["control"]
    shown = shown_names(result.record, NAME_LETTERS)
    columns = [
        Column("checkpoint", [shown[one["a"]] for one in pairs], justify="left"),
        Column("x", places[: len(pairs)]),
        *divergence_columns(pairs),
    ]
    if "health" in summary:
        key = summary["health"]["quantity"]
        columns.append(Column("loss", [three_decimals(one["health"][key]["value"]) for one in pairs], 8))
    print_table(console, columns, result.table, ends=[len(result.checkpoints) - 1])
    _remarks(result, result.checkpoints, console)
    early = summary["early_layers"]
    kind = {"tokens": "tokens of the run, by the manifests", "given": "as given"}
    stated = kind.get(summary["x"]["kind"], "the position among the checkpoints")
    sentence = f"{counted(len(result.checkpoints), 'checkpoint')} over "
    sentence += f"{counted(summary['n_documents'], 'document')}, debiased; x is {stated}"
    if early:
        sentence += f"; early is {layers_in_words(early)}"
    noise = f" {noise_sentence('the reference', [summary['noise']])}" if "noise" in summary else ""
    if "health" in summary:
        told = summary["health"]
        loss = three_decimals(told["reference"][told["quantity"]]["value"])
        sentence += f". Loss is {told['title']} loss in nats; the reference has {loss}"
    say(console, f"{sentence}.{noise}", style="bold")


def print_matrix(result: ModelMatrix, console: Console) -> None:
    """Print the matrix where it fits, every pair with its interval, and remarks."""
    summary, names = result.summary, result.names
    say_settings(console, result.record)
    order, shown = result.record["linkage"]["order"], shown_names(result.record, NAME_LETTERS)
    values = result.divergence()
    columns = [Column("mean divergence %", [f"{at + 1} {shown[at]}" for at in order], justify="left")]
    for other in order if len(order) <= MOST_COLUMNS else ():
        cells = ["·" if other == at else percent(_finite(values[at, other])) for at in order]
        columns.append(Column(str(other + 1), cells))
    print_table(console, columns, result.table)
    listed = result.pairs[:MOST_PAIRS]
    pairs = Column("pair", [f"{pair['a'] + 1} and {pair['b'] + 1}" for pair in listed], justify="left")
    print_table(console, [pairs, *divergence_columns(listed)], result.table)
    if len(result.pairs) > MOST_PAIRS:
        rest = f"{counted(len(result.pairs) - MOST_PAIRS, 'further pair')} in {result.table}."
        say(console, rest, style="dim")
    _remarks(result, result.pairs, console)
    if "reason" in result.record["linkage"]:
        say(console, ("no tree ", "bold"), printable(result.record["linkage"]["reason"]))
    sentence = f"{counted(len(names), 'model')}, {counted(len(result.pairs), 'pair')} over "
    sentence += f"{counted(summary['n_documents'], 'document')}, debiased; the diagonal is 0 by definition."
    say(console, sentence, style="bold")


def print_contrast(result: Contrast, console: Console) -> None:
    """Print one row a layer, both means below, what the groups are, and what was found."""
    summary, test = result.summary, result.summary["test"]
    say_settings(console, result.record)
    starred = significant_layers(result.record)
    names = [f"{one['layer']}{'*' if one['layer'] in starred else ''}" for one in result.layers]
    rows = [*result.layers, summary["early"], summary["mean"]]
    columns = [Column("layer", [*names, "early", "mean"])]
    for head, part in (("B", "between"), ("W", "within")):
        columns.append(Column(f"{head} %", [percent(one[part]["value"]) for one in rows]))
        columns.append(Column("interval", [percent_interval(one[part]) or NOTHING for one in rows]))
    columns += [
        Column("B / W", [times(one["ratio"]["value"]) for one in rows]),
        Column("interval", [times_interval(one["ratio"]) or NOTHING for one in rows]),
        Column("p", [p_value(one["p"]) for one in rows]),
    ]
    print_table(console, columns, result.table, ends=[len(names) - 1])
    say(console, "B is the mean divergence of pairs between the groups, W of pairs within one.")
    for group in summary["groups"]:
        kinds = ", or in ".join(DIFFER_IN[kind] for kind in group["noise"])
        text = f"{printable(group['name'])}, {group['members']} checkpoints, which differ in {kinds}"
        say(console, ("group ", "bold"), text)
    all_or_some = "all" if test["exact"] else "a sample of the"
    text = (
        f"p is of a permutation test over {all_or_some} {test['relabelings']:,} ways to label checkpoints; "
        f"the smallest possible is {p_value(test['smallest_p'])}; * marks layers at 5 % for all together"
    )
    say(console, ("test ", "bold"), text)
    over = f"{level_in_words(summary)} over {summary['interval']['over']}"
    reason = summary["interval"].get("reason")
    say(console, ("intervals ", "bold"), over, f" alone: {reason}" if reason else "")
    for line in ratio_refusals([one | {"layer_a": one["layer"]} for one in result.layers]):
        say(console, ("no ratio ", "bold"), line)
    _remarks(result, result.record["pairs"], console)
    say(console, contrast_sentence(result.record), style="bold")


def _remarks(result: RunResult, entries: list[dict[str, Any]], console: Console) -> None:
    reasons: Counter[str] = Counter()
    for entry in entries:
        parts = [layer["divergence"] for layer in entry["layers"]]
        parts += [entry[f"{name}_divergence"]["debiased"] for name in ("mean", "early")]
        reasons.update(dict.fromkeys((part["reason"] for part in parts if part.get("reason")), 1))
    for reason, count in reasons.items():
        say(console, ("no value or interval ", "bold"), f"in {counted(count, 'pair')}: {printable(reason)}")
    say_remarks(console, result.summary, "pair", ", such as ")


def _finite(value: float) -> float | None:
    return None if value != value else float(value)


def print_summary(found: SummaryTable, console: Console) -> None:
    """Print the table, intervals under their values, then what the runs share and the notes.

    Where names leave no room, rows are numbered and the names come before the table.
    """
    named = [column for column in found.columns if column.name]
    others = [_two_lines(column) for column in found.columns if not column.name]
    heads = [Column(column.head, [cell.text for cell in column.cells], justify="left") for column in named]
    table = fitted_table([*heads, *others], console.width, "the CSV format")
    if natural_width(table) > console.width:
        key = Table.grid(padding=(0, 2, 0, 0))
        for _ in range(2):
            key.add_column(overflow="fold")
        numbers = [str(at + 1) for at in range(len(named[0].cells))]
        for at, number in enumerate(numbers):
            words = [f"{column.head} {column.cells[at].text}" for column in named[1:]]
            key.add_row(Text(number), Text(", ".join([named[0].cells[at].text, *words])))
        console.print(key, highlight=False)
        table = fitted_table([Column("", numbers, justify="left"), *others], console.width, "the CSV format")
    console.print(table, highlight=False, crop=False)
    for text in (f"{found.caption[0].upper()}{found.caption[1:]}.", *found.notes):
        say(console, text)


def _two_lines(column: SummaryColumn) -> Column:
    """A column with each interval below its value."""
    cells = [
        Text.assemble(cell.text, ("" if cell.interval is None else "\n{} to {}".format(*cell.interval), "dim"))
        for cell in column.cells
    ]
    return Column(column.head.replace(" % biased", "\nbiased").replace(" noise", "\nnoise"), cells)
