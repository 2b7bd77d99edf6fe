"""Whether `torch.compile` pays: forward passes as they are and compiled, over the same batches.

    python benchmarks/compiled.py [--corpus FILE] [--documents 64] [--repeats 3] [--threads 1] [--dtype float32]

The passes are those of extraction: sorted batches of a token budget, so that nearly every batch has a shape
of its own; the model is compiled for any shape at once (`dynamic=True`). The compiled model runs over all
batches once before the clock starts, and how long that took is told apart: compilation is paid once a run.
Interleaved, medians; with one thread the clock is the process's processor time.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import pandas as pd
import torch
from bare_passes import bare_forward, batches_of
from end_to_end import CORPUS, pretrained_encoder

from cka_tools.documents import draw_documents
from cka_tools.extraction.extract import prepare
from cka_tools.models import load_model
from cka_tools.settings import Settings


def main() -> None:
    """Print the table and write it as CSV."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--corpus", default=str(CORPUS))
    parser.add_argument("--documents", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clock = time.process_time if options.threads == 1 else time.perf_counter
    draw, rows = draw_documents(options.corpus, options.documents), []
    for name, spec in (("MiniLM", str(pretrained_encoder())), ("demo ModernBERT", "demo:mlm-baseline")):
        plain = load_model(spec, dtype=options.dtype)
        compiled = load_model(spec, dtype=options.dtype)
        compiled.model.compile(dynamic=True)
        prepared = prepare([plain], draw.documents, Settings())
        batches = batches_of(prepared, plain)
        start = time.perf_counter()
        bare_forward(compiled, batches)
        first = time.perf_counter() - start
        bare_forward(plain, batches[-1:])
        seconds: dict[str, list[float]] = {"plain": [], "compiled": []}
        for _ in range(options.repeats):
            for way, model in (("plain", plain), ("compiled", compiled)):
                start = clock()
                bare_forward(model, batches)
                seconds[way].append(clock() - start)
        as_is, fast = (statistics.median(seconds[way]) for way in ("plain", "compiled"))
        tokens = int(prepared.tables[0].lengths.sum())
        gain = (as_is - fast) / tokens
        rows.append(
            {
                "model": name,
                "dtype": options.dtype,
                "compiled / plain": fast / as_is,
                "plain s": as_is,
                "compiled s": fast,
                "first pass s": first,
                "tokens": tokens,
                "tokens until it pays": (first - fast) / gain if gain > 0 else float("inf"),
            }
        )
        torch.compiler.reset()
    table = pd.DataFrame(rows)
    print(table.to_string(index=False, float_format=lambda v: f"{v:.3g}"))
    if options.out is not None:
        table.to_csv(options.out, index=False, float_format="%.4g")


if __name__ == "__main__":
    main()
