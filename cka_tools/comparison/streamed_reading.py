"""Documents whose features are too many to keep: statistics are summed while both models run."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cka_tools.extraction import BatchPlan, Extraction, ExtractionSettings, Prepared
from cka_tools.extraction.activations import PooledForward
from cka_tools.extraction.batches import WholeBatches, plan_corpus_order, plan_sorted
from cka_tools.extraction.extract import (
    Progress,
    describe,
    feature_dtype,
    plan_forwards,
    prepare,
    run_batches,
)
from cka_tools.extraction.features import ModelFeatures
from cka_tools.extraction.tokens import TextDocument
from cka_tools.formatting import size_in_words
from cka_tools.models import LoadedModel
from cka_tools.processes import at_first, crew, from_first, receive_state, send_state
from cka_tools.statistics.linear_cka import FOLD_ROWS
from cka_tools.statistics.pair import FeatureComparison
from cka_tools.statistics.ratio import SecondOrder, ratio_second_order
from cka_tools.statistics.streamed_pair import Pilot, StreamedComparison, part_of
from cka_tools.store.key import EntryKey, NotKeyed, entry_key, make_key, numerics
from cka_tools.store.partial import scaled
from cka_tools.store.snapshot import Snapshot

PILOT_DOCUMENTS = 1024
"""Documents whose standard deviations scale the features of `--rescale`: each is known to 2 %."""

FORMAT = 2
"""Raised whenever a snapshot of an earlier version would be read wrongly."""

Layers = Sequence[Sequence[int] | None]


def features_size(
    models: Sequence[LoadedModel], documents: int, settings: ExtractionSettings, layers: Layers
) -> int:
    """Bytes of the features of all models, were they kept."""
    return sum(
        documents * (settings.draws or 1) * sum(forward.widths) * feature_dtype(forward.model).itemsize
        for forward in plan_forwards(models, settings, layers)
    )


@dataclass
class StreamedFeatures:
    """What is left of features that were not kept.

    Attributes:
        extraction: how they came about; its `features` tell the layers alone.
        pair: statistics of A and B, of all documents in the first process, of its share in another.
        control: of the control and B, where there is one.
        snapshot: of both.
    """

    extraction: Extraction
    pair: StreamedComparison
    control: StreamedComparison | None
    snapshot: Snapshot

    def second_order(self, plain: FeatureComparison, apart: FeatureComparison) -> SecondOrder:
        """What `ratio_second_order` gives of the comparisons of A and of the control with B."""
        assert self.control is not None
        (a, b), (c, _) = self.pair.left_out(), self.control.left_out()
        return ratio_second_order(a, c, b, plain, apart)


@dataclass(frozen=True)
class Sums:
    """Which two of the models are compared, by position, and in which layer pairs (all when None)."""

    first: int
    second: int
    pairs: Sequence[tuple[int, int]] | None
    rescale: bool = False


def stream_features(
    models: Sequence[LoadedModel],
    documents: Sequence[TextDocument],
    settings: ExtractionSettings,
    progress: Progress | None,
    *,
    layers: Layers,
    sums: Sequence[Sums],
    device: torch.device | str,
    cache: bool,
) -> StreamedFeatures:
    """Run documents through the models, each once, and sum what their comparisons need.

    An interrupted run goes on from its last snapshot, to the same bits for the same number of processes.

    Args:
        layers: of each model.
        sums: of the pair, and of the control with B if there is one.
        device: where sums are made. cache: whether snapshots are taken.

    Raises:
        UserError: as `extract_features` does.
    """
    team = crew()
    forwards = plan_forwards(models, settings, layers)
    prepared = prepare(models, documents, settings)
    pilots = from_first(lambda: _pilots(forwards, prepared, documents, settings, sums))
    statistics = [
        StreamedComparison(
            (forwards[asked.first].widths, forwards[asked.second].widths),
            len(prepared.kept),
            pilot,
            draws=settings.draws or 1,
            dtype=np.result_type(*(feature_dtype(model) for model in models)),
            pairs=asked.pairs,
            device=device,
            seed=settings.seed,
        )
        for asked, pilot in zip(sums, pilots, strict=True)
    ]
    notes: list[str] = []
    key = _key(forwards, prepared, documents, settings, statistics, sums, notes) if cache else None
    snapshot = Snapshot(key, team)
    share = prepared.plan.shard(team.rank, team.world)
    done = resumed = _take_up(snapshot, statistics, pilots)
    since = 0

    def take(rows: Sequence[int], values: list[list[np.ndarray] | None], split: bool) -> None:
        nonlocal done, since
        for asked, stat in zip(sums, statistics, strict=True):
            first, second = values[asked.first], values[asked.second]
            assert first is not None
            assert second is not None
            stat.update(rows, first, second)
        done, since = done + 1, since + len(rows)
        if since * team.world >= settings.snapshot_every or done == len(share.batches):
            since = 0
            if snapshot.kept:
                snapshot.write(_state(statistics), done, _record(pilots))

    left = share.batches[done:]
    told = scaled(_from(progress, prepared, share.batches[:done]), team, len(prepared.kept))
    stores = WholeBatches(left, [()] * len(models), take).sides
    own = run_batches(forwards, stores, prepared.tables, prepared, documents, told, left)
    splits = [split for part in at_first(own) for split in part]
    if team.first:
        for rank in range(1, team.world):
            state = receive_state(rank)
            for at, stat in enumerate(statistics):
                stat.merge(part_of(state, f"{at}."))
    else:
        send_state(_state(statistics))
    if progress is not None:
        progress(len(prepared.kept), int(prepared.tables[0].lengths.sum()))
    features = [ModelFeatures(forward.layers, []) for forward in forwards]
    extraction = describe(
        models, prepared, features, splits, ["resumed" if resumed else "streamed"] * len(models)
    )
    rescale = any(asked.rescale for asked in sums)
    extraction.streamed = {
        "documents_left_out": len(statistics[0].documents),
        "pilot_documents": min(PILOT_DOCUMENTS, statistics[0].total) if rescale else None,
        "processes": team.world,
    }
    extraction.notes += [_announcement(models, settings, layers, statistics[0], rescale=rescale)]
    extraction.notes += notes + snapshot.notes
    facts = (extraction.splits, extraction.notes, extraction.cache)
    extraction.splits, extraction.notes, extraction.cache = from_first(lambda: facts)
    return StreamedFeatures(
        extraction, statistics[0], statistics[1] if len(statistics) > 1 else None, snapshot
    )


def _state(statistics: Sequence[StreamedComparison]) -> dict[str, Tensor]:
    """The states of all, named by position."""
    return {
        f"{at}.{name}": tensor for at, stat in enumerate(statistics) for name, tensor in stat.state().items()
    }


def _take_up(snapshot: Snapshot, statistics: Sequence[StreamedComparison], pilots: Sequence[Pilot]) -> int:
    """Batches of this process's share that a snapshot holds, now in the statistics."""
    found = snapshot.read(_record(pilots))
    if found is None:
        return 0
    state, batches = found
    for at, stat in enumerate(statistics):
        stat.load(part_of(state, f"{at}."))
    return batches


