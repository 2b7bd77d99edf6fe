"""Documents → features of a model, from the store where they are there; what is not runs, and is kept."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cka_tools.errors import reason_of
from cka_tools.extraction.activations import PooledForward
from cka_tools.extraction.extract import (
    Extraction,
    Prepared,
    Progress,
    RowStore,
    describe,
    feature_dtype,
    make_stores,
    plan_forwards,
    prepare,
    without_padding,
)
from cka_tools.extraction.features import FeatureStore, ModelFeatures
from cka_tools.extraction.gathered_rows import GatheredRows, run_share
from cka_tools.extraction.tokens import TextDocument
from cka_tools.models.model import LoadedModel
from cka_tools.processes import from_first
from cka_tools.settings import Settings
from cka_tools.store.directory import cache_directory, entry_folder, lock_file, locked
from cka_tools.store.entry import DamagedEntry, Layout, read_entry, remove_folder
from cka_tools.store.key import EntryKey, NotKeyed, entry_key
from cka_tools.store.partial import PartialEntry


def extract_cached(
    model: LoadedModel,
    documents: Sequence[TextDocument],
    settings: Settings | None = None,
    progress: Progress | None = None,
    *,
    layers: Sequence[int] | None = None,
    cache: bool = True,
    prepared: Prepared | None = None,
    load: Callable[[], LoadedModel] | None = None,
    content: dict[str, Any] | None = None,
) -> Extraction:
    """Features as `extract_features` gives them, bit for bit, taken from the store if they can be.

    What an interrupted run has finished is not run again. Another process that makes the same features is
    waited for. A store that cannot be written or is full costs a note, never the result.

    Of several processes each runs its share of the batches. The first has the features; in the others
    `features` tells the layers alone.

    Args:
        model: the model, or its outline where `load` gives it.
        layers: None takes `settings.layers`.
        cache: False uses no store.
        prepared: tokens and batch plan, where they were made for more models than this one.
        load: gives the model with its weights; called only if something runs, or if nothing else tells
            what the features are found by.
        content: what tells the model from every other without loading it; None where only loading tells.

    Raises:
        UserError: as `extract_features` does.
    """
    settings = settings or Settings()
    layers = settings.layers if layers is None else layers
    loaded = model if load is None else load() if content is None or not cache else None
    prepared = without_padding(prepared or prepare([model], documents, settings), [loaded or model])
    job = _Job(cache_directory())
    if cache and job.find(loaded or model, prepared, documents, settings, layers, content):
        return job.extraction(loaded or model, prepared, progress)
    if loaded is None:
        assert load is not None
        loaded = load()
        if loaded.needs_equal_lengths:  # an outline did not tell
            prepared = without_padding(prepared, [loaded])
            if cache and job.find(loaded, prepared, documents, settings, layers, content):
                return job.extraction(loaded, prepared, progress)
    forward = plan_forwards([loaded], settings, [layers])[0]
    job.layout = Layout(
        tuple(forward.layers), tuple(forward.widths), len(prepared.kept), settings.draws, feature_dtype(loaded).name
    )
    splits = _run(job, forward, prepared, documents, settings, progress)
    return job.extraction(loaded, prepared, progress, splits)


def _run(
    job: "_Job",
    forward: PooledForward,
    prepared: Prepared,
    documents: Sequence[TextDocument],
    settings: Settings,
    progress: Progress | None,
) -> list[dict[str, Any]]:
    """Run what the store lacks; every process its share of the batches. Return the splits."""
    plan = prepared.plan
    with job.held:
        left = from_first(lambda: job.begin(forward, prepared, settings))
        if left is None:  # it turned up while the first process waited for its lock
            return []
        finished = frozenset(plan.batches[at] for at in left)
        rows = GatheredRows(plan, job.store, finished)
        told = progress or (lambda documents, tokens: None)
        splits = run_share([forward], [rows], prepared, documents, told, rows.batches())
        rows.hand_over()
        if job.store is not None:
            job.finish(forward.model.name, was_split=bool(splits))
    return splits


@dataclass
class _Job:
    """One entry of the store: found, or made."""

    cache: Path
    key: EntryKey | None = None
    layout: Layout | None = None
    layers: list[int] = field(default_factory=list)
    state: str = "off"
    features: ModelFeatures | None = None
    notes: list[str] = field(default_factory=list)
    store: RowStore | None = None
    held: ExitStack = field(default_factory=ExitStack)
    damage: str = ""
    usable: bool = True
    name: str = ""

    def find(
        self,
        model: LoadedModel,
        prepared: Prepared,
        documents: Sequence[TextDocument],
        settings: Settings,
        layers: Sequence[int] | None,
        content: dict[str, Any] | None,
    ) -> bool:
        """Whether features are there, under a key of all that makes them; no key, with a note, where that is
        not known."""
        self.name, self.key = model.name, None
        forward = plan_forwards([model], settings, [layers])[0]
        self.layers = forward.layers
        try:
            self.key = entry_key(forward, prepared.tables[0], prepared, documents, settings, content)
        except NotKeyed as error:
            self.notes.append(f"Features of {model.name} were not kept in the cache: {error}.")
        return from_first(self.look_up)

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
            self.notes.append(f"The cache in {self.cache} cannot be read ({reason_of(error)}): it was not used.")
        if self.features is not None:
            self.state = "hit"
        return self.features is not None

    def begin(self, forward: PooledForward, prepared: Prepared, settings: Settings) -> list[int] | None:
        """Open a place for the rows; the numbers of the batches that are there, None if all features are.

        The entry's lock is held from here on, unless the store cannot be written.
        """
        if self.key is not None and self.usable:
            try:
                self.held.enter_context(locked(lock_file(self.cache, self.key.digest)))
                if self.look_up():
                    return None
                if self.damage:
                    remove_folder(entry_folder(self.cache, self.key.digest))
                    self.notes.append(
                        f"Cached features of {self.name} were damaged ({self.damage}): they were made anew."
                    )
                assert self.layout is not None
                partial = PartialEntry(self.cache, self.key, self.layout, prepared.plan, settings)
                self.held.callback(partial.close)
                self.store = partial
            except OSError as error:
                self.not_kept(reason_of(error))
        self.store = self.store or make_stores([forward], len(prepared.kept), settings)[0]
        return [at for at, rows in enumerate(prepared.plan.batches) if rows in self.store.finished]

    def finish(self, name: str, *, was_split: bool) -> None:
        """Take the features, and keep them where that is possible."""
        store = self.store
        if isinstance(store, FeatureStore):
            self.features = store.finish()
        elif isinstance(store, PartialEntry):
            if was_split and not store.problem:
                # The split depends on the memory that was free; the key does not tell.
                store.problem = "a batch was split as memory ran out"
            self.features = store.finish(name)
            if store.problem:
                self.not_kept(store.problem)
            else:
                self.state = "resumed" if store.finished else "made"

    def not_kept(self, reason: str) -> None:
        """Go on without the store, with one line on why."""
        self.usable = False
        self.notes.append(f"Features were not kept in the cache in {self.cache} ({reason}).")

    def extraction(
        self,
        model: LoadedModel,
        prepared: Prepared,
        progress: Progress | None,
        splits: list[dict[str, Any]] | None = None,
    ) -> Extraction:
        """The features and how they came about; equal in all processes but for the arrays."""
        if progress is not None:
            progress(len(prepared.kept), int(prepared.tables[0].lengths.sum()))
        facts = (splits or [], self.notes, self.state, self.features and self.features.layers)
        splits, notes, state, layers = from_first(lambda: facts)
        features = self.features or ModelFeatures(list(layers or ()), [])
        extraction = describe([model], prepared, [features], splits or [], [state])
        return replace(extraction, notes=[*extraction.notes, *dict.fromkeys(notes)])
