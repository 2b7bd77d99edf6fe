"""Which layer of A is read against which layer of B, and which of them count as early."""

from __future__ import annotations

import math
from collections.abc import Sequence

from cka_tools.errors import UserError
from cka_tools.paper import EARLY_SHARE


def pair_layers(depth_a: int, depth_b: int) -> list[tuple[int, int]]:
    """Pairs (ℓ, m): index by index, or ℓ of the shallower with floor(ℓ(L_deep − 1)/(L_shallow − 1) + ½)."""
    if depth_a == depth_b:
        return [(i, i) for i in range(depth_a)]
    shallow, deep = sorted((depth_a, depth_b))
    step = (deep - 1) / (shallow - 1) if shallow > 1 else 0.0
    mapped = [(i, math.floor(i * step + 0.5)) for i in range(shallow)]
    return mapped if depth_a < depth_b else [(j, i) for i, j in mapped]


def choose_layers(depth_a: int, depth_b: int, layers: Sequence[int] | None) -> list[tuple[int, int]]:
    """The layer pairs to compare, by the models' own indices.

    Args:
        layers: indices of the shallower model (of both where depths are equal); None is all.

    Raises:
        UserError: an index that the model does not have.
    """
    pairs = pair_layers(depth_a, depth_b)
    if layers is None:
        return pairs
    shallow = min(depth_a, depth_b)
    wrong = [i for i in layers if not 0 <= i < shallow]
    if wrong or not layers:
        raise UserError(f"layers {wrong or list(layers)} do not exist: there are {shallow}, 0 to {shallow - 1}")
    side = 0 if depth_a <= depth_b else 1
    return [pair for pair in pairs if pair[side] in set(layers)]


def early_layers(depth: int, given: Sequence[int] | None) -> tuple[int, ...]:
    """Layers that count as early: those given, or the first third of `depth`, rounded up.

    Raises:
        UserError: an index that the model does not have.
    """
    if given is None:
        return tuple(range(-(-depth * EARLY_SHARE[0] // EARLY_SHARE[1])))
    wrong = [i for i in given if not 0 <= i < depth]
    if wrong or not given:
        raise UserError(f"early layers {wrong or list(given)} do not exist: there are {depth}, 0 to {depth - 1}")
    return tuple(sorted(set(given)))
