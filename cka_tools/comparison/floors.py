"""What the measures of a pair of models, and its best matches, give for permuted documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cka_tools.errors import UserError
from cka_tools.settings import Settings
from cka_tools.statistics.features import ModelStatistics
from cka_tools.statistics.intervals import Interval
from cka_tools.statistics.measures import Measure, find_measure
from cka_tools.statistics.pair import FeatureComparison
from cka_tools.statistics.permutation import Floor, best_match_floors, document_permutations, measure_floors

AUTOMATIC, AUTOMATIC_SLOW = 100, 20
"""Permutations where none were asked for; fewer of a measure that takes a decomposition for each."""

AUTOMATIC_DOCUMENTS, MOST_DOCUMENTS = 1000, 4096
"""Documents up to which permutations are made unasked, and at all: time and memory grow with the square."""


@dataclass(frozen=True)
class Floors:
    """Of each measure and layer pair, and of each layer pair's best match in B.

    Attributes:
        permutations: how many, by measure; `best` goes by those of CKA.
        reason: why there are none.
    """

    permutations: dict[str, int] = field(default_factory=dict)
    measures: dict[str, list[Floor | None]] = field(default_factory=dict)
    best: list[Floor | None] = field(default_factory=list)
    reason: str | None = None


def count_permutations(settings: Settings, measure: Measure, documents: int) -> int:
    """How many permutations a measure is given; unasked none for CKA alone, whose debiased floor is 0 anyway."""
    if settings.permutations is not None:
        return settings.permutations
    if settings.measures == ("cka",) or documents > AUTOMATIC_DOCUMENTS:
        return 0
    return AUTOMATIC if measure.form.over_pairs else AUTOMATIC_SLOW


def check_permutations(settings: Settings, documents: int, *, streams: bool) -> None:
    """Refuse permutations that were asked for and cannot be made.

    Raises:
        UserError: more documents than can be held together, or features that are not kept.
    """
    if not settings.permutations:
        return
    if streams:
        raise UserError(
            f"permutations {settings.permutations} need features that are kept, and these are streamed: raise "
            "--keep-features, or ask for --permutations 0"
        )
    if documents > MOST_DOCUMENTS:
        raise UserError(
            f"permutations {settings.permutations} of {documents:,} documents take too much memory: give at most "
            f"{MOST_DOCUMENTS:,} documents, or --permutations 0"
        )


def pair_floors(
    settings: Settings,
    a: ModelStatistics,
    b: ModelStatistics,
    plain: FeatureComparison,
    measures: Mapping[str, Sequence[Interval]],
    columns: Sequence[int],
) -> Floors:
    """Floors of a pair's measures, and of its best matches among some layers of B.

    Args:
        measures: values beside CKA, one a layer pair. columns: positions of those layers; none for no matches.
    """
    values = {"cka": [one.debiased.value for one in plain.layers]}
    values |= {name: [one.value for one in found] for name, found in measures.items()}
    counts = {name: count_permutations(settings, find_measure(name), a.n) for name in values}
    if not counts["cka"]:
        many = f"{a.n:,} documents are more than the {AUTOMATIC_DOCUMENTS:,} that are permuted unasked"
        asked = settings.permutations == 0 or settings.measures == ("cka",)
        return Floors(reason="none were asked for" if asked else f"{many}: give --permutations")
    orders = document_permutations(a.n, max(counts.values()), settings.seed)
    found = {
        name: measure_floors(find_measure(name), a, b, plain.pairs, of, orders[: counts[name]])
        for name, of in values.items()
        if name != "cka" or not columns
    }
    best: list[Floor | None] = []
    if columns:
        matches = best_match_floors(a, b, plain.pairs, columns, plain.matrices["debiased"], orders[: counts["cka"]])
        found["cka"], best = matches
    return Floors(counts, found, best)
