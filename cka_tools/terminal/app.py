"""The `cka` command."""

from __future__ import annotations

import atexit
import gc
import os
import shlex
import sys
import tempfile
import traceback
from contextlib import suppress
from typing import Annotated, NoReturn

import typer

from cka_tools import __version__
from cka_tools.errors import ProcessLost, UserError, one_line, reason_of
from cka_tools.formatting import printable, visible
from cka_tools.processes import launched_first, speaks_first
from cka_tools.terminal.ablate_command import ablate_command
from cka_tools.terminal.cache_commands import cache_app
from cka_tools.terminal.compare_commands import (
    compare_command,
    contrast_command,
    demo_command,
    matrix_command,
    trajectory_command,
)
from cka_tools.terminal.document_commands import diff_command, documents_command
from cka_tools.terminal.evaluate_command import evaluate_command
from cka_tools.terminal.intervention_commands import (
    fill_command,
    health_command,
    interpolate_command,
    transplant_command,
)
from cka_tools.terminal.needle_command import needle_command
from cka_tools.terminal.output import BAD_INPUT, INTERRUPTED, LOST_PROCESS, UNFORESEEN, tell
from cka_tools.terminal.probe_command import probe_command
from cka_tools.terminal.report_command import report_command
from cka_tools.terminal.run_commands import layers_command, plot_command, show_command, summary_command
from cka_tools.terminal.study_command import study_app
from cka_tools.terminal.train_commands import recipe_app, train_command

DEBUG = "--debug"
HELP = "How far two checkpoints have drifted apart, layer by layer, and whether that can be believed."

app = typer.Typer(
    name="cka",
    help=HELP,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"cka-tools {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    _debug: Annotated[bool, typer.Option(DEBUG, help="Show the traceback of an error; anywhere in a command.")] = False,
) -> None:
    """Options of `cka` itself."""


app.command("demo")(demo_command)
app.command("compare")(compare_command)
app.command("trajectory")(trajectory_command)
app.command("matrix")(matrix_command)
app.command("contrast")(contrast_command)
app.command("transplant")(transplant_command)
app.command("interpolate")(interpolate_command)
app.command("health")(health_command)
app.command("fill")(fill_command)
app.command("probe")(probe_command)
app.command("evaluate")(evaluate_command)
app.command("needle")(needle_command)
app.add_typer(study_app, name="study")
app.command("show")(show_command)
app.command("plot")(plot_command)
app.command("report")(report_command)
app.command("diff")(diff_command)
app.command("documents")(documents_command)
app.command("summary")(summary_command)
app.command("layers")(layers_command)
app.add_typer(cache_app, name="cache")
app.command("train")(train_command)
app.add_typer(recipe_app, name="recipe")
app.command("ablate")(ablate_command)


def main() -> None:
    """Run `cka`: one line on standard error for whatever goes wrong.

    Exit codes: 2 for input that does not fit, 130 for Ctrl-C, 1 for what was not foreseen, with the traceback in
    a file (or shown, with --debug or CKA_TOOLS_DEBUG).
    """
    # The packages that compute make half a million objects that live to the end. To search them for garbage time and
    # again while they are made, and once more at the end, is a third of the time that a short command takes.
    gc.set_threshold(10_000)
    atexit.register(gc.freeze)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # an encoding that lacks a letter shows another
            stream.reconfigure(errors="replace")
    arguments = [argument for argument in sys.argv[1:] if argument != DEBUG]
    debug = len(arguments) < len(sys.argv) - 1 or bool(os.environ.get("CKA_TOOLS_DEBUG"))
    try:
        code = app(arguments, standalone_mode=False)
        sys.stdout.flush()
    except UserError as error:
        _fail(str(error), error.exit_code, debug=debug)
    except ProcessLost:
        lost = "a process of this run ended or was stopped"
        _fail(f"{lost}: no run was written; {_kept()}: start it again", LOST_PROCESS, debug=debug)
    except (typer.Abort, KeyboardInterrupt):
        code = INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(BAD_INPUT)
    except Exception as error:
        # Usage errors of the parser: known by their interface, as typer brings a parser of its own.
        if not hasattr(error, "format_message"):
            _fail(_unforeseen(error, debug=debug), UNFORESEEN, debug=debug)
        if not launched_first():  # every process reads the same command
            sys.exit(BAD_INPUT)
        _fail(f"{error.format_message()} See `cka --help`.", BAD_INPUT)
    if code == INTERRUPTED:  # the parser turns Ctrl-C into this code itself
        _fail(f"interrupted: no run was written; {_kept()}", INTERRUPTED)
    sys.exit(code or 0)


def _kept() -> str:
    return "nothing is kept" if "--no-cache" in sys.argv else "finished batches are kept in the cache"


def _unforeseen(error: Exception, *, debug: bool) -> str:
    """One line for an exception that nobody made a message of, and where its traceback is."""
    if isinstance(error, OSError):
        where = f"{str(error.filename)!r}: " if error.filename else ""
        what = f"{where}{reason_of(error)}"
    elif isinstance(error, MemoryError):
        what = "memory is used up: take fewer documents or layers, or a smaller --keep-features"
    else:
        what = f"{type(error).__name__}: {one_line(error)}"
    if debug:
        return what
    try:
        handle, file = tempfile.mkstemp(prefix="cka-traceback-", suffix=".txt")
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as written:
            written.write(f"cka-tools {__version__}: {shlex.join(sys.argv)}\n\n{traceback.format_exc()}")
    except OSError:
        return f"{what}; add {DEBUG} for the traceback"
    return f"{what}; this was not foreseen: the traceback is in {file}"


def _fail(message: str, code: int, *, debug: bool = False) -> NoReturn:
    """End with one line, printed by one of the processes of a run."""
    if speaks_first():
        if debug:
            print(visible(traceback.format_exc(), keep="\n"), file=sys.stderr)
        with suppress(OSError):
            tell(f"cka: {printable(message)}")
    sys.exit(code)
