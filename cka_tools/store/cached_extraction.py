"""Documents → features of each model, from the store where they are there; what is not runs, and is kept."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cka_tools.extraction.activations import PooledForward
from cka_tools.extraction.extract import (
    Extraction,
    Prepared,
    Progress,
    RowStore,
    describe,
    extract_features,
    feature_dtype,
    make_stores,
    plan_forwards,
    prepare,
    run_batches,
    without_padding,
)
from cka_tools.extraction.features import FeatureStore, ModelFeatures
from cka_tools.extraction.settings import ExtractionSettings
from cka_tools.extraction.tokens import TextDocument, TokenTable
from cka_tools.models.model import LoadedModel
from cka_tools.processes import at_first, crew, from_first
from cka_tools.store.directory import cache_directory, entry_folder, lock_file, locked
from cka_tools.store.entry import DamagedEntry, Layout, read_entry, remove_folder
from cka_tools.store.key import EntryKey, NotKeyed, entry_key
from cka_tools.store.partial import (
    PartialEntry,
    RowShape,
    Work,
    own_and_gathered,
    reason_of,
    scaled,
    sending_stores,
)


def extract_cached(
    models: Sequence[LoadedModel],
    documents: Sequence[TextDocument],
    settings: ExtractionSettings | None = None,
    progress: Progress | None = None,
    *,
    layers: Sequence[Sequence[int] | None] | None = None,
    cache: bool = True,
    prepared: Prepared | None = None,
) -> Extraction:
    """Features as `extract_features` gives them, bit for bit, each model's taken from the store if it can be.

    Models that are not there run together on the same batches, and their features are kept. What an
    interrupted run has finished is not run again. Another process that makes the same features is waited
    for. A store that cannot be written or is full costs a note, never the result.

    Of several processes that are joined each runs its share of the batches. The first has the features; in
    the others `features` tells the layers alone.

    Args:
        cache: False uses no store.
        prepared: tokens and batch plan, where they were made for more models than run now.

    Raises:
        UserError: as `extract_features` does.
    """
    team = crew()
    if not cache and team.world == 1:
        return extract_features(models, documents, settings, progress, layers=layers, prepared=prepared)
    settings = settings or ExtractionSettings()
    forwards = plan_forwards(models, settings, layers)
    prepared = without_padding(prepared, models) if prepared else prepare(models, documents, settings)
    shapes = [RowShape.of(forward, settings.draws) for forward in forwards]
    if not team.first:
        return _run_share(models, forwards, shapes, prepared, documents)
    jobs = _make_jobs(forwards, prepared, documents, settings, cache=cache)
    lacking = [job for job in jobs if not job.look_up()]
    splits: list[dict[str, Any]] = []
    with ExitStack() as stack:
        # One order for every process: two that want the same entries cannot wait for each other.
        for job in sorted(lacking, key=lambda job: job.digest):
            stack.enter_context(job.lock)
            job.acquire()
        lacking = [job for job in lacking if job.features is None]
        stores = _open_stores(lacking, prepared, settings) if lacking else []
        for store in stores:
            if isinstance(store, PartialEntry):
                stack.callback(store.close)
        places = [forwards.index(job.forward) for job in lacking]
        plan = prepared.plan
        from_first(lambda: [Work.left(*work, plan) for work in zip(places, stores, strict=True)])
        if lacking:
            batches = own_and_gathered(plan, team, stores, [shapes[at] for at in places])
            told = scaled(progress, team, len(prepared.kept))
            own = run_batches(
                [job.forward for job in lacking],
                stores,
                [job.table for job in lacking],
                prepared,
                documents,
                told,
                batches,
            )
            splits = [split for part in at_first(own) for split in part]
            split_models = {entry["model"] for entry in splits}
            for job, store in zip(lacking, stores, strict=True):
                job.finish(store, was_split=job.model.name in split_models)
    if (not lacking or team.world > 1) and progress is not None:
        progress(len(prepared.kept), int(prepared.tables[0].lengths.sum()))
    by_model = {id(forward): job for job in jobs for forward in job.forwards}
    found = [by_model[id(forward)] for forward in forwards]
    extraction = describe(
        models, prepared, [job.result for job in found], splits, [job.state for job in found]
    )
    extraction.notes += list(dict.fromkeys(note for job in jobs for note in job.notes))
    from_first(lambda: (extraction.splits, extraction.notes, extraction.cache))
    return extraction


def _run_share(
    models: Sequence[LoadedModel],
    forwards: Sequence[PooledForward],
    shapes: Sequence[RowShape],
    prepared: Prepared,
    documents: Sequence[TextDocument],
) -> Extraction:
    """Run this process's batches of what the first one lacks, and send it their rows."""
    work: list[Work] = from_first(list)
    if work:
        at, finished = [each.model for each in work], [each.batches(prepared.plan) for each in work]
        share = prepared.plan.shard(crew().rank, crew().world).batches
        stores = sending_stores(share, finished, [shapes[model] for model in at])
        tables = [prepared.tables[model] for model in at]
        at_first(
            run_batches([forwards[model] for model in at], stores, tables, prepared, documents, None, share)
        )
    layers = [ModelFeatures(forward.layers, []) for forward in forwards]
    extraction = describe(models, prepared, layers, [], [])
    facts: tuple[list, list, list] = from_first(lambda: ([], [], []))
    extraction.splits, extraction.notes, extraction.cache = facts
    return extraction


