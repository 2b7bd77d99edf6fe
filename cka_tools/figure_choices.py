"""What a user may choose of a figure, and the choices that hold while one is drawn."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cka_tools.errors import UserError, one_line
from cka_tools.formatting import printable, quoted
from cka_tools.settings import check_options, option

HEAT = "cividis"
"""Perceptually uniform, monotonous in grey, the same to colour-blind readers."""

SMALLEST_FONT, LARGEST_FONT = 4.0, 24.0
SMALLEST_RANGE, LARGEST_RANGE = 1e-9, 1e9
"""Of a colour range: beyond these matplotlib's arithmetic fails, and no value lies there."""

MOST_TITLE = 200
"""Letters of a title."""

PAGE = "page"


def parse_range(text: str, name: str = "range") -> tuple[float, float] | None:
    """Both ends of a colour range such as "0.5:1"; None for "auto".

    Raises:
        UserError: text of another form, or ends in the wrong order.
    """
    if text.strip() == "auto":
        return None
    try:
        low, high = map(float, text.split(":"))
    except ValueError:
        low, high = np.nan, np.nan
    if not (low < high and high - low >= SMALLEST_RANGE and max(abs(low), abs(high)) <= LARGEST_RANGE):
        raise UserError(f"--{name} {quoted(text)} does not fit: write it like 0:1, the lower end first, or auto")
    return low, high


@dataclass(frozen=True)
class Choices:
    """How a figure is drawn; the defaults are those of the figure that a run saves.

    Raises:
        UserError: a value that does not fit, by name.
    """

    what: Literal["page", "layers", "heatmap", "dimension"] = option(
        PAGE, "The whole page, or one panel of a comparison: divergence by layer, the heatmap, effective dimension."
    )
    range: tuple[float, float] | None = option(
        None, "Ends of the colours, as 0:1, in the units of the colour bar.", shown="auto: as the values lie",
        parse=parse_range,
    )  # fmt: skip
    cmap: str = option(HEAT, "Colours of heatmaps, by matplotlib's name.")
    size: Literal["single", "double"] | None = option(
        None, "Width of one panel: of one column of a paper, or of both.", shown="single"
    )
    font: float | None = option(None, "Size of one panel's text in points.", shown="7")
    title: str | None = option(None, "In place of the models' names; '' for none.", shown="the models")
    biased: bool = option(True, "Leave out the biased curve.", flag="--no-biased")
    annotate: bool = option(False, "Write its value into each cell of a comparison's heatmap.")
    style: Path | None = option(
        None, "A file in matplotlib's style (matplotlibrc), which goes before this package's.",
        shown="your matplotlibrc, if there is one",
    )  # fmt: skip

    def __post_init__(self) -> None:
        """Check what the types do not say."""
        check_options(self, "--")
        if self.cmap != HEAT and self.cmap not in _colormaps():
            near = get_close_matches(self.cmap, list(_colormaps()), n=1)
            hint = f"did you mean {near[0]!r}?" if near else "give a name that matplotlib has, as viridis"
            raise UserError(f"--cmap {quoted(self.cmap)} is not known: {hint}")
        if self.font is not None and not SMALLEST_FONT <= self.font <= LARGEST_FONT:
            raise UserError(f"--font {self.font:g} must be from {SMALLEST_FONT:g} to {LARGEST_FONT:g} points")
        if self.title is not None and len(self.title) > MOST_TITLE:
            raise UserError(f"--title {quoted(self.title)} is too long: give at most {MOST_TITLE} letters")
        for name in ("font", "size"):
            if self.what == PAGE and getattr(self, name) not in (None, "double"):
                raise UserError(
                    f"--{name} {getattr(self, name)} does not fit the page, which has its own: "
                    "name a panel with --what layers, heatmap or dimension"
                )

    @property
    def notes(self) -> list[str]:
        """What the user should know of these choices."""
        red, green, blue, _ = np.asarray(_colormaps()[self.cmap](np.linspace(0, 1, 64))).T
        steps = np.diff(0.299 * red + 0.587 * green + 0.114 * blue)
        if (steps > -1e-3).all() or (steps < 1e-3).all():
            return []
        return [f"--cmap {self.cmap} does not run from dark to light: in grey its order is lost ({HEAT} keeps it)"]

    def settings(self) -> dict[str, Any]:
        """The user's own settings of matplotlib, those alone that the file gives.

        Raises:
            UserError: the file is not there, or not in matplotlib's form; of --style also a key that is not known.
        """
        import matplotlib as mpl

        path = Path(mpl.matplotlib_fname()) if self.style is None else self.style
        if self.style is None and path.is_relative_to(mpl.get_data_path()):
            return {}
        told: list[str] = []  # matplotlib prints what it does not know in lines of its own

        def keep(record: logging.LogRecord) -> bool:
            told.append(record.getMessage())
            return False

        log = logging.getLogger("matplotlib")
        log.addFilter(keep)
        named = f"{'--style' if self.style is not None else 'your matplotlibrc'} {str(path)!r}"
        try:
            found: Any = mpl.rc_params_from_file(path, fail_on_error=True, use_default_template=False)
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{named} cannot be read as matplotlib's: {one_line(error)}") from error
        finally:
            log.removeFilter(keep)
        if told and self.style is not None:
            raise UserError(f"{named} cannot be read as matplotlib's: {one_line(ValueError(told[0]))}")
        return dict(found)


def _colormaps() -> Any:
    import matplotlib as mpl  # which what only reads shall not wait for

    return mpl.colormaps


@dataclass(frozen=True)
class _Chosen:
    choices: Choices
    settings: dict[str, Any]


_NOW: ContextVar[_Chosen | None] = ContextVar("choices of a figure", default=None)


@contextmanager
def drawn_with(choices: Choices, *, own: bool = True) -> Iterator[None]:
    """Figures that are drawn and written inside follow these choices and, if asked, the user's matplotlib settings.

    Raises:
        UserError: those settings cannot be read, or nothing can be drawn with them.
    """
    settings = choices.settings() if own else {}
    token = _NOW.set(_Chosen(choices, settings))
    try:
        yield
    except Exception as error:
        if not settings or isinstance(error, UserError | OSError | MemoryError):
            raise
        named = "your matplotlibrc" if choices.style is None else f"--style {str(choices.style)!r}"
        raise UserError(f"nothing can be drawn with {named}: correct it ({one_line(error)})") from error
    finally:
        _NOW.reset(token)


def chosen() -> Choices:
    """The choices that hold: the defaults, outside `drawn_with`."""
    now = _NOW.get()
    return Choices() if now is None else now.choices


def own_settings() -> dict[str, Any]:
    """The user's own settings that hold; none outside `drawn_with`, so that a saved figure is the same anywhere."""
    now = _NOW.get()
    if now is None:
        return {}
    fixed = SIZES if now.choices.what == PAGE else ()  # a page is laid out for its own sizes
    return {name: value for name, value in now.settings.items() if name not in fixed}


SIZES = ("font.size", "axes.labelsize", "axes.titlesize", "legend.fontsize", "xtick.labelsize", "ytick.labelsize")


def title_of(parts: list[str]) -> list[str]:
    """A title, or the one that was chosen instead."""
    given = chosen().title
    return parts if given is None else [printable(given)] if given.strip() else []
