"""Readouts by name, and the passes that they read."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches

from cka_tools.errors import UserError
from cka_tools.readouts.features import PooledFeatures
from cka_tools.readouts.language import CausalModelling, MaskedModelling
from cka_tools.readouts.probe import TaskProbe
from cka_tools.readouts.readout import Inputs, Quantity, Readout, Rows, States

READOUTS: dict[str, Callable[[], Readout] | Callable[[str], Readout]] = {
    "mlm": MaskedModelling,
    "clm": CausalModelling,
    "divergence": PooledFeatures,
    "probe": TaskProbe,
}
"""What makes each readout, by its name; one whose name is written with a colon takes what stands behind it."""

WITH_ARGUMENT: frozenset[str] = frozenset({"probe"})
"""Of them those that take an argument."""


def find_readout(name: str) -> Readout:
    """The readout of a name, such as "mlm"; "probe:TASK" gives its argument behind a colon.

    Raises:
        UserError: no readout has this name; an argument that is missing, or is not taken.
    """
    key, colon, argument = name.partition(":")
    if key not in READOUTS:
        near = get_close_matches(key.lower(), READOUTS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose among {', '.join(READOUTS)}"
        raise UserError(f"readout {name!r} is not known: {hint}")
    if bool(argument) != (key in WITH_ARGUMENT) or bool(colon) != bool(argument):
        wanted = f"{key}:NAME" if key in WITH_ARGUMENT else key
        raise UserError(f"readout {name!r} does not fit: write it like {wanted}")
    made: Callable[..., Readout] = READOUTS[key]
    return made(argument) if argument else made()


__all__ = ["READOUTS", "Inputs", "Quantity", "Readout", "Rows", "States", "find_readout"]
