"""Where pooled rows go: arrays in memory, or beyond a limit a spill file, mapped when it is full."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cka_tools.spill_file import SpillFile


@dataclass
class ModelFeatures:
    """Features of one model.

    Attributes:
        layers: layer indices, ascending.
        features: one array a layer, rows in the documents' order: (n, p), or (K, n, p) for token pooling.
            float32; float64 for a float64 model. On disk they are views of one mapped file.
        on_disk: whether they are.
    """

    layers: list[int]
    features: list[np.ndarray]
    on_disk: bool = False
    _file: Any = field(default=None, repr=False)

    @property
    def documents(self) -> int:
        """Number of rows n."""
        return int(self.features[0].shape[-2])


class FeatureStore:
    """Takes pooled rows in any order, gives them back in the documents' order.

    On disk a document is one record (its layers side by side), written with one call, so memory does not
    grow with documents.
    """

    #: No earlier run left anything here.
    finished: Collection[Sequence[int]] = ()

    def __init__(
        self,
        documents: int,
        layers: Sequence[int],
        widths: Sequence[int],
        draws: int | None,
        dtype: np.dtype[Any],
        *,
        on_disk: bool,
        folder: str | None = None,
    ) -> None:
        self.layers, self.widths, self.draws = list(layers), list(widths), draws
        self.documents, self.dtype, self.on_disk = documents, dtype, on_disk
        self._arrays: list[np.ndarray] = []
        self._file: SpillFile | None = None
        if on_disk:
            self._file = SpillFile("features", self.nbytes, folder)
        else:
            self._arrays = [np.empty((draws or 1, documents, width), dtype) for width in self.widths]

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        return self.documents * (self.draws or 1) * sum(self.widths) * self.dtype.itemsize

    def write(self, rows: Sequence[int], values: Sequence[np.ndarray]) -> None:
        """Put pooled values, one (k, b, p) array a layer, at the documents' rows.

        Raises:
            UserError: the disk is full.
        """
        if self._file is None:
            for array, value in zip(self._arrays, values, strict=True):
                array[:, list(rows)] = value
            return
        records = np.concatenate([value.transpose(1, 0, 2).reshape(len(rows), -1) for value in values], axis=1)
        records = np.ascontiguousarray(records, dtype=self.dtype)
        for row, record in zip(rows, records, strict=True):
            self._file.write(record, row * record.nbytes)

    def finish(self) -> ModelFeatures:
        """The features, once every row is written."""
        if self._file is None:
            return ModelFeatures(self.layers, [array if self.draws else array[0] for array in self._arrays])
        draws = self.draws or 1
        record = draws * sum(self.widths)
        mapped = self._file.map(self.dtype, (self.documents, record))
        layers: list[np.ndarray] = []
        start = 0
        for width in self.widths:
            stop = start + draws * width
            layer = mapped[:, start:stop].reshape(self.documents, draws, width).transpose(1, 0, 2)
            layers.append(layer if self.draws else layer[0])
            start = stop
        return ModelFeatures(self.layers, layers, on_disk=True, _file=self._file)
