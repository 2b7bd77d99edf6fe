"""`cka show`, `cka plot` and `cka layers`."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cka_tools.errors import UserError
from cka_tools.terminal.options import Device, Json, OutFile, Quiet, RemoteCode
from cka_tools.terminal.saved_run import open_run

Run = Annotated[Path, typer.Argument(help="A run directory of compare, ablate, trajectory or matrix.")]
FIGURE_SUFFIXES = (".pdf", ".png", ".svg")
REPORT_WIDTH = 120


def show_command(run: Run, out: OutFile = None, quiet: Quiet = False, as_json: Json = False) -> None:
    """Print a saved run again.

    Example: cka show runs/detour --json
    """
    saved = open_run(run)
    data = json.dumps(saved.record, ensure_ascii=False, allow_nan=False)
    emit(saved.show, data, out, quiet=quiet, as_json=as_json)


def plot_command(
    run: Run,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="File to write: .pdf, .png or .svg.  [default: both in the run]"),
    ] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Draw the figure of a saved run again.

    Example: cka plot runs/detour --out detour.pdf
    """
    from cka_tools.comparison.run_directory import FIGURE

    if out is not None and out.suffix not in FIGURE_SUFFIXES:
        raise UserError(f"--out {str(out)!r} is no figure: end its name in {', '.join(FIGURE_SUFFIXES)}")
    figure = open_run(run).figure()
    targets = [out] if out is not None else [run / f"{FIGURE}{suffix}" for suffix in FIGURE_SUFFIXES[:2]]
    for target in targets:
        buffer = io.BytesIO()
        figure.savefig(buffer, format=target.suffix[1:])
        write_whole(target, buffer.getvalue())
    if as_json:
        typer.echo(json.dumps({"figures": [str(t) for t in targets]}))
    elif not quiet:
        typer.echo(f"Wrote {' and '.join(str(t) for t in targets)}")


def layers_command(
    model: Annotated[str, typer.Argument(help="demo:NAME, a directory, org/name or org/name@revision.")],
    device: Device = "auto",
    trust_remote_code: RemoteCode = False,
    out: OutFile = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """List what can be hooked in a model.

    Example: cka layers demo:clm-detour
    """
    from cka_tools.models import load_model

    described = load_model(model, device=device, trust_remote_code=trust_remote_code).blocks

    def show(console: Console) -> None:
        kinds = sorted({f"{layer.kind}, width {layer.width}" for layer in described})
        console.print(Text(f"{len(described)} layers of {'; '.join(kinds)}"))
        table = Table(box=box.SIMPLE_HEAD)
        for heading in ("layer", "residual", "attention", "mlp", "reach"):
            table.add_column(heading, overflow="fold")
        for layer in described:
            reach = layer.scope if layer.window is None else f"{layer.scope}, ±{layer.window} tokens"
            cells = (layer.index, layer.path, layer.attention, layer.mlp, reach)
            table.add_row(*(Text("–" if cell is None else str(cell)) for cell in cells))
        console.print(table)

    data = json.dumps([layer.to_dict() for layer in described])
    emit(show, data, out, quiet=quiet, as_json=as_json)


def emit(show: Callable[[Console], None], data: str, out: Path | None, *, quiet: bool, as_json: bool) -> None:
    """Print a report or its JSON, or write it to a file as plain text."""
    if out is None:
        if as_json:
            typer.echo(data)
        elif not quiet:
            show(Console())
        return
    text = io.StringIO()
    if as_json:
        text.write(data + "\n")
    else:
        show(Console(file=text, width=REPORT_WIDTH))
    write_whole(out, text.getvalue().encode())


def write_whole(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, then rename.

    Raises:
        UserError: the place cannot be written to.
    """
    staging = path.with_name(f".{path.name}.partial")
    try:
        staging.write_bytes(content)
        staging.replace(path)
    except OSError as error:
        staging.unlink(missing_ok=True)
        raise UserError(
            f"--out {str(path)!r} could not be written ({error.strerror}): name another place"
        ) from error
