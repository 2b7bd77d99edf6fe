"""Pooled features as what is read of a model: what `divergence` compares."""

from __future__ import annotations

from collections.abc import Sequence

from cka_tools.extraction.batches import TokenBatch
from cka_tools.models import LoadedModel
from cka_tools.models.language import HeadKind
from cka_tools.readouts.readout import Inputs, Quantity, Rows, States
from cka_tools.settings import Settings
from cka_tools.statistics.paired import Reading

DIVERGENCE = "divergence"


class PooledFeatures:
    """One row a document and layer, under "0", "1", … by position among the layers, each (n, k, p).

    It has no number by itself: two models' features make one (`statistics.pair`).
    """

    name = DIVERGENCE
    title = "divergence"
    quantities: Sequence[Quantity] = (Quantity("donor", "divergence to donor", "share", "lower"),)
    head: HeadKind | None = None
    pooled = True

    def inputs(self, model: LoadedModel, drawn: Inputs, settings: Settings) -> Inputs:
        """The documents as they are."""
        return drawn

    def read(self, model: LoadedModel, inputs: Inputs, batch: TokenBatch, states: States) -> Rows:
        """The pooled outputs."""
        return {str(at): layer.transpose(0, 1).cpu().numpy() for at, layer in enumerate(states.pooled)}

    def readings(self, rows: Rows, inputs: Inputs) -> dict[str, Reading]:
        """None: features of one model are no number."""
        return {}
