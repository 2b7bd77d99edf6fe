"""Any number of models over the same documents → features: the one way in for every analysis.

A model is opened once (tokenizer, blocks, limits), found in the activation store or run once over every draw
of documents, and let go. What only sums features takes the same batches (`comparison.streaming`).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, fields, replace
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch

from cka_tools.documents import DocumentDraw, draw_documents
from cka_tools.errors import EarlyWarning
from cka_tools.extraction.extract import Extraction, Prepared, feature_bytes, feature_dtype, prepare
from cka_tools.models import LoadedModel, LoadOptions, ModelGiven, ModelOutline, ModelSource, as_source, resolve_device
from cka_tools.planning import Work, announce, opened, stop_if_planning
from cka_tools.processes import from_first
from cka_tools.progress import Progress, reporter
from cka_tools.settings import FINAL_NORM, Reading, Settings
from cka_tools.statistics.hsic import ROUNDING_STEPS
from cka_tools.statistics.measures import find_measure
from cka_tools.store.cached_extraction import extract_cached, find_stored
from cka_tools.store.key import known_content

if TYPE_CHECKING:
    import datasets

CorpusGiven: TypeAlias = "str | PathLike[str] | Sequence[Any] | datasets.Dataset"
"""A corpus: a spec, a path, texts in memory, or a data set of `datasets`."""

FLOAT16_ON_CPU = "float16 on a CPU is slow and rounds more than on a GPU: use --dtype bfloat16 or float32 there."

Layers = tuple[int, ...] | None
"""Layers of a model by its own indices, ascending; None is all."""


@dataclass(frozen=True)
class Features:
    """Pooled features of one model over one draw of documents.

    Attributes:
        name: the model as it was given.
        depth: its number of layers.
        layers: by layer index (n, p), or (K, n, p) with K draws a document under token pooling; float32,
            float64 for a float64 model. Index −1 is the embeddings, `depth` what leaves the final norm.
            Rows are the documents of `ids`. Empty in processes beside the first.
        ids: of the documents, in row order.
        provenance: what the model was loaded from.
        extraction: how the features came about: tokens, batch plan, splits, notes, cache.
    """

    name: str
    depth: int
    layers: dict[int, np.ndarray]
    ids: list[str]
    provenance: dict[str, Any]
    extraction: Extraction


def compute_features(
    models: Sequence[ModelGiven],
    corpus: CorpusGiven = "sample",
    settings: Settings | None = None,
    *,
    progress: Progress | None = None,
    **options: Any,
) -> list[Features]:
    """Run one draw of documents through models, one pass each, none for what the activation store has.

    Args:
        models: anything `compare` takes as a model; one that is given twice runs once.
        corpus: as `compare` takes it.
        settings: or its fields as keywords.

    Raises:
        UserError: input that does not fit, in one line.
    """
    run = open_run(models, corpus, Settings.of(options, settings))
    wanted: list[Layers] = [run.settings.layers] * len(run.sources)
    if run.settings.final_norm:
        own = [range(len(outline.blocks)) if run.settings.layers is None else run.settings.layers
               for outline in run.outlines]  # fmt: skip
        wanted = [(*layers, FINAL_NORM) for layers in own]
    found = run.features(wanted, progress)
    return [found[at][0] for at in run.order]


@dataclass
class Told:
    """Progress over several models and draws as one."""

    report: Progress | None
    total: int
    documents: int = 0
    tokens: int = 0

    def __post_init__(self) -> None:
        self._report = reporter(self.report)

    def __call__(self, documents: int, tokens: int) -> None:
        if self._report is not None:
            self._report(self.documents + documents, self.tokens + tokens, self.total)

    def next(self, documents: int, tokens: int) -> None:
        """What was told is done."""
        self.documents += documents
        self.tokens += tokens

    def skip(self, documents: int) -> None:
        """So many need not run: counted, they would make a pace that nothing has."""
        self.total -= documents


@dataclass(frozen=True)
class FeatureRun:
    """Models, draws of documents and batch plans: all that is fixed before anything runs.

    Attributes:
        sources, outlines: the distinct models.
        order: of each model that was given, its place among them.
        prepared: of each draw its tokens and its batch plan.
    """

    sources: list[ModelSource]
    outlines: list[ModelOutline]
    order: list[int]
    draws: list[DocumentDraw]
    prepared: list[Prepared]
    settings: Settings
    options: LoadOptions
    copies: dict[int, int] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """Of the models as they were given."""
        return [self.sources[at].name for at in self.order]

    @property
    def depths(self) -> list[int]:
        """Layers of the models as they were given."""
        return [len(self.outlines[at].blocks) for at in self.order]

    @property
    def widths(self) -> list[int]:
        """Hidden sizes of the models as they were given."""
        return [self.outlines[at].hidden_size for at in self.order]

    @property
    def device(self) -> torch.device:
        """Where statistics are computed: where the models run, unless that has no float64."""
        place = torch.device(self.options.device)
        return torch.device("cpu") if place.type == "mps" else place

    def ids(self, draw: int) -> list[str]:
        """Ids of a draw's documents that entered, in row order."""
        return [self.draws[draw].documents[row].id for row in self.prepared[draw].kept]

    def size(self, layers: Sequence[Layers]) -> int:
        """Bytes of the features of all models and draws, were they kept.

        Args:
            layers: of each distinct model.
        """
        rows = sum(len(prepared.kept) for prepared in self.prepared) * (self.settings.draws or 1)
        return sum(feature_bytes(outline, rows, chosen) for outline, chosen in zip(self.outlines, layers, strict=True))

    def rounding(self, draw: int) -> float:
        """The relative spread that rounding alone can give features of a draw (`ModelStatistics`).

        A hidden state is rounded to the model's number format; attention and mean pooling sum up to T terms,
        T tokens of the longest document, each with a relative error of at most half a step (Higham 2002,
        eq. 3.5: (T/2)ε to first order), in the format of the features.
        """
        own = max(torch.finfo(outline.dtype).eps for outline in self.outlines) / 2
        longest = max(int(table.lengths.max()) for table in self.prepared[draw].tables)
        return own + (ROUNDING_STEPS + longest / 2) * float(np.finfo(result_dtype(self)).eps)

    def load(self, at: int) -> LoadedModel:
        """A distinct model with its weights."""
        return self.sources[at].load(self.options)

    def features(self, layers: Sequence[Layers], progress: Progress | None = None) -> list[list[Features]]:
        """Features of each distinct model in each draw; a copy of an earlier model by content does not run.

        Args:
            layers: of each distinct model.

        Raises:
            UserError: as `compute_features`.
        """
        runs = {at: float(len(self.draws)) for at in range(len(self.sources)) if not self._is_copy(at, layers)}
        announce(Work(self, "features", runs, tuple(layers)))
        stop_if_planning()
        total = sum(len(prepared.kept) for prepared in self.prepared) * len(self.sources)
        told = Told(progress, total)
        found: list[list[Features]] = []
        held = 0
        for at in range(len(self.sources)):
            own = self._of_copy(at, layers, found)
            if own is None:
                own = self._of_model(at, layers[at], told, held)
                in_memory = [one for one in own if not one.extraction.features[0].on_disk]
                held += sum(layer.nbytes for one in in_memory for layer in one.layers.values())
            else:
                told.skip(sum(len(prepared.kept) for prepared in self.prepared))
            found.append(own)
        return found

    def stored(self, at: int, layers: Layers) -> list[tuple[str | None, bool]]:
        """Of each draw the key of a distinct model's features in the store, and whether they are there.

        No key where only loading tells it, or the settings use no store.
        """
        content = self._content(at)
        if content is None or not self.settings.cache:
            return [(None, False)] * len(self.draws)
        return [
            find_stored(self.outlines[at], draw.documents, self.settings, layers, self._prepared(draw_at, at), content)
            for draw_at, draw in enumerate(self.draws)
        ]

    def _prepared(self, draw: int, at: int) -> Prepared:
        """One model's tokens of a draw, in the batches of all."""
        prepared = self.prepared[draw]
        return replace(prepared, tables=[prepared.tables[at]])

    def _is_copy(self, at: int, layers: Sequence[Layers]) -> bool:
        first = self.copies.get(at)
        return first is not None and layers[first] == layers[at]

    def _of_copy(self, at: int, layers: Sequence[Layers], found: Sequence[list[Features]]) -> list[Features] | None:
        if not self._is_copy(at, layers):
            return None
        first = self.copies[at]
        name, provenance = self.sources[at].name, self.outlines[at].provenance
        return [replace(one, name=name, provenance=provenance) for one in found[first]]

    def _of_model(self, at: int, layers: Layers, told: Told, held: int) -> list[Features]:
        source, outline = self.sources[at], self.outlines[at]
        memory = max(0, self.settings.memory_limit - held)
        content = self._content(at)
        loaded: LoadedModel | None = None

        def load() -> LoadedModel:
            nonlocal loaded
            loaded = loaded or self.load(at)
            return loaded

        found = []
        for draw, prepared in enumerate(self.prepared):
            extraction = extract_cached(
                outline,
                self.draws[draw].documents,
                replace(self.settings, memory_limit=memory),
                told,
                layers=layers,
                cache=self.settings.cache,
                prepared=self._prepared(draw, at),
                load=load,
                content=content,
            )
            if extraction.cache == ["hit"]:
                told.skip(len(prepared.kept))
            else:
                told.next(len(prepared.kept), self._tokens(draw, at))
            features = extraction.features[0]
            places = [len(outline.blocks) if layer == FINAL_NORM else layer for layer in features.layers]
            by_layer = dict(zip(places, features.features, strict=False))
            origin = (loaded or outline).provenance
            found.append(Features(source.name, len(outline.blocks), by_layer, self.ids(draw), origin, extraction))
        return found

    def _content(self, at: int) -> dict[str, Any] | None:
        """What tells a distinct model from every other without loading it; None where only loading tells."""
        fingerprint = self.sources[at].fingerprint()
        if fingerprint is None:
            return None
        content = known_content(self.outlines[at], fingerprint)
        if self.options.allow_unused_weights:
            # Loading would refuse such a model without the option: it is not to be found without it either.
            content["allow_unused_weights"] = True
        if self.options.device_map:
            # Parts of it may run on another device than the first.
            content["device_map"] = self.options.device_map
        return content

    def _tokens(self, draw: int, at: int) -> int:
        return int(self.prepared[draw].tables[at].lengths.sum())


