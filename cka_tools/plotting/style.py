"""The look of every figure: column widths, sizes, palette, and how a figure is written to a file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike, fspath
from pathlib import PurePath
from typing import IO, Any, Final
from warnings import catch_warnings, filterwarnings

import matplotlib.style
from matplotlib.figure import Figure
from matplotlib.patches import Patch

COLUMN_WIDTH: Final = 3.4
"""Inches: one column of a two-column page."""

PAGE_WIDTH: Final = 7.2
"""Inches: both columns."""

TITLE, TEXT, SMALL, TINY = 9.0, 7.0, 6.5, 5.8
"""Font sizes in points."""

# Dark, middling and light, so that grey keeps them apart; each also has its own marker and line style.
DARK, MIDDLE, LIGHT = "#12355b", "#c8553d", "#3fa796"
NOISE = "#7b5ea7"
INK, FAINT, BAND, VOID = "#222222", "#8a8a8a", "#ececec", "#e4e4e4"
VOID_HATCH = "//////"
HEAT = "cividis"
"""Perceptually uniform, monotonous in grey, the same to colour-blind readers."""

Look = dict[str, Any]
"""Artist properties."""

_SETTINGS: Final[dict[str, Any]] = {
    "figure.dpi": 220,
    "savefig.dpi": "figure",
    "savefig.bbox": "standard",
    "pdf.fonttype": 42,
    "ps.fonttype": 42,
    "svg.hashsalt": "cka-tools",
    "font.family": ["sans-serif"],
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": TEXT,
    "text.usetex": False,
    "text.color": INK,
    "axes.labelsize": TEXT,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "lines.linewidth": 1.1,
    "lines.markersize": 3.4,
    "lines.markeredgewidth": 0.8,
    "hatch.linewidth": 0.4,
    "legend.fontsize": SMALL,
    "legend.frameon": False,
    "legend.borderpad": 0.0,
    "legend.borderaxespad": 0.3,
    "legend.labelspacing": 0.25,
    "legend.handlelength": 1.9,
    "legend.handletextpad": 0.5,
    "legend.columnspacing": 1.0,
}

_UNDATED: Final[dict[str, dict[str, None]]] = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}


@contextmanager
def figure_style() -> Iterator[None]:
    """matplotlib's defaults with these settings on top, whatever the user's own are; undone on leaving."""
    with matplotlib.style.context(["default", _SETTINGS]), catch_warnings():
        # A name in a script that the font lacks is drawn as boxes; the run holds it in full.
        filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def undefined_key(label: str = "undefined") -> Patch:
    """The legend's key for what is not defined, or not there."""
    return Patch(facecolor=VOID, edgecolor=FAINT, hatch=VOID_HATCH, linewidth=0, label=label)


class StyledFigure(Figure):
    """A figure that is written in its own style wherever it is saved: fonts embedded as TrueType, no date."""

    def savefig(self, fname: str | PathLike[str] | IO[bytes], **kwargs: Any) -> None:
        """As `Figure.savefig`; the same figure gives the same bytes."""
        with figure_style():
            suffix = PurePath(fspath(fname)).suffix[1:] if isinstance(fname, str | PathLike) else ""
            undated = _UNDATED.get((kwargs.get("format") or suffix).lower())
            if undated is not None:
                kwargs["metadata"] = undated | (kwargs.get("metadata") or {})
            super().savefig(fname, **kwargs)
