"""Which layer of A is read against which layer of B, and which of them count as early."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from cka_tools.errors import UserError
from cka_tools.paper import EARLY_SHARE


def parse_layers(text: str, option: str = "layers") -> tuple[int, ...]:
    """Layer indices from text such as "0-7" or "0,3,8-11", ascending, without repeats.

    Raises:
        UserError: not a list of indices or ranges.
    """
    found: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
        if not match:
            raise UserError(
                f"{option} {text!r}: {part!r} is not an index or a range; write it like 0-7 or 0,3,8-11"
            )
        low, high = int(match[1]), int(match[2] or match[1])
        if high < low:
            raise UserError(
                f"{option} {text!r}: {part.strip()!r} runs backwards; write the smaller index first"
            )
        found.update(range(low, high + 1))
    return tuple(sorted(found))


def pair_layers(depth_a: int, depth_b: int) -> list[tuple[int, int]]:
    """Pairs (ℓ, m): index by index, or ℓ of the shallower with floor(ℓ(L_deep − 1)/(L_shallow − 1) + ½)."""
    if depth_a == depth_b:
        return [(i, i) for i in range(depth_a)]
    shallow, deep = sorted((depth_a, depth_b))
    step = (deep - 1) / (shallow - 1) if shallow > 1 else 0.0
    mapped = [(i, math.floor(i * step + 0.5)) for i in range(shallow)]
    return mapped if depth_a < depth_b else [(j, i) for i, j in mapped]


def choose_layers(
    depth_a: int, depth_b: int, layers: Sequence[int] | None
) -> tuple[list[tuple[int, int]], tuple[int, ...] | None, tuple[int, ...] | None]:
    """The pairs to read, and the layers of A and of B to extract (None is all).

    Args:
        layers: indices of the shallower model (of both where depths are equal); None is all.

    Raises:
        UserError: an index that the model does not have.
    """
    pairs = pair_layers(depth_a, depth_b)
    if layers is None:
        return pairs, None, None
    shallow = min(depth_a, depth_b)
    wrong = [i for i in layers if not 0 <= i < shallow]
    if wrong or not layers:
        raise UserError(
            f"layers {wrong or list(layers)} do not exist: there are {shallow}, 0 to {shallow - 1}"
        )
    side = 0 if depth_a <= depth_b else 1
    kept = [pair for pair in pairs if pair[side] in set(layers)]
    return kept, tuple(sorted({i for i, _ in kept})), tuple(sorted({j for _, j in kept}))


def early_layers(depth: int, early: Sequence[int] | None) -> tuple[int, ...]:
    """Layers that count as early: those given, or the first third of `depth`, rounded up.

    Raises:
        UserError: an index that the model does not have.
    """
    if early is None:
        return tuple(range(-(-depth * EARLY_SHARE[0] // EARLY_SHARE[1])))
    wrong = [i for i in early if not 0 <= i < depth]
    if wrong or not early:
        raise UserError(
            f"early layers {wrong or list(early)} do not exist: there are {depth}, 0 to {depth - 1}"
        )
    return tuple(sorted(set(early)))
