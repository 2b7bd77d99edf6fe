"""The table of an evaluation: models × tasks, what is best marked, floors below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cka_tools.comparison.readout_results import Evaluation
from cka_tools.comparison.record import JsonObject
from cka_tools.comparison.summary import Cell, Column, SummaryTable, check_labels, interval_cell
from cka_tools.formatting import counted, percent, printable


@dataclass(frozen=True)
class Head:
    """A column: the task's name, what is shown of it in words, and that quantity's key."""

    task: str
    quantity: str
    name: str


@dataclass(frozen=True)
class Row:
    """A model or a floor: of each column its interval, and whether it is clearly the best."""

    name: str
    entries: list[JsonObject | None]
    best: list[bool]
    floor: bool = False


def headlines(record: JsonObject) -> list[Head]:
    """The columns: every task by the score that chose the epoch; of several tasks also their mean."""
    tasks = record["summary"]["tasks"]
    heads = []
    for task in tasks:
        titles = {one["name"]: one["title"] for one in task["quantities"]}
        heads.append(Head(task["name"], titles[task["headline"]], task["headline"]))
    return heads + ([Head("mean of tasks", "", "mean")] if len(tasks) > 1 else [])


def rows_of(record: JsonObject) -> list[Row]:
    """Models in the order in which they were given, then floors."""
    heads, tasks = headlines(record), len(record["summary"]["tasks"])
    columns = [at if at < tasks else None for at in range(len(heads))]
    scores = {(one["task"], one["model"]): one["readouts"] for one in record["scores"]}
    clear = {(one["task"], one["model"]) for one in record["best"] if one["clear"]}
    rows = [
        Row(
            model["name"],
            [scores[t, m][head.name] for t, head in zip(columns, heads, strict=True)],
            [(t, m) in clear for t in columns],
        )
        for m, model in enumerate(record["models"])
    ]
    floors = {(one["name"], one["task"]): one["readouts"] for one in record["floors"]}
    for name in dict.fromkeys(name for name, _ in floors):
        found = [floors.get((name, t), {}).get(head.name) for t, head in zip(columns, heads, strict=True)]
        rows.append(Row(name, found, [False] * len(heads), floor=True))
    return rows


def evaluation_summary(run: Evaluation, labels: Sequence[str] = (), caption: str | None = None) -> SummaryTable:
    """The table as a paper prints it: bold is what is clearly the best.

    Args:
        labels: names of the models' rows; by default as they were given. caption: in place of one that says what
            the numbers are.

    Raises:
        UserError: another number of labels than of models.
    """
    models, heads, rows = run.models, headlines(run.record), rows_of(run.record)
    check_labels(labels, len(models), "models")
    names = [*labels, *(row.name for row in rows[len(labels) :])]
    columns = [Column("model", [Cell(printable(name)) for name in names], name=True)]
    for at, head in enumerate(heads):
        cells = [interval_cell(row.entries[at], percent, row.best[at]) for row in rows]
        columns.append(Column(f"{head.task} {head.quantity}".strip() + " %", cells))
    notes = [f"{printable(task['name'])}: {printable(note)}" for task in run.summary["tasks"] for note in task["notes"]]
    return SummaryTable(run.to_frame(), columns, printable(caption or meaning(run.summary, "bold")).rstrip("."), notes)


def meaning(summary: JsonObject, mark: str) -> str:
    """What the numbers of the table are.

    Args:
        mark: what is clearly the best looks like.
    """
    seeds = len(summary["seeds"])
    level = f"{100 * summary['interval']['level']:g} %"
    return (
        f"Scores on test in %, mean of {counted(seeds, 'seed')}, each with the epoch that is best on dev, with {level} "
        "intervals over seeds (t; those of floors are over documents). Differences are paired, with intervals over "
        f"seeds and documents; {mark} is a model whose difference from every other is clear of 0."
    )
