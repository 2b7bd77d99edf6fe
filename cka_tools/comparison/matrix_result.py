"""How far models are from each other, all pairs, as it is kept, saved and read."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from cka_tools.comparison.many_result import ManyResult
from cka_tools.comparison.pair_table import pair_rows, tidy
from cka_tools.comparison.run_directory import MATRIX
from cka_tools.statistics.hsic import Estimator, check_estimator

JsonObject = dict[str, Any]


class ModelMatrix(ManyResult):
    """Divergence of every pair of M models.

    `arrays` holds "mean.debiased", "mean.biased", "early.debiased", "early.biased" (M, M) and
    "layers.debiased", "layers.biased" (layer pairs, M, M), float64: symmetric, the diagonal 0 by definition,
    NaN where undefined or where a pair has fewer layers.
    """

    kind: ClassVar[str] = MATRIX
    table: ClassVar[str] = "pairs.csv"

    def __repr__(self) -> str:
        return f"<ModelMatrix of {len(self.names)} models: {self.summary['n_documents']} documents>"

    @property
    def names(self) -> list[str]:
        """The models, as they were given."""
        return [model["name"] for model in self.record["provenance"]["models"]]

    @property
    def pairs(self) -> list[JsonObject]:
        """One entry a pair, `a` and `b` by position among the models."""
        return self.record["pairs"]

    def divergence(self, which: str = "mean", estimator: Estimator = "debiased") -> np.ndarray:
        """Divergences: (M, M) of "mean" or "early", (layer pairs, M, M) of "layers".

        Raises:
            UserError: an unknown estimator.
            KeyError: another name.
        """
        check_estimator(estimator)
        return self.arrays[f"{which}.{estimator}"]

    def to_frame(self) -> pd.DataFrame:
        """One row for each pair and layer, and for both means of a pair."""
        rows: list[JsonObject] = []
        models = self.record["provenance"]["models"]
        for pair in self.pairs:
            a, b = models[pair["a"]], models[pair["b"]]
            last = {
                "n_documents": self.summary["n_documents"],
                "weights_sha256_a": a["weights_sha256"],
                "weights_sha256_b": b["weights_sha256"],
            }
            shared = {"model_a": a["name"], "model_b": b["name"]}
            rows += [row | last for row in pair_rows(pair, shared)]
        return tidy(rows)

    def figure(self) -> Figure:
        """The heatmap of mean divergences with its dendrogram."""
        from cka_tools.plotting import matrix_figure

        return matrix_figure(self.record, self.arrays)
