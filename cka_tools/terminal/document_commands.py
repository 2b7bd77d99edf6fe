"""`cka diff` and `cka documents`: what saved comparisons say of their differences and of single documents."""

from __future__ import annotations

import json
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console

from cka_tools.comparison.results import Comparison
from cka_tools.formatting import NOTHING, counted, p_value, percent, percent_interval, printable, shorten
from cka_tools.settings import check_options, option
from cka_tools.terminal.options import Output, with_options
from cka_tools.terminal.output import emit, say
from cka_tools.terminal.tables import Column, print_table

if TYPE_CHECKING:
    from cka_tools.comparison.run_difference import DifferenceTable

DOCUMENT_LETTERS = 30


@with_options()
def diff_command(
    runs: tuple[Path, ...] = option(MISSING, "One or two run directories of `cka compare`.", argument=True),
    *,
    difference: Literal["layers", "early-late"] = option(
        "layers", "Layer by layer with both means, or early layers less the later ones."
    ),
    output: Output,
) -> None:
    """Say whether one run's divergence is larger than another's.

    The difference over the same documents, with paired intervals.

    Example: cka diff comparisons/clm comparisons/mlm
    """
    from cka_tools.comparison.run_difference import difference as differ
    from cka_tools.errors import UserError

    if len(runs) not in (1, 2):
        raise UserError(f"{len(runs)} runs given: name two, or one with --difference early-late")
    loaded = [Comparison.load(run) for run in runs]
    found = differ(loaded[0], loaded[1] if len(loaded) > 1 else None, difference)
    data = {"over": found.over, "n_documents": found.n_documents, "rows": found.rows, "notes": found.notes}
    emit(lambda console: print_difference(found, runs, console), json.dumps(data, ensure_ascii=False), output)


def print_difference(found: DifferenceTable, runs: tuple[Path, ...], console: Console) -> None:
    """Print both divergences, their difference with its intervals, and what is clear of 0."""
    for number, run in zip("12", runs, strict=False):
        say(console, (f"{number} ", "bold"), printable(str(run)))
    rows = found.rows
    columns = [Column("layer", [printable(row["row"]) for row in rows], justify="left")]
    if len(runs) == 2:
        columns += [
            Column(f"{n} %", [percent(row[key]) for row in rows]) for n, key in (("1", "first"), ("2", "second"))
        ]
    columns += [
        Column("difference\npoints", [percent(row["difference"]["value"]) for row in rows]),
        Column("95 % interval", [percent_interval(row["difference"]) or NOTHING for row in rows]),
        Column("for all layers", [percent_interval(row["together"]) or NOTHING for row in rows], 2),
        Column("p", [p_value(row["p"]) for row in rows], 1),
    ]
    print_table(console, columns, "the JSON")
    for note in found.notes:
        say(console, ("note ", "bold"), note)
    say(console, found.sentence(), style="bold")


@dataclass(frozen=True)
class Top:
    """How many documents are listed."""

    top: int = option(20, "Documents to list.", least=1)

    def __post_init__(self) -> None:
        """Check the number."""
        check_options(self, "--")


@with_options()
def documents_command(
    run: Path = option(MISSING, "A run directory of `cka compare`.", argument=True), *, top: Top, output: Output
) -> None:
    """List the documents that move the mean divergence most.

    Example: cka documents comparisons/detour --top 20
    """
    from cka_tools.comparison.influential import influential_documents

    result = Comparison.load(run)
    found = influential_documents(result, top.top)
    mean = result.summary["mean_divergence"]["debiased"]["value"]
    emit(
        lambda console: print_documents(result, found, console),
        json.dumps({"mean_divergence": mean, "documents": found}, ensure_ascii=False),
        output,
    )


def print_documents(result: Comparison, found: list[dict[str, Any]], console: Console) -> None:
    """Print a line a document: what the mean is without it, and the layer that it moves most."""
    mean = result.summary["mean_divergence"]["debiased"]["value"]
    columns = [
        Column("document", [shorten(one["document"], DOCUMENT_LETTERS) for one in found], justify="left"),
        Column("moves mean\npoints", [f"{100 * one['moves']:+z.3f}" for one in found]),
        Column("mean without\nit %", [f"{100 * one['without']:z.2f}" for one in found]),
        Column("share of\nvariance %", [percent(one["share"]) for one in found]),
        Column("most in\nlayer", [str(one["layer"]) for one in found], 2),
        Column("there\npoints", [f"{100 * one['layer_moves']:+z.3f}" for one in found], 1),
    ]
    print_table(console, columns, "the JSON")
    total = sum(one["share"] or 0 for one in found)
    say(
        console,
        f"Mean divergence {percent(mean)} % over {counted(result.summary['n_documents'], 'document')}; these "
        f"{len(found)} hold {percent(total)} % of its sampling variance. A document with + drives the models apart.",
        style="bold",
    )
