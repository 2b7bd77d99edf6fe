"""Text broken into lines that fit a width on paper."""

from __future__ import annotations

from functools import lru_cache

from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

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
