"""Rate of the all-pairs kernels against a plain `torch.matmul` of the same shape and number format.

    python benchmarks/kernels.py [--threads 1] [--repeats 3] [--shapes 8x128 6x384 12x768 22x768] [--out FILE]

For each shape and number of documents the form that `LinearCKA` chooses there is timed: Gram matrices, or
an update of moments that are under way. Its rate counts the products it makes (half of a symmetric Gram
matrix) and its time holds all else: centring, copies, norms, sums over pairs. The plain products are the
whole matrices, of contiguous operands, into memory that is there. Repeats are interleaved, times are
medians: of the process's processor time with one thread, so that other programs disturb them less, else of
the clock.
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

from cka_tools.statistics.gram import tile_rows, upper_tiles
from cka_tools.statistics.hsic import PairSums
from cka_tools.statistics.linear_cka import LinearCKA

SHAPES = ("8x128", "6x384", "12x768", "22x768")
DTYPES = {"float64": torch.float64, "float32": torch.float32}


@dataclass
class Work:
    """One kernel and the plain products beside it: what to run, and floating-point operations of each."""

    form: str
    kernel: Callable[[], object]
    plain: Callable[[], object]
    kernel_flop: float
    plain_flop: float


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
    plain, out = [x.to(dtype) for x in a + b], torch.empty(n, n, dtype=dtype)

    def kernel() -> PairSums:
        stat = LinearCKA(dims_a, dims_b, product_dtype=dtype)
        stat.update(a, b)
        return stat.sums()

    entries = sum(
        (i.stop - i.start) * (j.stop - j.start) for i, j in upper_tiles(n, tile_rows(a[0].device, dtype))
    )
    width = sum(dims_a + dims_b)
    return Work(
        "gram",
        kernel,
        lambda: [torch.matmul(x, x.T, out=out) for x in plain],
        2.0 * entries * (width + len(dims_a) * len(dims_b)),
        2.0 * n * n * width,
    )


def moments_work(a: list[Tensor], b: list[Tensor], dtype: torch.dtype) -> Work:
    """An update of all layer pairs' moments with rows of float32 features."""
    n, dims_a, dims_b = len(a[0]), [x.shape[1] for x in a], [y.shape[1] for y in b]
    stat = LinearCKA(dims_a, dims_b, product_dtype=dtype)
    while stat.n < stat.switch:
        stat.update(a, b)
    X, Y = torch.cat(a, dim=1).to(dtype), torch.cat(b, dim=1).to(dtype)
    cross = torch.empty(X.shape[1], Y.shape[1], dtype=dtype)
    plain = [x.to(dtype) for x in a + b]
    own = [torch.empty(x.shape[1], x.shape[1], dtype=dtype) for x in plain]

    def products() -> None:
        torch.matmul(X.T, Y, out=cross)
        for x, out in zip(plain, own, strict=True):
            torch.matmul(x.T, x, out=out)

    flop = 2.0 * n * (cross.numel() + sum(out.numel() for out in own))
    return Work("moments", lambda: stat.update(a, b), products, flop, flop)


def measure(work: Work, repeats: int, clock: Callable[[], float]) -> tuple[float, float]:
    """Median seconds of the kernel and of the plain products, interleaved, after one run of each."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for repeat in range(repeats + 1):
        for run, into in zip((work.kernel, work.plain), seconds, strict=True):
            start = clock()
            run()
            if repeat:
                into.append(clock() - start)
    return statistics.median(seconds[0]), statistics.median(seconds[1])


def error_of(a: list[Tensor], b: list[Tensor], dtype: torch.dtype) -> float:
    """Largest difference of debiased CKA from all-float64 arithmetic on the same features."""
    values = []
    for number in (torch.float64, dtype):
        stat = LinearCKA([x.shape[1] for x in a], [y.shape[1] for y in b], product_dtype=number)
        stat.update(a, b)
        values.append(stat.compute("debiased"))
    return float((values[0] - values[1]).abs().max())


def main() -> None:
    """Print the table and write it as CSV."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), help="LAYERSxWIDTH")
    parser.add_argument("--documents", type=int, nargs="+", default=[500, 2000])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
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
                kernel, plain = measure(work, options.repeats, clock)
                rate, matmul = work.kernel_flop / kernel, work.plain_flop / plain
                rows.append(
                    {
                        "layers": layers,
                        "width": width,
                        "documents": documents,
                        "products": name,
                        "form": work.form,
                        "rate / matmul": rate / matmul,
                        "matmul s / kernel s": plain / kernel,
                        "GFLOP/s": rate / 1e9,
                        "matmul GFLOP/s": matmul / 1e9,
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
