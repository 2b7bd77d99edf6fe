"""Many models over one draw of documents: each is loaded alone, run once, and let go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import torch

from cka_tools.comparison.pairing import choose_layers, early_layers
from cka_tools.comparison.reading import DrawProgress, Progress
from cka_tools.documents import DocumentDraw, draw_documents
from cka_tools.extraction import Extraction, ExtractionSettings, Prepared, prepare
from cka_tools.extraction.features import ModelFeatures
from cka_tools.models import LoadedModel, LoadOptions, ModelGiven, ModelSource, as_source, resolve_device
from cka_tools.statistics.features import ModelStatistics
from cka_tools.statistics.pair import FeatureComparison, compare_statistics
from cka_tools.store import extract_cached

if TYPE_CHECKING:
    import datasets


class ReadingOptions(TypedDict, total=False):
    """Options that every reading of many models takes; names and defaults are those of `compare`."""

    documents: int | None
    max_length: int | None
    pooling: Literal["mean", "cls", "last", "token"]
    sites: Literal["residual", "attention", "mlp"]
    layers: Sequence[int] | None
    early: Sequence[int] | None
    dtype: str | None
    device: str | torch.device
    seed: int
    batch_tokens: int | None
    tokens_per_document: int
    trust_remote_code: bool
    cache: bool
    progress: Progress | None


@dataclass(frozen=True)
class PairPlan:
    """Two of the models, by position, their layer pairs by the models' own indices, and which are early."""

    a: int
    b: int
    layers: list[tuple[int, int]]
    early: list[int]


@dataclass(frozen=True)
class ReadModel:
    """What is kept of a model that was read: features, what they say alone, and where they are from."""

    name: str
    depth: int
    provenance: dict[str, Any]
    features: ModelFeatures
    statistics: ModelStatistics
    extraction: Extraction


@dataclass(frozen=True)
class PairReading:
    """Two models' features compared; `layers_a`, `layers_b` are the models' own indices of their layers."""

    plan: PairPlan
    found: FeatureComparison
    layers_a: list[int]
    layers_b: list[int]


@dataclass(frozen=True)
class ManyModels:
    """Models read over the same documents in the same batches, and the pairs that are asked of them."""

    draw: DocumentDraw
    settings: ExtractionSettings
    prepared: Prepared
    models: list[ReadModel]
    pairs: list[PairPlan]
    device: torch.device
    notes: list[str]

    @property
    def document_ids(self) -> list[str]:
        """Ids of the documents that entered, in row order."""
        return [self.draw.documents[row].id for row in self.prepared.kept]

    def compare(self, plan: PairPlan) -> PairReading:
        """Compare the paired layers of two of the models."""
        a, b = self.models[plan.a], self.models[plan.b]
        at_a, at_b = ({layer: at for at, layer in enumerate(m.features.layers)} for m in (a, b))
        found = compare_statistics(
            a.statistics,
            b.statistics,
            [(at_a[i], at_b[j]) for i, j in plan.layers],
            plan.early,
            seed=self.settings.seed,
        )
        return PairReading(plan, found, a.features.layers, b.features.layers)


