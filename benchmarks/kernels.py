"""Time of the all-pairs kernels against plain `torch.matmul`s of their shapes and number format.

    python benchmarks/kernels.py [--threads 1] [--repeats 7] [--shapes 8x128 6x384 12x768 22x768] [--out FILE]

For each shape and number of documents the form that `LinearCKA` chooses there is timed, from float32 features
to the sums of all pairs: Gram matrices, or an update of moments that are under way. Beside it run

- the products alone: the same products in the same shapes, of operands that lie ready, into memory that is
  there. The kernel's rate as a share of theirs is what centring, copies, norms, conversions and the sums
  over pairs leave of it;
- the whole products: what a plain program multiplies for the same result, every Gram matrix whole.

Repeats are interleaved, times are medians: of the process's processor time with one thread, so that other
programs disturb them less, else of the clock.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from cka_tools.statistics.hsic import PairSums
from cka_tools.statistics.linear_cka import LinearCKA
from cka_tools.statistics.moments import tile_rows, upper_tiles

SHAPES = ("8x128", "6x384", "12x768", "22x768")
DTYPES = {"float64": torch.float64, "float32": torch.float32}


@dataclass
class Work:
    """A kernel and plain products beside it, and the floating-point operations of its products."""

    form: str
    kernel: Callable[[], object]
    products: Callable[[], object]
    whole: Callable[[], object]
    flop: float


def features(layers: int, width: int, documents: int, seed: int) -> list[Tensor]:
    """float32 layers with means of 10 to 100 spreads, a massive feature, and common directions."""
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(documents, width, generator=torch.Generator().manual_seed(0))
    found = []
    for layer in range(layers):
        own = torch.randn(documents, width, generator=generator)
        mixed = common + (0.1 + layer / layers) * own
        mixed[:, 0] *= 30
        found.append(mixed + torch.linspace(10, 100, width))
    return found


def gram_work(a: list[Tensor], b: list[Tensor], dtype: torch.dtype) -> Work:
    """Gram matrices of all layers and the sums over all pairs of them."""
    n, dims_a, dims_b = len(a[0]), [x.shape[1] for x in a], [y.shape[1] for y in b]
    sides = [torch.stack(side).to(dtype) for side in (a, b)]
    rows = tile_rows(a[0].device, dtype)
    tiles = list(upper_tiles(n, rows))
    out, whole_out = sides[0].new_empty(len(a), rows, rows), sides[0].new_empty(n, n)

    def kernel() -> PairSums:
        stat = LinearCKA(dims_a, dims_b, device=a[0].device, product_dtype=dtype)
        stat.update(a, b)
        return stat.sums()

    def products() -> None:
        for i, j in tiles:
            for side in sides:
                height, width = i.stop - i.start, j.stop - j.start
                into = out.view(-1)[: len(side) * height * width].view(len(side), height, width)
                torch.matmul(side[:, i], side[:, j].transpose(1, 2), out=into)

    def whole() -> None:
        for side in sides:
            for x in side:
                torch.matmul(x, x.T, out=whole_out)

    entries = sum((i.stop - i.start) * (j.stop - j.start) for i, j in tiles)
    return Work("gram", kernel, products, whole, 2.0 * entries * sum(dims_a + dims_b))


def moments_work(a: list[Tensor], b: list[Tensor], dtype: torch.dtype) -> Work:
    """An update of all layer pairs' moments with rows of float32 features."""
    n, dims_a, dims_b = len(a[0]), [x.shape[1] for x in a], [y.shape[1] for y in b]
    stat = LinearCKA(dims_a, dims_b, device=a[0].device, product_dtype=dtype)
    while stat.n < stat.switch:
        stat.update(a, b)
    X, Y = torch.cat(a, dim=1).to(dtype), torch.cat(b, dim=1).to(dtype)
    cross = X.new_empty(X.shape[1], Y.shape[1])
    plain = [x.to(dtype) for x in a + b]
    own = [x.new_empty(x.shape[1], x.shape[1]) for x in plain]

    def products() -> None:
        torch.matmul(X.T, Y, out=cross)
        for x, out in zip(plain, own, strict=True):
            torch.matmul(x.T, x, out=out)

    flop = 2.0 * n * (cross.numel() + sum(out.numel() for out in own))
    return Work("moments", lambda: stat.update(a, b), products, products, flop)


def measure(work: Work, repeats: int, clock: Callable[[], float]) -> tuple[float, float, float]:
    """Median seconds of kernel, products and whole products, interleaved, after one run of each."""
    runs = work.kernel, work.products, work.whole
    seconds: list[list[float]] = [[], [], []]
    for repeat in range(repeats + 1):
        for run, into in zip(runs, seconds, strict=True):
            start = clock()
            run()
            if repeat:
                into.append(clock() - start)
    kernel, products, whole = map(statistics.median, seconds)
    return kernel, products, whole


def error_of(a: list[Tensor], b: list[Tensor], dtype: torch.dtype) -> float:
    """Largest difference of debiased CKA from all-float64 arithmetic on the same features."""
    values = []
    for number in (torch.float64, dtype):
        dims_a, dims_b = [x.shape[1] for x in a], [y.shape[1] for y in b]
        stat = LinearCKA(dims_a, dims_b, device=a[0].device, product_dtype=number)
        stat.update(a, b)
        values.append(stat.compute("debiased"))
    return float((values[0] - values[1]).abs().max())


def main() -> None:
    """Print the table and write it as CSV."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), help="LAYERSxWIDTH")
    parser.add_argument("--documents", type=int, nargs="+", default=[500, 2000])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clock = time.process_time if options.threads == 1 else time.perf_counter
    rows = []
    for shape in options.shapes:
        layers, width = map(int, shape.split("x"))
        for documents in options.documents:
            a, b = (features(layers, width, documents, seed) for seed in (1, 2))
            switch = LinearCKA([width] * layers, [width] * layers).switch
            make = gram_work if documents < switch else moments_work
            for name, dtype in DTYPES.items():
                work = make(a, b, dtype)
                kernel, products, whole = measure(work, options.repeats, clock)
                rows.append(
                    {
                        "layers": layers,
                        "width": width,
                        "documents": documents,
                        "products": name,
                        "form": work.form,
                        "share of matmul's rate": products / kernel,
                        "whole products / kernel": whole / kernel,
                        "kernel GFLOP/s": work.flop / kernel / 1e9,
                        "matmul GFLOP/s": work.flop / products / 1e9,
                        "CKA error": 0.0 if dtype == torch.float64 else error_of(a, b, dtype),
                    }
                )
                print(rows[-1], flush=True)
                del work
    table = pd.DataFrame(rows)
    print(table.to_string(index=False, float_format=lambda v: f"{v:.2g}" if v < 1e-3 else f"{v:.2f}"))
    if options.out is not None:
        table.to_csv(options.out, index=False, float_format="%.4g")


if __name__ == "__main__":
    main()
