"""Two groups of checkpoints, one corpus: from models to a contrast of all pairs, one pass a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from os import PathLike
from typing import Any

import numpy as np

from cka_tools.comparison.pairs import DrawResult, Pair, compare_pairs, divergences, without_each
from cka_tools.comparison.record import CONTRAST, JsonObject, interval_entry, number, pair_entry, provenance
from cka_tools.comparison.results import Contrast
from cka_tools.comparison.warnings import many_summary
from cka_tools.compute import CorpusGiven, FeatureRun, Progress, open_run
from cka_tools.errors import UserError
from cka_tools.formatting import counted
from cka_tools.manifest import identical_until, noise_kind, read_manifest
from cka_tools.models import ModelGiven, ModelSource, as_source
from cka_tools.models.folder import hash_json, hash_state_dict
from cka_tools.settings import EMBEDDINGS, Settings, takes_settings
from cka_tools.statistics.contrast import ContrastTest, GroupContrast, contrast_groups, pair_positions
from cka_tools.statistics.intervals import LEVEL
from cka_tools.statistics.ratio import ROUNDING


@takes_settings("contrast")
def contrast(
    groups: Mapping[str, Sequence[ModelGiven]],
    corpus: CorpusGiven = "sample",
    *,
    paired: bool = False,
    settings: Settings | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Contrast:
    """Ask whether two groups of checkpoints are further apart than the checkpoints of one group are.

    Every checkpoint is compared with every other, by layer, with one pass over the documents for each model
    and none for what the activation store has. `statistics.contrast` has the definitions.

    Args:
        groups: two of them, by name, each of two checkpoints or more; of one architecture all.
        paired: the groups are in one order, and checkpoint i of one shares with checkpoint i of the other
            what it shares with no other (an order of the data, say). Such pairs are not counted, and labels
            are exchanged within them alone.
        settings, options, progress: as `compare` takes them.

    Raises:
        UserError: input that does not fit, in one line, before any pass.
    """
    found, asked = find_groups(groups, paired=paired), Settings.of(options, settings)
    if asked.layers is not None and EMBEDDINGS in asked.layers:
        raise UserError("layers 'embeddings': a contrast is over the layers of models: leave the embeddings out")
    run = open_run(found.sources, corpus, asked)
    check_run(found, run)
    pairs = [Pair(a, b) for a, b in pair_positions(len(found.sources))]
    draw = compare_pairs(run, pairs, progress)[0]
    distances = np.stack([divergences(pair, "debiased") for pair in draw.pairs])
    refuse_same([(p.pair.a, p.pair.b) for p, d in zip(draw.pairs, distances, strict=True) if _same(d)], run)
    without = np.stack([without_each(pair) for pair in draw.pairs])
    first = draw.pairs[0]
    test = contrast_groups(
        distances,
        None if np.isnan(without).all() else 1 - without,
        found.sizes,
        first.early_layers,
        first.plain.n,
        paired=paired,
        seed=run.settings.seed,
    )
    return Contrast(_record(found, run, draw, test), _arrays(distances, without, len(found.sources)))


def _same(distances: np.ndarray) -> bool:
    """Whether two checkpoints do the same in every layer, whatever their files are."""
    return bool((np.abs(distances) < ROUNDING).all())


def _arrays(distances: np.ndarray, without: np.ndarray, models: int) -> dict[str, np.ndarray]:
    matrix = np.zeros((distances.shape[1], models, models))
    for (a, b), row in zip(pair_positions(models), distances, strict=True):
        matrix[:, a, b] = matrix[:, b, a] = row
    return {"distances": matrix, "leave_one_out": without}


def _record(groups: Groups, run: FeatureRun, draw: DrawResult, test: ContrastTest) -> JsonObject:
    first = draw.pairs[0]
    summary = many_summary(run, draw)
    summary["warnings"] = [*group_warnings(groups, run.names), *summary["warnings"]]
    over = "documents and training seeds" if test.no_seeds is None else "documents"
    summary |= {
        "interval": {"level": LEVEL, "over": over} | ({} if test.no_seeds is None else {"reason": test.no_seeds}),
        "groups": [
            {"name": name, "members": groups.sizes[at], "noise": groups.noise(at)}
            for at, name in enumerate(groups.names)
        ],
        "paired": groups.paired,
        "test": {"relabelings": test.relabelings, "exact": test.exact, "smallest_p": test.smallest_p},
        "mean": _entry(test.mean),
        "early": _entry(test.early),
        "early_to_rest": interval_entry(test.early_to_rest),
    }
    layers = [
        {"layer": first.layers_a[pair.layer_a], "early": at in first.early_layers, **_entry(one)}
        for at, (pair, one) in enumerate(zip(first.plain.layers, test.layers, strict=True))
    ]
    roles = [groups.names[group] for group in groups.of]
    return {
        "kind": CONTRAST,
        "summary": summary,
        "layers": layers,
        "pairs": [pair_entry(p, role=groups.role(p.pair.a, p.pair.b)) for p in draw.pairs],
        "provenance": provenance(run, [draw], roles, run.settings.record()),
    }


def _entry(found: GroupContrast) -> JsonObject:
    return {
        **{name: interval_entry(getattr(found, name)) for name in ("between", "within", "difference", "ratio")},
        **{name: number(getattr(found, name)) for name in ("p", "p_single", "seed_share")},
    }


Manifest = Mapping[str, Any] | None


@dataclass(frozen=True)
class Groups:
    """Two groups of checkpoints; all of the first, then all of the second, wherever they are in one list.

    Attributes:
        paired: member i of one shares something with member i of the other that others do not.
        manifests: of each checkpoint; None where it has none.
    """

    names: tuple[str, str]
    sources: list[ModelSource]
    sizes: tuple[int, int]
    paired: bool
    manifests: Sequence[Manifest]

    @property
    def of(self) -> list[int]:
        """The group of each checkpoint, 0 or 1."""
        return [0] * self.sizes[0] + [1] * self.sizes[1]

    def role(self, a: int, b: int) -> str:
        """What a pair of checkpoints is: "within" a group, "between" the groups, or "partners" if paired."""
        if self.of[a] == self.of[b]:
            return "within"
        return "partners" if self.paired and b - a == self.sizes[0] else "between"

    def noise(self, group: int) -> list[str]:
        """In what members of a group differ by their manifests, each kind once."""
        own = [manifest for at, manifest in zip(self.of, self.manifests, strict=True) if at == group]
        return sorted({noise_kind(a, b) for a, b in combinations(own, 2)})


def find_groups(given: Mapping[str, Sequence[ModelGiven]], *, paired: bool) -> Groups:
    """Check groups by what was given; nothing is opened but manifests.

    Raises:
        UserError: not two groups, fewer than two in one, a checkpoint given twice, pairs that do not match.
    """
    if len(given) != 2:
        raise UserError(f"{counted(len(given), 'group')} given: a contrast needs two, write --group NAME=A,B twice")
    first, second = given
    sources: list[ModelSource] = []
    sizes = []
    owner: dict[ModelSource, str] = {}
    for name, members in given.items():
        members = [members] if isinstance(members, str | PathLike) else members
        if len(members) < 2:
            raise UserError(
                f"group {name!r} has {counted(len(members), 'checkpoint')}: give at least two, as nothing else says "
                "how far its own runs are apart"
            )
        for member in members:
            source = as_source(member)
            if source in owner:
                where = f"twice in group {name!r}" if owner[source] == name else f"in {owner[source]!r} and {name!r}"
                raise UserError(f"checkpoint {source.name!r} is {where}: name every checkpoint once")
            owner[source] = name
            sources.append(source)
        sizes.append(len(members))
    if paired and sizes[0] != sizes[1]:
        raise UserError(
            f"paired groups of {sizes[0]} and {sizes[1]} checkpoints: give as many in both, in the same order"
        )
    manifests = [read_manifest(one.folder) for one in sources]
    return Groups((first, second), sources, (sizes[0], sizes[1]), paired, manifests)


def check_run(groups: Groups, run: FeatureRun) -> None:
    """Check what opening the checkpoints told, before any of them runs.

    Raises:
        UserError: other depths or widths, or two that hold the same weights.
    """
    shapes = [f"{depth} layers of width {width}" for depth, width in zip(run.depths, run.widths, strict=True)]
    for name, shape in zip(run.names, shapes, strict=True):
        if shape != shapes[0]:
            raise UserError(f"{run.names[0]!r} has {shapes[0]}, {name!r} has {shape}: give checkpoints of one shape")
    weights = [
        one.provenance.get("weights_sha256") or hash_state_dict(one.model.state_dict())
        for one in (run.outlines[at] for at in run.order)
    ]
    refuse_same([(a, b) for a, b in combinations(range(len(weights)), 2) if weights[a] == weights[b]], run)


def refuse_same(pairs: Iterable[tuple[int, int]], run: FeatureRun) -> None:
    """Raise a UserError for the first of the pairs: they are one checkpoint under two names."""
    for a, b in pairs:
        raise UserError(
            f"{run.names[a]!r} and {run.names[b]!r} hold the same weights: they are one run, leave one of them out"
        )


def group_warnings(groups: Groups, names: Sequence[str]) -> list[dict[str, Any]]:
    """What the manifests say against reading the groups as independent runs that differ in one thing."""
    found = [_identical(groups, names), _contradictions(groups, names), _recipes(groups), _orders(groups)]
    return [one for one in found if one is not None]


def _warning(code: str, text: str) -> dict[str, Any]:
    return {"code": code, "text": text, "layers": []}


def _identical(groups: Groups, names: Sequence[str]) -> dict[str, Any] | None:
    concerned, until = [], ""
    for a, b in combinations(range(len(names)), 2):
        found = identical_until(groups.manifests[a], groups.manifests[b])
        if found is not None:
            concerned.append(f"{names[a]} and {names[b]}")
            until = until or found
    if not concerned:
        return None
    text = (
        f"{concerned[0]} are the same run until {until}, by their manifests: they are closer than "
        "independent runs would be, so a mean divergence is too small and p is not valid."
    )
    return _warning("identical-until", text) | {"pairs": concerned}


def _contradictions(groups: Groups, names: Sequence[str]) -> dict[str, Any] | None:
    """A group called detour that holds runs of one objective, one called baseline that holds detours."""
    found = []
    for at, manifest in enumerate(groups.manifests):
        objectives = [phase["objective"] for phase in _phases(manifest)]
        called = groups.names[groups.of[at]]
        detour = len(set(objectives)) > 1
        wrong = ("baseline" if detour else "detour") in called.casefold()
        if objectives and wrong:
            trained = ", then ".join(objective.upper() for objective in objectives)
            found.append(f"{names[at]} in group {called!r} was trained by {trained}")
    if not found:
        return None
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return _warning("name-contradicts-manifest", f"{found[0]}, by its manifest{more}: check the groups' names.")


def _recipes(groups: Groups) -> dict[str, Any] | None:
    """Recipes that differ in more than the objective."""
    kinds = set()
    for manifest in groups.manifests:
        if phases := _phases(manifest):
            parts = [{k: v for k, v in one.items() if k not in ("name", "objective", "masking")} for one in phases]
            recipe = (manifest or {})["recipe"]
            rest = {k: v for k, v in recipe.items() if k not in ("name", "scale", "phases")}
            kinds.add(hash_json([parts, rest]))
    if len(kinds) < 2:
        return None
    text = (
        f"The manifests hold {len(kinds)} recipes that differ in more than the objective (tokens or learning "
        "rate, say): a difference between the groups may come from that."
    )
    return _warning("recipes-differ", text)


def _phases(manifest: Manifest) -> list[dict[str, Any]]:
    return ((manifest or {}).get("recipe") or {}).get("phases") or []


def _orders(groups: Groups) -> dict[str, Any] | None:
    """Data orders that are shared within groups and not between them, or the other way round."""
    shared: dict[str, list[bool]] = {"within": [], "between": [], "partners": []}
    for a, b in combinations(range(len(groups.manifests)), 2):
        data = [(groups.manifests[at] or {}).get("data_sha256") for at in (a, b)]
        if None in data:
            return None
        shared[groups.role(a, b)].append(data[0] == data[1])
    within, between = any(shared["within"]), any(shared["between"])
    if within == between:
        return None
    if between:
        text = "Runs of the two groups share an order of the data, runs of one group do not: give --paired."
    else:
        text = "Runs of one group share an order of the data, runs of the two do not: C holds the order too."
    return _warning("orders-differ", text)
