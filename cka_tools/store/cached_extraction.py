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
    describe,
    layout_of,
    plan_forwards,
    prepare,
    without_padding,
)
from cka_tools.extraction.features import FeatureStore, Layout, ModelFeatures
from cka_tools.extraction.gathered_rows import GatheredRows, run_share
from cka_tools.extraction.tokens import TextDocument
from cka_tools.models.model import LoadedModel
from cka_tools.processes import from_first
from cka_tools.settings import Settings
from cka_tools.store.directory import cache_directory, entry_folder, lock_file, locked
from cka_tools.store.entry import DamagedEntry, read_entry, remove_folder
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
    """Run documents through a model and pool each layer, or take the same bits from the store.

    Rows are in the documents' order whatever the batches were. The model is put back as it was, with no hook
    left, also when this raises.

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
        UserError: settings that do not fit the model, documents without text, a non-finite activation, a
            document that does not fit in memory, no space left on the disk.
    """
    settings = settings or Settings()
    layers = settings.layers if layers is None else layers
    loaded = model if load is None else load() if content is None or not cache else None
    prepared = without_padding(prepared or prepare([model], documents, settings), [loaded or model])
    job = _Job(loaded or model, prepared, documents, settings, layers, content)
    if cache and job.find():
        return job.extraction(progress)
    if loaded is None:
        assert load is not None
        job.model = load()
        job.prepared = without_padding(prepared, [job.model])
        if job.prepared is not prepared and cache and job.find():  # an outline did not tell
            return job.extraction(progress)
    return job.extraction(progress, job.make(progress))


def find_stored(
    model: LoadedModel,
    documents: Sequence[TextDocument],
    settings: Settings,
    layers: Sequence[int] | None,
    prepared: Prepared,
    content: dict[str, Any],
) -> tuple[str | None, bool]:
    """The key of features in the store, None where it is not known, and whether they are there and sound.

    Args:
        model: its outline. For the others see `extract_cached`.
    """
    job = _Job(model, without_padding(prepared, [model]), documents, settings, layers, content)
    found = job.find()
    return (None if job.key is None else job.key.digest), found


@dataclass
class _Job:
    """One entry of the store: found, or made."""

    model: LoadedModel
    prepared: Prepared
    documents: Sequence[TextDocument]
    settings: Settings
    layers: Sequence[int] | None
    content: dict[str, Any] | None
    cache: Path = field(default_factory=cache_directory)
    key: EntryKey | None = None
    layout: Layout | None = None
    state: str = "off"
    features: ModelFeatures | None = None
    notes: list[str] = field(default_factory=list)
    store: FeatureStore | PartialEntry | None = None
    held: ExitStack = field(default_factory=ExitStack)
    damage: str = ""

    def forward(self) -> PooledForward:
        """The model with its layers to hook."""
        return plan_forwards([self.model], self.settings, [self.layers])[0]

    def find(self) -> bool:
        """Whether features are there, under a key of all that makes them; no key, with a note, where that is
        not known."""
        forward, table = self.forward(), self.prepared.tables[0]
        self.key = None
        try:
            self.key = entry_key(forward, table, self.prepared, self.documents, self.settings, self.content)
        except NotKeyed as error:
            self.notes.append(f"Features of {self.model.name} were not kept in the cache: {error}.")
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
            self.key = None
            self.notes.append(f"The cache in {self.cache} cannot be read ({reason_of(error)}): it was not used.")
        if self.features is not None:
            self.state = "hit"
        return self.features is not None

    def make(self, progress: Progress | None) -> list[dict[str, Any]]:
        """Run what the store lacks; every process its share of the batches. Return the splits."""
        forward, plan = self.forward(), self.prepared.plan
        self.layout = layout_of(forward, self.prepared, self.settings)
        with self.held:
            done = from_first(self.begin)
            if done is None:  # it turned up while the first process waited for its lock
                return []
            rows = GatheredRows(plan, self.store, frozenset(plan.batches[at] for at in done))
            told = progress or (lambda documents, tokens: None)
            splits = run_share([forward], [rows], self.prepared, self.documents, told, rows.batches())
            rows.hand_over()
            self.finish(was_split=bool(splits))
        return splits

    def begin(self) -> list[int] | None:
        """Open a place for the rows; the numbers of the batches that are there, None if all features are.

        The entry's lock is held from here on, unless the store cannot be written.
        """
        assert self.layout is not None
        key = self.key
        if key is not None:
            try:
                self.held.enter_context(locked(lock_file(self.cache, key.digest)))
                if self.look_up():
                    return None
                if self.damage:
                    remove_folder(entry_folder(self.cache, key.digest))
                    self.notes.append(
                        f"Cached features of {self.model.name} were damaged ({self.damage}): they were made anew."
                    )
                self.store = PartialEntry(self.cache, key, self.layout, self.prepared.plan, self.settings)
                self.held.callback(self.store.close)
            except OSError as error:
                self.not_kept(reason_of(error))
        self.store = self.store or FeatureStore(self.layout, self.settings.memory_limit, self.settings.spill_folder)
        return [at for at, rows in enumerate(self.prepared.plan.batches) if rows in self.store.finished]

    def finish(self, *, was_split: bool) -> None:
        """Take the features, and keep them where that is possible."""
        store = self.store
        if isinstance(store, FeatureStore):
            self.features = store.finish()
        elif store is not None:
            if was_split and not store.problem:
                # The split depends on the memory that was free; the key does not tell.
                store.problem = "a batch was split as memory ran out"
            self.features = store.finish(self.model.name)
            if store.problem:
                self.not_kept(store.problem)
            else:
                self.state = "resumed" if store.finished else "made"

    def not_kept(self, reason: str) -> None:
        """Go on without the store, with one line on why."""
        self.notes.append(f"Features were not kept in the cache in {self.cache} ({reason}).")

    def extraction(self, progress: Progress | None, splits: Sequence[dict[str, Any]] = ()) -> Extraction:
        """The features and how they came about; equal in all processes but for the arrays."""
        if progress is not None and self.state != "hit":
            progress(len(self.prepared.kept), int(self.prepared.tables[0].lengths.sum()))
        facts = (list(splits), self.notes, self.state, self.features and self.features.layers)
        all_splits, notes, state, layers = from_first(lambda: facts)
        features = self.features or ModelFeatures(list(layers or ()), [])
        extraction = describe([self.model], self.prepared, [features], all_splits, [state])
        return replace(extraction, notes=[*extraction.notes, *dict.fromkeys(notes)])
