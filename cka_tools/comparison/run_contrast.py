"""Two groups of checkpoints, one corpus: from models to a contrast of all pairs, one pass a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cka_tools.comparison.groups import Groups, check_run, find_groups, group_warnings, refuse_same
from cka_tools.comparison.pairs import DrawResult, Pair, PairResult, compare_pairs, known
from cka_tools.comparison.record import CONTRAST, JsonObject, interval_entry, number, pair_entry, provenance
from cka_tools.comparison.results import Contrast
from cka_tools.comparison.warnings import many_summary
from cka_tools.compute import CorpusGiven, FeatureRun, Progress, open_run
from cka_tools.models import ModelGiven
from cka_tools.settings import Settings, takes_settings
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
    found = find_groups(groups, paired=paired)
    run = open_run(found.sources, corpus, Settings.of(options, settings))
    check_run(found, run)
    pairs = [Pair(a, b) for a, b in pair_positions(len(found.sources))]
    draw = compare_pairs(run, pairs, progress)[0]
    distances = np.array([[known(one.debiased.complement().value) for one in p.plain.layers] for p in draw.pairs])
    refuse_same([(p.pair.a, p.pair.b) for p, d in zip(draw.pairs, distances, strict=True) if _same(d)], run)
    without = _without(draw.pairs)
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


def _without(pairs: Sequence[PairResult]) -> np.ndarray:
    """Debiased CKA of each pair and layer without each document in turn, (pairs, layers, documents)."""
    nothing = np.full(len(pairs[0].plain.left_out), np.nan)
    return np.array([[nothing if one is None else one for one in p.plain.leave_one_out] for p in pairs])


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