@dataclass
class _Job:
    """One entry, which several models may want (copies of one checkpoint)."""

    cache: Path
    forwards: list[PooledForward]
    table: TokenTable
    layout: Layout
    key: EntryKey | None
    state: str = "off"
    features: ModelFeatures | None = None
    notes: list[str] = field(default_factory=list)
    lock: ExitStack = field(default_factory=ExitStack)
    damage: str = ""
    usable: bool = True

    @property
    def forward(self) -> PooledForward:
        return self.forwards[0]

    @property
    def model(self) -> LoadedModel:
        return self.forward.model

    @property
    def digest(self) -> str:
        return "" if self.key is None else self.key.digest

    @property
    def result(self) -> ModelFeatures:
        assert self.features is not None
        return self.features

    def look_up(self) -> bool:
        """Whether the features are there and sound; `damage` says what is wrong with those that are not."""
        self.damage = ""
        if self.key is None:
            return False
        try:
            self.features = read_entry(self.cache, self.key, self.layout)
        except DamagedEntry as error:
            self.damage = str(error)
        except OSError as error:
            self.usable = False
            self.notes.append(
                f"The cache in {self.cache} cannot be read ({reason_of(error)}): it was not used."
            )
        if self.features is not None:
            self.state = "hit"
        return self.features is not None

    def acquire(self) -> None:
        """Hold the entry's lock unless the features turn up, or the store cannot be written."""
        if self.key is None or not self.usable:
            return
        try:
            self.lock.enter_context(locked(lock_file(self.cache, self.digest)))
            if self.look_up():
                self.lock.close()
            elif self.damage:
                remove_folder(entry_folder(self.cache, self.digest))
                self.notes.append(
                    f"Cached features of {self.model.name} were damaged ({self.damage}): they were made anew."
                )
        except OSError as error:
            self.not_kept(reason_of(error))

    def open_store(self, prepared: Prepared, settings: ExtractionSettings) -> PartialEntry | None:
        """Where the rows go if they are to be kept; None if they are not."""
        if self.key is None or not self.usable:
            return None
        try:
            return PartialEntry(self.cache, self.key, self.layout, prepared.plan, settings)
        except OSError as error:
            self.not_kept(reason_of(error))
            return None

    def finish(self, store: RowStore, *, was_split: bool) -> None:
        """Take the features, and keep them where that is possible."""
        if isinstance(store, FeatureStore):
            self.features = store.finish()
        elif isinstance(store, PartialEntry):
            if was_split and not store.problem:
                # The split depends on the memory that was free; the key does not tell.
                store.problem = "a batch was split as memory ran out"
            resumed = bool(store.finished)
            self.features = store.finish(self.model.name)
            if store.problem:
                self.not_kept(store.problem)
            else:
                self.state = "resumed" if resumed else "made"
        self.lock.close()

    def not_kept(self, reason: str) -> None:
        """Go on without the store, with one line on why."""
        self.usable = False
        self.notes.append(f"Features were not kept in the cache in {self.cache} ({reason}).")


def _make_jobs(
    forwards: Sequence[PooledForward],
    prepared: Prepared,
    documents: Sequence[TextDocument],
    settings: ExtractionSettings,
    *,
    cache: bool,
) -> list[_Job]:
    place = cache_directory()
    jobs: list[_Job] = []
    by_digest: dict[str, _Job] = {}
    for forward, table in zip(forwards, prepared.tables, strict=True):
        layout = Layout(
            tuple(forward.layers),
            tuple(forward.widths),
            len(prepared.kept),
            settings.draws,
            feature_dtype(forward.model).name,
        )
        job = _Job(place, [forward], table, layout, None)
        try:
            if cache:
                job.key = entry_key(forward, table, prepared, documents, settings)
        except NotKeyed as error:
            job.notes.append(f"Features of {forward.model.name} were not kept in the cache: {error}.")
        if job.digest and job.digest in by_digest:
            by_digest[job.digest].forwards.append(forward)
            continue
        jobs.append(job)
        by_digest[job.digest] = job
    return jobs


def _open_stores(jobs: Sequence[_Job], prepared: Prepared, settings: ExtractionSettings) -> list[RowStore]:
    kept = [job.open_store(prepared, settings) for job in jobs]
    others = [job.forward for job, store in zip(jobs, kept, strict=True) if store is None]
    unkept = iter(make_stores(others, len(prepared.kept), settings))
    return [next(unkept) if store is None else store for store in kept]
