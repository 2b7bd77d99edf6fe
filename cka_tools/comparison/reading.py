"""One draw of documents through both models: features, and what they say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache as cache_calls

from cka_tools.comparison.streamed_reading import StreamedFeatures, Sums, features_size, stream_features
from cka_tools.documents import DocumentDraw
from cka_tools.extraction import Extraction, ExtractionSettings
from cka_tools.models import LoadedModel
from cka_tools.processes import from_first
from cka_tools.statistics.features import ModelStatistics
from cka_tools.statistics.pair import FeatureComparison, compare_statistics
from cka_tools.statistics.ratio import DivergenceRatio, divergence_ratio, ratio_second_order
from cka_tools.store import extract_cached

Progress = Callable[[int, int, int], None]
"""Called with documents done, tokens done and documents in all."""


@dataclass(frozen=True)
class ControlReading:
    """The same documents through a control (a baseline of another seed): its distance from B is seed noise.

    `plain` compares the control with B in B's layers of the pairs, position by position; `ratio` is the
    pair's divergence over this one's.
    """

    plain: FeatureComparison
    ratio: DivergenceRatio


@dataclass(frozen=True)
class Reading:
    """One draw of documents, read by both models.

    `layers_a` and `layers_b` are the models' own indices of the layers that were extracted; `early` holds
    positions in the layer pairs. `diagonal`: the matrices hold those pairs alone.
    """

    draw: DocumentDraw
    extraction: Extraction
    layers_a: list[int]
    layers_b: list[int]
    early: list[int]
    plain: FeatureComparison
    rescaled: FeatureComparison | None
    control: ControlReading | None = None
    diagonal: bool = False

    @property
    def document_ids(self) -> list[str]:
        """Ids of the documents that entered, in row order."""
        return [self.draw.documents[row].id for row in self.extraction.kept]


@dataclass
class DrawProgress:
    """Progress over several draws as one."""

    report: Progress | None
    total: int
    documents: int = 0
    tokens: int = 0

    def __call__(self, documents: int, tokens: int) -> None:
        if self.report is not None:
            self.report(self.documents + documents, self.tokens + tokens, self.total)

    def next_draw(self, documents: int, tokens: int) -> None:
        self.documents += documents
        self.tokens += tokens


def read_draw(
    a: LoadedModel,
    b: LoadedModel,
    draw: DocumentDraw,
    settings: ExtractionSettings,
    pairs: list[tuple[int, int]],
    layers: tuple[tuple[int, ...] | None, tuple[int, ...] | None],
    early: tuple[int, ...],
    rescale: bool,
    progress: DrawProgress,
    *,
    control: LoadedModel | None = None,
    cache: bool = False,
    diagonal: bool = False,
) -> Reading:
    """Run one draw through both models, and the control if there is one, and compare their layers.

    Each model runs once, all of them on one batch plan.

    Args:
        pairs: layer pairs, by the models' own indices. layers: layers of A and of B to extract; None is all.
        early: early layers of the shallower model.
        control: a model as deep as B, compared with B in the layers of B that are in `pairs`.
        cache: whether features may come from the activation store, and are kept there.
        diagonal: whether CKA of `pairs` alone is wanted, not of all layers with all.

    Raises:
        UserError: as `extract_features` and `compare_statistics` do.
    """
    # The same model in two roles runs once; it then has the same layers in both.
    wanted = {id(a): (a, layers[0])} | ({} if a is b else {id(b): (b, layers[1])})
    if control is not None:
        wanted.setdefault(id(control), (control, layers[1]))
    models, asked = (list(part) for part in zip(*wanted.values(), strict=True))
    device = "cpu" if a.device.type == "mps" else a.device
    position_a, position_b = (
        {layer: at for at, layer in enumerate(range(len(model.blocks)) if some is None else sorted(some))}
        for model, some in ((a, layers[0]), (b, layers[1]))
    )
    within = [(position_a[i], position_b[j]) for i, j in pairs]
    shallow = 0 if len(a.blocks) <= len(b.blocks) else 1
    early_positions = [at for at, pair in enumerate(pairs) if pair[shallow] in early]
    in_control = [(j, j) for _, j in within]
    streamed: StreamedFeatures | None = None
    if features_size(models, len(draw.documents), settings, asked) > settings.keep_features:
        at = {key: position for position, key in enumerate(wanted)}
        sums = [Sums(at[id(a)], at[id(b)], within if diagonal else None, rescale)]
        if control is not None:
            sums.append(Sums(at[id(control)], at[id(b)], in_control))
        streamed = stream_features(
            models,
            draw.documents,
            settings,
            progress,
            layers=asked,
            sums=sums,
            device=device,
            cache=cache,
        )
        extraction = streamed.extraction
    else:
        extraction = extract_cached(models, draw.documents, settings, progress, layers=asked, cache=cache)
    progress.next_draw(len(draw.documents), extraction.tokens[0]["tokens"])
    features = dict(zip(wanted, extraction.features, strict=True))
    first, second = features[id(a)], features[id(b)]

    @cache_calls
    def statistics(model: int, rescaled: bool = False) -> ModelStatistics:
        """Made once, whatever the model is compared with."""
        if rescaled:
            return statistics(model).rescaled()
        return ModelStatistics(features[model].features, device=device)

    def read(rescaled: bool) -> FeatureComparison:
        if streamed is not None:
            return streamed.pair.compare(within, early_positions, rescale=rescaled)
        return compare_statistics(
            statistics(id(a), rescaled),
            statistics(id(b), rescaled),
            within,
            early_positions,
            seed=settings.seed,
            matrices=not diagonal,
        )

    def read_control() -> ControlReading:
        assert control is not None
        called = ("the control", "B")
        if streamed is not None:
            assert streamed.control is not None
            apart = streamed.control.compare(in_control, early_positions, sides=called)
            together = streamed.second_order(plain, apart)
        else:
            sides = [statistics(id(model)) for model in (a, control, b)]
            apart = compare_statistics(
                sides[1],
                sides[2],
                in_control,
                early_positions,
                seed=settings.seed,
                sides=called,
                matrices=True,
            )
            together = ratio_second_order(sides[0], sides[1], sides[2], plain, apart)
        return ControlReading(apart, divergence_ratio(plain, apart, together))

    plain = from_first(lambda: read(False))
    scaled = from_first(lambda: read(True)) if rescale else None
    noise = from_first(read_control) if control is not None else None
    if streamed is not None:
        streamed.snapshot.finish()
    return Reading(
        draw,
        extraction,
        first.layers,
        second.layers,
        early_positions,
        plain,
        scaled,
        noise,
        diagonal,
    )