def read_models(
    given: Sequence[ModelGiven],
    pairs: Sequence[tuple[int, int]],
    corpus: str | PathLike[str] | Sequence[str] | datasets.Dataset = "sample",
    options: ReadingOptions | None = None,
) -> ManyModels:
    """Run one draw of documents through each of the models: one pass each, or none where the store has it.

    Texts are tokenized once a tokenizer, and all models share one batch plan. A model that is given twice, or
    under two names, runs once.

    Args:
        given: the models. pairs: which of them, by position, are to be compared.

    Raises:
        UserError: as `compare`.
    """
    chosen = options or {}
    order = [as_source(one) for one in given]
    place = resolve_device(chosen.get("device", "auto"))
    settings = ExtractionSettings(
        max_length=chosen.get("max_length"),
        pooling=chosen.get("pooling", "mean"),
        sites=chosen.get("sites", "residual"),
        batch_tokens=chosen.get("batch_tokens"),
        tokens_per_document=chosen.get("tokens_per_document", ExtractionSettings.tokens_per_document),
        seed=chosen.get("seed", 42),
    )
    draw = draw_documents(corpus, chosen.get("documents"), settings.seed)
    load = LoadOptions(place, chosen.get("dtype") or "float32", chosen.get("trust_remote_code", False))
    outlines = {source: source.outline(load) for source in dict.fromkeys(order)}
    depths = [len(outlines[key].blocks) for key in order]
    plans = plan_pairs(depths, pairs, chosen.get("layers"), chosen.get("early"))
    distinct = list(outlines)
    prepared = prepare(list(outlines.values()), draw.documents, settings)
    progress = DrawProgress(chosen.get("progress"), len(draw.documents) * len(distinct))
    read: dict[ModelSource, ReadModel] = {}
    notes = [*draw.notes, *prepared.notes]
    for at, key in enumerate(distinct):
        held = sum(_in_memory(one) for one in read.values())
        read[key] = _read_one(
            key.load(load),
            draw,
            replace(settings, memory_limit=max(0, settings.memory_limit - held)),
            replace(prepared, tables=[prepared.tables[at]]),
            _layers_needed(order.index(key), order, plans, chosen.get("layers")),
            progress,
            list(read.values()),
            place=torch.device("cpu") if place.type == "mps" else place,
            cache=chosen.get("cache", True),
        )
        progress.next_draw(len(draw.documents), int(prepared.tables[at].lengths.sum()))
        notes += read[key].extraction.notes
    notes += _same_weights(list(read.values()))
    models = [read[key] for key in order]
    return ManyModels(draw, settings, prepared, models, plans, place, list(dict.fromkeys(notes)))


def plan_pairs(
    depths: Sequence[int],
    pairs: Sequence[tuple[int, int]],
    layers: Sequence[int] | None,
    early: Sequence[int] | None,
) -> list[PairPlan]:
    """The layer pairs of each pair of models, as `compare` pairs them.

    Raises:
        UserError: a layer that a model does not have.
    """
    plans = []
    for a, b in pairs:
        chosen, _, _ = choose_layers(depths[a], depths[b], layers)
        early_given = early_layers(min(depths[a], depths[b]), early)
        shallow = 0 if depths[a] <= depths[b] else 1
        positions = [at for at, pair in enumerate(chosen) if pair[shallow] in early_given]
        plans.append(PairPlan(a, b, chosen, positions))
    return plans


def _layers_needed(
    first: int, order: Sequence[ModelSource], plans: Sequence[PairPlan], layers: Sequence[int] | None
) -> tuple[int, ...] | None:
    """Layers of one model that some pair asks for; None is all."""
    if layers is None:
        return None
    same = {at for at, key in enumerate(order) if key == order[first]}
    found = {pair[side] for plan in plans for side in (0, 1) if (plan.a, plan.b)[side] in same
             for pair in plan.layers}  # fmt: skip
    return tuple(sorted(found))


def _read_one(
    model: LoadedModel,
    draw: DocumentDraw,
    settings: ExtractionSettings,
    prepared: Prepared,
    layers: tuple[int, ...] | None,
    progress: DrawProgress,
    before: Sequence[ReadModel],
    *,
    place: torch.device,
    cache: bool,
) -> ReadModel:
    """One pass, or none where a copy of the model was read before."""
    wanted = list(range(len(model.blocks))) if layers is None else list(layers)
    for other in before:
        if _is_copy(model.provenance, other.provenance) and other.features.layers == wanted:
            return replace(other, name=model.name, provenance=model.provenance)
    extraction = extract_cached(
        [model], draw.documents, settings, progress, layers=[layers], cache=cache, prepared=prepared
    )
    features = extraction.features[0]
    statistics = ModelStatistics(features.features, device=place)
    return ReadModel(model.name, len(model.blocks), model.provenance, features, statistics, extraction)


def _is_copy(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Whether two checkpoints are the same by content; of a model in memory the hashes do not tell all."""
    names = ("weights_sha256", "config_sha256", "tokenizer_sha256", "dtype")
    return "memory" not in (a["kind"], b["kind"]) and all(a[name] == b[name] for name in names)


def _same_weights(models: Sequence[ReadModel]) -> list[str]:
    notes = []
    for at, one in enumerate(models):
        for other in models[:at]:
            if one.provenance["weights_sha256"] == other.provenance["weights_sha256"]:
                notes.append(f"{other.name} and {one.name} hold the same weights.")
                break
    return notes


def _in_memory(model: ReadModel) -> int:
    return 0 if model.features.on_disk else sum(layer.nbytes for layer in model.features.features)
