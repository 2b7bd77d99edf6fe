"""How far checkpoints of a training are from a reference, as it is kept, saved and read."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from cka_tools.comparison.many_result import ManyResult
from cka_tools.comparison.pair_table import pair_rows, tidy
from cka_tools.comparison.run_directory import TRAJECTORY

JsonObject = dict[str, Any]


class Trajectory(ManyResult):
    """Divergence of checkpoints from one reference along training; in pairs A is the checkpoint.

    `arrays` holds "x" (M,), "divergence.debiased" and "divergence.biased" (M, layer pairs), NaN where
    undefined or where a checkpoint has fewer layers.
    """

    kind: ClassVar[str] = TRAJECTORY
    table: ClassVar[str] = "trajectory.csv"

    def __repr__(self) -> str:
        return (
            f"<Trajectory of {len(self.checkpoints)} checkpoints from {self.reference}: "
            f"{self.summary['n_documents']} documents>"
        )

    @property
    def reference(self) -> str:
        """The model that all are compared with, as it was given."""
        return self.record["provenance"]["models"]["reference"]["name"]

    @property
    def checkpoints(self) -> list[JsonObject]:
        """One entry a checkpoint, by ascending x."""
        return self.record["checkpoints"]

    @property
    def control(self) -> JsonObject | None:
        """The control's entry: seed noise."""
        return self.record["control"]

    def divergence(self, which: str = "mean") -> np.ndarray:
        """Debiased divergence along x with its interval, (M, 3): value, low, high; NaN where undefined.

        Args:
            which: "mean" or "early".
        """
        entries = [one[f"{which}_divergence"]["debiased"] for one in self.checkpoints]
        return np.array(
            [[np.nan if e[k] is None else e[k] for k in ("value", "ci_low", "ci_high")] for e in entries]
        )

    def to_frame(self) -> pd.DataFrame:
        """One row for each checkpoint (and the control) and layer, and for both means."""
        rows: list[JsonObject] = []
        roles = [("checkpoint", one) for one in self.checkpoints]
        roles += [("control", self.control)] if self.control else []
        for role, one in roles:
            shared = {
                "role": role,
                "checkpoint": one["name"],
                "x": one.get("x"),
                "x_kind": self.summary["x"]["kind"],
            }
            last = {
                "tokens": one["tokens"],
                "n_documents": self.summary["n_documents"],
                "weights_sha256": one["weights_sha256"],
            }
            rows += [row | last for row in pair_rows(one, shared)]
        return tidy(rows)

    def figure(self) -> Figure:
        """Mean and early divergence along training with the noise floor, and every layer's."""
        from cka_tools.plotting import trajectory_figure

        return trajectory_figure(self.record, self.arrays)
