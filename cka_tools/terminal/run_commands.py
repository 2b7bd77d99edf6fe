"""`cka show`, `cka plot`, `cka summary` and `cka layers`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console
from rich.text import Text

from cka_tools.comparison.readout_results import Evaluation, Needle, open_run
from cka_tools.comparison.record import COMPARISON, EVALUATION, MATRIX, NEEDLE, TRAJECTORY
from cka_tools.comparison.results import Comparison, RunResult
from cka_tools.comparison.run_directory import FIGURE, RESULT, run_kind, write_figure, write_whole
from cka_tools.errors import UserError
from cka_tools.figure_choices import PAGE, Choices, drawn_with
from cka_tools.formatting import NOTHING, counted, printable
from cka_tools.settings import option
from cka_tools.terminal.options import Output, with_options
from cka_tools.terminal.output import as_json, echo, emit, print_result, say, tell
from cka_tools.terminal.tables import ALWAYS, Column, print_table
from cka_tools.terminal.training_report import is_training, print_training, training_data

if TYPE_CHECKING:
    from cka_tools.comparison.summary import SummaryTable


RUN = option(MISSING, "A run directory of any command that saves one.", argument=True)
FIGURE_SUFFIXES = (".pdf", ".png", ".svg")


@with_options()
def show_command(
    run: Path = RUN,
    *,
    explain: bool = option(False, "Also say what each column of a comparison's table is, in a line each."),
    output: Output,
) -> None:
    """Print a saved run again; of a training run its losses.

    Example: cka show comparisons/detour --explain
    """
    if not (run / RESULT).exists() and is_training(run):
        if explain:
            raise UserError(f"--explain is for runs of `cka compare`, and {str(run)!r} is a training: leave it out")
        data = training_data(run)
        emit(lambda console: print_training(data, run, console), as_json(data), output)
        return
    result = open_run(run)
    if explain and not isinstance(result, Comparison):
        raise UserError(f"--explain is for runs of `cka compare`, and {str(run)!r} is a {result.kind}: leave it out")

    def show(console: Console) -> None:
        print_result(result, console)
        if isinstance(result, Comparison) and explain:
            from cka_tools.terminal.comparison_report import explanations

            for head, text in explanations(result):
                say(console, (f"{head} ", "bold"), text)

    emit(show, as_json(result.record), output)


@dataclass(frozen=True)
class FigureOutput(Output):
    """Where a figure goes."""

    out: Path | None = option(None, "File to write: .pdf, .png or .svg.", shown="both in the run", flag="--out -o")


@with_options()
def plot_command(run: Path = RUN, *, choices: Choices, output: FigureOutput) -> None:
    """Draw a saved run's figure again, the page or one panel.

    Example: cka plot comparisons/detour --out detour.pdf

    Example: cka plot comparisons/detour --what heatmap --range 0.8:1 --size single --out heatmap.svg
    """
    out = output.out
    if out is not None and out.suffix not in FIGURE_SUFFIXES:
        raise UserError(f"--out {str(out)!r} is not a figure's name: end it in {', '.join(FIGURE_SUFFIXES)}")
    result = open_run(run)
    if choices.what != PAGE and not isinstance(result, Comparison):
        raise UserError(
            f"--what {choices.what} is a panel of a comparison, and {str(run)!r} is a {result.kind}: leave it out"
        )
    if unused := _unused(choices, result.kind):
        drawn = f"a {result.kind}'s figure" if choices.what == PAGE else f"--what {choices.what}"
        raise UserError(f"{' and '.join(unused)} would change nothing in {drawn}: leave it out")
    if out is None and choices != Choices():
        raise UserError("a figure of your own choices does not replace that of the run: name a file with --out")
    for text in choices.notes:
        tell(f"note: {text}")
    targets = [out] if out is not None else [run / f"{FIGURE}{suffix}" for suffix in FIGURE_SUFFIXES[:2]]
    with drawn_with(choices, own=choices != Choices() or out is not None):
        figure = result.figure()
        for target in targets:
            write_figure(figure, target)
    if output.as_json:
        echo(as_json({"figures": [str(t) for t in targets]}))
    elif not output.quiet:
        echo(f"Wrote {' and '.join(printable(str(t)) for t in targets)}")


HEATMAPS = (COMPARISON, TRAJECTORY, MATRIX)
"""Kinds of run whose page has one."""


def _unused(choices: Choices, kind: str) -> list[str]:
    """Choices that were made of what is not drawn."""
    default, of_pair = Choices(), kind == COMPARISON
    coloured = kind in HEATMAPS and choices.what in (PAGE, "heatmap")
    drawn = {
        "range": coloured,
        "cmap": coloured,
        "annotate": of_pair and choices.what in (PAGE, "heatmap"),
        "biased": of_pair and choices.what in (PAGE, "layers"),
    }
    made = [name for name, there in drawn.items() if not there and getattr(choices, name) != getattr(default, name)]
    return ["--no-biased" if name == "biased" else f"--{name}" for name in made]


@with_options()
def layers_command(
    model: str = option(MISSING, "demo:NAME, a directory, org/name or org/name@revision.", argument=True),
    *,
    device: str = option("auto", "auto, cpu, cuda, cuda:N or mps."),
    trust_remote_code: bool = option(False, "Run code that comes with a model. Read it first."),
    allow_bin: bool = option(False, "Read pytorch_model.bin, as tensors alone, where there are no safetensors."),
    stack: Literal["encoder", "text"] | None = option(None, "As in `cka compare`.", shown="none"),
    output: Output,
) -> None:
    """List what can be hooked in a model.

    Example: cka layers demo:clm-detour
    """
    from cka_tools.models import load_model

    loading = {"trust_remote_code": trust_remote_code, "allow_bin": allow_bin, "stack": stack}
    loaded = load_model(model, device=device, **loading)
    described, first = loaded.blocks, f"input of {loaded.blocks[0].path}" if loaded.embeddings_seen else None

    def show(console: Console) -> None:
        kinds = sorted({f"{layer.kind}, width {layer.width}" for layer in described})
        console.print(Text(f"{len(described)} layers of {'; '.join(kinds)}"))
        reach = [str(x.scope) if x.window is None else f"{x.scope}, ±{x.window} tokens" for x in described]

        def ends(values: list[str], *around: str | None) -> list[str]:
            return [around[0] or NOTHING, *values, around[1] or NOTHING]

        columns = [Column("layer", ends([str(x.index) for x in described], "embeddings", "final norm"), justify="left")]
        for name, at, keep in (("residual", "path", ALWAYS), ("attention", "attention", 4), ("mlp", "mlp", 3)):
            around = (first, loaded.final_norm) if name == "residual" else (None, None)
            cells = ends([str(getattr(x, at) or NOTHING) for x in described], *around)
            columns.append(Column(name, cells, keep, "left"))
        columns.append(Column("reach", ends(reach, None, None), 5, "left"))
        print_table(console, columns, "--json")
        if (blocks := len({layer.path for layer in described})) < len(described):
            say(console, f"Layers share weights: {len(described)} layers are runs of {counted(blocks, 'block')}.")
        last = "is what comes out: the model has no norm after it"
        if loaded.final_norm is not None:
            last = "is taken before the final norm, which hidden_states[-1] is after; --final-norm compares that too"
        say(console, f"Layer {len(described) - 1} {last}. --layers embeddings is what goes into layer 0.")

    listed = [layer.to_dict() for layer in described]
    listed[-1]["final_norm"] = loaded.final_norm
    data = as_json(listed)
    emit(show, data, output)


@with_options()
def summary_command(
    runs: tuple[Path, ...] = option(
        MISSING,
        "Run directories that `cka compare` wrote (what else there is, as in comparisons/*, is passed over), or one of "
        "`cka needle` or `cka evaluate`.",
        argument=True,
    ),
    *,
    label: tuple[str, ...] = option((), "Name of a row, once for each run (or model).", shown="the models"),
    layout: Literal["table", "csv", "markdown", "latex", "model-index"] = option(
        "table", "For the terminal, or to paste into a paper, or (of an evaluation) into a model card.", flag="--format"
    ),
    columns: str = option(
        "",
        "Columns to show, as mean,ratio: mean, mean-biased, early, early-biased, noise, ratio, n, corpus.",
        shown="all; CSV and JSON always",
    ),
    caption: str | None = option(None, "Caption of the table, in LaTeX in a float.", shown="what the runs share"),
    latex_label: str | None = option(None, "Name for \\ref, as tab:cka; in a float.", shown="none"),
    fit: bool = option(False, "In LaTeX, shrink the table to the width of the text where it is wider."),
    output: Output,
) -> None:
    """Put several runs into one table, as a paper prints it.

    CSV and JSON hold fractions.

    Example: cka summary comparisons/base comparisons/large --label Base --label Large --format latex --out table.tex
    """
    from cka_tools.comparison.summary import FORMATS, read_runs, summary_table, to_latex
    from cka_tools.terminal.many_report import print_summary

    if layout != "latex" and (fit or latex_label is not None):
        raise UserError(f"{'--fit' if fit else '--latex-label'} is for --format latex, not {layout}: leave it out")
    kind = run_kind(runs[0]) if len(runs) == 1 else None
    if layout == "model-index" and kind != EVALUATION:
        raise UserError("--format 'model-index' is for one run of `cka evaluate`: name it, or take another format")
    chosen = [part.strip() for part in columns.split(",")] if columns.strip() else []
    if kind in (NEEDLE, EVALUATION):
        if chosen:
            raise UserError(f"--columns {columns!r} is for runs of `cka compare`: leave it out")
        found = _table_of_one(open_run(runs[0]), label, caption)
    else:
        read, skipped = read_runs(runs)
        kept = label
        if len(label) == len(runs):  # names of what was passed over are not needed
            kept = tuple(name for name, run in zip(label, read, strict=True) if run is not None)
        found = summary_table([run for run in read if run is not None], kept, chosen, caption)
        for text in skipped:
            tell(f"note: {printable(text)}: passed over")
    if layout != "model-index" and (output.as_json or layout == "table"):
        emit(lambda console: print_summary(found, console), _summary_json(found), output)
        return
    if layout == "model-index":
        from cka_tools.comparison.model_index import model_index_yaml

        text = "\n".join(model_index_yaml(Evaluation.load(runs[0])))
    elif layout == "latex":
        text = to_latex(found, fit=fit, label=latex_label, floating=caption is not None)
    else:
        text = FORMATS[layout](found)
    if output.out is not None:
        write_whole(output.out, text)
    elif not output.quiet:
        echo(text, end="")


def _table_of_one(run: RunResult, labels: Sequence[str], caption: str | None) -> SummaryTable:
    """The table of a needle or of an evaluation, whose rows are models."""
    from cka_tools.comparison.evaluation_table import evaluation_summary
    from cka_tools.comparison.needle_table import needle_summary

    if isinstance(run, Evaluation):
        return evaluation_summary(run, labels, caption)
    assert isinstance(run, Needle)
    return needle_summary(run, labels, caption)


def _summary_json(found: SummaryTable) -> str:
    rows: list[dict[str, Any]] = [
        {str(name): value for name, value in row.items()}
        for row in found.frame.astype(object).where(found.frame.notna(), None).to_dict("records")
    ]
    return as_json({"runs": rows, "notes": found.notes})
