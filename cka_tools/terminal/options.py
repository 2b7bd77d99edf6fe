"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cka_tools.errors import UserError

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors (and --json).")]
Json = Annotated[
    bool, typer.Option("--json", help="Print the result as JSON on standard output, and no table.")
]
OutFile = Annotated[
    Path | None, typer.Option("--out", "-o", help="Write to this file instead of the terminal.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
RemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run code that comes with a model. Read it first.")
]
NoCache = Annotated[
    bool, typer.Option("--no-cache", help="Use no cache: no features kept or found there, and no snapshots.")
]


def numbers(text: str, option: str, *, whole: bool = False) -> list[float]:
    """Numbers separated by commas.

    Raises:
        UserError: something else; `option` names where it was given.
    """
    try:
        return [int(part) if whole else float(part) for part in text.split(",")]
    except ValueError:
        kind = "whole numbers" if whole else "numbers"
        raise UserError(
            f"{option} {text!r} is not a list of {kind}: write them with commas, as 1,2"
        ) from None


def at_least(least: int, **options: int | None) -> None:
    """Raise a UserError where an option, named by its Python name, is below `least`; None was not given."""
    for name, number in options.items():
        if number is not None and number < least:
            option = f"--{name.replace('_', '-')}"
            raise UserError(f"{option} {number} does not fit: give a whole number from {least}")
