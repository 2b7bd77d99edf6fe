"""How time grows along one axis, with the way it would be done without the tool's sharing beside it.

    python benchmarks/growth.py [--axis checkpoints documents layers width] [--repeats 2]

Each axis is a function in AXES that gives rows of its own; a row has the columns `axis`, `way`, `x` and
`seconds`. Read the fitted exponents (the slope of log time on log x) and the ratios: the machine is shared.
All axes take less than three minutes. Writes
growth_checkpoints.csv and growth_statistics.csv beside this file, or where --out says.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from peak_memory import peak_mib, settle

HERE = Path(__file__).parent
Row = dict[str, Any]

BASE = {"documents": 512, "layers": 6, "width": 192}
SIZES = {"documents": [256, 512, 1024, 2048, 4096], "layers": [2, 4, 8, 16], "width": [96, 192, 384, 768]}


def timed(work: Callable[[], object], repeats: int) -> float:
    """Processor seconds of this process, the least of some repeats."""
    taken = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return min(taken)


def checkpoints(repeats: int, documents: int) -> Iterator[Row]:
    """Time against M checkpoints: trajectory and matrix at one pass a model, and `compare` pair by pair.

    The checkpoints are small perturbations of a bundled model. Nothing is taken from a cache: every pass is
    run. `passes` counts the corpora that went through a model.
    """
    from cka_tools import compare, matrix, trajectory
    from cka_tools.bundled import bundled_data

    source = bundled_data() / "models" / "mlm-baseline"
    with tempfile.TemporaryDirectory() as folder:
        made = [perturbed(source, Path(folder) / str(seed), seed) for seed in range(9)]
        options: dict[str, Any] = {"documents": documents, "max_length": 128, "cache": False}

        def pairwise(pairs: list[tuple[str, str]]) -> None:
            for a, b in pairs:
                compare(a, b, **options)

        # Imports, and the corpus in the system's cache.
        compare(made[0], made[1], **options)
        trajectory(made[0], made[1:2], **options)
        for count in (2, 4, 6, 8):
            reference, others = made[0], made[1 : count + 1]
            against = [(other, reference) for other in others]
            among = list(combinations(made[:count], 2))

            def follow(others: list[str] = others) -> object:
                return trajectory(made[0], others, x=range(1, len(others) + 1), **options)

            def all_pairs(count: int = count) -> object:
                return matrix(made[:count], **options)

            ways: dict[str, tuple[Callable[[], object], int]] = {
                "trajectory": (follow, count + 1),
                "compare, each against the reference": (lambda p=against: pairwise(p), 2 * count),  # type: ignore[misc]
            }
            ways["matrix"] = (all_pairs, count)
            ways["compare, all pairs"] = (lambda p=among: pairwise(p), 2 * len(among))  # type: ignore[misc]
            for way, (work, passes) in ways.items():
                yield {"way": way, "x": count, "passes": passes, "seconds": timed(work, repeats)}


def perturbed(source: Path, folder: Path, seed: int) -> str:
    """A copy of a model whose weights moved a little."""
    import shutil

    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("training.json", "loss.csv", "README.md"))
    draw = torch.Generator().manual_seed(seed)
    weights = load_file(folder / "model.safetensors")
    for name, value in weights.items():
        noise = torch.randn(value.shape, generator=draw) * value.float().std() * 0.05
        weights[name] = (value.float() + noise).to(value.dtype)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return str(folder)


def statistics_axis(axis: str, repeats: int, documents: int) -> Iterator[Row]:
    """Time and peak memory of the statistics alone on random features, every layer pair, in fresh processes.

    While one of documents, layers and width grows, the other two stay as in BASE.
    """
    for x in SIZES[axis]:
        size = BASE | {axis: x}
        command = [sys.executable, __file__, "--one", json.dumps(size), "--repeats", str(repeats)]
        found = subprocess.run(command, check=True, capture_output=True, text=True)
        yield {"way": "statistics", "x": x, **json.loads(found.stdout.splitlines()[-1])}


def statistics_of(size: dict[str, int], repeats: int) -> Row:
    """Seconds of the comparison, and the peak above the state before it, features excluded."""
    from cka_tools.statistics.pair import compare_features

    a, b = (random_layers(**size, seed=seed) for seed in (1, 2))
    pairs = [(i, i) for i in range(size["layers"])]
    before = settle()
    seconds = timed(lambda: compare_features(a, b, pairs, [0]), repeats)
    return {"seconds": seconds, "peak_mib": peak_mib() - before}


def random_layers(documents: int, layers: int, width: int, seed: int) -> list[np.ndarray]:
    """float32 layers with a common part, (documents, width) each."""
    rng = np.random.default_rng(seed)
    common = np.random.default_rng(0).standard_normal((documents, width), np.float32)
    return [common + rng.standard_normal((documents, width), np.float32) for _ in range(layers)]


AXES: dict[str, Callable[[int, int], Iterator[Row]]] = {
    "checkpoints": checkpoints,
    **{axis: partial(statistics_axis, axis) for axis in SIZES},
}


def exponents(table: pd.DataFrame, measured: str) -> pd.Series:
    """Slope of the logarithm of a column on log x of each way, over all of its points."""
    fits = {}
    for way, rows in table.groupby("way", sort=False):
        fits[way] = np.polyfit(np.log(rows["x"]), np.log(rows[measured]), 1)[0]
    return pd.Series(fits, name=f"exponent of {measured}")


def straightness(table: pd.DataFrame) -> pd.DataFrame:
    """Seconds = intercept + slope x of each way, and how much of the variance the line leaves out."""
    lines = {}
    for way, rows in table.groupby("way", sort=False):
        slope, intercept = np.polyfit(rows["x"], rows["seconds"], 1)
        left = rows["seconds"] - intercept - slope * rows["x"]
        unexplained = float((left**2).sum() / ((rows["seconds"] - rows["seconds"].mean()) ** 2).sum())
        lines[way] = {"seconds a step": slope, "seconds at 0": intercept, "R²": 1 - unexplained}
    return pd.DataFrame(lines).T


def main() -> None:
    """Print the table and the fits, write the CSV."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--axis", nargs="+", choices=AXES, default=list(AXES))
    parser.add_argument("--documents", type=int, default=24, help="of the comparisons of checkpoints")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--out", type=Path, default=HERE, help="folder of the tables")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(statistics_of(json.loads(options.one), options.repeats)))
        return
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    options.out.mkdir(parents=True, exist_ok=True)
    tables: dict[str, list[pd.DataFrame]] = {}
    for axis in options.axis:
        rows = []
        for row in AXES[axis](options.repeats, options.documents):
            rows.append({"axis": axis, **row})
            print(rows[-1], flush=True)
        table = pd.DataFrame(rows)
        print(table.to_string(index=False, float_format=lambda v: f"{v:.3f}"))
        for measured in ("seconds", "peak_mib"):
            if measured in table:
                print(exponents(table, measured).to_string(name=True, float_format=lambda v: f"{v:.2f}"))
        print(straightness(table).to_string(float_format=lambda v: f"{v:.3f}"))
        tables.setdefault("checkpoints" if axis == "checkpoints" else "statistics", []).append(table)
    for name, found in tables.items():
        pd.concat(found).to_csv(options.out / f"growth_{name}.csv", index=False, float_format="%.4f")


if __name__ == "__main__":
    main()
