"""Documents whose features are too many to keep: statistics are summed while all models run on one batch.

The layers of all models that are compared with others form the first side of one table of sums, those they
are compared with the second: so what a model costs by itself is summed once, whatever it is compared with.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from cka_tools.comparison.layer_pairs import best_pairs
from cka_tools.compute import FeatureRun, Layers, Told, result_dtype
from cka_tools.documents import Document
from cka_tools.extraction.activations import PooledForward
from cka_tools.extraction.batches import (
    BatchPlan,
    WholeBatches,
    plan_corpus_order,
    plan_equal_lengths,
    plan_packed,
    plan_sorted,
)
from cka_tools.extraction.extract import Extraction, Prepared, describe, plan_forwards, run_batches, without_padding
from cka_tools.extraction.features import ModelFeatures
from cka_tools.extraction.gathered_rows import run_share
from cka_tools.formatting import size_in_words
from cka_tools.models import LoadedModel
from cka_tools.processes import from_first, receive_state, send_state, this_process
from cka_tools.settings import Settings
from cka_tools.statistics.features import LayerPairs
from cka_tools.statistics.linear_cka import FOLD_ROWS
from cka_tools.statistics.pair import FeatureComparison
from cka_tools.statistics.ratio import DivergenceRatio, divergence_ratio, ratio_second_order
from cka_tools.statistics.streamed_pair import Pilot, StreamedComparison
from cka_tools.store.key import EntryKey, NotKeyed, entry_key, make_key, numerics
from cka_tools.store.snapshot import Snapshot

PILOT_DOCUMENTS = 1024
"""Documents whose standard deviations scale the features of `--rescale`: each is known to 2 %."""

FORMAT = 3
"""Raised whenever a snapshot of an earlier version would be read wrongly."""


@dataclass(frozen=True)
class Wanted:
    """Two of the distinct models, their layer pairs by position among the extracted, and which are early.

    Attributes:
        mean_layers: positions of the pairs that enter the mean.
        whole: CKA of all layers of the first with all of the second is wanted.
        candidates: layers of the second, by position, from which each pair of the mean takes the closest.
    """

    first: int
    second: int
    pairs: list[tuple[int, int]]
    early_layers: list[int]
    mean_layers: list[int]
    whole: bool = False
    candidates: list[int] | None = None

    def choose(self) -> Callable[[np.ndarray], LayerPairs] | None:
        """What takes the layer pairs from a matrix of debiased CKA; None where they are fixed."""
        if self.candidates is None:
            return None
        return partial(best_pairs, self.pairs, self.candidates, self.mean_layers)


@dataclass
class StreamedDraw:
    """What is left of a draw whose features were not kept.

    Attributes:
        extraction: how the features came about; its `features` tell the layers alone, of each distinct model.
        sums: of all documents in the first process, of its share in another.
    """

    extraction: Extraction
    sums: StreamedComparison
    snapshot: Snapshot
    sides: _Sides

    def compare(
        self, wanted: Wanted, like: FeatureComparison | None = None, *, called: tuple[str, str] = ("A", "B")
    ) -> FeatureComparison:
        """What two of the models' features say, as `statistics.pair.compare_statistics` gives it; of rescaled
        features in the layer pairs of the plain comparison `like` where that is given."""
        return self.sums.compare(
            wanted.pairs if like is None else like.pairs,
            wanted.early_layers,
            wanted.mean_layers,
            rescale=like is not None,
            sides=called,
            layers=self.sides.layers(wanted),
            choose=wanted.choose() if like is None else None,
        )

    def ratio(
        self, pair: Wanted, control: Wanted, plain: FeatureComparison, apart: FeatureComparison
    ) -> DivergenceRatio:
        """The ratio of a pair's divergence to a control's, of their comparisons with one second model."""
        a, b = self.sums.left_out(layers=self.sides.layers(pair))
        twin, _ = self.sums.left_out(layers=self.sides.layers(control))
        return divergence_ratio(plain, apart, ratio_second_order(a, twin, b, plain, apart))


class _Sides:
    """Where each model's layers lie on the two sides of the sums."""

    def __init__(self, wanted: Sequence[Wanted], widths: Sequence[Sequence[int]]) -> None:
        self.first = self._places(dict.fromkeys(one.first for one in wanted), widths)
        self.second = self._places(dict.fromkeys(one.second for one in wanted), widths)
        self.dims = tuple([p for model in side for p in widths[model]] for side in (self.first, self.second))

    @staticmethod
    def _places(models: dict[int, None], widths: Sequence[Sequence[int]]) -> dict[int, range]:
        places, start = {}, 0
        for model in models:
            places[model] = range(start, start + len(widths[model]))
            start += len(widths[model])
        return places

    def layers(self, wanted: Wanted) -> tuple[slice, slice]:
        """Which layers of the two sides a pair of models has."""
        rows, columns = self.first[wanted.first], self.second[wanted.second]
        return slice(rows.start, rows.stop), slice(columns.start, columns.stop)

    def pairs(self, wanted: Wanted) -> list[tuple[int, int]]:
        """Its layer pairs, counted over the sides."""
        a, b = self.first[wanted.first].start, self.second[wanted.second].start
        return [(a + i, b + j) for i, j in wanted.pairs]

    def all_pairs(self, wanted: Sequence[Wanted]) -> list[tuple[int, int]] | None:
        """Every layer pair that is summed; None where that is all of them."""
        found: dict[tuple[int, int], None] = {}
        for one in wanted:
            whole = [(i, j) for i in self.first[one.first] for j in self.second[one.second]]
            found |= dict.fromkeys(whole if one.whole else self.pairs(one))
        return None if len(found) == len(self.dims[0]) * len(self.dims[1]) else sorted(found)

    def join(self, values: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """Layers of the two sides, of each model's."""
        sides = (self.first, self.second)
        first, second = ([layer for model in side for layer in values[model]] for side in sides)
        return first, second


def stream_draw(
    run: FeatureRun,
    chosen: Sequence[int],
    models: Sequence[LoadedModel],
    draw: int,
    layers: Sequence[Layers],
    wanted: Sequence[Wanted],
    told: Told,
) -> StreamedDraw:
    """Run one draw through models, batch by batch, and sum what their comparisons need.

    An interrupted run goes on from its last snapshot, to the same bits for the same number of processes.

    Args:
        chosen: places of the models among the distinct ones of the run. models: these, loaded. layers: of
            each. wanted: pairs of them, by position in `chosen`.

    Raises:
        UserError: as `extract_cached` does.
    """
    process, settings = this_process(), run.settings
    tables = [run.prepared[draw].tables[at] for at in chosen]
    prepared = without_padding(replace(run.prepared[draw], tables=tables), models)
    documents = run.draws[draw].documents
    forwards = plan_forwards(models, settings, layers)
    sides = _Sides(wanted, [forward.widths for forward in forwards])
    rounding = run.rounding(draw)
    pilot = from_first(lambda: _pilot(forwards, prepared, documents, sides, settings, rounding))
    sums = StreamedComparison(
        (sides.dims[0], sides.dims[1]),
        len(prepared.kept),
        pilot,
        draws=settings.draws or 1,
        dtype=result_dtype(run),
        pairs=sides.all_pairs(wanted),
        device=run.device,
        seed=settings.seed,
        rounding=rounding,
    )
    notes: list[str] = []
    key = _key(forwards, prepared, documents, settings, sums, notes) if settings.cache else None
    snapshot = Snapshot(key, process)
    share = prepared.plan.shard(process.rank, process.world)
    done = since = 0
    if (found := snapshot.read(_record(pilot))) is not None:
        state, done = found
        sums.load(state)
    resumed = done > 0

    def take(rows: Sequence[int], values: list[list[np.ndarray]]) -> None:
        nonlocal done, since
        sums.update(rows, *sides.join(values))
        done, since = done + 1, since + len(rows)
        if since * process.world >= settings.snapshot_every or done == len(share.batches):
            since = 0
            if snapshot.kept:
                snapshot.write(sums.state(), done, _record(pilot))

    left = share.batches[done:]
    passed = [row for batch in share.batches[:done] for row in batch]
    tokens = int(prepared.tables[0].lengths[passed].sum())
    splits = run_share(
        forwards,
        WholeBatches(left, len(forwards), take).sides,
        prepared,
        documents,
        lambda more, of: told(len(passed) + more, tokens + of),
        left,
    )
    if process.first:
        for rank in range(1, process.world):
            sums.merge(receive_state(rank))
    else:
        send_state(sums.state())
    total = int(prepared.tables[0].lengths.sum())
    told(len(prepared.kept), total)
    told.next(len(prepared.kept), total)
    features = [ModelFeatures(forward.layers, []) for forward in forwards]
    extraction = describe(models, prepared, features, splits, ["resumed" if resumed else "streamed"] * len(models))
    extraction.streamed = {
        "documents_left_out": len(sums.documents),
        "pilot_documents": min(PILOT_DOCUMENTS, sums.total) if settings.rescale else None,
        "processes": process.world,
    }
    extraction.notes += [_announcement(run, forwards, sums), *notes, *snapshot.notes]
    facts = (extraction.splits, extraction.notes, extraction.cache)
    extraction.splits, extraction.notes, extraction.cache = from_first(lambda: facts)
    return StreamedDraw(extraction, sums, snapshot, sides)


def _record(pilot: Pilot) -> dict[str, Any]:
    """What must be the same for a state to go on from: shift and scales, to the bit."""
    digest = hashlib.sha256()
    tensors: list[Tensor] = [t for side in (*pilot.means, *(pilot.scales or ())) for t in side]
    for tensor in tensors:
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return {"format": FORMAT, "pilot": digest.hexdigest()}


def _pilot(
    forwards: Sequence[PooledForward],
    prepared: Prepared,
    documents: Sequence[Document],
    sides: _Sides,
    settings: Settings,
    rounding: float,
) -> Pilot:
    """Shift and scales: of a seeded sample where features are rescaled, else of the first batch alone."""
    plan = _pilot_plan(prepared, settings) if settings.rescale else prepared.plan.batches[:1]
    parts: list[list[list[np.ndarray]]] = []
    stores = WholeBatches(plan, len(forwards), lambda rows, values: parts.append(values)).sides
    run_batches(forwards, stores, prepared, documents, None, plan)
    by_model = [
        [np.concatenate(layer, axis=1) for layer in zip(*batches, strict=True)] for batches in zip(*parts, strict=True)
    ]
    return Pilot.of(*sides.join(by_model), rescale=settings.rescale, rounding=rounding)


def _pilot_plan(prepared: Prepared, settings: Settings) -> Sequence[tuple[int, ...]]:
    """Batches of the pilot's documents: all, in their own plan, where there are no more."""
    plan, n = prepared.plan, len(prepared.kept)
    if n <= PILOT_DOCUMENTS:
        return plan.batches
    # Not the documents that are left out in turn: a stream of its own.
    rows = np.sort(np.random.default_rng([settings.seed, 1]).choice(n, PILOT_DOCUMENTS, replace=False))
    lengths = np.stack([table.lengths[rows] for table in prepared.tables])
    own: BatchPlan
    if plan.kind == "equal-length":
        own = plan_equal_lengths(lengths, plan.limit)
    else:
        make = {"sorted": plan_sorted, "packed": plan_packed}.get(plan.kind, plan_corpus_order)
        own = make(lengths.max(axis=0), plan.limit)
    return [tuple(int(rows[at]) for at in batch) for batch in own.batches]


def _key(
    forwards: Sequence[PooledForward],
    prepared: Prepared,
    documents: Sequence[Document],
    settings: Settings,
    sums: StreamedComparison,
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
            "left_out": [int(row) for row in sums.documents],
            "pairs": sums.pairs,
            "dims": [list(side) for side in sums.dims],
            "rescale": settings.rescale,
            "fold_rows": FOLD_ROWS,
            "processes": this_process().world,
            "numerics": numerics(sums.device),
        }
    )


def _announcement(run: FeatureRun, forwards: Sequence[PooledForward], sums: StreamedComparison) -> str:
    n, few = sums.total, len(sums.documents)
    rows, item = n * sums.draws, result_dtype(run).itemsize
    size = size_in_words(rows * item * sum(sum(forward.widths) for forward in forwards))
    limit = size_in_words(run.settings.keep_bytes)
    text = (
        f"Features of {n:,} documents take {size}, more than --keep-features {limit}: statistics were "
        "streamed; values are exact over all documents, intervals come from "
        f"{'all' if few == n else f'{few:,}'} of them"
    )
    if run.settings.rescale:
        pilot = "all of them" if n <= PILOT_DOCUMENTS else f"{PILOT_DOCUMENTS:,} of them"
        text += f", rescaled values from the standard deviations of {pilot}"
    return f"{text}."
