"""What commands print: progress, reports, saved runs, exit codes."""

from __future__ import annotations

import io
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleOptions
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar
from rich.segment import Segment
from rich.text import Text

from cka_tools.comparison.record import (
    ABLATION,
    COMPARISON,
    CONTRAST,
    EVALUATION,
    HEALTH,
    INTERPOLATION,
    MATRIX,
    NEEDLE,
    PROBE,
    TRAJECTORY,
    TRANSPLANT,
)
from cka_tools.comparison.run_directory import NotDrawn, Taken, check_free, write_whole
from cka_tools.errors import EarlyWarning, UserError, reason_of
from cka_tools.formatting import counted, duration, printable, settings_in_words, tokens_in_words, visible
from cka_tools.processes import from_first, joined
from cka_tools.progress import Pace, Report
from cka_tools.terminal.options import Output, RunOutput
from cka_tools.terminal.tables import WIDE
from cka_tools.terminal.tracking import check_trackers, log_run

if TYPE_CHECKING:
    from cka_tools.comparison.results import RunResult
    from cka_tools.training.loop import StepReport


SECONDS_A_LINE = 10
BAR_WIDTH = 20
INTERRUPTED = 130
LEAST_WIDTH = 20


class Terminal(Console):
    """A console that shows no control character but its own, whatever is printed.

    Names of models, corpora and runs come from elsewhere; the other ways to the screen are `echo`, `tell` and
    `as_json`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        if self.width < LEAST_WIDTH:  # COLUMNS=0 is none at all
            self.width = LEAST_WIDTH if self.width > 0 else 80

    def render(self, renderable: Any, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text, keep="\n"), segment.style)


@contextmanager
def document_progress(console: Console, *, hidden: bool) -> Iterator[Report]:
    """A bar that takes documents done, tokens done, documents in all; outside a terminal a line now and then."""
    if not console.is_terminal:
        yield _lines(hidden=hidden)
        return
    columns = BarColumn(bar_width=BAR_WIDTH), TextColumn("{task.description}", markup=False)
    with Bar(*columns, console=console, disable=hidden, transient=True) as bar:
        task, pace = bar.add_task("", total=None), Pace()

        def report(documents: int, tokens: int, total: int) -> None:
            bar.update(task, completed=documents, total=total, description=pace.words(documents, tokens, total))

        yield report


def _lines(*, hidden: bool) -> Report:
    """A line every `SECONDS_A_LINE`: nobody looks at the rest, and a log keeps it."""
    told, pace = time.monotonic(), Pace()

    def report(documents: int, tokens: int, total: int) -> None:
        nonlocal told
        text = pace.words(documents, tokens, total)
        if not hidden and time.monotonic() - told >= SECONDS_A_LINE:
            told = time.monotonic()
            tell(text)

    return report


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
        self._console = Terminal(stderr=True)
        self._told = time.monotonic()

    def show(self, key: str, done: StepReport, what: str) -> None:
        """Tell of a step of the piece `key`; `what` says in words which one it is."""
        self._left[key] = done.tokens * (done.steps - done.step) // done.step
        # What has not been trained yet may be faster or slower: this one's speed until it is known.
        self._speeds[self._kind.get(key)] = now = done.tokens_per_second
        left = sum(tokens / self._speeds.get(self._kind.get(one), now) for one, tokens in self._left.items())
        parts = {
            f"{self._number.get(key, 0)}/{len(self._number)} {what}": 4,
            f"step {done.step:,}/{done.steps:,}": 5,
            f"{done.tokens:,} tokens": 0,
            f"loss {done.loss:.3f}": 3,
            f"lr {done.learning_rate:.2e}": 1,
            f"{done.tokens_per_second:,.0f} tokens/s": 2,
            f"{duration(left)} left": 6,
        }
        if self._console.is_terminal:
            self._rewrite(_fitting(parts, self._console.width - 1))
        elif done.step == done.steps or time.monotonic() - self._told >= SECONDS_A_LINE:
            self._told = time.monotonic()
            tell("  ".join(parts))

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


def _fitting(parts: Mapping[str, int], width: int) -> str:
    """Parts of a line in at most so many letters; those of the lowest number are left out first."""
    shown = dict(parts)
    while len("  ".join(shown)) > width and len(shown) > 1:
        shown.pop(min(shown, key=shown.__getitem__))
    return "  ".join(shown)[:width]


def tell(text: str) -> None:
    """Print a line about the work, on standard error."""
    print(visible(text), file=sys.stderr, flush=True)


class OutputLost(UserError):  # noqa: N818 - a condition
    """Standard output takes nothing more."""

    exit_code = 1


@contextmanager
def to_output() -> Iterator[None]:
    """Print to standard output inside, which may be full.

    Raises:
        OutputLost: it is.
    """
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        with suppress(OSError, ValueError):  # what is left shall not fail once more when Python ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise OutputLost(f"standard output cannot be written ({reason_of(error)}): what was saved is kept") from error


def echo(text: str, end: str = "\n") -> None:
    """Print text, on standard output."""
    with to_output():
        print(visible(text, keep="\n"), end=end)


def as_json(data: Any) -> str:
    """JSON of letters that every terminal and encoding can show; others are escaped as JSON has it."""
    return json.dumps(data, allow_nan=False).replace("\x7f", "\\u007f")


LOST_PROCESS = DAMAGED = UNFORESEEN = 1
BAD_INPUT = 2

REPORTS = {
    COMPARISON: ("comparison_report", "print_comparison"),
    TRAJECTORY: ("many_report", "print_trajectory"),
    MATRIX: ("many_report", "print_matrix"),
    CONTRAST: ("many_report", "print_contrast"),
    ABLATION: ("ablation_report", "print_ablation"),
    TRANSPLANT: ("readout_report", "print_transplant"),
    INTERPOLATION: ("readout_report", "print_interpolation"),
    HEALTH: ("readout_report", "print_health"),
    PROBE: ("probe_report", "print_probe"),
    EVALUATION: ("evaluation_report", "print_evaluation"),
    NEEDLE: ("needle_report", "print_needle"),
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
        show(Terminal(file=text, width=WIDE))
    write_whole(output.out, text.getvalue())


def answer(show: Callable[[Console], None], data: str, output: Output) -> None:
    """Print a report or its JSON."""
    if output.as_json:
        echo(data)
    elif not output.quiet:
        with to_output():
            show(Terminal())


def run_and_save(make: Callable[[Any], RunResult], name: str, output: RunOutput) -> None:
    """Make a result, save it, print it and log it where that was asked; of several processes the first one does.

    Args:
        make: takes a progress callback. name: of the run directory where none is given.
    """
    from cka_tools.store.snapshot import kept_until_saved

    check_trackers(output.log)
    with joined() as process:
        run_dir = from_first(lambda: output.out or free_directory(name))
        from_first(lambda: check_free(run_dir))
        with kept_until_saved():
            hidden = output.quiet or not process.first
            with early_warnings(), document_progress(Terminal(stderr=True), hidden=hidden) as progress:
                result = make(progress)
            saved, problem = from_first(lambda: save_run(result, run_dir))
    if process.first:
        print_saved(result, saved, output)
        if saved != run_dir:
            tell(f"note: {str(run_dir)!r} was taken meanwhile: the run is in {str(saved)!r}")
        for text in log_run(output.log, result, saved, output.log_project):
            tell(f"note: {text}")
        if problem:
            raise NotDrawn(problem)


def save_run(result: RunResult, run_dir: Path) -> tuple[Path, str | None]:
    """Save a result, under the next free name where another command was there first.

    Returns:
        where, and what is lacking there, if anything.
    """
    place = run_dir
    while True:
        try:
            return result.save(place), None
        except Taken:
            place = free_directory(str(run_dir))
        except NotDrawn as error:
            return place, str(error)


def say_settings(console: Console, record: dict[str, Any]) -> None:
    """Print what a run was made with: settings, tokens a document and how many were cut."""
    say(console, ", ".join(settings_in_words(record)), style="dim")
    if tokens := tokens_in_words(record):
        say(console, tokens, style="dim")


@contextmanager
def early_warnings() -> Iterator[None]:
    """Print what is to be known before a run starts as one line each, once."""
    show = warnings.showwarning
    said: set[str] = set()

    def told(message: Any, category: type[Warning], *others: Any) -> None:
        if issubclass(category, EarlyWarning):
            if str(message) not in said:
                said.add(str(message))
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
        written = f"Saved in {printable(str(run_dir))} (result.json, {result.table}, figure.pdf, figure.png)"
        console.print(written, markup=False, highlight=False, soft_wrap=True)

    answer(show, as_json(result.record), output)


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


def free_directory(name: str) -> Path:
    """The name itself, or with -2, -3, … where it is taken."""
    candidate, number = Path(name), 2
    while candidate.exists() or candidate.is_symlink():
        candidate, number = Path(f"{name}-{number}"), number + 1
    return candidate
