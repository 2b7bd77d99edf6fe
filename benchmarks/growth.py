"""How time and memory of the statistics grow: fitted exponents over documents, layers and width.

    python benchmarks/growth.py --axis documents|layers|width [--out FILE]

Random features, the statistics alone: every layer pair, diagonal intervals, means. Times are medians of the
process's processor time with one thread, in one process; memory is the peak above the process after
imports, in a process for each size. An exponent is the slope of log cost over log size, from the first size
to the last.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from cka_tools.statistics.feature_comparison import compare_features

BASE = {"documents": 512, "layers": 6, "width": 192}
"""What the other two are while one grows."""

SIZES = {
    "documents": [256, 512, 1024, 2048, 4096],
    "layers": [2, 4, 8, 16],
    "width": [96, 192, 384, 768],
}
REPEATS = 3


def random_layers(documents: int, layers: int, width: int, seed: int) -> list[np.ndarray]:
    """float32 layers with a common part, (documents, width) each."""
    rng = np.random.default_rng(seed)
    common = np.random.default_rng(0).standard_normal((documents, width), np.float32)
    return [common + rng.standard_normal((documents, width), np.float32) for _ in range(layers)]


def statistics_of(size: dict[str, int]) -> dict[str, float]:
    """Median seconds of the comparison, and the peak above the state before it, features excluded."""
    a, b = (random_layers(**size, seed=seed) for seed in (1, 2))
    pairs = [(i, i) for i in range(size["layers"])]
    before = _peak_mib()
    seconds = []
    for _ in range(REPEATS):
        start = time.process_time()
        compare_features(a, b, pairs, [0])
        seconds.append(time.process_time() - start)
    return {"s": statistics.median(seconds), "MiB": _peak_mib() - before}


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def in_own_process(size: dict[str, int]) -> dict[str, float]:
    """`statistics_of` in a fresh process, so that its peak is its own."""
    command = [sys.executable, __file__, "--one", json.dumps(size)]
    found = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(found.stdout.splitlines()[-1])


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Slope of log cost over log size, least squares."""
    return float(np.polyfit(np.log(sizes), np.log(np.maximum(costs, 1e-3)), 1)[0])


def statistics_axis(axis: str) -> list[dict[str, Any]]:
    """One row a size, and the two exponents."""
    rows: list[dict[str, Any]] = [
        {"axis": axis, "size": n, **in_own_process({**BASE, axis: n})} for n in SIZES[axis]
    ]
    sizes = [row["size"] for row in rows]
    fitted = {f"exponent of {of}": exponent(sizes, [row[of] for row in rows]) for of in ("s", "MiB")}
    return [row | fitted for row in rows]


def main() -> None:
    """Print the table and write it as CSV."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--axis", choices=list(SIZES), default="documents")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.one:
        print(json.dumps(statistics_of(json.loads(options.one))))
        return
    table = pd.DataFrame(statistics_axis(options.axis))
    print(table.to_string(index=False, float_format=lambda v: f"{v:.3g}"))
    if options.out is not None:
        table.to_csv(options.out, index=False, float_format="%.4g")


if __name__ == "__main__":
    main()
