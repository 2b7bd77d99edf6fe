"""Pooled tensors from the device to NumPy, in one copy that a GPU does beside the next batch."""

from collections.abc import Sequence

import numpy as np
import torch


class HostCopy:
    """A copy under way; `wait` gives the arrays."""

    def __init__(self, pooled: Sequence[torch.Tensor], checks: torch.Tensor | None) -> None:
        self._shapes = [tuple(tensor.shape) for tensor in pooled]
        self._checks_shape = None if checks is None else tuple(checks.shape)
        self._event: torch.cuda.Event | None = None
        if pooled[0].device.type == "cpu":
            self._arrays = [tensor.numpy() for tensor in pooled]
            self._checks = None if checks is None else checks.numpy()
            self._flat = None
            return
        parts = [tensor.reshape(-1) for tensor in pooled] + ([] if checks is None else [checks.reshape(-1)])
        flat = torch.cat(parts)
        if flat.device.type == "cuda":
            self._flat = torch.empty(flat.shape, dtype=flat.dtype, pin_memory=True)
            self._flat.copy_(flat, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record(torch.cuda.current_stream(flat.device))
        else:
            self._flat = flat.cpu()

    def wait(self) -> tuple[list[np.ndarray], np.ndarray | None]:
        """The pooled arrays, one a layer, and the sums that tell non-finite documents (or None)."""
        if self._flat is None:
            return self._arrays, self._checks
        if self._event is not None:
            self._event.synchronize()
        flat = self._flat.numpy()
        arrays, start = [], 0
        for shape in self._shapes:
            stop = start + int(np.prod(shape))
            arrays.append(flat[start:stop].reshape(shape))
            start = stop
        return arrays, None if self._checks_shape is None else flat[start:].reshape(self._checks_shape)
