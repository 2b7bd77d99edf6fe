"""A result as HTML without scripts, as notebooks show it; escaping and tables for the report as well."""

from __future__ import annotations

import io
from base64 import b64encode
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cka_tools.comparison.findings import findings
from cka_tools.comparison.shown_tables import shown_tables
from cka_tools.errors import one_line
from cka_tools.formatting import printable, visible

if TYPE_CHECKING:
    from jinja2 import Environment

    from cka_tools.comparison.results import RunResult

TEMPLATES = Path(__file__).parent
NOTEBOOK_ROWS, NOTEBOOK_DPI, COLOURS = 40, 110, 256


@lru_cache
def environment(*more: Path) -> Environment:
    """Where pages are made: whatever is put in one is escaped, and on one line but for `lines`.

    Args:
        more: folders of further templates.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import escape

    made = Environment(
        loader=FileSystemLoader([TEMPLATES, *more]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    made.filters["lines"] = lambda text: escape(visible(text, keep="\n"))
    return made


def picture(result: RunResult, dpi: int) -> str | None:
    """The figure of a result as a PNG in a `data:` address, in few colours; None where it cannot be drawn."""
    from PIL import Image

    drawn, small = io.BytesIO(), io.BytesIO()
    try:
        result.figure().savefig(drawn, format="png", dpi=dpi)
    except Exception:  # as where a run is saved: whatever stops it, the numbers are shown without it
        return None
    image = Image.open(drawn).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    image.save(small, "PNG", optimize=True)
    return f"data:image/png;base64,{b64encode(small.getvalue()).decode()}"


def notebook_html(result: RunResult) -> str:
    """Summary, main table and figure of a result; no scripts, everything escaped."""
    try:
        page = environment().get_template("notebook.html")
        table = shown_tables(result)[0]
        given: dict[str, Any] = {"said": findings(result), "table": table, "rows": NOTEBOOK_ROWS}
        return page.render(**given, picture=picture(result, NOTEBOOK_DPI))
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(
            f"this {result.kind} cannot be shown: its record lacks something ({one_line(error)})"
        ) from error