def open_run(
    models: Sequence[ModelGiven], corpus: CorpusGiven, settings: Settings, seeds: Sequence[int] | None = None
) -> FeatureRun:
    """Open models, draw documents, tokenize once a tokenizer and plan the batches; nothing runs yet.

    Args:
        seeds: of the draws; by default the one of the settings.

    Raises:
        UserError: input that does not fit, in one line.
    """
    for name in settings.measures:
        find_measure(name)
    given = [as_source(one) for one in models]
    options = load_options(settings)
    if str(options.device) == "cpu" and options.dtype == "float16":
        warnings.warn(FLOAT16_ON_CPU, EarlyWarning, stacklevel=3)
    draws = [_draw(corpus, settings, seed) for seed in seeds or (settings.seed,)]
    sources = list(dict.fromkeys(given))
    order = [sources.index(source) for source in given]
    outlines = [source.outline(options) for source in sources]
    prepared = [prepare(outlines, draw.documents, settings) for draw in draws]
    known = from_first(lambda: [_content(source) for source in sources])
    copies = {at: known.index(one) for at, one in enumerate(known) if one is not None and known.index(one) < at}
    run = FeatureRun(sources, outlines, order, draws, prepared, settings, options, copies)
    opened(run)
    return run


def load_options(settings: Settings) -> LoadOptions:
    """How the settings have models loaded.

    Raises:
        UserError: as `resolve_device`.
    """
    return LoadOptions(
        resolve_device(settings.device),
        settings.dtype or "float32",
        settings.trust_remote_code,
        settings.allow_unused_weights,
        settings.allow_bin,
        settings.stack,
        settings.device_map,
    )