def _record(pilots: Sequence[Pilot]) -> dict[str, Any]:
    """What must be the same for a state to go on from: shift and scales, to the bit."""
    digest = hashlib.sha256()
    for pilot in pilots:
        for side in (*pilot.means, *(pilot.scales or ())):
            for tensor in side:
                digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return {"format": FORMAT, "pilot": digest.hexdigest()}


def _pilots(
    forwards: Sequence[PooledForward],
    prepared: Prepared,
    documents: Sequence[TextDocument],
    settings: ExtractionSettings,
    sums: Sequence[Sums],
) -> list[Pilot]:
    """Shift and scales: of a seeded sample where features are rescaled, else of the first batch alone."""
    rescale = any(asked.rescale for asked in sums)
    plan = _pilot_plan(prepared, settings) if rescale else prepared.plan.batches[:1]
    parts: list[list[list[np.ndarray] | None]] = []
    whole = WholeBatches(plan, [()] * len(forwards), lambda rows, values, split: parts.append(values))
    run_batches(forwards, whole.sides, prepared.tables, prepared, documents, None, plan)
    by_model = [
        [np.concatenate(layer, axis=1) for layer in zip(*(values[at] or [] for values in parts), strict=True)]
        for at in range(len(forwards))
    ]
    return [Pilot.of(by_model[asked.first], by_model[asked.second], rescale=asked.rescale) for asked in sums]


