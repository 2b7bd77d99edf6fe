"""The report: what runs say, their plots, figures, tables and provenance in one HTML file.

The file asks nothing of a network. Its content-security policy allows the two scripts that it holds, by their
hashes, and no other; all text of runs is escaped where it is put in.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from base64 import b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from warnings import warn

from markupsafe import Markup

from cka_tools import __version__
from cka_tools.comparison.findings import TITLE_LETTERS, Findings, findings
from cka_tools.comparison.html import environment, picture
from cka_tools.comparison.readout_results import open_run
from cka_tools.comparison.record import csv_bytes
from cka_tools.comparison.results import Comparison, RunResult
from cka_tools.comparison.run_difference import DifferenceTable, difference
from cka_tools.comparison.run_directory import RESULT, resolved, write_whole
from cka_tools.comparison.shown_tables import Column, ShownTable, shown_tables
from cka_tools.comparison.summary import summary_table
from cka_tools.errors import EarlyWarning, UserError
from cka_tools.formatting import (
    NOTHING,
    counted,
    p_value,
    percent,
    percent_interval,
    printable,
    shown_names,
    size_in_words,
)
from cka_tools.report.plots import Plot, difference_plot, plots

ASSETS = Path(__file__).parent / "assets"
PLOTLY_VERSION = "4.1.1"
PLOTLY = f"plotly-cartesian-{PLOTLY_VERSION}.min.js"

LARGEST = 5_000_000
"""Bytes of a report."""

DPI, COARSE_DPI = 200, 100
MOST_ROWS = 300
"""Of a table on the page."""

MOST_ITEMS = 2000
"""Of a list in the provenance, such as document ids."""

MOST_DIFFERENCES = 6
"""Comparisons that are held against the first one."""


DIFFERENT = (
    "A larger divergence from one model does not say what made it so: the runs may differ in more than one thing."
)


@dataclass
class _Table:
    shown: ShownTable
    id: str
    file: str
    csv: bytes

    @property
    def left(self) -> int:
        """Rows that the page does not show."""
        return len(self.shown.columns[0].cells) - self.shown.last - MOST_ROWS if self.shown.columns else 0


@dataclass
class _Section:
    """A run on the page."""

    id: str
    place: str
    said: Findings
    plots: list[dict[str, Any]]
    tables: list[_Table]
    result: RunResult | None = None
    picture: str | None = None
    facts: list[tuple[str, str]] = field(default_factory=list)
    provenance: str = ""
    command: str = ""

    @property
    def warnings(self) -> str:
        """How many warnings it has, "" for none."""
        return counted(len(self.said.warned), "warning") if self.said.warned else ""


@dataclass
class _Overview:
    """Several comparisons in one table."""

    caption: str
    notes: list[str]
    table: _Table


def write_report(runs: Sequence[str | Path], out: str | Path, *, title: str | None = None) -> Path:
    """Write saved runs as one HTML file, under 5 MB, that opens without a network.

    Comparisons over the same documents are held against the first one as well, as `cka diff` does. Folders that hold
    no run, such as a training's, are left out with a note.

    Args:
        runs: directories of any command that saves one.
        out: the file to write, `.html`. title: over it; what was compared where none is given.

    Returns:
        the file.

    Raises:
        UserError: no run, one that is damaged, or a place that cannot be written to.
    """
    out = Path(out)
    if out.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--out {str(out)!r} is not the name of a report: end it in .html")
    # Each once, in the order given; a shell's `runs/*` names whatever is there.
    named = [runs] if isinstance(runs, str | Path) else runs
    folders = {resolved(Path(run), "run"): Path(run) for run in named}
    lacking = [run for run in folders.values() if run.is_dir() and not (run / RESULT).is_file()]
    found = [run for run in folders.values() if run not in lacking]
    if not found:
        lacks = f"{str(lacking[0])!r} holds no {RESULT}" if lacking else "no run was named"
        raise UserError(f"{lacks}: name directories that commands such as `cka compare` wrote")
    skipped = [f"{printable(str(run))} holds no run and was left out." for run in lacking]
    for text in skipped:
        warn(text, EarlyWarning, stacklevel=2)
    results = [open_run(run) for run in found]
    sections = [_section(at, run, result) for at, (run, result) in enumerate(zip(found, results, strict=True), 1)]
    sections += _differences(found, results)
    page = _fitting(sections, _overview(results), skipped, title)
    if len(page) > LARGEST:
        warn(
            f"the report has {size_in_words(len(page))}: name fewer runs for a smaller one", EarlyWarning, stacklevel=2
        )
    write_whole(out, page)
    return out


def _section(at: int, run: Path, result: RunResult) -> _Section:
    """A run's part of the page.

    Raises:
        UserError: its record lacks something.
    """
    try:
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", run.resolve().name).strip("-.") or f"run-{at}"
        record = result.record
        return _Section(
            f"run-{at}",
            str(run),
            findings(result),
            [_plot(f"run-{at}-plot-{k}", one) for k, one in enumerate(plots(result.kind, record, result.arrays), 1)],
            [_table(f"run-{at}-table-{k}", one, name) for k, one in enumerate(shown_tables(result), 1)],
            result,
            facts=_facts(result),
            provenance=_pretty(record["provenance"]),
            command=str(record["provenance"].get("command", "")),
        )
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(f"{str(run)!r} is damaged ({reason}): make the run again") from error


def _table(name: str, shown: ShownTable, run: str) -> _Table:
    return _Table(shown, name, f"{run}-{shown.file}", csv_bytes(shown.frame()))


def _plot(name: str, plot: Plot) -> dict[str, Any]:
    spec = {"data": plot.data, "layout": plot.layout}
    return {"id": name, "title": plot.title, "height": plot.height, "wide": plot.wide, "spec": spec}


def _differences(runs: Sequence[Path], results: Sequence[RunResult]) -> list[_Section]:
    """Comparisons over the same documents and layers, each less the first one."""
    comparisons = [(run, one) for run, one in zip(runs, results, strict=True) if isinstance(one, Comparison)]
    sections: list[_Section] = []
    for run, one in comparisons[1:]:
        try:
            found = difference(one, comparisons[0][1])
        except UserError:  # of other documents or layers: nothing to hold against each other
            continue
        if len(sections) < MOST_DIFFERENCES:
            sections.append(_difference(f"difference-{len(sections) + 1}", found, run, comparisons[0][0]))
    return sections


def _overview(results: Sequence[RunResult]) -> _Overview | None:
    """The comparisons among the runs side by side, where there are several."""
    numbered = [(number, one) for number, one in enumerate(results, 1) if isinstance(one, Comparison)]
    if len(numbered) < 2:
        return None
    names = [f"{number}. {' vs '.join(shown_names(one.record, TITLE_LETTERS)[:2])}" for number, one in numbered]
    found = summary_table([one for _, one in numbered], names)
    columns = []
    for column in found.columns:
        cells = [c.text if c.interval is None else "{} ({} to {})".format(c.text, *c.interval) for c in column.cells]
        columns.append(Column(column.head, cells, None if column.name else [_number(c.text) for c in column.cells]))
    shown = ShownTable("Means", columns, "summary.csv", lambda: found.frame)
    caption = f"{found.caption[0].upper()}{found.caption[1:]}."
    return _Overview(caption, found.notes, _table("overview-table", shown, "runs"))


def _number(text: str) -> float | None:
    try:
        return float(text.replace(",", "").removeprefix("< ").removeprefix("> "))
    except ValueError:
        return None


def _difference(name: str, found: DifferenceTable, run: Path, first: Path) -> _Section:
    rows = found.rows
    both = f"{printable(str(run))} less {printable(str(first))}"
    columns = [Column("layer", [printable(str(row["row"])) for row in rows], [float(k) for k in range(len(rows))])]
    for head, key in ((f"{run.name} %", "first"), (f"{first.name} %", "second")):
        columns.append(Column(head, [percent(row[key]) for row in rows], [row[key] for row in rows]))
    for head, key in (("95 % interval", "difference"), ("for all layers at once", "together")):
        if key == "difference":
            values = [row[key]["value"] for row in rows]
            columns.append(Column("difference, points", [percent(value) for value in values], values))
        ends = [row[key]["ci_low"] for row in rows]
        columns.append(Column(head, [percent_interval(row[key]) or NOTHING for row in rows], ends))
    columns.append(Column("p", [p_value(row["p"]) for row in rows], [row["p"] for row in rows]))
    last = sum(row["row"] in ("mean", "early") for row in rows)
    shown = ShownTable("By layer", columns, "difference.csv", found.to_frame, last)
    documents = counted(found.n_documents, "document")
    compared = f"The divergences of two runs over the same {documents} were compared, document by document: {both}."
    said = Findings(f"Difference: {both}", [compared], [found.sentence()], [], [DIFFERENT], list(found.notes))
    drawn = [_plot(f"{name}-plot", difference_plot(found))]
    return _Section(name, both, said, drawn, [_table(f"{name}-table", shown, "runs")])


def _facts(result: RunResult) -> list[tuple[str, str]]:
    """The main things of a run's provenance, a line each."""
    origin, facts = result.record["provenance"], []
    for model in origin["models"]:
        parts = [f"{model['label']}: {model['name']}" if model.get("label") else str(model["name"])]
        for key, words in (("revision", "revision "), ("commit", "commit "), ("weights_sha256", "weights sha256 ")):
            if model.get(key):
                parts.append(f"{words}{model[key]}")
        facts.append((str(model["role"]), ", ".join(parts)))
    corpus = origin["corpus"]
    facts.append(("corpus", str(corpus["spec"])))
    for draw in corpus.get("draws") or ():
        facts.append(
            (f"documents, seed {draw['seed']}" if "seed" in draw else "documents", f"fingerprint {draw['fingerprint']}")
        )
    settings = origin.get("settings", {})
    told = [f"{name} {value}" for name, value in settings.items() if value not in (None, False, [])]
    facts.append(("settings", ", ".join(told)))
    facts.append(("versions", ", ".join(f"{name} {value}" for name, value in origin.get("versions", {}).items())))
    facts.append(("made", str(origin.get("created", NOTHING))))
    return [(name, value) for name, value in facts if value]


