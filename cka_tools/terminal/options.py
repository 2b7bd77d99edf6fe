"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
