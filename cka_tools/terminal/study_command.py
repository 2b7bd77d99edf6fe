"""`cka study` and `cka study init`."""

from __future__ import annotations

import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from typer.core import TyperGroup

from cka_tools.errors import UserError
from cka_tools.formatting import counted, printable, shorten, size_in_words
from cka_tools.processes import joined
from cka_tools.settings import option
from cka_tools.terminal.options import Output, with_options
from cka_tools.terminal.output import (
    INTERRUPTED,
    SECONDS_A_LINE,
    Terminal,
    answer,
    as_json,
    duration,
    early_warnings,
    echo,
    say,
    tell,
)

if TYPE_CHECKING:
    from cka_tools.studies.run_study import Outcome, Prepared, Standing, StudyRun

FAILED = 1
NAME_COLUMN, STATE_COLUMN = 30, 12


class _RunByDefault(TyperGroup):
    """`cka study FILE` is `cka study run FILE`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, "--help"):
            args = ["run", *args]
        return super().parse_args(ctx, args)


study_app = typer.Typer(
    cls=_RunByDefault,
    no_args_is_help=True,
    help="Run all that one file asks for (`cka study init` writes it).\n\n"
    "`cka study FILE` runs it, `cka study FILE --dry-run` says what it would cost.",
)


class AnalysisFailed(UserError):  # noqa: N818 - a condition
    """Some of the runs of a study failed."""

    exit_code = FAILED


@dataclass(frozen=True)
class StudyOutput(Output):
    """Where a study goes."""

    out: Path | None = option(
        None, "The study's folder; started again, it goes on.", shown="cka-study-NAME beside the file", flag="--out -o"
    )


@study_app.command("run")
@with_options()
def run_command(
    file: Path = option(MISSING, "A study, as `cka study init` writes one.", argument=True),
    *,
    dry_run: bool = option(False, "Make every check, and print what would run and what it costs."),
    output: StudyOutput,
) -> None:
    """Run all analyses of a study; run again, only what changed.

    Each once, from one pass a model and corpus.

    Example: cka study study.toml --dry-run
    """
    with joined():
        from cka_tools.studies.run_study import prepare_study

        if dry_run:
            from cka_tools.compute import sharing_draws
            from cka_tools.studies.estimate import estimate, measure

            with early_warnings(), sharing_draws():
                prepared = prepare_study(file, output.out, timed=True)
                note = None if output.quiet else lambda name: tell(f"timing a few batches of {printable(name)}")
                cost = estimate(prepared, measure(prepared.costs.samples, note))
            data = plan_data(prepared, cost)
            answer(lambda console: print_plan(data, prepared.study.left_out, console), as_json(data), output)
            return
        run = _run(file, output)
    if output.as_json:
        echo(as_json(run_data(run)))
    elif not output.quiet:
        _say_end(run, Terminal())
    if run.problem is not None:
        raise AnalysisFailed(f"no report was written: {run.problem}")
    if run.failed:
        failed = ", ".join(one.name for one in run.failed)
        raise AnalysisFailed(f"{counted(len(run.failed), 'run')} of {len(run.outcomes)} failed: {failed}")


def _run(file: Path, output: StudyOutput) -> StudyRun:
    """Run a study with its progress; a line for each run that is finished."""
    from cka_tools.studies import study

    console = Terminal()
    quiet = output.quiet or output.as_json

    def told(outcome: Outcome) -> None:
        if not quiet:
            print_outcome(outcome, console)

    try:
        with early_warnings(), _bar(hidden=output.quiet) as progress:
            return study(file, output.out, progress=progress, told=told)
    except KeyboardInterrupt:
        tell("cka: interrupted: the same command goes on; what is finished is kept, finished batches too")
        sys.exit(INTERRUPTED)


@contextmanager
def _bar(*, hidden: bool) -> Iterator[Any]:
    """A bar over all runs, with the time that is left; elsewhere than in a terminal a line now and then."""
    console = Terminal(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(20), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=hidden or not console.is_terminal, transient=True) as bar:
        task = bar.add_task("checking", total=1.0)
        said = began = time.monotonic()

        def report(at: Standing) -> None:
            nonlocal said
            words = f"{at.number}/{at.of} {shorten(at.name, NAME_COLUMN)}"
            bar.update(task, description=words, completed=at.share)
            now = time.monotonic()
            if not hidden and not console.is_terminal and now - said > SECONDS_A_LINE and at.share > 0:
                said = now
                left = (now - began) * (1 - at.share) / at.share
                tell(f"{words}  {at.share:.0%}  about {duration(left)} left")

        yield report


def print_outcome(outcome: Outcome, console: Console) -> None:
    """One line: state, name, where it is; a further one on what is lacking."""
    name = shorten(outcome.name, NAME_COLUMN)
    style = {"done": "green", "from before": "dim", "failed": "bold red"}[outcome.state]
    state = (f"{outcome.state:<{STATE_COLUMN}}", style)
    if outcome.folder is None:
        say(console, state, f"{name}  {printable(outcome.reason or '')}")
        return
    room = max(20, console.width - STATE_COLUMN - NAME_COLUMN - 2)
    say(console, state, f"{name:<{NAME_COLUMN}}  {shorten(str(outcome.folder), room)}")
    if outcome.reason:
        say(console, ("note ", "bold"), printable(outcome.reason))


def _say_end(run: StudyRun, console: Console) -> None:
    for kind, why in run.left_out.items():
        _row(console, "left out", f"{kind}: {why}")
    if run.report is not None:
        say(console, "Report: ", printable(str(run.report)), style="bold")


def run_data(run: StudyRun) -> dict[str, Any]:
    """How a study ended, as JSON data."""
    return {
        "folder": str(run.folder),
        "report": None if run.report is None else str(run.report),
        "left_out": dict(run.left_out),
        "runs": [
            {
                "name": one.name,
                "analysis": one.analysis,
                "state": one.state,
                "folder": None if one.folder is None else str(one.folder),
                "reason": one.reason,
                "seconds": round(one.seconds, 3),
            }
            for one in run.outcomes
        ],
    }


def plan_data(prepared: Prepared, cost: dict[str, Any]) -> dict[str, Any]:
    """What a study would do, as JSON data."""
    study = prepared.study
    runs = [
        {
            "name": job.name,
            "analysis": job.entry.kind,
            "by_default": job.entry.keys is None,
            "models_by_role": not job.entry.own_models,
            "models": job.call.words,
            "corpus": job.corpus,
            "options": job.entry.given,
            "from_before": done,
            "documents": job.documents,
        }
        for job, done in zip(prepared.jobs, prepared.done, strict=True)
    ]
    return {
        "folder": str(prepared.folder),
        "cache": None if prepared.cache is None else str(prepared.cache),
        "models": {role: [one.given for one in some] for role, some in study.models.items()},
        "corpora": study.corpora,
        "runs": runs,
        "left_out": study.left_out,
        "passes": [
            {"run": one.job, "model": one.source.name, "kind": one.kind, "passes": one.passes, "tokens": one.tokens,
             "runs": not one.there}
            for one in prepared.costs.passes
        ],
        "cost": cost,
    }  # fmt: skip


def print_plan(data: dict[str, Any], left_out: dict[str, str], console: Console) -> None:
    """Print what would run, and what it costs."""
    from cka_tools.studies.analyses import ANALYSES

    for role, models in data["models"].items():
        _row(console, role, ", ".join(models))
    for name, spec in data["corpora"].items():
        _row(console, "corpus", name if name == spec else f"{name} = {spec}")
    if data["cache"] is not None:
        _row(console, "cache", f"off: features are kept in {data['cache']} alone")
    _row(console, "folder", data["folder"])
    for run in data["runs"]:
        documents = f", {counted(run['documents'][0], 'document')}" if run["documents"] else ""
        options = "".join(f", {key} {value}" for key, value in run["options"].items())
        state = "from before" if run["from_before"] else "runs"
        _row(console, state, f"{run['name']}: {run['models']}{documents}{options}")
    if any(run["by_default"] for run in data["runs"]):
        _row(console, "default", "no [analyses] are named: all that these models allow run")
    for kind in dict.fromkeys(run["analysis"] for run in data["runs"] if run["models_by_role"]):
        if (default := ANALYSES[kind].default) is not None:
            _row(console, "default", f"{kind}: {default}")
    for kind, why in left_out.items():
        _row(console, "left out", f"{kind}: {why}")
    _print_cost(data, console)


def _row(console: Console, head: str, text: str) -> None:
    """A line with a heading before it; what is too wide goes on under itself."""
    room = max(20, console.width - STATE_COLUMN - 1)
    for at, line in enumerate(textwrap.wrap(printable(text), room, break_on_hyphens=False) or [""]):
        say(console, (f"{head if at == 0 else '':<{STATE_COLUMN}}", "bold"), line)


PASSES_IN_WORDS = {
    "features": "features of models, kept and shared by all runs",
    "streamed": "streamed features of models",
    "readings": "language-model readings",
    "hybrids": "models that are made of two, at most",
    "trained": "fine-tuning, in which a pass backwards counts as two",
}


def _print_cost(data: dict[str, Any], console: Console) -> None:
    for kind, words in PASSES_IN_WORDS.items():
        some = [one for one in data["passes"] if one["kind"] == kind]
        if not some:
            continue
        number = sum(one["passes"] for one in some if one["runs"])
        there = sum(one["passes"] for one in some if not one["runs"])
        spared = f", {there:g} more are in the store by then" if there else ""
        _row(console, "passes", f"{number:g} of {words}{spared}")
    cost = data["cost"]
    text = (
        f"{cost['passes']:g} passes, {cost['tokens']:,} tokens: about {duration(cost['seconds'])} by a few batches of "
    )
    text += (
        f"each model; statistics and figures come on top. Memory about {size_in_words(cost['memory'])} for models and "
    )
    text += f"features, disk {size_in_words(cost['disk'])} for features."
    _row(console, "cost", text)


@dataclass(frozen=True)
class FileOutput(Output):
    """Where a study file goes."""

    out: Path | None = option(None, "File to write; none that is there.", shown="study.toml", flag="--out -o")


@study_app.command("init")
@with_options()
def init_command(
    models: tuple[str, ...] = option((), "Directories of models or training runs, demo:NAME, hub ids.", argument=True),
    *,
    demo: bool = option(False, "The bundled models and every analysis."),
    output: FileOutput,
) -> None:
    """Write a study file with comments, roles guessed.

    What each model is, its training's manifest tells.

    Example: cka study init runs/detour runs/baseline runs/baseline-2 --out study.toml
    """
    from cka_tools.comparison.run_directory import resolved, write_whole
    from cka_tools.studies.init import demo_models, guess_roles, study_text

    if demo and models:
        raise UserError(f"--demo takes the bundled models: leave {models[0]!r} or --demo out")
    out = output.out or Path("study.toml")
    place = resolved(out)
    if place.exists() or out.is_symlink():
        raise UserError(f"--out {str(out)!r} is there already: name another file")
    if not place.parent.is_dir():
        raise UserError(f"--out {str(out)!r}: there is no folder {str(out.parent)!r}: make it, or name another")
    guesses = guess_roles(demo_models() if demo else list(models))
    write_whole(out, study_text(guesses, place.parent, demo=demo))
    if output.as_json:
        guessed = [{"model": one.given, "role": one.role, "reason": one.reason} for one in guesses]
        echo(as_json({"file": str(out), "models": guessed}))
    elif not output.quiet:
        for one in guesses:
            echo(f"{one.role:<10}{printable(one.given)}  ({printable(one.reason)})")
        written = printable(str(out))
        echo(f"Wrote {written}: check the roles and name your corpus, then")
        echo(f"`cka study {written} --dry-run`")
