"""What commands print: progress, reports, saved runs, exit codes."""

from __future__ import annotations

import io
import json
import re
import sys
import time
import warnings
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from cka_tools.comparison.record import ABLATION, COMPARISON, CONTRAST, MATRIX, TRAJECTORY
from cka_tools.comparison.run_directory import check_free, write_whole
from cka_tools.errors import EarlyWarning
from cka_tools.formatting import counted, printable, settings_in_words, tokens_in_words
from cka_tools.processes import from_first, joined
from cka_tools.terminal.options import Output
from cka_tools.terminal.tables import WIDE

if TYPE_CHECKING:
    from cka_tools.comparison.results import RunResult
    from cka_tools.training.loop import StepReport


SECONDS_A_LINE = 30
INTERRUPTED = 130


class _Rate(ProgressColumn):
    """Documents and tokens per second since the first batch was started."""

    def render(self, task: Task) -> Text:
        if not task.elapsed or not task.completed:
            return Text("")
        tokens = task.fields.get("tokens", 0)
        return Text(f"{task.completed / task.elapsed:,.1f} documents/s  {tokens / task.elapsed:,.0f} tokens/s")


@contextmanager
def document_progress(console: Console, *, hidden: bool) -> Iterator[Callable[[int, int, int], None]]:
    """A bar that takes documents done, tokens done, documents in all; nothing outside a terminal."""
    columns = (
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        _Rate(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, disable=hidden or not console.is_terminal, transient=True) as bar:
        task: list = []

        def report(documents: int, tokens: int, total: int) -> None:
            if not task:
                task.append(bar.add_task("documents", total=total, tokens=0))
            bar.update(task[0], completed=documents, tokens=tokens)

        yield report


class TrainingLine:
    """Where training stands: one line that changes in a terminal, one now and then elsewhere."""

    def __init__(self, pieces: Mapping[str, tuple[int, Hashable]]) -> None:
        """Take what is left to train.

        Args:
            pieces: for each piece its tokens and its kind; pieces of one kind are equally fast.
        """
        self._number = {key: i for i, key in enumerate(pieces, 1)}
        self._left = {key: tokens for key, (tokens, _) in pieces.items()}
        self._kind = {key: kind for key, (_, kind) in pieces.items()}
        self._speeds: dict[Hashable, float] = {}
        self._console = Console(stderr=True)
        self._told = time.monotonic()

    def show(self, key: str, done: StepReport, what: str) -> None:
        """Tell of a step of the piece `key`; `what` says in words which one it is."""
        self._left[key] = done.tokens * (done.steps - done.step) // done.step
        # What has not been trained yet may be faster or slower: this one's speed until it is known.
        self._speeds[self._kind.get(key)] = now = done.tokens_per_second
        left = sum(tokens / self._speeds.get(self._kind.get(one), now) for one, tokens in self._left.items())
        text = (
            f"{self._number.get(key, 0)}/{len(self._number)} {what}  step {done.step:,}/{done.steps:,}  "
            f"{done.tokens:,} tokens  loss {done.loss:.3f}  lr {done.learning_rate:.2e}  "
            f"{done.tokens_per_second:,.0f} tokens/s  {duration(left)} left"
        )
        if self._console.is_terminal:
            self._rewrite(text[: self._console.width - 1])
        elif done.step == done.steps or time.monotonic() - self._told > SECONDS_A_LINE:
            self._told = time.monotonic()
            tell(text)

    @contextmanager
    def going_on(self, out: Path) -> Iterator[None]:
        """Leave the line at the end; where the user stops a training in `out`, say how it goes on, and exit."""
        try:
            yield
        except KeyboardInterrupt:
            self._end()
            tell(f"cka: interrupted: the same command goes on from the last checkpoint in {out}")
            sys.exit(INTERRUPTED)
        self._end()

    def _end(self) -> None:
        if self._console.is_terminal:
            self._rewrite("")

    def _rewrite(self, text: str) -> None:
        self._console.file.write(f"\r\x1b[2K{text}")
        self._console.file.flush()


def tell(text: str) -> None:
    """Print a line about the work, on standard error."""
    print(text, file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """Seconds as "2 h 05 min", "3 min 20 s" or "41 s"."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"


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
            hidden = output.quiet or not process.first
            with early_warnings(), document_progress(Console(stderr=True), hidden=hidden) as progress:
                result = make(progress)
            from_first(lambda: result.save(run_dir))
    if process.first:
        print_saved(result, run_dir, output)


def say_settings(console: Console, record: dict[str, Any]) -> None:
    """Print what a run was made with: settings, tokens a document and how many were cut."""
    say(console, ", ".join(settings_in_words(record)), style="dim")
    if tokens := tokens_in_words(record):
        say(console, tokens, style="dim")


@contextmanager
def early_warnings() -> Iterator[None]:
    """Print what is to be known before a run starts as one line each."""
    show = warnings.showwarning

    def told(message: Any, category: type[Warning], *others: Any) -> None:
        if issubclass(category, EarlyWarning):
            tell(f"cka: warning: {message}")
        else:
            show(message, category, *others)

    with warnings.catch_warnings():
        warnings.simplefilter("always", EarlyWarning)
        warnings.showwarning = told  # type: ignore[assignment]
        yield


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
