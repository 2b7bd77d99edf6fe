"""Resident memory of this process, and its peak: the kernel's own count, of this process alone.

`ru_maxrss` is no such count: a process that another one starts inherits that one's peak.
"""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path


def settle(*, reset: bool = True) -> float:
    """Give free memory back, reset the peak if asked, and return the resident MiB."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    if reset:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    return _status_mib("VmRSS")


def peak_mib() -> float:
    """Highest resident MiB since the reset."""
    return _status_mib("VmHWM")


def _status_mib(field: str) -> float:
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 2**10
    raise RuntimeError(f"/proc/self/status has no {field}")
