"""Evaluations, as they are read in a terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

from cka_tools.comparison.evaluation_table import Row, headlines, meaning, rows_of
from cka_tools.comparison.readout_results import Evaluation
from cka_tools.formatting import NOTHING, fine_tuning_in_words, percent, percent_interval, printable, shorten
from cka_tools.terminal.output import say, say_remarks
from cka_tools.terminal.tables import ALWAYS, Column, print_table

NAME_LETTERS = 26


def print_evaluation(result: Evaluation, console: Console) -> None:
    """Print models × tasks with intervals, floors below, differences from the first model, and remarks."""
    record, summary = result.record, result.summary
    heads = headlines(record)
    for task in summary["tasks"]:
        sizes = ", ".join(f"{task[split]:,} {split}" for split in ("train", "dev", "test"))
        say(console, ("Task ", "bold"), printable(task.get("title", task["name"])), f": {sizes}")
    settings = record["provenance"]["settings"]
    say(console, ", ".join(fine_tuning_in_words(settings)), style="dim")
    rows = rows_of(record)
    columns = [Column("model", [shorten(row.name, NAME_LETTERS) for row in rows], justify="left")]
    for at, head in enumerate(heads):
        title = "\n".join(part for part in (shorten(head.task, 16), head.quantity) if part)
        columns.append(Column(f"{title} %", [_cell(row, at) for row in rows], ALWAYS if at == 0 else 8 - min(at, 7)))
    print_table(console, columns, result.table, ends=[len(result.models) - 1] if record["floors"] else [])
    for one in record["differences"]:
        if one["b"] == 0:
            head = heads[len(heads) - 1 if one["task"] is None else one["task"]]
            found = one["readouts"][head.name]["over_both"]
            names = [shorten(result.models[one[side]]["name"], NAME_LETTERS) for side in "ab"]
            told = f"{percent(found['value'])} ({percent_interval(found) or NOTHING})"
            say(console, (f"{head.task}: {names[0]} − {names[1]} ", "bold"), told)
    for reason in dict.fromkeys(_reasons(record)):
        say(console, ("no interval ", "bold"), printable(reason))
    say_remarks(console, summary)
    say(console, meaning(summary, "*"), style="bold")


def _cell(row: Row, at: int) -> Text:
    entry = row.entries[at]
    if entry is None:
        return Text(NOTHING)
    star = "*" if row.best[at] else ""
    interval = percent_interval(entry)
    return Text.assemble(percent(entry["value"]), star, ("" if interval is None else f"\n{interval}", "dim"))


def _reasons(record: dict[str, Any]) -> list[str]:
    entries = [value for one in record["scores"] for value in one["readouts"].values()]
    entries += [value["over_both"] for one in record["differences"] for value in one["readouts"].values()]
    return [one["reason"] for one in entries if one.get("reason")]
