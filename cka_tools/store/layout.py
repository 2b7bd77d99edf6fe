"""Layout of an entry's feature file: safetensors, one tensor a layer, its place known before a row is.

Written by hand, as the library takes whole tensors and rows come batch by batch. Any safetensors reader
opens the file. https://huggingface.co/docs/safetensors (format)
"""

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

_NAMES = {"float32": "F32", "float64": "F64"}


@dataclass(frozen=True)
class Layout:
    """Tensors `layer.{ℓ}` of shape (n, p), or (K, n, p) where `draws` is K."""

    layers: tuple[int, ...]
    widths: tuple[int, ...]
    documents: int
    draws: int | None
    dtype: str

    @property
    def item(self) -> np.dtype[Any]:
        """Little-endian, as the format demands."""
        return np.dtype(self.dtype).newbyteorder("<")

    def shape(self, at: int) -> tuple[int, ...]:
        """Shape of the tensor of the layer at a position."""
        inner = (self.documents, self.widths[at])
        return inner if self.draws is None else (self.draws, *inner)

    def layer_bytes(self, at: int) -> int:
        """Bytes of the tensor of the layer at a position."""
        return int(np.prod(self.shape(at))) * self.item.itemsize

    @cached_property
    def header(self) -> bytes:
        """Length and JSON, filled with spaces so that the data start at a multiple of 64 bytes."""
        tensors: dict[str, Any] = {}
        start = 0
        for at, layer in enumerate(self.layers):
            stop = start + self.layer_bytes(at)
            tensors[f"layer.{layer}"] = {
                "dtype": _NAMES[self.dtype],
                "shape": list(self.shape(at)),
                "data_offsets": [start, stop],
            }
            start = stop
        text = json.dumps(tensors, separators=(",", ":")).encode()
        text += b" " * (-(8 + len(text)) % 64)
        return len(text).to_bytes(8, "little") + text

    @cached_property
    def starts(self) -> list[int]:
        """Byte in the file at which each layer starts."""
        sizes = [self.layer_bytes(at) for at in range(len(self.layers))]
        return [len(self.header) + sum(sizes[:at]) for at in range(len(sizes))]

    @cached_property
    def size(self) -> int:
        """Bytes of the file."""
        return len(self.header) + sum(self.layer_bytes(at) for at in range(len(self.layers)))

    def views(self, file: np.ndarray) -> list[np.ndarray]:
        """The tensors of the file's bytes; nothing is copied."""
        return [
            file[start : start + self.layer_bytes(at)].view(self.item).reshape(self.shape(at))
            for at, start in enumerate(self.starts)
        ]

    def record(self) -> dict[str, Any]:
        """JSON-ready; `Layout.of` is the way back."""
        return {
            "layers": list(self.layers),
            "widths": list(self.widths),
            "documents": self.documents,
            "draws": self.draws,
            "dtype": self.dtype,
        }

    @classmethod
    def of(cls, record: dict[str, Any]) -> "Layout":
        """The layout of a manifest."""
        return cls(
            tuple(record["layers"]),
            tuple(record["widths"]),
            record["documents"],
            record["draws"],
            record["dtype"],
        )