def _pretty(data: Any) -> str:
    def cut(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: cut(one) for key, one in value.items()}
        if isinstance(value, list):
            rest = len(value) - MOST_ITEMS
            return [cut(one) for one in value[:MOST_ITEMS]] + ([f"… {rest:,} more in {RESULT}"] if rest > 0 else [])
        return value

    return json.dumps(cut(data), indent=1)


def _fitting(sections: list[_Section], overview: _Overview | None, skipped: Sequence[str], title: str | None) -> bytes:
    """The page; where it would be too large without its largest CSVs, then with coarser figures."""
    for one in sections:
        one.picture = None if one.result is None else picture(one.result, DPI)
    page = _page(sections, overview, skipped, title)
    tables = sorted(_tables(sections, overview), key=lambda table: len(table.csv))
    while len(page) > LARGEST and tables:
        over = len(page) - LARGEST
        while over > 0 and tables:
            left_out = tables.pop()
            over -= len(_packed(left_out.csv))
            left_out.id = ""
        page = _page(sections, overview, skipped, title)
    if len(page) > LARGEST:
        for one in sections:
            one.picture = None if one.result is None else picture(one.result, COARSE_DPI)
        page = _page(sections, overview, skipped, title)
    return page


def _page(sections: Sequence[_Section], overview: _Overview | None, skipped: Sequence[str], title: str | None) -> bytes:
    scripts = {"plotly": _asset(PLOTLY), "script": _asset("report.js")}
    data = {
        "plots": {plot["id"]: plot["spec"] for one in sections for plot in one.plots},
        "tables": {
            table.id: {"name": table.file, "gzip": _packed(table.csv)}
            for table in _tables(sections, overview)
            if table.id
        },
    }
    runs = [one for one in sections if one.result is not None]
    made = sorted(_time(one.result.record["provenance"].get("created")) for one in runs if one.result)
    own = {name: Markup(text) for name, text in scripts.items()}
    own |= {name: Markup(_json(value)) for name, value in data.items()}
    page = (
        environment(ASSETS)
        .get_template("report.html")
        .render(
            policy=_policy(scripts.values()),
            title=title or (runs[0].said.title if len(runs) == 1 else f"Report of {counted(len(runs), 'run')}"),
            subtitle=f"{runs[0].place}, {made[0]}"
            if len(runs) == 1
            else " to ".join(dict.fromkeys((made[0], made[-1]))),
            version=__version__,
            plotly_version=PLOTLY_VERSION,
            style=Markup(_asset("report.css")),
            sections=sections,
            overview=overview,
            skipped=skipped,
            most_rows=MOST_ROWS,
            **own,
        )
    )
    return page.encode("utf-8", "backslashreplace")


def _time(created: Any) -> str:
    """ "2026-11-26T05:17:39+00:00" → "2026-11-26 05:17 UTC"."""
    text = str(created or NOTHING)
    return f"{text[:10]} {text[11:16]} UTC" if text.endswith("+00:00") else text


def _tables(sections: Sequence[_Section], overview: _Overview | None) -> list[_Table]:
    return [table for one in sections for table in one.tables] + ([overview.table] if overview else [])


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


def _policy(scripts: Iterable[str]) -> str:
    """Scripts by their hashes, styles and pictures of this file; nothing from elsewhere, nothing sent anywhere."""
    hashes = [f"'sha256-{b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in scripts]
    # Plots and column widths are styled element by element, which has no hash.
    rules = {"default-src": "'none'", "script-src": " ".join(hashes), "style-src": "'unsafe-inline'",
             "img-src": "data: blob:", "base-uri": "'none'", "form-action": "'none'"}  # fmt: skip
    return "; ".join(f"{name} {value}" for name, value in rules.items())


def _json(data: Any) -> str:
    """JSON that can stand in a script element: no letter of it can end the element or begin a comment."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _packed(content: bytes) -> str:
    return b64encode(gzip.compress(content, 9, mtime=0)).decode()
