"""`cka report`."""

from __future__ import annotations

from dataclasses import MISSING, dataclass
from pathlib import Path

from cka_tools.comparison.run_directory import REPORT
from cka_tools.formatting import printable, size_in_words
from cka_tools.settings import option
from cka_tools.terminal.options import Output, with_options
from cka_tools.terminal.output import as_json, early_warnings, echo


@dataclass(frozen=True)
class ReportOutput(Output):
    """Where a report goes."""

    out: Path | None = option(None, "File to write, .html.", shown=REPORT, flag="--out -o")


@with_options()
def report_command(
    runs: tuple[Path, ...] = option(MISSING, "Run directories of any command that saves one.", argument=True),
    *,
    title: str | None = option(None, "Over the report.", shown="what was compared"),
    output: ReportOutput,
) -> None:
    """Write one HTML file of runs, to send to others.

    Findings, plots, tables and provenance.

    Example: cka report comparisons/detour comparisons/decay --out report.html
    """
    from cka_tools.report import write_report

    with early_warnings():
        written = write_report(runs, output.out or Path(REPORT), title=title)
    size = written.stat().st_size
    if output.as_json:
        echo(as_json({"report": str(written), "bytes": size}))
    elif not output.quiet:
        echo(f"Wrote {printable(str(written))} ({size_in_words(size)}): open it in a browser")
