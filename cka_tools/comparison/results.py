"""What a run gives back: a record and arrays that can be read, tabulated, drawn, saved and loaded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from cka_tools.comparison.record import (
    ABLATION,
    COMPARISON,
    CONTRAST,
    ESTIMATORS,
    MATRIX,
    TRAJECTORY,
    JsonObject,
    columns,
    pair_rows,
    tidy,
)
from cka_tools.comparison.run_directory import read_run, write_run
from cka_tools.errors import UserError
from cka_tools.formatting import model_names, pairs_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from cka_tools.plotting.panels import Panels


class RunResult:
    """What all kinds of run share.

    Attributes:
        record: everything, as `result.json` holds it: fractions, `None` where a value cannot be given.
        arrays: what `arrays.safetensors` holds, float64, NaN where undefined.
    """

    kind: ClassVar[str]
    table: ClassVar[str]

    def __init__(self, record: JsonObject, arrays: dict[str, np.ndarray]) -> None:
        self.record = record
        self.arrays = arrays

    @property
    def summary(self) -> JsonObject:
        """`n_documents`, `interval`, `early_layers`, `warnings`, `notes`, and what the kind has besides."""
        return self.record["summary"]

    @property
    def warnings(self) -> list[JsonObject]:
        """Warnings: `code`, `text`, `layers`, and `pairs` where there are several."""
        return self.summary["warnings"]

    def to_frame(self) -> pd.DataFrame:
        """The tidy table that is saved as CSV."""
        raise NotImplementedError

    def figure(self) -> Figure:
        """The figure that is saved."""
        raise NotImplementedError

    def _repr_html_(self) -> str:
        """What a notebook shows: findings, table, figure."""
        from cka_tools.comparison.html import notebook_html

        return notebook_html(self)

    def save(self, run_dir: str | Path) -> Path:
        """Write the run directory: result.json, arrays.safetensors, the table, the figure as PDF and PNG.

        Written under a temporary name beside it, then renamed.

        Raises:
            UserError: the directory holds something already, or there is no room.
        """
        return write_run(Path(run_dir), self.record, self.arrays, self.to_frame, self.figure, table_name=self.table)

    @classmethod
    def load(cls, run_dir: str | Path) -> Self:
        """Read a run directory, one of version 0.1 too.

        Raises:
            UserError: no run of this kind there, or one that is damaged or of a later format.
        """
        return cls(*read_run(Path(run_dir), cls.kind))


class Comparison(RunResult):
    """How far two models have drifted apart over one corpus, layer by layer.

    `arrays` holds "matrix.biased", "matrix.debiased" (L_A, L_B) and "leave_one_out" (pairs, documents); with
    rescaling also "rescaled.matrix.…"; with a control the same three of the control against B, "control.…".
    """

    kind = COMPARISON
    table = "layers.csv"

    def __repr__(self) -> str:
        a, b = self.names
        mean = self.summary["mean_divergence"]["debiased"]["value"]
        shown = "undefined" if mean is None else f"{mean:.1%}"
        return f"<Comparison {a} vs {b}: mean divergence {shown} over {self.summary['n_documents']} documents>"

    @property
    def names(self) -> tuple[str, str]:
        """The two models, as they were given."""
        (a,), (b,) = (model_names(self.record, role) for role in "ab")
        return a, b

    @property
    def control(self) -> str | None:
        """The control, as it was given; None where there is none."""
        found = model_names(self.record, "control")
        return found[0] if found else None

    @property
    def layers(self) -> list[JsonObject]:
        """One entry a layer pair."""
        return self.record["layers"]

    def matrix(self, estimator: str = "debiased", *, rescaled: bool = False) -> np.ndarray:
        """CKA of all layer pairs, (L_A, L_B) float64, NaN where undefined.

        Raises:
            UserError: an unknown estimator.
            KeyError: `rescaled` for a comparison made without it.
        """
        _check_estimator(estimator)
        return self.arrays[f"{'rescaled.' if rescaled else ''}matrix.{estimator}"]

    def diagonal(self, estimator: str = "debiased") -> np.ndarray:
        """CKA of the paired layers, (pairs,) float64, NaN where undefined.

        Raises:
            UserError: an unknown estimator.
        """
        _check_estimator(estimator)
        return np.array([layer[f"cka_{estimator}"] for layer in self.layers], dtype=np.float64)

    @property
    def plot(self) -> Panels:
        """Its panels on axes of your own: `plot.layers(ax=ax)`, `plot.heatmap(ax=ax)`, `plot.dimension(ax=ax)`."""
        from cka_tools.plotting.panels import Panels

        return Panels(self.record, self.arrays)

    def to_frame(self) -> pd.DataFrame:
        """The layer table: one row a layer pair, as in `layers.csv`."""
        return tidy(pair_rows(pairs_of(self.record, "pair")[0], {}, means=False))

    def figure(self) -> Figure:
        """Divergence by layer, effective dimensions, the ratio to a control, and the matrix; or the panel chosen."""
        from cka_tools.figure_choices import PAGE, chosen
        from cka_tools.plotting import comparison_figure
        from cka_tools.plotting.panels import panel_figure

        return (comparison_figure if chosen().what == PAGE else panel_figure)(self.record, self.arrays)


class Trajectory(RunResult):
    """Divergence of checkpoints from one reference along training; in pairs A is the checkpoint.

    `arrays` holds "x" (M,), "divergence.debiased" and "divergence.biased" (M, layer pairs), NaN where
    undefined or where a checkpoint has fewer layers.
    """

    kind = TRAJECTORY
    table = "trajectory.csv"

    def __repr__(self) -> str:
        return (
            f"<Trajectory of {len(self.checkpoints)} checkpoints from {self.reference}: "
            f"{self.summary['n_documents']} documents>"
        )

    @property
    def reference(self) -> str:
        """The model that all are compared with, as it was given."""
        return model_names(self.record, "reference")[0]

    @property
    def checkpoints(self) -> list[JsonObject]:
        """One entry a checkpoint, by ascending x."""
        return pairs_of(self.record, "checkpoint")

    @property
    def control(self) -> JsonObject | None:
        """The control's entry: seed noise."""
        found = pairs_of(self.record, "control")
        return found[0] if found else None

    def divergence(self, which: str = "mean") -> np.ndarray:
        """Debiased divergence along x with its interval, (M, 3): value, low, high; NaN where undefined.

        Args:
            which: "mean" or "early".
        """
        entries = [one[f"{which}_divergence"]["debiased"] for one in self.checkpoints]
        return np.array([[one[name] for name in ("value", "ci_low", "ci_high")] for one in entries], dtype=np.float64)

    def to_frame(self) -> pd.DataFrame:
        """One row for each checkpoint (and the control) and layer, and for both means."""
        rows: list[JsonObject] = []
        for one in self.record["pairs"]:
            shared = {"role": one["role"], "checkpoint": one["name"], "x": one.get("x")}
            shared |= {"x_kind": self.summary["x"]["kind"]}
            last = {"tokens": one["tokens"], "n_documents": self.summary["n_documents"]}
            last |= {"weights_sha256": one["weights_sha256"]}
            for name, entry in one.get("health", {}).items():
                last |= columns(name.replace(".", "_"), entry)
            rows += [row | last for row in pair_rows(one, shared)]
        return tidy(rows)

    def figure(self) -> Figure:
        """Mean and early divergence along training with the noise floor, and every layer's."""
        from cka_tools.plotting import trajectory_figure

        return trajectory_figure(self.record, self.arrays)