_drawn: ContextVar[dict[Any, DocumentDraw] | None] = ContextVar("drawn", default=None)


@contextmanager
def sharing_draws() -> Iterator[None]:
    """Read a corpus once for all analyses inside that draw the same of it."""
    token = _drawn.set({})
    try:
        yield
    finally:
        _drawn.reset(token)


def _draw(corpus: CorpusGiven, settings: Settings, seed: int) -> DocumentDraw:
    drawn = _drawn.get()
    if drawn is None or not isinstance(corpus, str | PathLike):
        return draw_documents(corpus, settings.documents, seed, settings)
    key = (fspath(corpus), settings.documents, seed, *(getattr(settings, one.name) for one in fields(Reading)))
    if key not in drawn:
        drawn[key] = draw_documents(corpus, settings.documents, seed, settings)
    return drawn[key]


def _content(source: ModelSource) -> dict[str, Any] | None:
    """What a checkpoint holds, whatever it is called; None where loading alone tells."""
    found = source.fingerprint()
    if found is None:
        return None
    return {name: value for name, value in found.items() if name.endswith("_sha256") or name == "mask"}


def result_dtype(run: FeatureRun) -> np.dtype[Any]:
    """The number format that holds the features of all models."""
    return np.result_type(*(feature_dtype(outline) for outline in run.outlines))
