"""The result of a comparison, as it is kept, saved and read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cka_tools.comparison.run_directory import read_run, write_run
from cka_tools.statistics.hsic import Estimator, check_estimator

if TYPE_CHECKING:
    from matplotlib.figure import Figure

JsonObject = dict[str, Any]


class Comparison:
    """How far two models have drifted apart over one corpus, layer by layer.

    Attributes:
        record: everything, as `result.json` holds it: fractions, `None` where a value cannot be given.
        arrays: "matrix.biased", "matrix.debiased" (L_A, L_B) and "leave_one_out" (pairs, documents), float64;
            with rescaling also "rescaled.matrix.biased" and "rescaled.matrix.debiased"; with a control the
            same three of the control against B, named "control.…".
    """

    def __init__(self, record: JsonObject, arrays: dict[str, np.ndarray]) -> None:
        self.record = record
        self.arrays = arrays

    def __repr__(self) -> str:
        a, b = self.names
        mean = self.summary["mean_divergence"]["debiased"]["value"]
        shown = "undefined" if mean is None else f"{mean:.1%}"
        return (
            f"<Comparison {a} vs {b}: mean divergence {shown} over {self.summary['n_documents']} documents>"
        )

    @property
    def names(self) -> tuple[str, str]:
        """The two models, as they were given."""
        models = self.record["provenance"]["models"]
        return models["a"]["name"], models["b"]["name"]

    @property
    def control(self) -> str | None:
        """The control, as it was given; None where there is none."""
        given = self.record["provenance"]["models"].get("control")
        return None if given is None else given["name"]

    @property
    def summary(self) -> JsonObject:
        """`mean_divergence` and `early_divergence` by estimator, `n_documents`, `warnings`, `notes`.

        With a control also `control` (its divergence from B) and `ratio` (the pair's over the control's).
        """
        return self.record["summary"]

    @property
    def layers(self) -> list[JsonObject]:
        """One entry a layer pair."""
        return self.record["layers"]

    @property
    def warnings(self) -> list[JsonObject]:
        """Warnings: `code`, `text`, `layers`."""
        return self.summary["warnings"]

    def matrix(self, estimator: Estimator = "debiased", *, rescaled: bool = False) -> np.ndarray:
        """CKA of all layer pairs, (L_A, L_B) float64, NaN where undefined.

        Raises:
            UserError: an unknown estimator.
            KeyError: `rescaled` for a comparison made without it.
        """
        check_estimator(estimator)
        return self.arrays[f"{'rescaled.' if rescaled else ''}matrix.{estimator}"]

    def diagonal(self, estimator: Estimator = "debiased") -> np.ndarray:
        """CKA of the paired layers, (pairs,) float64, NaN where undefined.

        Raises:
            UserError: an unknown estimator.
        """
        check_estimator(estimator)
        values = [layer[f"cka_{estimator}"] for layer in self.layers]
        return np.array([np.nan if v is None else v for v in values], dtype=np.float64)

    def to_frame(self) -> pd.DataFrame:
        """The layer table: one row a pair, as in `layers.csv`."""
        rows = []
        for layer in self.layers:
            row = {key: value for key, value in layer.items() if not isinstance(value, dict)}
            for key, value in layer.get("rescaled", {}).items():
                row[f"rescaled_{key}"] = value
            if "control" in layer:
                row |= _control_columns(layer["control"], layer["ratio"])
            rows.append(row)
        return pd.DataFrame(rows)

    def figure(self) -> Figure:
        """The figure that is saved."""
        from cka_tools.plotting import comparison_figure

        return comparison_figure(self.record, self.arrays)

    def save(self, run_dir: str | Path) -> Path:
        """Write the run directory: result.json, arrays.safetensors, layers.csv, the figure as PDF and PNG.

        Written under a temporary name beside it, then renamed.

        Raises:
            UserError: the directory holds something already, or there is no room.
        """
        return write_run(Path(run_dir), self.record, self.arrays, self.to_frame(), self.figure)

    @classmethod
    def load(cls, run_dir: str | Path) -> Comparison:
        """Read a run directory.

        Raises:
            UserError: no run there, or one that is damaged or of a later format.
        """
        record, arrays = read_run(Path(run_dir))
        return cls(record, arrays)


def _control_columns(control: JsonObject, ratio: JsonObject) -> JsonObject:
    """Columns of the layer table for the control's divergence and the ratio to it."""
    return {
        "control_divergence": control["value"],
        "control_ci_low": control["ci_low"],
        "control_ci_high": control["ci_high"],
        "ratio": ratio["value"],
        "ratio_ci_low": ratio["ci_low"],
        "ratio_ci_high": ratio["ci_high"],
        "ratio_reason": ratio.get("reason"),
    }
