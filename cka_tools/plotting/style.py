"""What all figures share: sizes, colours, settings, text that fits its page, axes with plain numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from math import ceil, floor, log10
from os import PathLike, fspath
from pathlib import PurePath
from string import ascii_lowercase
from typing import IO, Any, Final
from warnings import catch_warnings, filterwarnings

import matplotlib.style
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Patch
from matplotlib.textpath import text_to_path
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from cka_tools.figure_choices import SIZES, chosen, own_settings, title_of
from cka_tools.formatting import CORPUS_LETTERS, counted, printable, settings_in_words

POINTS_PER_INCH = 72.0
LINE_HEIGHT = 1.3
"""Distance of lines in font sizes."""

_SLACK = 0.98  # hinted text on a raster is up to this much wider than its outlines


@lru_cache(maxsize=4096)
def text_width(text: str, size: float, weight: str = "normal") -> float:
    """Width in inches of a line set in DejaVu Sans."""
    font = FontProperties(family="DejaVu Sans", size=size, weight=weight)
    width, _, _ = text_to_path.get_text_width_height_descent(text, font, ismath=False)
    return float(width) / POINTS_PER_INCH


def break_lines(text: str, width: float, size: float, weight: str = "normal") -> list[str]:
    """Lines no wider than `width` inches; a word is broken only where it is wider itself."""
    fits = lambda line: text_width(line, size, weight) <= width * _SLACK  # noqa: E731
    lines: list[str] = []
    line = ""
    for word in text.split():
        if line and fits(f"{line} {word}"):
            line = f"{line} {word}"
            continue
        if line:
            lines.append(line)
        line = word
        while not fits(line) and len(line) > 1:
            cut = next(k for k in range(len(line) - 1, 0, -1) if k == 1 or fits(line[:k]))
            lines.append(line[:cut])
            line = line[cut:]
    return [*lines, line] if line else lines


def lines_height(lines: list[str], size: float) -> float:
    """Height in inches of a block of lines."""
    return len(lines) * size * LINE_HEIGHT / POINTS_PER_INCH


PAGE_WIDTH: Final = 7.2
"""Inches: both columns of a two-column page."""

TITLE, TEXT, SMALL, TINY = 9.0, 7.0, 6.5, 5.8
"""Font sizes in points."""

# Dark, middling and light, so that grey keeps them apart; each also has its own marker and line style.
DARK, MIDDLE, LIGHT = "#12355b", "#c8553d", "#3fa796"
NOISE = "#7b5ea7"
INK, FAINT, BAND, VOID = "#222222", "#8a8a8a", "#ececec", "#e4e4e4"
Look = dict[str, Any]
"""Artist properties."""

HATCHED: Final[Look] = {"edgecolor": FAINT, "hatch": "//////", "linewidth": 0}
"""An area without a value."""

LOOKS: Final[tuple[Look, ...]] = (
    {"color": DARK, "marker": "o", "linestyle": "-"},
    {"color": MIDDLE, "marker": "s", "linestyle": (0, (4, 2))},
    {"color": LIGHT, "marker": "^", "linestyle": (0, (1, 1.5))},
    {"color": NOISE, "marker": "D", "linestyle": (0, (5, 1.5, 1, 1.5))},
    {"color": FAINT, "marker": "v", "linestyle": (0, (8, 2))},
)
HOLLOW: Final[Look] = {"markerfacecolor": "white"}
FIRST: Final[Look] = LOOKS[0]
SECOND: Final[Look] = LOOKS[1] | HOLLOW
DASHED: Final[Look] = {"color": FAINT, "linewidth": 0.8, "linestyle": (0, (6, 3)), "zorder": 1}
"""A line at a mean, or at 1."""

_TICKS: Final = {"labelsize": SMALL, "color": INK, "major.width": 0.6, "major.size": 2.5}
_SETTINGS: Final[dict[str, Any]] = {
    "figure.dpi": 220,
    "pdf.fonttype": 42,
    "ps.fonttype": 42,
    "svg.hashsalt": "cka-tools",
    "svg.fonttype": "none",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": TEXT,
    # Names of models and corpora hold $, _ and \\: no text is mathematics.
    "text.parse_math": False,
    "text.color": INK,
    "axes.labelsize": TEXT,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.titlelocation": "left",
    "axes.titlesize": TEXT,
    "grid.color": BAND,
    "grid.linewidth": 0.6,
    **{f"{x}tick.{key}": value for x in "xy" for key, value in _TICKS.items()},
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
    """matplotlib's defaults with these settings on top, and the user's own where they were chosen; undone on leaving.

    A chosen size of text scales every size.
    """
    own, font = own_settings(), chosen().font
    base = own.get("font.size", TEXT) if font is None else font
    scaled = {name: _SETTINGS[name] * base / TEXT for name in SIZES} if base != TEXT else {}
    settings = _SETTINGS | scaled | own | ({} if font is None else scaled)
    with matplotlib.style.context(["default", settings]), catch_warnings():
        # A name in a script that the font lacks is drawn as boxes; the run holds it in full.
        filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def panel_letters(panels: Sequence[Axes], aside: float = 0.0) -> None:
    """Write a, b, c, … above the upper left corners of panels.

    Args:
        aside: points further to the left.
    """
    if len(panels) > 1:
        for ax, letter in zip(panels, ascii_lowercase, strict=False):
            look: Look = {"weight": "bold", "size": TITLE, "ha": "right", "va": "baseline", "gid": "letter"}
            ax.annotate(letter, (0, 1), (-6 - aside, 5), xycoords="axes fraction", textcoords="offset points", **look)


class PlainLogLocator(LogLocator):
    """Ticks at plain numbers, two at least and some at most, however many decades the axis spans."""

    def __init__(self, subs: Sequence[float], most: int) -> None:
        super().__init__(subs=tuple(subs), numticks=most)
        self._wanted, self._most = tuple(subs), most

    def tick_values(self, vmin: float, vmax: float) -> Any:
        """As `LogLocator.tick_values`; the multiples that were asked for where they are few enough."""
        low, high = sorted((max(vmin, 1e-300), max(vmax, 1e-300)))
        first, last = floor(log10(low)), ceil(log10(high))
        coarser = [((1.0, 2.0, 5.0), 1), ((1.0, 3.0), 1), *(((1.0,), stride) for stride in range(1, 99))]
        for subs, stride in [(self._wanted, 1), *coarser]:
            ticks = [sub * 10.0**decade for decade in range(first, last + 1, stride) for sub in subs]
            ticks = [tick for tick in ticks if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)]
            if len(ticks) <= self._most:
                break
        return ticks if len(ticks) > 1 else MaxNLocator(nbins=4, steps=[1, 2, 5, 10]).tick_values(low, high)


def plain_log_axis(ax: Axes, subs: Sequence[float], most: int = 12) -> None:
    """A logarithmic y-axis with a grid, labelled with plain numbers.

    Args:
        subs: the multiples of powers of ten that are labelled.
        most: labels at most.
    """
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(PlainLogLocator(subs, most))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.yaxis.set_minor_locator(NullLocator())
    ax.grid(axis="y")


NARROWEST_RATIOS = (0.8, 2.0)
"""Ratios that an axis of them shows at least."""


def ratio_axis(ax: Axes) -> None:
    """A logarithmic y-axis of the ratios that are drawn, with a line at 1."""
    plain_log_axis(ax, (1.0, 2.0, 5.0), 9)
    low, high = ax.get_ylim()
    ax.set_ylim(min(low, NARROWEST_RATIOS[0]), max(high, NARROWEST_RATIOS[1]))
    ax.axhline(1.0, **DASHED)


def undefined_key(label: str = "undefined") -> Patch:
    """The legend's key for what is not defined, or not there."""
    return Patch(facecolor=VOID, label=label, **HATCHED)