class ModelMatrix(RunResult):
    """Divergence of every pair of models.

    `arrays` holds "mean.debiased", "early.debiased" (M, M) and "layers.debiased" (layer pairs, M, M), and the
    same of the biased estimator; 0 on the diagonal by definition, NaN where undefined.
    """

    kind = MATRIX
    table = "matrix.csv"

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

    def divergence(self, which: str = "mean", estimator: str = "debiased") -> np.ndarray:
        """Divergences: (M, M) of "mean" or "early", (layer pairs, M, M) of "layers".

        Raises:
            UserError: an unknown estimator.
            KeyError: another name.
        """
        _check_estimator(estimator)
        return self.arrays[f"{which}.{estimator}"]

    def to_frame(self) -> pd.DataFrame:
        """One row for each pair and layer, and for both means of a pair."""
        rows: list[JsonObject] = []
        models = self.record["provenance"]["models"]
        for pair in self.pairs:
            both = {side: models[pair[side]] for side in "ab"}
            shared = {f"model_{side}": model["name"] for side, model in both.items()}
            last = {"n_documents": self.summary["n_documents"]}
            last |= {f"weights_sha256_{side}": model["weights_sha256"] for side, model in both.items()}
            rows += [row | last for row in pair_rows(pair, shared)]
        return tidy(rows)

    def figure(self) -> Figure:
        """The heatmap of mean divergences with its dendrogram."""
        from cka_tools.plotting import matrix_figure

        return matrix_figure(self.record, self.arrays)


