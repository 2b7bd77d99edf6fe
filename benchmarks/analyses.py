"""Every analysis beside the bare forward passes of its models over the same batches.

    python benchmarks/analyses.py [--documents 32] [--models 2 5 10] [--repeats 1] [--out FILE]

M perturbed copies of a bundled model (8 layers, hidden 128), no store, one thread, processor time. An analysis is cut
by where its time goes: "open" (configs, tokenizers, hashes of weights, draw, tokens), "load" (weights, and the checks
of hooks and padding, once a model whatever the corpus), "passes" (batches, hooks, pooling, writing rows), and "rest"
(statistics of the pairs, intervals, the record). "passes / bare" is what is to be near 1: at most 1.05. The bare
passes run twice right after each analysis, and the lesser of both counts. For health, whose passes go through the
language-model head at the targets, the bare passes are those of the base models. A probe's texts are those of its
task: more, and shorter.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from bare_passes import bare_forward, batches_of
from growth import perturbed

from cka_tools import contrast, health, matrix, probe, trajectory
from cka_tools.bundled import bundled_data
from cka_tools.comparison.pairs import Pair, compare_pairs
from cka_tools.compute import FeatureRun, open_run
from cka_tools.extraction import gathered_rows
from cka_tools.models import LoadedModel, SpecSource, load_model
from cka_tools.readouts import of_models
from cka_tools.settings import Settings

ANALYSES = ("trajectory", "matrix", "contrast", "ablate's comparisons", "health", "probe")


class Stopwatch:
    """Processor time of parts of a program, by name; nothing counts twice."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.run: FeatureRun | None = None

    def around(self, name: str, owner: Any, attribute: str) -> None:
        """Time every call of a function of a module or class."""
        function = getattr(owner, attribute)

        def timed(*args: Any, **kwargs: Any) -> Any:
            start, inner = time.process_time(), sum(self.seconds.values())
            try:
                found = function(*args, **kwargs)
            finally:
                spent = time.process_time() - start - (sum(self.seconds.values()) - inner)
                self.seconds[name] = self.seconds.get(name, 0.0) + spent
            if isinstance(found, FeatureRun):
                self.run = found
            return found

        setattr(owner, attribute, timed)


def ablation_pairs(count: int) -> list[Pair]:
    """A baseline's twin, and every other checkpoint against the baseline, as `ablate` asks for them."""
    twin = Pair(1, 0)
    return [twin, *(Pair(at, 0, control=0) for at in range(2, count))]


def ways(models: list[str], options: argparse.Namespace) -> dict[str, Callable[[], object]]:
    """The analyses of these models."""
    common: dict[str, Any] = {"documents": options.documents, "cache": False, "device": "cpu"}
    half = len(models) // 2

    def ablation() -> object:
        run = open_run(models, "sample", Settings(**common))
        return compare_pairs(run, ablation_pairs(len(models)))

    found: dict[str, Callable[[], object]] = {
        "trajectory": lambda: trajectory(models[0], models[1:], "sample", x=range(1, len(models)), **common),
        "matrix": lambda: matrix(models, "sample", **common),
        "contrast": lambda: contrast({"a": models[:half], "b": models[half:]}, "sample", **common),
        "ablate's comparisons": ablation,
        "health": lambda: health(models, "sample", documents=options.documents, device="cpu"),
        "probe": lambda: probe(models, "sections", cache=False, device="cpu", max_length=options.probe_length),
    }
    if len(models) < 4:
        del found["contrast"]
    return {name: way for name, way in found.items() if name in options.analyses}


def main() -> None:
    """Print the table and write it as CSV."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--documents", type=int, default=32)
    parser.add_argument("--probe-length", type=int, default=32, help="Tokens of a task's text: it has many.")
    parser.add_argument("--models", type=int, nargs="+", default=[2, 5, 10])
    parser.add_argument("--analyses", nargs="+", choices=ANALYSES, default=list(ANALYSES), metavar="ANALYSIS")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    torch.set_num_threads(1)
    watch = Stopwatch()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        source = bundled_data() / "models" / "mlm-baseline"
        made = [perturbed(source, Path(folder) / str(seed), seed) for seed in range(max(options.models))]
        loaded: list[LoadedModel] = [load_model(one, device="cpu") for one in made]
        for way in ways(made[:2], options).values():
            way()  # imports, and files in the system's cache
        from cka_tools.comparison import run_contrast, run_matrix, run_trajectory
        from cka_tools.interventions import run_health
        from cka_tools.probes import run_probe

        for module in (run_contrast, run_matrix, run_trajectory, run_health, run_probe, __import__("__main__")):
            watch.around("open", module, "open_run")
        watch.around("load", SpecSource, "load")
        watch.around("passes", gathered_rows, "run_batches")
        watch.around("passes", of_models, "read_variants")
        for count in options.models:
            for name, way in ways(made[:count], options).items():
                for _ in range(options.repeats):
                    rows.append({"analysis": name, "M": count, **measure(way, watch, loaded[:count])})
                    print(rows[-1], flush=True)
    columns = ["bare s", "open s", "load s", "passes s", "rest s", "passes / bare", "whole / bare"]
    table = pd.DataFrame(rows).groupby(["analysis", "M"], sort=False)[columns].median().reset_index()
    print(table.to_string(index=False, float_format=lambda value: f"{value:.3g}"))
    if options.out is not None:
        table.to_csv(options.out, index=False, float_format="%.4g")


def measure(way: Callable[[], object], watch: Stopwatch, models: list[LoadedModel]) -> dict[str, float]:
    """One row of the table."""

    def floor() -> float:
        assert watch.run is not None
        batches = batches_of(watch.run.prepared[0], models[0])
        start = time.process_time()
        for model in models:
            bare_forward(model, batches)
        return time.process_time() - start

    watch.seconds.clear()
    start = time.process_time()
    way()
    whole = time.process_time() - start
    parts = dict(watch.seconds)
    bare = min(floor(), floor())
    row = {f"{name} s": parts.get(name, 0.0) for name in ("open", "load", "passes")}
    row |= {"rest s": whole - sum(parts.values()), "passes / bare": row["passes s"] / bare}
    return {"bare s": bare, **row, "whole / bare": whole / bare}


if __name__ == "__main__":
    main()
