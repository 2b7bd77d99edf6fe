"""Which parts of the donor are grafted: groups of layers times parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cka_tools.errors import UserError
from cka_tools.models.graft import parts_in_words
from cka_tools.models.parts import BEYOND, check_parts
from cka_tools.settings import parse_layers

THIRDS = "thirds"

Groups = str | Sequence[Sequence[int]]
"""Groups of layers: "thirds", or a list of lists."""


@dataclass(frozen=True)
class Graft:
    """What is taken from the donor.

    Attributes:
        layers: blocks, None for all of them. parts: of these blocks, and those that belong to none.
    """

    layers: tuple[int, ...] | None
    parts: tuple[str, ...]

    @property
    def label(self) -> str:
        """In words."""
        return parts_in_words(self.layers, self.parts)

    def first_block(self) -> int | None:
        """The first layer whose output may change; None where only the head or the final norm is taken."""
        if "embeddings" in self.parts or (set(self.parts) - set(BEYOND) and self.layers is None):
            return 0
        return min(self.layers, default=None) if self.layers and set(self.parts) - set(BEYOND) else None


def parse_groups_of_layers(text: str, option: str) -> Groups:
    """Groups from "thirds", or from ranges with commas between, as "0-7,8-14,15-21".

    Raises:
        UserError: neither.
    """
    return THIRDS if text.strip() == THIRDS else [parse_layers(part, option) for part in text.split(",")]


def parse_parts(text: str, option: str) -> tuple[tuple[str, ...], ...]:
    """Parts from "all,attention,mlp"; those with "+" between are grafted together, as "embeddings+head".

    Raises:
        UserError: an unknown part.
    """
    return tuple(check_parts(one.strip() for one in part.split("+")) for part in text.split(","))


def plan_grafts(depth: int, groups: Groups, parts: Sequence[str | Sequence[str]]) -> list[Graft]:
    """Each group of layers with each of the parts, then all layers where the groups hold them all.

    Parts that belong to no block are grafted once, not by group.

    Raises:
        UserError: a layer that the models do not have, one that is in two groups, unknown parts.
    """
    if isinstance(groups, str):
        if groups != THIRDS:
            raise UserError(f"layers {groups!r}: write {THIRDS}, or groups such as 0-7,8-14,15-21")
        groups = [part.tolist() for part in np.array_split(np.arange(depth), 3) if len(part)]
    found = [tuple(sorted(set(group))) for group in groups]
    together = [layer for group in found for layer in group]
    if outside := [layer for layer in together if not 0 <= layer < depth]:
        raise UserError(f"layers {outside[0]}: the models have layers 0 to {depth - 1}: choose among them")
    if twice := [layer for layer in set(together) if together.count(layer) > 1]:
        raise UserError(f"layers {min(twice)} is in two groups: name every layer once")
    if not found or not all(found):
        raise UserError("layers: a group is empty; name at least one layer in each")
    chosen = [check_parts([one] if isinstance(one, str) else one) for one in parts]
    if not chosen or not all(chosen):
        raise UserError("parts: the list is empty; name at least one, such as all")
    of_blocks = [one for one in dict.fromkeys(chosen) if set(one) - set(BEYOND)]
    places: list[tuple[int, ...] | None] = [*found]
    if len(together) == depth:
        places = [*found, None] if len(found) > 1 else [None]
    grafts = [Graft(layers, one) for layers in places for one in of_blocks]
    return grafts + [Graft((), one) for one in dict.fromkeys(chosen) if one not in of_blocks]
