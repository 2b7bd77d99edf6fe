"""Saved runs → one table as a paper prints it, for the terminal, CSV, Markdown and LaTeX."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd

from cka_tools.comparison.record import COMMANDS, COMPARISON, EVALUATION, MEANS, NEEDLE, JsonObject, csv_bytes
from cka_tools.comparison.results import Comparison
from cka_tools.comparison.run_directory import RESULT, run_kind
from cka_tools.errors import UserError
from cka_tools.formatting import (
    ELLIPSIS,
    NOTHING,
    layer_list,
    level_in_words,
    percent,
    printable,
    quoted,
    shown_names,
    times,
)

NAME_LETTERS = 40


@dataclass(frozen=True)
class Cell:
    """What a cell says: text, an interval's ends where it has one, and whether it is marked as the best."""

    text: str
    interval: tuple[str, str] | None = None
    best: bool = False


COLUMNS: Final = {
    "mean": "mean %",
    "mean-biased": "mean % biased",
    "early": "early %",
    "early-biased": "early % biased",
    "noise": "seed noise %",
    "ratio": "ratio",
    "n": "n",
    "corpus": "corpus",
}
"""Columns beside the run's name by what a user calls them, and their heads."""


@dataclass(frozen=True)
class Column:
    """A column: its head and one cell a run; `name` is text, the others are numbers."""

    head: str
    cells: list[Cell]
    name: bool = False


@dataclass(frozen=True)
class SummaryTable:
    """Several runs side by side.

    Attributes:
        frame: one row a run, fractions, NaN where a value cannot be given.
        columns: the same as a reader sees it, percentages.
        caption: what all runs have in common.
        notes: where numbers are not comparable, and why values are missing.
    """

    frame: pd.DataFrame
    columns: list[Column]
    caption: str
    notes: list[str]


OF_ONE_RUN = (EVALUATION, NEEDLE)
ALONE = ", whose table is of one run: name it alone"


def read_runs(folders: Sequence[Path]) -> tuple[list[Comparison | None], list[str]]:
    """Load comparisons; what else stands beside them, as in `runs/*`, is passed over.

    Returns:
        for each folder its comparison, or None; and a line for each that was passed over.

    Raises:
        UserError: none of them is a comparison, or one is not there or damaged.
    """
    found: list[Comparison | None] = []
    skipped: list[str] = []
    for folder in folders:
        if not folder.exists():
            raise UserError(f"{str(folder)!r} is not a run: there is nothing of that name")
        kind = run_kind(folder)
        if kind is None and not (folder / RESULT).exists():
            skipped.append(f"{str(folder)!r} holds no {RESULT}")
        elif kind in COMMANDS and kind != COMPARISON:
            skipped.append(f"{str(folder)!r} is a run of `cka {COMMANDS[kind]}`{ALONE if kind in OF_ONE_RUN else ''}")
        else:
            found.append(Comparison.load(folder))
            continue
        found.append(None)
    if not any(found):
        told = f": {skipped[0]}" if skipped else ""
        hint = "" if told.endswith(ALONE) else "; name directories that it wrote"
        raise UserError(f"no run of `cka compare` given{told}{hint}")
    return found, skipped


def summary_table(
    runs: Sequence[Comparison], labels: Sequence[str] = (), columns: Sequence[str] = (), caption: str | None = None
) -> SummaryTable:
    """Make the table.

    Args:
        labels: names of the rows; by default the two models' names.
        columns: some of `COLUMNS`, in the order wanted; by default all that the runs have.
        caption: in place of one that says what the runs have in common.

    Raises:
        UserError: another number of labels than of runs, or a column that is not known or that no run has.
    """
    check_labels(labels, len(runs), "runs")
    pairs = [" vs ".join(shown_names(run.record, NAME_LETTERS)[:2]) for run in runs]
    names = _told_apart([printable(label) for label in labels] or pairs)
    rows = [_row(name, run) for name, run in zip(names, runs, strict=True)]
    all_columns, shared = _columns(names, runs)
    chosen = _chosen(all_columns, columns)
    return SummaryTable(pd.DataFrame(rows), chosen, printable(caption or shared).rstrip("."), _notes(names, runs))


def check_labels(labels: Sequence[str], count: int, what: str) -> None:
    """Raise a UserError for labels that are not one for each of so many rows.

    Args:
        what: the rows are of.
    """
    if labels and len(labels) != count:
        raise UserError(f"{len(labels)} labels for {count} {what}: give --label once for each, or not at all")


def _chosen(all_columns: list[Column], names: Sequence[str]) -> list[Column]:
    """The columns of these names; n and corpus are said in the caption where all runs share them."""
    by_head = {column.head: column for column in all_columns}
    for name in names:
        if name not in COLUMNS:
            raise UserError(f"column {quoted(name)} is not one of {', '.join(COLUMNS)}")
        if name in ("noise", "ratio") and COLUMNS[name] not in by_head:
            raise UserError(f"column {name!r} is empty: no run has a control; leave it out")
    heads = [COLUMNS[name] for name in dict.fromkeys(names)]
    return [all_columns[0], *(by_head[head] for head in heads if head in by_head)] if names else all_columns


