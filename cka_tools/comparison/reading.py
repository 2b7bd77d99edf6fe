"""One draw of documents through both models: features, and what they say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cka_tools.documents import DocumentDraw
from cka_tools.extraction import Extraction, ExtractionSettings
from cka_tools.models import LoadedModel
from cka_tools.statistics.feature_comparison import FeatureComparison, compare_features
from cka_tools.store import extract_cached

Progress = Callable[[int, int, int], None]
"""Called with documents done, tokens done and documents in all."""


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
    cache: bool = False,
    diagonal: bool = False,
) -> Reading:
    """Run one draw through both models and compare their layers.

    Args:
        pairs: layer pairs, by the models' own indices. layers: layers of A and of B to extract; None is all.
        early: early layers of the shallower model.
        cache: whether features may come from the activation store, and are kept there.
        diagonal: whether CKA of `pairs` alone is wanted, not of all layers with all.

    Raises:
        UserError: as `extract_features` and `compare_features` do.
    """
    models = [a] if a is b else [a, b]
    extraction = extract_cached(
        models, draw.documents, settings, progress, layers=layers[: len(models)], cache=cache
    )
    progress.next_draw(len(draw.documents), extraction.tokens[0]["tokens"])
    first, second = extraction.features[0], extraction.features[-1]
    position_a = {layer: at for at, layer in enumerate(first.layers)}
    position_b = {layer: at for at, layer in enumerate(second.layers)}
    within = [(position_a[i], position_b[j]) for i, j in pairs]
    shallow = 0 if len(a.blocks) <= len(b.blocks) else 1
    early_positions = [at for at, pair in enumerate(pairs) if pair[shallow] in early]

    def read(rescaled: bool) -> FeatureComparison:
        return compare_features(
            first.features,
            second.features,
            within,
            early_positions,
            rescale=rescaled,
            device="cpu" if a.device.type == "mps" else a.device,
            seed=settings.seed,
            diagonal=diagonal,
        )

    return Reading(
        draw,
        extraction,
        first.layers,
        second.layers,
        early_positions,
        read(False),
        read(True) if rescale else None,
        diagonal,
    )
