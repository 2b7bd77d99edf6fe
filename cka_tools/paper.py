"""What is published: the constants of the CKA protocol, and every number of the paper that is used here."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from cka_tools.bundled import bundled_data

CITATION: Final = "Touchent and de la Clergerie, arXiv 2605.12438"
DOCUMENTS: Final = 500
DRAW_SEEDS: Final = (42, 43, 44)
MAX_LENGTH: Final = 512
BATCH_SIZE: Final = 16
MODEL_DTYPE: Final = "float16"
EARLY_SHARE: Final = (1, 3)
"""Layers 0–7 of 22: the first third, rounded up."""
FINE_TUNING_LR: Final = 5e-5
FINE_TUNING_WEIGHT_DECAY: Final = 0.01
FINE_TUNING_BATCH: Final = 16
FINE_TUNING_EPOCHS: Final = 10
FINE_TUNING_TAG_EPOCHS: Final = 20
FINE_TUNING_SEEDS: Final = 5


FILE: Final = "published.toml"


@dataclass(frozen=True)
class PublishedLayers:
    """CKA by layer of one pair of models, biased, (layers,), rounded as published."""

    label: str
    models: str
    cka: tuple[float, ...]


@dataclass(frozen=True)
class PublishedValue:
    """One published number.

    Attributes:
        quantity, case: what it is, and of which case.
        value: a fraction, or in `unit`. std: over the draws, None where none is given.
        at: where it stands on `axis`, None where it stands on none.
        layers: the first and the last of those that it is the mean of, None where it is of all or of none.
        models: which models it is of.
    """

    quantity: str
    case: str
    value: float
    models: str
    std: float | None = None
    at: float | None = None
    layers: Sequence[int] | None = None
    axis: str | None = None
    unit: str | None = None


@dataclass(frozen=True)
class Published:
    """Everything in the file; `source` is the citation of all of it."""

    source: str
    arxiv: str
    layers: Mapping[str, PublishedLayers]
    values: tuple[PublishedValue, ...]

    def of(self, quantity: str, case: str | None = None) -> list[PublishedValue]:
        """Values of a quantity, of one case or of all, in the file's order.

        Raises:
            KeyError: there is none.
        """
        found = [v for v in self.values if v.quantity == quantity and case in (None, v.case)]
        if not found:
            raise KeyError(f"{quantity!r}, {case!r}: nothing of the kind is published")
        return found


@cache
def published() -> Published:
    """Read the file, once.

    Raises:
        FileNotFoundError: the installation is incomplete.
    """
    with (bundled_data() / FILE).open("rb") as stream:
        held: dict[str, Any] = tomllib.load(stream)
    layers = {
        name: PublishedLayers(entry["label"], entry["models"], tuple(entry["cka"]))
        for name, entry in held["layer_cka"].items()
    }
    return Published(held["source"], held["arxiv"], layers, tuple(PublishedValue(**v) for v in held["value"]))
