"""Layer indices on an axis, thinned until their labels stand apart."""

from __future__ import annotations

from collections.abc import Sequence

MOST_LABELS = 14


def thin(positions: Sequence[float], most: int = MOST_LABELS) -> list[int]:
    """Which of ascending positions get a label: at most about `most`, evenly apart, the first always."""
    if not positions:
        return []
    extent = positions[-1] - positions[0] + 1
    apart = max(1.0, -(-extent // most))
    chosen = [0]
    for at, position in enumerate(positions):
        if position - positions[chosen[-1]] >= apart:
            chosen.append(at)
    return chosen
