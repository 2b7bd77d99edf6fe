"""A result over many models, as it is kept, saved and read."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from cka_tools.comparison.run_directory import read_run, write_run

JsonObject = dict[str, Any]


class ManyResult:
    """What a trajectory and a matrix share.

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
        """`n_documents`, `interval`, `warnings`, `notes`."""
        return self.record["summary"]

    def to_frame(self) -> pd.DataFrame:
        """The tidy table that is saved as CSV."""
        raise NotImplementedError

    def figure(self) -> Figure:
        """The figure that is saved."""
        raise NotImplementedError

    def save(self, run_dir: str | Path) -> Path:
        """Write the run directory: result.json, arrays.safetensors, the table, the figure as PDF and PNG.

        Written under a temporary name beside it, then renamed.

        Raises:
            UserError: the directory holds something already, or there is no room.
        """
        return write_run(
            Path(run_dir), self.record, self.arrays, self.to_frame(), self.figure, table_name=self.table
        )

    @classmethod
    def load(cls, run_dir: str | Path) -> Self:
        """Read a run directory.

        Raises:
            UserError: no run of this kind there, or one that is damaged or of a later format.
        """
        return cls(*read_run(Path(run_dir), cls.kind))


def known(value: float | None) -> float:
    """A number of the record in an array: NaN where it is null."""
    return np.nan if value is None else value