def _told_apart(names: list[str]) -> list[str]:
    """Names that occur twice with a number behind them."""
    return [
        f"{name} ({names[: at + 1].count(name)})" if names.count(name) > 1 else name for at, name in enumerate(names)
    ]


def _entry(run: Comparison, part: str, of: str) -> JsonObject | None:
    """An interval of the record; None where the run has no control."""
    summary = run.summary
    if part == "pair":
        return summary[f"{of}_divergence"]["debiased"]
    if part not in summary:
        return None
    return summary["ratio"][of] if part == "ratio" else summary["control"][f"{of}_divergence"]["debiased"]


def _row(name: str, run: Comparison) -> dict[str, Any]:
    summary = run.summary
    row: dict[str, Any] = {"run": name, "model_a": run.names[0], "model_b": run.names[1]}
    row |= {"control": run.control, "corpus": _corpus(run), "documents": summary["n_documents"]}
    row["early_layers"] = layer_list(summary["early_layers"])
    reasons = []
    for part, prefix in (("pair", ""), ("control", "control_"), ("ratio", "ratio_")):
        for of in MEANS:
            entry = _entry(run, part, of) or {}
            column = f"{prefix}{of}" + ("" if part == "ratio" else "_divergence")
            row[column] = entry.get("value")
            row[f"{column}_ci_low"], row[f"{column}_ci_high"] = entry.get("ci_low"), entry.get("ci_high")
            if part == "pair":
                row[f"{column}_biased"] = summary[f"{of}_divergence"]["biased"]["value"]
            reasons += [entry["reason"]] if entry.get("reason") else []
    return row | {"reason": "; ".join(dict.fromkeys(reasons)) or None}


def _corpus(run: Comparison) -> str:
    return str(run.record["provenance"]["corpus"]["spec"])


def _columns(names: list[str], runs: Sequence[Comparison]) -> tuple[list[Column], str]:
    """What is printed, and in words what all runs share and need no column."""
    columns = [Column("run", [Cell(name) for name in names], name=True)]
    for of in MEANS:
        entries = [_entry(run, "pair", of) for run in runs]
        columns.append(Column(f"{of} %", [interval_cell(e, percent) for e in entries]))
        biased = [run.summary[f"{of}_divergence"]["biased"]["value"] for run in runs]
        columns.append(Column(f"{of} % biased", [Cell(percent(value)) for value in biased]))
    if any(run.control is not None for run in runs):
        columns.append(Column("seed noise %", [interval_cell(_entry(r, "control", "mean"), percent) for r in runs]))
        columns.append(Column("ratio", [interval_cell(_entry(r, "ratio", "mean"), times) for r in runs]))
    level = level_in_words(runs[0].summary)
    shared = [f"divergence 1 − CKA, debiased, {level} interval over documents, and biased"]
    early_layers = {layer_list(run.summary["early_layers"]) for run in runs}
    if len(early_layers) == 1:
        shared.append(f"early layers {early_layers.pop()}")
    for head, word, values in (
        ("n", "n = {}", [f"{run.summary['n_documents']:,}" for run in runs]),
        ("corpus", "corpus {}", [printable(_corpus(run)) for run in runs]),
    ):
        if len(set(values)) == 1:
            shared.append(word.format(values[0]))
        else:
            columns.append(Column(head, [Cell(value) for value in values], name=head == "corpus"))
    return columns, "; ".join(shared)


def interval_cell(entry: JsonObject | None, write: Callable[[float | None], str], best: bool = False) -> Cell:
    """What a cell says of an interval of the record."""
    if entry is None or entry["value"] is None:
        return Cell(NOTHING)
    low, high = entry["ci_low"], entry["ci_high"]
    return Cell(write(entry["value"]), None if low is None or high is None else (write(low), write(high)), best)


def _notes(names: list[str], runs: Sequence[Comparison]) -> list[str]:
    found = [conditions(run) for run in runs]
    differ = [what for what in found[0] if len({str(one[what]) for one in found}) > 1]
    if "documents" in differ and len({_corpus(run) for run in runs}) > 1:
        differ.insert(0, "corpus")
    notes = []
    if differ:
        notes.append(f"Runs differ in {', '.join(differ)}: their numbers are not comparable as they stand.")
    for name, run in zip(names, runs, strict=True):
        for part, what in (("pair", "divergence"), ("control", "seed noise"), ("ratio", "ratio")):
            entry = _entry(run, part, "mean")
            if entry is not None and entry.get("reason"):
                missing = what if entry["value"] is None else f"interval of the {what}"
                notes.append(f"{name}: no {missing}; {printable(entry['reason'])}.")
    return notes


