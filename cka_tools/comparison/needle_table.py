"""The table of a needle run as a paper prints it: models × lengths, a column block a probe."""

from __future__ import annotations

from collections.abc import Sequence

from cka_tools.comparison.readout_results import Needle
from cka_tools.comparison.summary import Cell, Column, SummaryTable, check_labels, interval_cell
from cka_tools.formatting import needle_in_words, percent, printable

HEADS = {"mlp": "MLP", "logistic": "logistic"}


def needle_summary(run: Needle, labels: Sequence[str] = (), caption: str | None = None) -> SummaryTable:
    """Accuracy of every model's output over all examples and those of each length, and chance.

    Args:
        labels: names of the models' rows; by default as they were given. caption: in place of one that says what
            the numbers are.

    Raises:
        UserError: another number of labels than of models.
    """
    models, summary = run.models, run.summary
    check_labels(labels, len(models), "models")
    names = [*(labels or [one["name"] for one in models]), "chance"]
    columns = [Column("model", [Cell(printable(name)) for name in names], name=True)]
    outputs = [next(layer for layer in one["layers"] if layer["output"])["probes"] for one in models]
    several = len(summary["lengths"]) > 1
    for probe, title in HEADS.items():
        for at, group in enumerate(run.groups):
            if group["position"] is not None or (group["length"] is not None and not several):
                continue
            entries = [found[probe]["accuracy"][at] for found in outputs]
            cells = [interval_cell(one, percent) for one in entries] + [Cell(percent(summary["chance"]))]
            what = "" if group["length"] is None else f", {group['length']:,}"
            columns.append(Column(f"{title}{what} %", cells))
    words = "; ".join(needle_in_words(run.record))
    told = f"accuracy over {summary['n_documents']:,} examples of test, 95 % intervals over them; {words}"
    return SummaryTable(run.to_frame(), columns, printable(caption or told).rstrip("."), list(summary["notes"]))
