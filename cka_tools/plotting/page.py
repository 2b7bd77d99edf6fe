"""A page that grows with its text: title and settings above, panels placed in inches, footnotes below."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes

from cka_tools.plotting.line_breaks import break_lines, lines_height
from cka_tools.plotting.style import PAGE_WIDTH, TEXT, TINY, TITLE, StyledFigure
from cka_tools.wording import printable

MARGIN = 0.12


class Page:
    """A figure of the page's width.

    Args:
        title, settings: lines above the panels, broken where they are too long.
        panels: height in inches of everything between them and the footnotes.
        notes: footnotes.

    Attributes:
        ceiling, floor: where the panels' space ends and begins, inches from below.
    """

    def __init__(self, title: str, settings: str, panels: float, notes: Sequence[str]) -> None:
        width = PAGE_WIDTH - 2 * MARGIN
        head = [(line, TITLE, "bold") for line in break_lines(printable(title), width, TITLE, "bold")]
        head += [(line, TEXT, "normal") for line in break_lines(printable(settings), width, TEXT)]
        feet = [line for note in notes for line in break_lines(printable(note), width, TINY)]
        self.floor = MARGIN + lines_height(feet, TINY) + (0.08 if feet else 0.0)
        self.ceiling = self.floor + panels
        self._height = (
            self.ceiling + 0.06 + sum(lines_height([line], size) for line, size, _ in head) + MARGIN
        )
        self.figure = StyledFigure(figsize=(PAGE_WIDTH, self._height))
        top = self._height - MARGIN
        for line, size, weight in head:
            self.write(MARGIN, top, line, size, weight=weight)
            top -= lines_height([line], size)
        for at, line in enumerate(feet):
            self.write(MARGIN, MARGIN + lines_height(feet[at:], TINY), line, TINY, gid="footnote")

    def write(self, x: float, y: float, text: str, size: float = TEXT, **look: Any) -> None:
        """Text with its upper left corner at x, y; never read as mathematics."""
        place = x / PAGE_WIDTH, y / self._height
        self.figure.text(*place, text, size=size, va="top", parse_math=False, **look)

    def panel(self, x: float, y: float, width: float, height: float, **kwargs: Any) -> Axes:
        """Axes with their lower left corner at x, y."""
        box = (x / PAGE_WIDTH, y / self._height, width / PAGE_WIDTH, height / self._height)
        return self.figure.add_axes(box, **kwargs)


def warning_notes(summary: dict[str, Any]) -> list[str]:
    """Footnotes of a run over many models: a line a warning, then the notes."""
    notes = [
        f"[{w['code']}] in {len(w['pairs'])} of the pairs, such as {w['text']}" for w in summary["warnings"]
    ]
    return notes + list(summary["notes"])
