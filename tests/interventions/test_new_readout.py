"""A readout of pooled features with an argument, added as the interface says, goes through every analysis."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from cka_tools import compute_features, interpolate, transplant
from cka_tools import readouts as of_readouts
from cka_tools.documents import Document
from cka_tools.errors import UserError
from cka_tools.extraction.batches import TokenBatch
from cka_tools.models import LoadedModel
from cka_tools.models.language import HeadKind
from cka_tools.readouts import Inputs, Quantity, Rows, States
from cka_tools.settings import Settings
from cka_tools.statistics.paired import Reading


class Size:
    """The length of a layer's pooled features."""

    title = "size"
    quantities: Sequence[Quantity] = (Quantity("length", "length", "nats", "lower"),)
    head: HeadKind | None = None
    pooled = True

    def __init__(self, layer: str) -> None:
        self.name, self.layer = f"size:{layer}", int(layer)

    def inputs(self, model: LoadedModel, drawn: Inputs, settings: Settings) -> Inputs:
        return drawn

    def read(self, model: LoadedModel, inputs: Inputs, batch: TokenBatch, states: States) -> Rows:
        return {"features": states.pooled[self.layer][0].cpu().numpy()}

    def readings(self, rows: Rows, inputs: Inputs) -> dict[str, Reading]:
        return {"length": Reading.mean(np.linalg.norm(rows["features"].astype(float), axis=1))}


def test_it_is_read_of_every_hybrid(
    tiny_model: Callable[..., Path], tiny_documents: list[Document], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(of_readouts.READOUTS, "size", Size)
    monkeypatch.setattr(of_readouts, "WITH_ARGUMENT", frozenset({"size"}))
    models, texts = [str(tiny_model("bert", seed=seed)) for seed in (0, 1)], [one.text for one in tiny_documents]
    found = transplant(*models, texts, layers=[[0, 1, 2], [3, 4, 5]], parts=["all"], readout=["size:3"], device="cpu")
    whole = [one.layers[3] for one in compute_features(models, texts, device="cpu")]
    for end, features in zip(found.record["ends"], whole, strict=False):
        wanted = np.linalg.norm(features.astype(float), axis=1).mean()
        assert end["readouts"]["size:3.length"]["value"] == pytest.approx(wanted)
    assert len(found.hybrids) == 3
    assert found.figure().axes
    line = interpolate(*models, texts, points=3, readout=["size:3", "divergence"], device="cpu")
    assert line.points[0]["readouts"]["size:3.length"]["value"]["value"] == pytest.approx(wanted_first(whole[0]))
    assert line.figure().axes
    with pytest.raises(UserError, match="readout 'size' does not fit: write it like size:NAME"):
        transplant(*models, texts, readout=["size"], device="cpu")


def wanted_first(features: np.ndarray) -> float:
    return float(np.linalg.norm(features.astype(float), axis=1).mean())