class StyledFigure(Figure):
    """A figure drawn and written in its own style anywhere: fonts embedded as TrueType, no date."""

    def draw(self, renderer: RendererBase) -> None:
        """As `Figure.draw`; ticks that are made only now are in this style as well."""
        with figure_style():
            super().draw(renderer)

    def savefig(self, fname: str | PathLike[str] | IO[bytes], **kwargs: Any) -> None:
        """As `Figure.savefig`; the same figure gives the same bytes."""
        with figure_style():
            suffix = PurePath(fspath(fname)).suffix[1:] if isinstance(fname, str | PathLike) else ""
            undated = _UNDATED.get((kwargs.get("format") or suffix).lower())
            if undated is not None:
                kwargs["metadata"] = undated | (kwargs.get("metadata") or {})
            super().savefig(fname, **kwargs)


MARGIN = 0.12
"""Inches around a page."""

GAP = 0.08
"""Inches between the panels and the lines above and below them."""


SMALLEST_PANEL = 0.4
"""Inches."""


class Page:
    """A figure of the page's width: a title, settings, panels, footnotes. Lengths are in inches.

    Args:
        title: parts of the title, on one line where they fit together, else each on lines of its own.
        settings: a line under it, broken where it is too long.
        panels: height of everything between them and the footnotes.
        notes: footnotes.

    Attributes:
        ceiling, floor: where the panels' space ends and begins, from below.
    """

    def __init__(self, title: Sequence[str], settings: str, panels: float, notes: Sequence[str]) -> None:
        width, title = PAGE_WIDTH - 2 * MARGIN, title_of(list(title))
        names = break_lines(printable(" ".join(title)), width, TITLE, "bold")
        if len(names) > 1:
            names = [line for part in title for line in break_lines(printable(part), width, TITLE, "bold")]
        head = [(line, TITLE, "bold") for line in names]
        head += [(line, TEXT, "normal") for line in break_lines(printable(settings), width, TEXT)]
        feet = [line for note in notes for line in break_lines(printable(note), width, TINY)]
        self.floor = MARGIN + lines_height(feet, TINY) + (GAP if feet else 0.0)
        self.ceiling = self.floor + panels
        self._height = self.ceiling + GAP + sum(lines_height([line], size) for line, size, _ in head) + MARGIN
        self.figure = StyledFigure(figsize=(PAGE_WIDTH, self._height))
        self._panels: list[Axes] = []
        top = self._height - MARGIN
        for line, size, weight in head:
            self.write(MARGIN, top, line, size, weight=weight)
            top -= lines_height([line], size)
        for at, line in enumerate(feet):
            self.write(MARGIN, MARGIN + lines_height(feet[at:], TINY), line, TINY, gid="footnote")

    def write(self, x: float, y: float, text: str, size: float = TEXT, **look: Any) -> None:
        """Text with its upper left corner at x, y."""
        self.figure.text(x / PAGE_WIDTH, y / self._height, text, size=size, va="top", **look)

    def panel(self, x: float, y: float, width: float, height: float, **kwargs: Any) -> Axes:
        """Axes with their lower left corner at x, y."""
        box = (x / PAGE_WIDTH, y / self._height, width / PAGE_WIDTH, height / self._height)
        axes = self.figure.add_axes(box, **kwargs)
        if min(width, height) > SMALLEST_PANEL:  # a colour bar is none
            self._panels.append(axes)
        return axes

    def letters(self, aside: float = 8.0) -> None:
        """Panel letters, in the order in which the panels were made."""
        panel_letters(self._panels, aside)

    def legend(self, handles: Sequence[Artist], x: float, y: float, columns: int) -> None:
        """A legend with its upper left corner at x, y."""
        self.figure.legend(
            handles=list(handles), loc="upper left", bbox_to_anchor=(x / PAGE_WIDTH, y / self._height),
            ncols=columns, borderaxespad=0.0,
        )  # fmt: skip


def settings_line(record: dict[str, Any], *more: str) -> str:
    """The line under a page's title: a run's settings, and what else is said there."""
    return " · ".join([*settings_in_words(record, CORPUS_LETTERS), *more])


def warning_notes(summary: dict[str, Any], noun: str) -> list[str]:
    """Footnotes of a run of many comparisons: a line for each warning, then the notes.

    Args:
        summary: of the record; a warning that is of some comparisons alone lists them as its "pairs".
        noun: what comparisons are called.
    """
    notes = []
    for warned in summary["warnings"]:
        concerned = f"in {counted(len(warned['pairs']), noun)}, such as " if "pairs" in warned else ""
        notes.append(f"[{warned['code']}] {concerned}{warned['text']}")
    return notes + list(summary["notes"])
