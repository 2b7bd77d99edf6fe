"""Tables that fit the terminal: the least needed columns are left out and named, no number is cut."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from cka_tools.formatting import NOTHING, percent, percent_interval, three_decimals

WIDE = 120
ALWAYS = 9


@dataclass(frozen=True, eq=False)
class Column:
    """A column: the fewer columns fit, the higher the `keep` must be; `remark` is said where it is shown."""

    head: str
    cells: Sequence[str | Text]
    keep: int = ALWAYS
    justify: Literal["left", "right"] = "right"
    remark: str = ""


def fitted_table(
    columns: Sequence[Column], width: int, file: str, *, ends: Collection[int] = (), bold: Collection[int] = ()
) -> Table:
    """The table of all reports: a rule under its head, no frame.

    Args:
        width: columns that do not fit are left out, the least needed first; the caption names them.
        file: where the columns left out can be found.
        ends: rows below which a line is left free.
        bold: rows in bold.
    """
    left_out: list[Column] = []
    while True:
        shown = [column for column in columns if column not in left_out]
        table = _table(shown, _names(left_out, columns), file, ends, bold)
        needed = natural_width(table)
        spare = [column for column in shown if column.keep < ALWAYS]
        if needed <= width:
            return table
        if not spare:
            table.width = needed  # wider than the terminal, which folds its lines: rich would cut digits
            return table
        left_out.append(min(spare, key=lambda column: column.keep))


def _table(
    columns: list[Column], left_out: list[str], file: str, ends: Collection[int], bold: Collection[int]
) -> Table:
    captions = list(dict.fromkeys(column.remark for column in columns if column.remark))
    if left_out:
        captions.append(f"Too narrow for: {', '.join(left_out)} (in {file}).")
    caption = Text("\n".join(captions)) if captions else None
    table = plain_table(caption=caption, caption_justify="left")
    for column in columns:
        table.add_column(Text(column.head), justify=column.justify, no_wrap=True, vertical="bottom")
    for at, cells in enumerate(zip(*(column.cells for column in columns), strict=True)):
        table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in cells),
                      style="bold" if at in bold else None, end_section=at in ends)  # fmt: skip
    return table


def _names(left_out: Sequence[Column], columns: Sequence[Column]) -> list[str]:
    """Columns as the caption names them: one that is headed "interval" alone by the column that it belongs to."""
    names: dict[int, str] = {}
    owner = ""
    for column in columns:
        head = " ".join(column.head.split())
        names[id(column)] = f"{head} of {owner}" if head == "interval" and owner else head
        owner = owner if head.endswith("interval") else head
    return [names[id(column)] for column in left_out]


def plain_table(**options: Any) -> Table:
    """An empty table with a rule under its head and no frame."""
    return Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, **options)


def natural_width(table: Table) -> int:
    """Letters that a table takes where nothing limits it, measured without the terminal."""
    return Measurement.get(ruler := Console(width=1000), ruler.options, table).maximum


def print_table(console: Console, columns: Sequence[Column], file: str, *, ends: Collection[int] = ()) -> None:
    """Print a table that fits the console."""
    console.print(fitted_table(columns, console.width, file, ends=ends), highlight=False, crop=False)


def divergence_columns(pairs: Sequence[dict[str, Any]]) -> list[Column]:
    """Mean and early divergence of pairs of the record, with intervals, and their other measures."""
    columns = []
    for name, interval, keep in (("mean", "interval", ALWAYS), ("early", "early\ninterval", 3)):
        found = [pair[f"{name}_divergence"]["debiased"] for pair in pairs]
        columns.append(Column(f"{name} %", [percent(one["value"]) for one in found], keep))
        columns.append(Column(interval, [percent_interval(one) or NOTHING for one in found], keep))
    # Of a measure beside CKA the record has no mean of its own: here it is the mean over layers.
    names = dict.fromkeys(name for pair in pairs for layer in pair["layers"] for name in layer.get("measures", {}))
    for name in names:
        if name != "cka":
            values = [[layer["measures"][name]["value"] for layer in pair["layers"]] for pair in pairs]
            columns.append(Column(f"{name}\nmean", [three_decimals(_mean(one)) for one in values], 5))
    return columns


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean, where every value is given."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None
