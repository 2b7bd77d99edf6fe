"""The `cka` command."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from cka_tools import __version__
from cka_tools.errors import ProcessLost, UserError
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
from cka_tools.terminal.output import BAD_INPUT, INTERRUPTED, LOST_PROCESS
from cka_tools.terminal.run_commands import layers_command, plot_command, show_command, summary_command
from cka_tools.terminal.train_commands import recipe_app, train_command

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
) -> None:
    """Options of `cka` itself."""


app.command("demo")(demo_command)
app.command("compare")(compare_command)
app.command("trajectory")(trajectory_command)
app.command("matrix")(matrix_command)
app.command("contrast")(contrast_command)
app.command("show")(show_command)
app.command("plot")(plot_command)
app.command("diff")(diff_command)
app.command("documents")(documents_command)
app.command("summary")(summary_command)
app.command("layers")(layers_command)
app.add_typer(cache_app, name="cache")
app.command("train")(train_command)
app.add_typer(recipe_app, name="recipe")
app.command("ablate")(ablate_command)


def main() -> None:
    """Run `cka`: exit code 2 and one line for input that does not fit, 130 for Ctrl-C."""
    try:
        code = app(standalone_mode=False)
    except UserError as error:
        _fail(str(error), BAD_INPUT)
    except ProcessLost:
        lost = "a process of this run ended or was stopped"
        _fail(f"{lost}: no run was written; {_kept()}: start it again", LOST_PROCESS)
    except (typer.Abort, KeyboardInterrupt):
        code = INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(BAD_INPUT)
    except Exception as error:
        # Usage errors of the parser: known by their interface, as typer brings a parser of its own.
        if not hasattr(error, "format_message"):
            raise
        if not launched_first():  # every process reads the same command
            sys.exit(BAD_INPUT)
        _fail(f"{error.format_message()} See `cka --help`.", BAD_INPUT)
    if code == INTERRUPTED:  # the parser turns Ctrl-C into this code itself
        _fail(f"interrupted: no run was written; {_kept()}", INTERRUPTED)
    sys.exit(code or 0)


def _kept() -> str:
    return "nothing is kept" if "--no-cache" in sys.argv else "finished batches are kept in the cache"


def _fail(message: str, code: int) -> None:
    """End with one line, printed by one of the processes of a run."""
    if speaks_first():
        print(f"cka: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)
