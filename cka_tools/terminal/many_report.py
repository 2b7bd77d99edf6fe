"""Trajectories, matrices, contrasts and several runs side by side, as they are read in a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from cka_tools.comparison.results import Contrast, ModelMatrix, RunResult, Trajectory
from cka_tools.comparison.summary import Cell, Column, SummaryTable
from cka_tools.formatting import (
    NOTHING,
    contrast_sentence,
    counted,
    layer_list,
    noise_sentence,
    p_value,
    percent,
    percent_interval,
    printable,
    ratio_refusals,
    settings_in_words,
    shorten,
    significant_layers,
    times,
    times_interval,
)
from cka_tools.manifest import DIFFER_IN
from cka_tools.terminal.output import plain_table, say, say_remarks

NAME_LETTERS = 24
MOST_COLUMNS = 9
"""Models whose matrix fits 80 columns."""

MOST_PAIRS = 45
"""Pairs that are listed one by one."""


def print_trajectory(result: Trajectory, console: Console) -> None:
    """Print one row a checkpoint, the control below; nothing given is read as markup."""
    summary = result.summary
    say(console, ("Reference ", "bold"), printable(result.reference))
    say(console, ", ".join(settings_in_words(result.record)), style="dim")
    table = plain_table()
    _column(table, "checkpoint", "left")
    for head in ("x", "mean %", "interval", "early %", "interval"):
        _column(table, head)
    for one in result.checkpoints:
        table.add_row(*_trajectory_row(one, f"{one['x']:,.10g}"))
    if result.control is not None:
        table.add_section()
        table.add_row(*_trajectory_row(result.control, "control"))
    console.print(table, highlight=False)
    _remarks(result, result.checkpoints, console)
    early = summary["early_layers"]
    kind = {"tokens": "tokens of the run, by the manifests", "given": "as given"}
    stated = kind.get(summary["x"]["kind"], "the position among the checkpoints")
    sentence = f"{counted(len(result.checkpoints), 'checkpoint')} over "
    sentence += f"{counted(summary['n_documents'], 'document')}, debiased; x is {stated}"
    if early:
        sentence += f"; early is layer{'s' if len(early) > 1 else ''} {layer_list(early)}"
    noise = f" {noise_sentence('the reference', [summary['noise']])}" if "noise" in summary else ""
    say(console, f"{sentence}.{noise}", style="bold")


def _trajectory_row(one: dict[str, Any], x: str) -> list[Text]:
    cells = [shorten(one["name"], NAME_LETTERS), x]
    for name in ("mean", "early"):
        entry = one[f"{name}_divergence"]["debiased"]
        cells += [percent(entry["value"]), percent_interval(entry) or NOTHING]
    return [Text(printable(cell)) for cell in cells]


def print_matrix(result: ModelMatrix, console: Console) -> None:
    """Print the matrix where it fits, every pair with its interval, and remarks."""
    summary, names = result.summary, result.names
    say(console, ", ".join(settings_in_words(result.record)), style="dim")
    order = result.record["linkage"]["order"]
    values = result.divergence()
    table = plain_table()
    _column(table, "mean divergence %", "left")
    columns = order if len(order) <= MOST_COLUMNS else []
    for at in columns:
        _column(table, str(at + 1))
    for at in order:
        cells = ["·" if other == at else percent(_finite(values[at, other])) for other in columns]
        table.add_row(*map(Text, (f"{at + 1} {shorten(names[at], NAME_LETTERS)}", *cells)))
    console.print(table, highlight=False)
    table = plain_table()
    _column(table, "pair", "left")
    for head in ("mean %", "interval", "early %", "interval"):
        _column(table, head)
    for pair in result.pairs[:MOST_PAIRS]:
        cells = [f"{pair['a'] + 1} and {pair['b'] + 1}"]
        for name in ("mean", "early"):
            entry = pair[f"{name}_divergence"]["debiased"]
            cells += [percent(entry["value"]), percent_interval(entry) or NOTHING]
        table.add_row(*map(Text, cells))
    console.print(table, highlight=False)
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
    say(console, ", ".join(settings_in_words(result.record)), style="dim")
    table = plain_table()
    for head in ("layer", "B %", "interval", "W %", "interval", "B / W", "interval", "p"):
        _column(table, head)
    starred = significant_layers(result.record)
    rows = [(str(one["layer"]) + ("*" if one["layer"] in starred else ""), one) for one in result.layers]
    for name, one in (*rows, ("early", summary["early"]), ("mean", summary["mean"])):
        if name == "early":
            table.add_section()
        cells = [name]
        for part in ("between", "within"):
            cells += [percent(one[part]["value"]), percent_interval(one[part]) or NOTHING]
        cells += [times(one["ratio"]["value"]), times_interval(one["ratio"]) or NOTHING, p_value(one["p"])]
        table.add_row(*map(Text, cells))
    console.print(table, highlight=False)
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
    over = f"{100 * summary['interval']['level']:g} % over {summary['interval']['over']}"
    reason = summary["interval"].get("reason")
    say(console, ("intervals ", "bold"), over, f" alone: {reason}" if reason else "")
    for line in ratio_refusals([one | {"layer_a": one["layer"]} for one in result.layers]):
        say(console, ("no ratio ", "bold"), line)
    _remarks(result, result.record["pairs"], console)
    say(console, contrast_sentence(result.record), style="bold")


def _remarks(result: RunResult, entries: list[dict[str, Any]], console: Console) -> None:
    for reason, count in _reasons(entries).items():
        text = f"in {counted(count, 'pair')}: {printable(reason)}"
        say(console, ("no value or interval ", "bold"), text)
    say_remarks(console, result.summary, "pair", ", such as ")


def _reasons(entries: list[dict[str, Any]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for entry in entries:
        parts = [layer["divergence"] for layer in entry["layers"]]
        parts += [entry[f"{name}_divergence"]["debiased"] for name in ("mean", "early")]
        for reason in dict.fromkeys(part["reason"] for part in parts if part.get("reason")):
            found[reason] = found.get(reason, 0) + 1
    return found


def _finite(value: float) -> float | None:
    return None if value != value else float(value)


def _column(table: Table, head: str, justify: Any = "right") -> None:
    table.add_column(Text(head), justify=justify, no_wrap=True)


def print_summary(found: SummaryTable, console: Console) -> None:
    """Print the table, intervals under their values, then what the runs share and the notes.

    Where names leave no room, rows are numbered and the names come before the table.
    """
    table = _summary_grid(found.columns)
    ruler = Console(width=1000)
    if Measurement.get(ruler, ruler.options, table).maximum > console.width:
        named = [column for column in found.columns if column.name]
        rows = range(len(named[0].cells))
        key = Table.grid(padding=(0, 2, 0, 0))
        for _ in range(2):
            key.add_column(overflow="fold")
        for at in rows:
            words = [
                column.cells[at].text if column is named[0] else f"{column.head} {column.cells[at].text}"
                for column in named
            ]
            key.add_row(Text(str(at + 1)), Text(", ".join(words)))
        console.print(key, highlight=False)
        numbers = Column("", [Cell(str(at + 1)) for at in rows], name=True)
        table = _summary_grid([numbers, *(column for column in found.columns if not column.name)])
    console.print(table, highlight=False)
    for text in (f"{found.caption[0].upper()}{found.caption[1:]}.", *found.notes):
        say(console, text)


def _summary_grid(columns: Sequence[Column]) -> Table:
    table = plain_table()
    for column in columns:
        head = Text(column.head.replace(" % biased", "\nbiased").replace(" noise", "\nnoise"))
        table.add_column(head, justify="left" if column.name else "right", no_wrap=True)
    for row in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*map(_two_lines, row))
    return table


def _two_lines(cell: Cell) -> Text:
    interval = "" if cell.interval is None else "\n{} to {}".format(*cell.interval)
    return Text.assemble(cell.text, (interval, "dim"))
