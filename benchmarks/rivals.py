"""Public CKA packages beside ours, on the inputs that they accept: float32 feature matrices, or models that
take one tensor.

    python benchmarks/rivals.py [--documents 500] [--shapes 8x128 6x384 12x768] [--out FILE]

pytorch-cka computes CKA from features. torch_cka and cka-pytorch take models only: here a model whose
layers hand out columns of a feature matrix, so that their time is that of their statistics and hooks, over
batches of as many documents as they are given at once. A value is called right where it is within 1e-5 of
the brute-force float64 value of the estimator that the package names; a package that is not installed is
skipped with one line. Features: well scaled, or with means of 100 spreads as encoders have them.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from rival_packages import Matrix, installed_packages
from torch import Tensor, nn

from cka_tools.statistics.hsic import Estimator
from cka_tools.statistics.linear_cka import LinearCKA

RIGHT = 1e-5
"""The tolerance against a user's own loop."""

Result = Callable[[list[Tensor], list[Tensor]], np.ndarray]


class Columns(nn.Module):
    """A model whose layer ℓ gives the features of layer ℓ: rows of a stack (b, L·p) go in."""

    def __init__(self, layers: int, width: int, first: int) -> None:
        super().__init__()
        self.width, self.first = width, first
        self.layers = nn.ModuleList(nn.Identity() for _ in range(layers))

    def forward(self, rows: Tensor) -> Tensor:
        """Every layer's columns in turn."""
        for at, layer in enumerate(self.layers):
            start = self.first + at * self.width
            rows_out = layer(rows[:, start : start + self.width])
        return rows_out


def brute_force(a: list[Tensor], b: list[Tensor], estimator: Estimator) -> np.ndarray:
    """CKA of all pairs from whole float64 Gram matrices, as the definitions write it."""
    n = len(a[0])
    H = torch.eye(n, dtype=torch.float64) - 1 / n
    grams = []
    for side in (a, b):
        centred = [H @ x.double() for x in side]
        K = torch.stack([x @ x.T for x in centred])
        if estimator == "debiased":
            K = K - torch.diag_embed(K.diagonal(dim1=1, dim2=2))
        grams.append(K)

    def hsic(K: Tensor, L: Tensor) -> Tensor:
        trace = torch.einsum("aij,bij->ab", K, L)
        if estimator == "biased":
            return trace
        k, m = K.sum(1), L.sum(1)
        return trace + k.sum(1)[:, None] * m.sum(1) / ((n - 1) * (n - 2)) - 2 * k @ m.T / (n - 2)

    K, L = grams
    scale = torch.outer(hsic(K, K).diagonal(), hsic(L, L).diagonal()).sqrt()
    return (hsic(K, L) / scale).numpy()


def ours(product_dtype: torch.dtype) -> Result:
    """The debiased matrix of `LinearCKA`."""

    def run(a: list[Tensor], b: list[Tensor]) -> np.ndarray:
        dims = [x.shape[1] for x in a], [y.shape[1] for y in b]
        stat = LinearCKA(*dims, product_dtype=product_dtype)
        stat.update(a, b)
        return stat.compute("debiased").numpy()

    return run


def _loader(a: list[Tensor], b: list[Tensor], batch: int | None) -> Any:
    stack = torch.cat([*a, *b], dim=1)
    rows = torch.utils.data.TensorDataset(stack, stack[:, 0])  # features and a label, as they expect
    return torch.utils.data.DataLoader(rows, batch_size=batch or len(a[0]))


def _models(a: list[Tensor]) -> tuple[Columns, Columns, list[str]]:
    layers, width = len(a), a[0].shape[1]
    names = [f"layers.{at}" for at in range(layers)]
    return Columns(layers, width, 0), Columns(layers, width, layers * width), names


def through_models(package: Matrix, batch: int | None = None) -> Result:
    """A package that takes models, given models that hand out columns of the features, all documents at once or
    in batches of some."""

    def run(a: list[Tensor], b: list[Tensor]) -> np.ndarray:
        return package(*_models(a), _loader(a, b, batch))

    return run


def on_features(pytorch_cka: Any) -> Result:
    """The function of pytorch-cka that takes features."""

    def run(a: list[Tensor], b: list[Tensor]) -> np.ndarray:
        found: Tensor = pytorch_cka.cka_from_features(a, b)
        return found.numpy()

    return run


def ways() -> dict[str, Result]:
    """Ways to compute the matrix: ours, and each package that is here."""
    found: dict[str, Result] = {"cka-tools": ours(torch.float64), "cka-tools, float32 products": ours(torch.float32)}
    for name, package in installed_packages().items():
        found[name] = through_models(package)
        if name == "pytorch-cka":
            found[name] = on_features(importlib.import_module("cka"))
    return found


def features(layers: int, width: int, documents: int, mean: float) -> tuple[list[Tensor], list[Tensor]]:
    """Two sides of float32 layers with a common part, spread 1 to 1.4 about `mean`."""
    generator = torch.Generator().manual_seed(0)
    common = torch.randn(documents, width, generator=generator)
    a, b = (
        [mean + common + torch.randn(documents, width, generator=generator) for _ in range(layers)] for _ in range(2)
    )
    return a, b


def main() -> None:
    """Print the table and write it as CSV."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--shapes", nargs="+", default=["8x128", "6x384", "12x768"], help="LAYERSxWIDTH")
    parser.add_argument("--documents", type=int, nargs="+", default=[300, 500, 1000])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found, rows = ways(), []
    for shape, documents, mean in itertools.product(options.shapes, options.documents, (0.0, 100.0)):
        layers, width = map(int, shape.split("x"))
        a, b = features(layers, width, documents, mean)
        seconds: dict[str, list[float]] = {name: [] for name in found}
        values: dict[str, np.ndarray] = {}
        for repeat in range(options.repeats + 1):
            for name, run in found.items():
                start = time.process_time()
                values[name] = run(a, b)
                if repeat:
                    seconds[name].append(time.process_time() - start)
        exact: dict[Estimator, np.ndarray] = {
            "biased": brute_force(a, b, "biased"),
            "debiased": brute_force(a, b, "debiased"),
        }
        base = statistics.median(seconds["cka-tools"])
        for name in found:
            errors = {e: float(np.abs(values[name] - v).max()) for e, v in exact.items()}
            estimator: Estimator = "biased" if errors["biased"] < errors["debiased"] else "debiased"
            took = statistics.median(seconds[name])
            rows.append(
                {
                    "shape": shape,
                    "documents": documents,
                    "mean / spread": mean,
                    "package": name,
                    "its s / our s": took / base,
                    "s": took,
                    "nearest estimator": estimator,
                    "error": errors[estimator],  # NaN where the package gives no number
                    "right": errors[estimator] <= RIGHT,
                }
            )
    table = pd.DataFrame(rows)
    print(table.to_string(index=False, float_format=lambda v: f"{v:.2g}"))
    if options.out is not None:
        table.to_csv(options.out, index=False, float_format="%.4g")


if __name__ == "__main__":
    main()
