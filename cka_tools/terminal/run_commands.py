"""`cka show`, `cka plot`, `cka summary` and `cka layers`."""

from __future__ import annotations

import json
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer
from rich.console import Console
from rich.text import Text

from cka_tools.comparison.record import COMPARISON
from cka_tools.comparison.results import KINDS, Comparison, RunResult
from cka_tools.comparison.run_directory import FIGURE, run_kind, write_figure, write_whole
from cka_tools.errors import UserError
from cka_tools.formatting import NOTHING
from cka_tools.settings import option
from cka_tools.terminal.options import Output, with_options
from cka_tools.terminal.output import emit, print_result, say
from cka_tools.terminal.tables import plain_table

if TYPE_CHECKING:
    from cka_tools.comparison.summary import SummaryTable


RUN = option(MISSING, "A run directory of compare, ablate, trajectory, matrix or contrast.", argument=True)
FIGURE_SUFFIXES = (".pdf", ".png", ".svg")


def open_run(run_dir: Path) -> RunResult:
    """Read a run by the kind that its record names; without one it is read as a comparison.

    Raises:
        UserError: no run there, or one that is damaged or of a later format.
    """
    return KINDS.get(run_kind(run_dir) or COMPARISON, KINDS[COMPARISON]).load(run_dir)


@with_options()
def show_command(
    run: Path = RUN,
    *,
    explain: bool = option(False, "Also say what each column of a comparison's table is, in a line each."),
    output: Output,
) -> None:
    """Print a saved run again.

    Example: cka show runs/detour --explain
    """
    result = open_run(run)
    if explain and not isinstance(result, Comparison):
        raise UserError(f"--explain is for runs of `cka compare`, and {str(run)!r} is a {result.kind}: leave it out")

    def show(console: Console) -> None:
        print_result(result, console)
        if isinstance(result, Comparison) and explain:
            from cka_tools.terminal.comparison_report import explanations

            for head, text in explanations(result):
                say(console, (f"{head} ", "bold"), text)

    emit(show, json.dumps(result.record, ensure_ascii=False, allow_nan=False), output)


@dataclass(frozen=True)
class FigureOutput(Output):
    """Where a figure goes."""

    out: Path | None = option(None, "File to write: .pdf, .png or .svg.", shown="both in the run", flag="--out -o")


@with_options()
def plot_command(run: Path = RUN, *, output: FigureOutput) -> None:
    """Draw the figure of a saved run again.

    Example: cka plot runs/detour --out detour.pdf
    """
    out = output.out
    if out is not None and out.suffix not in FIGURE_SUFFIXES:
        raise UserError(f"--out {str(out)!r} is no figure: end its name in {', '.join(FIGURE_SUFFIXES)}")
    figure = open_run(run).figure()
    targets = [out] if out is not None else [run / f"{FIGURE}{suffix}" for suffix in FIGURE_SUFFIXES[:2]]
    for target in targets:
        write_figure(figure, target)
    if output.as_json:
        typer.echo(json.dumps({"figures": [str(t) for t in targets]}))
    elif not output.quiet:
        typer.echo(f"Wrote {' and '.join(str(t) for t in targets)}")


@with_options()
def layers_command(
    model: str = option(MISSING, "demo:NAME, a directory, org/name or org/name@revision.", argument=True),
    *,
    device: str = option("auto", "auto, cpu, cuda, cuda:N or mps."),
    trust_remote_code: bool = option(False, "Run code that comes with a model. Read it first."),
    output: Output,
) -> None:
    """List what can be hooked in a model.

    Example: cka layers demo:clm-detour
    """
    from cka_tools.models import load_model

    loaded = load_model(model, device=device, trust_remote_code=trust_remote_code)
    described, first = loaded.blocks, f"input of {loaded.blocks[0].path}" if loaded.embeddings_seen else None
    ends = [("embeddings", first), ("final norm", loaded.final_norm)]

    def show(console: Console) -> None:
        kinds = sorted({f"{layer.kind}, width {layer.width}" for layer in described})
        console.print(Text(f"{len(described)} layers of {'; '.join(kinds)}"))
        table = plain_table()
        for heading in ("layer", "residual", "attention", "mlp", "reach"):
            table.add_column(heading, overflow="fold")
        table.add_row(*(Text(cell or NOTHING) for cell in (*ends[0], None, None, None)))
        for layer in described:
            reach = layer.scope if layer.window is None else f"{layer.scope}, ±{layer.window} tokens"
            cells = (layer.index, layer.path, layer.attention, layer.mlp, reach)
            table.add_row(*(Text(NOTHING if cell is None else str(cell)) for cell in cells))
        table.add_row(*(Text(cell or NOTHING) for cell in (*ends[1], None, None, None)))
        console.print(table)
        last = "is what comes out: the model has no norm after it"
        if loaded.final_norm is not None:
            last = "is taken before the final norm, which hidden_states[-1] is after; --final-norm compares that too"
        say(console, f"Layer {len(described) - 1} {last}. --layers embeddings is what goes into layer 0.")

    listed = [layer.to_dict() for layer in described]
    listed[-1]["final_norm"] = loaded.final_norm
    data = json.dumps(listed)
    emit(show, data, output)


@with_options()
def summary_command(
    runs: tuple[Path, ...] = option(MISSING, "Run directories that `cka compare` wrote.", argument=True),
    *,
    label: tuple[str, ...] = option((), "Name of a row, once for each run.", shown="the models"),
    layout: Literal["table", "csv", "markdown", "latex"] = option(
        "table", "For the terminal, or to paste into a paper.", flag="--format"
    ),
    output: Output,
) -> None:
    """Put several runs into one table, as a paper prints it; CSV and JSON hold fractions.

    Example: cka summary runs/base runs/large --label Base --label Large --format latex --out table.tex
    """
    from cka_tools.comparison.summary import FORMATS, read_runs, summary_table
    from cka_tools.terminal.many_report import print_summary

    for run in runs:
        if (kind := run_kind(run)) not in (None, COMPARISON):
            raise UserError(
                f"{str(run)!r} is of the kind {kind!r}, which is a table of its own: see `cka show`, or name "
                "runs of `cka compare`"
            )
    found = summary_table(read_runs(runs), label)
    if output.as_json or layout == "table":
        emit(lambda console: print_summary(found, console), _summary_json(found), output)
        return
    text = FORMATS[layout](found)
    if output.out is not None:
        write_whole(output.out, text.encode())
    elif not output.quiet:
        typer.echo(text, nl=False)


def _summary_json(found: SummaryTable) -> str:
    rows: list[dict[str, Any]] = [
        {str(name): value for name, value in row.items()}
        for row in found.frame.astype(object).where(found.frame.notna(), None).to_dict("records")
    ]
    return json.dumps({"runs": rows, "notes": found.notes}, ensure_ascii=False, allow_nan=False)