def _pilot_plan(prepared: Prepared, settings: ExtractionSettings) -> Sequence[tuple[int, ...]]:
    """Batches of the pilot's documents: all, in their own plan, where there are no more."""
    plan, n = prepared.plan, len(prepared.kept)
    if n <= PILOT_DOCUMENTS:
        return plan.batches
    # Not the documents that are left out in turn: a stream of its own.
    rows = np.sort(np.random.default_rng([settings.seed, 1]).choice(n, PILOT_DOCUMENTS, replace=False))
    lengths = np.max([table.lengths[rows] for table in prepared.tables], axis=0)
    own: BatchPlan = (plan_sorted if plan.kind == "sorted" else plan_corpus_order)(lengths, plan.limit)
    return [tuple(int(rows[at]) for at in batch) for batch in own.batches]


def _key(
    forwards: Sequence[PooledForward],
    prepared: Prepared,
    documents: Sequence[TextDocument],
    settings: ExtractionSettings,
    statistics: Sequence[StreamedComparison],
    sums: Sequence[Sums],
    notes: list[str],
) -> EntryKey | None:
    """What snapshots are found by: everything that can change a bit of the sums."""
    try:
        features = [
            entry_key(forward, table, prepared, documents, settings).digest
            for forward, table in zip(forwards, prepared.tables, strict=True)
        ]
    except NotKeyed as error:
        notes.append(f"No snapshots were kept: {error}.")
        return None
    return make_key(
        {
            "format": FORMAT,
            "features": features,
            "left_out": [int(row) for row in statistics[0].documents],
            "sums": [
                [asked.first, asked.second, stat.pairs, asked.rescale]
                for asked, stat in zip(sums, statistics, strict=True)
            ],
            "fold_rows": FOLD_ROWS,
            "processes": crew().world,
            "numerics": numerics(statistics[0].device),
        }
    )


def _from(progress: Progress | None, prepared: Prepared, done: Sequence[Sequence[int]]) -> Progress | None:
    """Progress of a run that starts behind some batches."""
    if progress is None:
        return None
    rows = [row for batch in done for row in batch]
    before, tokens_before = len(rows), int(prepared.tables[0].lengths[rows].sum())
    return lambda documents, tokens: progress(before + documents, tokens_before + tokens)


def _announcement(
    models: Sequence[LoadedModel],
    settings: ExtractionSettings,
    layers: Layers,
    statistics: StreamedComparison,
    *,
    rescale: bool,
) -> str:
    n, few = statistics.total, len(statistics.documents)
    size = size_in_words(features_size(models, n, settings, layers))
    limit = size_in_words(settings.keep_features)
    text = (
        f"Features of {n:,} documents take {size}, more than --keep-features {limit}: statistics were "
        "streamed; values are exact over all documents, intervals come from "
        f"{'all' if few == n else f'{few:,}'} of them"
    )
    if rescale:
        pilot = "all of them" if n <= PILOT_DOCUMENTS else f"{PILOT_DOCUMENTS:,} of them"
        text += f", rescaled values from the standard deviations of {pilot}"
    return f"{text}."
