"""Which number format the products of features take on a device."""

from __future__ import annotations

import torch

FAST_FLOAT64 = frozenset({(6, 0), (7, 0), (8, 0), (9, 0), (10, 0)})
"""Compute capabilities of NVIDIA GPUs whose float64 rate is half of float32's or more (the CUDA C++
Programming Guide's table of arithmetic throughput); on all others it is 1/32 or 1/64."""


def product_dtype_on(device: torch.device) -> torch.dtype:
    """float64; float32 on a GPU that makes float64 products at a fraction of float32's rate."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) in FAST_FLOAT64:
        return torch.float64
    return torch.float32
