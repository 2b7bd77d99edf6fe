"""How commands end: reports printed or written, runs saved, exit codes."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.text import Text

from cka_tools.comparison.record import ABLATION, COMPARISON, CONTRAST, MATRIX, TRAJECTORY
from cka_tools.comparison.run_directory import check_free, write_whole
from cka_tools.formatting import counted, printable
from cka_tools.processes import from_first, joined
from cka_tools.terminal.options import Output
from cka_tools.terminal.progress import document_progress
from cka_tools.terminal.tables import WIDE

if TYPE_CHECKING:
    from cka_tools.comparison.results import RunResult

LOST_PROCESS = DAMAGED = 1
BAD_INPUT = 2

REPORTS = {
    COMPARISON: ("comparison_report", "print_comparison"),
    TRAJECTORY: ("many_report", "print_trajectory"),
    MATRIX: ("many_report", "print_matrix"),
    CONTRAST: ("many_report", "print_contrast"),
    ABLATION: ("ablation_report", "print_ablation"),
}
"""Where each kind of run is printed; imported when it is."""


def emit(show: Callable[[Console], None], data: str, output: Output) -> None:
    """Print a report or its JSON, or write it to a file as plain text."""
    if output.out is None:
        return answer(show, data, output)
    text = io.StringIO()
    if output.as_json:
        text.write(data + "\n")
    else:
        show(Console(file=text, width=WIDE))
    write_whole(output.out, text.getvalue().encode())


def answer(show: Callable[[Console], None], data: str, output: Output) -> None:
    """Print a report or its JSON."""
    if output.as_json:
        typer.echo(data)
    elif not output.quiet:
        show(Console())


def run_and_save(make: Callable[[Any], RunResult], name: str, output: Output) -> None:
    """Make a result, save it and print it; of several processes the first one saves and prints.

    Args:
        make: takes a progress callback. name: of the run directory where none is given.
    """
    from cka_tools.store.snapshot import kept_until_saved

    with joined() as process:
        run_dir = from_first(lambda: output.out or free_directory(name))
        from_first(lambda: check_free(run_dir))
        with kept_until_saved():
            with document_progress(Console(stderr=True), hidden=output.quiet or not process.first) as progress:
                result = make(progress)
            from_first(lambda: result.save(run_dir))
    if process.first:
        print_saved(result, run_dir, output)


def print_result(result: RunResult, console: Console) -> None:
    """Print a result of any kind; nothing given is read as markup."""
    module, name = REPORTS[result.kind]
    getattr(import_module(f"cka_tools.terminal.{module}"), name)(result, console)


def print_saved(result: RunResult, run_dir: Path, output: Output) -> None:
    """Print a result that was saved, or its JSON."""

    def show(console: Console) -> None:
        print_result(result, console)
        written = f"Saved in {run_dir} (result.json, {result.table}, figure.pdf, figure.png)"
        console.print(written, markup=False, highlight=False, soft_wrap=True)

    answer(show, json.dumps(result.record, ensure_ascii=False, allow_nan=False), output)


def say(console: Console, *parts: str | tuple[str, str], style: str = "") -> None:
    """Print a line of text, parts of it with a style; what is too wide is folded, nothing is markup."""
    console.print(Text.assemble(*parts, style=style), highlight=False, overflow="fold")


def say_remarks(console: Console, summary: dict[str, Any], noun: str = "", such: str = ": ") -> None:
    """Print the notes and warnings of a run; its pairs, where it has many, are called `noun`."""
    for note in summary["notes"]:
        say(console, ("note ", "bold"), printable(note))
    for warning in summary["warnings"]:
        where = f"in {counted(len(warning['pairs']), noun)}{such}" if "pairs" in warning else ""
        text = f"{where}{printable(warning['text'])}"
        say(console, ("warning ", "bold yellow"), (f"[{warning['code']}] ", "yellow"), text)


def slug(spec: str) -> str:
    """A model spec as part of a directory's name."""
    last = spec.rstrip("/").split("/")[-1].removeprefix("demo:")
    return re.sub(r"[^A-Za-z0-9._-]+", "-", last).strip("-.") or "model"


def free_directory(name: str) -> Path:
    """The name itself, or with -2, -3, … where it is taken."""
    candidate, number = Path(name), 2
    while candidate.exists():
        candidate, number = Path(f"{name}-{number}"), number + 1
    return candidate
