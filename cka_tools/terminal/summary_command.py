"""`cka summary`."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cka_tools.errors import UserError
from cka_tools.terminal.options import Json, OutFile, Quiet
from cka_tools.terminal.run_commands import emit, write_whole

if TYPE_CHECKING:
    from cka_tools.comparison.summary_table import SummaryTable


class TableFormat(StrEnum):
    """How the table is written."""

    table = "table"
    csv = "csv"
    markdown = "markdown"
    latex = "latex"


def summary_command(
    runs: Annotated[list[Path], typer.Argument(help="Run directories that `cka compare` wrote.")],
    label: Annotated[
        list[str] | None,
        typer.Option(help="Name of a row, once for each run.  [default: the models]", show_default=False),
    ] = None,
    table_format: Annotated[
        TableFormat, typer.Option("--format", help="For the terminal, or to paste into a paper.")
    ] = TableFormat.table,
    out: OutFile = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Put several runs into one table, as a paper prints it; CSV and JSON hold fractions.

    Example: cka summary runs/base runs/large --label Base --label Large --format latex --out table.tex
    """
    from cka_tools.comparison.run_directory import COMPARISON, run_kind
    from cka_tools.comparison.summary_table import read_runs, summary_table
    from cka_tools.comparison.summary_text import FORMATS
    from cka_tools.terminal.summary_report import print_summary

    for run in runs:
        if (kind := run_kind(run)) not in (None, COMPARISON):
            raise UserError(
                f"{str(run)!r} is of the kind {kind!r}, which is a table of its own: see `cka show`, or name "
                "runs of `cka compare`"
            )
    found = summary_table(read_runs(runs), label or ())
    if as_json or table_format is TableFormat.table:
        emit(lambda console: print_summary(found, console), _json(found), out, quiet=quiet, as_json=as_json)
        return
    text = FORMATS[table_format.value](found)
    if out is not None:
        write_whole(out, text.encode())
    elif not quiet:
        typer.echo(text, nl=False)


def _json(found: SummaryTable) -> str:
    rows: list[dict[str, Any]] = [
        {str(name): value for name, value in row.items()}
        for row in found.frame.astype(object).where(found.frame.notna(), None).to_dict("records")
    ]
    return json.dumps({"runs": rows, "notes": found.notes}, ensure_ascii=False, allow_nan=False)
