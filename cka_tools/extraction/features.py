"""Where pooled rows go: arrays in memory, or beyond a limit a spill file, mapped when it is full."""

import json
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
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


_NAMES = {"float32": "F32", "float64": "F64"}


@dataclass(frozen=True)
class Layout:
    """A safetensors file of tensors `layer.{ℓ}` of shape (n, p), or (K, n, p) where `draws` is K."""

    layers: tuple[int, ...]
    widths: tuple[int, ...]
    documents: int
    draws: int | None
    dtype: str

    @property
    def item(self) -> np.dtype[Any]:
        """Little-endian, as the format demands."""
        return np.dtype(self.dtype).newbyteorder("<")

    @cached_property
    def shapes(self) -> list[tuple[int, ...]]:
        """Of the tensors."""
        draws = () if self.draws is None else (self.draws,)
        return [(*draws, self.documents, width) for width in self.widths]

    @cached_property
    def offsets(self) -> list[int]:
        """Bytes from the end of the header to the start of each layer, and to the end of the last."""
        sizes = [math.prod(shape) * self.item.itemsize for shape in self.shapes]
        return list(accumulate(sizes, initial=0))

    @cached_property
    def header(self) -> bytes:
        """Length and JSON, filled with spaces so that the data start at a multiple of 64 bytes."""
        tensors = {
            f"layer.{layer}": {
                "dtype": _NAMES[self.dtype],
                "shape": list(self.shapes[at]),
                "data_offsets": self.offsets[at : at + 2],
            }
            for at, layer in enumerate(self.layers)
        }
        text = json.dumps(tensors, separators=(",", ":")).encode()
        text += b" " * (-(8 + len(text)) % 64)
        return len(text).to_bytes(8, "little") + text

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return len(self.header) + self.offsets[-1]

    def fits(self, file: np.ndarray) -> bool:
        """Whether the file's bytes have this size and header."""
        return len(file) == self.size and bytes(file[: len(self.header)]) == self.header

    def views(self, file: np.ndarray) -> list[np.ndarray]:
        """The tensors of the file's bytes; nothing is copied."""
        data = file[len(self.header) :]
        return [
            data[start:stop].view(self.item).reshape(shape)
            for shape, start, stop in zip(self.shapes, self.offsets, self.offsets[1:], strict=False)
        ]

    def features(self, mapped: np.memmap) -> ModelFeatures:
        """The features of the mapped file; they hold on to it."""
        return ModelFeatures(list(self.layers), self.views(mapped), on_disk=True)

    def places(self, rows: Sequence[int], values: Sequence[np.ndarray]) -> Iterator[tuple[int, np.ndarray]]:
        """Where in the file each record of some documents goes: the byte it starts at, and its values.

        Args:
            values: pooled, one (k, b, p) array a layer.
        """
        for at, value in enumerate(values):
            contiguous = np.ascontiguousarray(value, self.item)
            size = self.widths[at] * self.item.itemsize
            for draw, records in enumerate(contiguous):
                start = len(self.header) + self.offsets[at] + draw * self.documents * size
                yield from ((start + row * size, record) for row, record in zip(rows, records, strict=True))


class FeatureStore:
    """Takes pooled rows in any order, gives them back in the documents' order.

    On disk the features lie as in an entry of the activation store, so memory does not grow with documents.

    Args:
        memory_limit: bytes beyond which they are on disk. folder: there, instead of the temporary folder.

    Raises:
        UserError: the disk has no such space.
    """

    #: No earlier run left anything here.
    finished: Collection[Sequence[int]] = ()

    def __init__(self, layout: Layout, memory_limit: int, folder: str | None = None) -> None:
        self.layout = layout
        self._file = SpillFile("features", layout.size, folder) if layout.size > memory_limit else None
        self._arrays = [] if self._file else [np.empty(shape, layout.item) for shape in layout.shapes]

    def write(self, rows: Sequence[int], values: Sequence[np.ndarray]) -> None:
        """Put pooled values, one (k, b, p) array a layer, at the documents' rows.

        Raises:
            UserError: the disk is full.
        """
        if self._file is None:
            for array, value in zip(self._arrays, values, strict=True):
                array[..., list(rows), :] = value if self.layout.draws else value[0]
            return
        for start, record in self.layout.places(rows, values):
            self._file.write(record, start)

    def finish(self) -> ModelFeatures:
        """The features, once every row is written."""
        if self._file is None:
            return ModelFeatures(list(self.layout.layers), self._arrays)
        return self.layout.features(self._file.map(np.uint8))
