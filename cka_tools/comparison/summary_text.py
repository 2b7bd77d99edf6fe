"""The table of several runs as CSV, Markdown and LaTeX; text is escaped in each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from cka_tools.comparison.summary_table import Cell, SummaryTable
from cka_tools.formatting import ELLIPSIS, NOTHING, printable

_LATEX: Final = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "%": r"\%",
    "&": r"\&",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
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
_MARKDOWN: Final = frozenset(r"\`*_[]<>#|$~^&")


def latex_escaped(text: str) -> str:
    """Text that LaTeX prints as it stands."""
    return "".join(_LATEX.get(letter, letter) for letter in printable(text))


def markdown_escaped(text: str) -> str:
    """Text that Markdown prints as it stands, also within a table."""
    return "".join(f"\\{letter}" if letter in _MARKDOWN else letter for letter in printable(text))


def to_csv(table: SummaryTable) -> str:
    """One row a run, fractions; an empty field is a value that cannot be given."""
    return table.frame.to_csv(index=False, lineterminator="\n")


def to_markdown(table: SummaryTable) -> str:
    """A table of GitHub's kind, caption under it, notes as a list."""

    def cell(one: Cell) -> str:
        interval = "" if one.interval is None else " ({} to {})".format(*one.interval)
        return markdown_escaped(one.text) + interval

    heads = [markdown_escaped(column.head) for column in table.columns]
    lines = [heads, ["---" if column.name else "---:" for column in table.columns], *_rows(table, cell)]
    text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    text += f"\n{markdown_escaped(table.caption)}.\n"
    return text + "".join(f"\n- {markdown_escaped(note)}" for note in table.notes) + "\n" * bool(table.notes)


def to_latex(table: SummaryTable) -> str:
    """A tabular with booktabs; intervals small and in brackets; caption and notes as comments."""

    def cell(one: Cell) -> str:
        text = latex_escaped(one.text) if one.interval is None else _number(one.text)
        if one.interval is None:
            return _number(one.text) if _is_number(one.text) else text
        low, high = map(_number, one.interval)
        return f"{text} {{\\footnotesize [{low}, {high}]}}"

    columns = "".join("l" if column.name else "r" for column in table.columns)
    head = " & ".join(latex_escaped(column.head) for column in table.columns)
    comments = ["Needs \\usepackage{booktabs}.", f"{table.caption}.", *table.notes]
    lines = [f"% {printable(comment)}" for comment in comments]
    lines += [f"\\begin{{tabular}}{{{columns}}}", "\\toprule", f"{head} \\\\", "\\midrule"]
    lines += [f"{' & '.join(row)} \\\\" for row in _rows(table, cell)]
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}"]) + "\n"


def _is_number(text: str) -> bool:
    return text.startswith("-") and text[1:2].isdigit()


def _number(text: str) -> str:
    """A number with a minus sign that is one."""
    return f"$-${text[1:]}" if _is_number(text) else latex_escaped(text)


def _rows(table: SummaryTable, write: Callable[[Cell], str]) -> list[list[str]]:
    return [[write(cell) for cell in row] for row in zip(*(c.cells for c in table.columns), strict=True)]


FORMATS: Final[dict[str, Callable[[SummaryTable], str]]] = {
    "csv": to_csv,
    "markdown": to_markdown,
    "latex": to_latex,
}