class Contrast(RunResult):
    """Whether two groups of checkpoints are further apart than the checkpoints of one group are.

    `arrays` holds "distances" (layers, M, M), debiased divergences, 0 on the diagonal by definition, and
    "leave_one_out" (pairs, layers, documents), the debiased CKA of each pair without each document; NaN where
    undefined. Pairs are in the order of `record["pairs"]`.
    """

    kind = CONTRAST
    table = "contrast.csv"

    def __repr__(self) -> str:
        one, other = (group["name"] for group in self.summary["groups"])
        return f"<Contrast of {one} and {other}: {self.summary['n_documents']} documents>"

    @property
    def layers(self) -> list[JsonObject]:
        """One entry a layer: `between`, `within`, `difference`, `ratio`, `p`."""
        return self.record["layers"]

    def to_frame(self) -> pd.DataFrame:
        """One row for each layer, and for both means."""
        rows: list[JsonObject] = []
        for entry in (*self.layers, *({"layer": name, **self.summary[name]} for name in ("early", "mean"))):
            row = {"layer": entry["layer"]}
            for name in ("between", "within", "difference", "ratio"):
                row |= columns(name, entry[name], name)
            row |= {name: entry[name] for name in ("p", "p_single", "seed_share")}
            rows.append(row | {"n_documents": self.summary["n_documents"]})
        return tidy(rows)

    def figure(self) -> Figure:
        """Divergence between and within the groups by layer, and their ratio."""
        from cka_tools.plotting import contrast_figure

        return contrast_figure(self.record)


class Ablation(RunResult):
    """Divergences, seed noise and their ratio along the axes of the detour, cell by cell and seed by seed."""

    kind = ABLATION
    table = "ablation.csv"

    def save(self, run_dir: str | Path) -> Path:
        """As the others, into a directory that may hold the checkpoints of the ablation itself.

        Raises:
            UserError: there is no room.
        """
        return write_run(
            Path(run_dir), self.record, self.arrays, self.to_frame, self.figure, table_name=self.table,
            into=True,
        )  # fmt: skip

    @property
    def cells(self) -> list[JsonObject]:
        """One entry a cell as seen with one seed: a detour against its baseline."""
        return pairs_of(self.record, "cell")

    def to_frame(self) -> pd.DataFrame:
        """One row for each cell, seed and layer, and for both means of a cell; each has the cell's readouts."""
        rows: list[JsonObject] = []
        readouts = self.summary.get("readouts", ())
        quantities = [f"{one['name']}.{quantity['name']}" for one in readouts for quantity in one["quantities"]]
        for cell in self.cells:
            shared = {name: cell[name] for name in ("axis", "cell", "position", "size", "seed")}
            last = {
                name: value
                for name, value in cell.items()
                if name not in shared and not isinstance(value, dict | list) and name not in ("a", "b", "role")
            }
            last |= {f"weights_{role}": weights for role, weights in cell["weights"].items()}
            for name in quantities:
                for of, entry in cell["readouts"][name].items():
                    last |= columns(f"{name}.{of}", entry)
            rows += [row | last for row in pair_rows(cell, shared)]
        return tidy(rows)

    def figure(self) -> Figure:
        """Every axis: divergence of detour and control, and their ratio."""
        from cka_tools.plotting import ablation_figure

        return ablation_figure(self.record)


def _check_estimator(estimator: str) -> None:
    if estimator not in ESTIMATORS:
        raise UserError(f"estimator {estimator!r} is not known: choose one of {', '.join(ESTIMATORS)}")
