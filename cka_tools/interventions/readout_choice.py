"""Which readouts a run takes, and what is refused before any model runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cka_tools.compute import FeatureRun
from cka_tools.errors import UserError
from cka_tools.readouts import Readout, find_readout
from cka_tools.readouts.features import DIVERGENCE
from cka_tools.readouts.of_models import language_readout

ROLES = ("the base", "the donor", "the control")


def choose_readouts(run: FeatureRun, names: Sequence[str] | None, also: Sequence[str] = ()) -> list[Readout]:
    """Readouts by name, each once; by default the language model's own.

    Args:
        also: names that the default has besides.

    Raises:
        UserError: an unknown name, or one that needs another kind of model.
    """
    if names is None:
        return [language_readout(run), *map(find_readout, also)]
    if not names:
        raise UserError("readout: the list is empty; name at least one, such as mlm")
    found = [find_readout(name) for name in dict.fromkeys(names)]
    called = [one.name for one in found]
    if twice := next((name for at, name in enumerate(called) if name in called[:at]), None):
        raise UserError(f"two readouts have the name {twice!r}: rename a file, or leave one out")
    return [one if one.head is None else language_readout(run, one.name) for one in found]


def refuse_same(names: Sequence[str], identities: Sequence[Any], roles: Sequence[str] = ("A", "B")) -> None:
    """Raise a UserError where two of the models are one.

    Args:
        identities: equal for equal models. roles: what each model is called.
    """
    for at, identity in enumerate(identities):
        first = identities.index(identity)
        if first < at:
            raise UserError(
                f"{names[at]!r} is {roles[at]}, and {names[first]!r}, {roles[first]}, holds the same weights: nothing "
                "lies between them; give models that differ"
            )


def check_room(run: FeatureRun, readouts: Sequence[Readout], models: int) -> None:
    """Raise a UserError where the features of so many models would take more than may be kept."""
    if any(one.name == DIVERGENCE for one in readouts):
        size = run.size([None] * len(run.sources)) // len(run.sources) * models
        if size > run.settings.keep_bytes:
            raise UserError(
                f"readout 'divergence' keeps the features of {models} models, {size:,} bytes, more than "
                f"--keep-features {run.settings.keep_bytes:,}: raise it, or take fewer documents or hybrids"
            )