def conditions(run: Comparison) -> dict[str, Any]:
    """What has to be the same for two runs' numbers to be comparable."""
    origin = run.record["provenance"]
    # Texts by content: the same file under two names is one corpus.
    texts = [draw["fingerprint"] for draw in origin["corpus"].get("draws", [])]
    fixed = {"documents": (texts, run.summary["n_documents"]), "early layers": run.summary["early_layers"]}
    names = ("pooling", "sites", "max_length", "dtype")
    return fixed | {name.replace("_", " "): origin["settings"].get(name) for name in names}


_LATEX: Final = str.maketrans(
    {
        **{letter: f"\\{letter}" for letter in "{}%&$#_"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        '"': r"\textquotedbl{}",
        # At a row's start these two would be read as options of the line break before them.
        "[": "{[}",
        "*": "{*}",
        NOTHING: "--",
        "−": "$-$",
        ELLIPSIS: r"\ldots{}",
    }
)
_MARKDOWN: Final = str.maketrans({letter: f"\\{letter}" for letter in r"\`*_[]<>#|$~^&"})


def latex_escaped(text: str) -> str:
    """Text that LaTeX prints as it stands."""
    return printable(text).translate(_LATEX)


def markdown_escaped(text: str) -> str:
    """Text that Markdown prints as it stands, also within a table."""
    return printable(text).translate(_MARKDOWN)


def to_csv(table: SummaryTable) -> str:
    """One row a run, fractions; an empty field is a value that cannot be given."""
    return csv_bytes(table.frame).decode()


def to_markdown(table: SummaryTable) -> str:
    """A table of GitHub's kind, caption under it, notes as a list."""

    def cell(one: Cell) -> str:
        interval = "" if one.interval is None else " ({} to {})".format(*one.interval)
        text = markdown_escaped(one.text)
        return (f"**{text}**" if one.best else text) + interval

    heads = [markdown_escaped(column.head) for column in table.columns]
    lines = [heads, ["---" if column.name else "---:" for column in table.columns], *_rows(table, cell)]
    text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    text += f"\n{markdown_escaped(table.caption)}.\n"
    return text + "".join(f"\n- {markdown_escaped(note)}" for note in table.notes) + "\n" * bool(table.notes)


def to_latex(table: SummaryTable, *, fit: bool = False, label: str | None = None, floating: bool = False) -> str:
    """A tabular with booktabs; intervals small and in brackets; notes as comments.

    Args:
        fit: shrink it to the width of the text where it is wider.
        label: of the float, as `\\ref` takes it.
        floating: put it into a float with its caption, as a label does; else the caption is a comment.

    Raises:
        UserError: a label that TeX would not take as it stands.
    """
    if label is not None and not re.fullmatch(r"[A-Za-z0-9:._/-]+", label):
        raise UserError(f"label {quoted(label)} does not fit: use letters, digits and : . _ - / as in tab:cka")

    def cell(one: Cell) -> str:
        text = f"\\textbf{{{_signed(one.text)}}}" if one.best else _signed(one.text)
        if one.interval is None:
            return text
        low, high = map(_signed, one.interval)
        return f"{text} {{\\footnotesize [{low}, {high}]}}"

    columns = "".join("l" if column.name else "r" for column in table.columns)
    head = " & ".join(latex_escaped(column.head) for column in table.columns)
    floating = floating or label is not None
    packages = ["\\usepackage{booktabs}"] + ["\\usepackage{adjustbox}"] * fit
    comments = [f"Needs {' and '.join(packages)}.", *([] if floating else [f"{table.caption}."]), *table.notes]
    lines = [f"\\begin{{tabular}}{{{columns}}}", "\\toprule", f"{head} \\\\", "\\midrule"]
    lines += [f"{' & '.join(row)} \\\\" for row in _rows(table, cell)]
    lines += ["\\bottomrule", "\\end{tabular}"]
    if fit:
        lines = ["\\begin{adjustbox}{max width=\\linewidth}", *lines, "\\end{adjustbox}"]
    if floating:
        named = [f"\\label{{{label}}}"] * (label is not None)
        about = ["\\centering", f"\\caption{{{latex_escaped(table.caption)}.}}", *named]
        lines = ["\\begin{table}", *about, *lines, "\\end{table}"]
    return "\n".join([*(f"% {printable(comment)}" for comment in comments), *lines]) + "\n"


def _signed(text: str) -> str:
    """Text for LaTeX, a number with a minus sign that is one."""
    return re.sub(r"^(\\textgreater\{\} )?-(?=\d)", r"\1$-$", latex_escaped(text))


def _rows(table: SummaryTable, write: Callable[[Cell], str]) -> list[list[str]]:
    return [[write(cell) for cell in row] for row in zip(*(c.cells for c in table.columns), strict=True)]


FORMATS: Final[dict[str, Callable[[SummaryTable], str]]] = {"csv": to_csv, "markdown": to_markdown, "latex": to_latex}
