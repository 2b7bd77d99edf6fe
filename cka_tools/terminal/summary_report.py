"""Several runs in a terminal: one table, what they share, what keeps them apart."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from cka_tools.comparison.summary_table import Cell, Column, SummaryTable


def print_summary(found: SummaryTable, console: Console) -> None:
    """Print the table, intervals under their values, then what the runs share and the notes.

    Where names leave no room, rows are numbered and the names come before the table.
    """
    table = _build(found.columns)
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
        table = _build([numbers, *(column for column in found.columns if not column.name)])
    console.print(table, highlight=False)
    for text in (f"{found.caption[0].upper()}{found.caption[1:]}.", *found.notes):
        console.print(Text(text), highlight=False, overflow="fold")


def _build(columns: Sequence[Column]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for column in columns:
        head = Text(column.head.replace(" % biased", "\nbiased").replace(" noise", "\nnoise"))
        table.add_column(head, justify="left" if column.name else "right", no_wrap=True)
    for row in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*map(_two_lines, row))
    return table


def _two_lines(cell: Cell) -> Text:
    interval = "" if cell.interval is None else "\n{} to {}".format(*cell.interval)
    return Text.assemble(cell.text, (interval, "dim"))
