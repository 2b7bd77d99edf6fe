"""Packed documents against sorted batches and against the loop's batches of 16, on corpora of mixed lengths.

    python benchmarks/packing.py [--documents 48 192] [--dtype float32] [--repeats 3] [--out FILE]

Documents of random tokens, of 1 to 512: lengths drawn evenly, or evenly on a logarithmic scale (most are short, and
sorting leaves most padding); or 512 all of them, where nothing is to be gained. Each way runs the pass that makes
features (hooks and mean pooling of every layer); the ways run in turn, on one thread, and times are medians of
processor time as shares of the sorted batches' in the same round. The largest difference of a feature stands beside
it, relative to the largest value of its layer. "padding" is the share of tokens that the sorted batches add.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from end_to_end import pretrained_encoder
from first_layers import random_encoder

from cka_tools.extraction.activations import PooledForward
from cka_tools.extraction.batches import BatchPlan, make_batch, make_pack, plan_corpus_order, plan_packed, plan_sorted
from cka_tools.extraction.tokens import TokenTable
from cka_tools.models import LoadedModel, load_model
from cka_tools.models.check import can_pack
from cka_tools.models.model import DTYPES
from cka_tools.settings import CPU_BATCH_TOKENS

LONGEST = 512


def lengths_of(kind: str, documents: int) -> np.ndarray:
    """Token counts of documents."""
    draw = np.random.default_rng(0)
    if kind == "even":
        return draw.integers(1, LONGEST + 1, documents)
    if kind == "logarithmic":
        return np.exp(draw.uniform(0, np.log(LONGEST), documents)).round().astype(np.int64)
    return np.full(documents, LONGEST)


def table_of(lengths: np.ndarray, model: LoadedModel) -> TokenTable:
    """Random tokens."""
    total = int(lengths.sum())
    ids = np.random.default_rng(1).integers(5, model.vocabulary, total).astype(np.int32)
    return TokenTable(ids, np.ones(total, bool), np.concatenate([[0], np.cumsum(lengths)]), model.pad_id, 0)


def run(model: LoadedModel, table: TokenTable, plan: BatchPlan) -> list[np.ndarray]:
    """Mean-pooled features of every layer, (documents, features)."""
    make = make_pack if plan.packed else make_batch
    forward = PooledForward(model, "residual", range(len(model.blocks)), "mean")
    found = [np.empty((len(table.lengths), width), np.float32) for width in forward.widths]
    with forward, model.evaluating():
        for rows in plan.batches:
            pooled, _ = forward(make(table, rows, model.device))
            for layer, values in zip(found, pooled, strict=True):
                layer[list(rows)] = values[0].numpy()
    return found


def main() -> None:
    """Print the table and write it as CSV."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--documents", type=int, nargs="+", default=[48, 192])
    parser.add_argument("--hidden", type=int, default=256, help="Of the 22-layer ModernBERT; 0 leaves it out.")
    parser.add_argument("--dtype", default="float32", choices=[name for name in DTYPES if name != "float16"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    torch.set_num_threads(1)
    models = {"MiniLM (BERT, 6 × 384)": load_model(pretrained_encoder(), device="cpu", dtype=options.dtype)}
    if options.hidden:
        other = random_encoder(options.hidden)
        pair: Any = (other.model, other.tokenizer)
        models[f"ModernBERT (22 × {options.hidden})"] = load_model(pair, dtype=options.dtype)
    rows = []
    for name, model in models.items():
        assert can_pack(model)
        for kind in ("even", "logarithmic", "512 all"):
            for documents in options.documents:
                lengths = lengths_of(kind, documents)
                table = table_of(lengths, model)
                plans = {
                    "sorted": plan_sorted(lengths, CPU_BATCH_TOKENS),
                    "packed": plan_packed(lengths, CPU_BATCH_TOKENS),
                    "batches of 16": plan_corpus_order(lengths, 16),
                }
                seconds: dict[str, list[float]] = {way: [] for way in plans}
                features: dict[str, list[np.ndarray]] = {}
                for repeat in range(options.repeats + 1):
                    for way, plan in plans.items():
                        start = time.process_time()
                        features[way] = run(model, table, plan)
                        if repeat:
                            seconds[way].append(time.process_time() - start)
                shares = {
                    way: statistics.median(a / b for a, b in zip(found, seconds["sorted"], strict=True))
                    for way, found in seconds.items()
                }
                both = zip(features["packed"], features["sorted"], strict=True)
                rows.append(
                    {
                        "model": name,
                        "lengths": kind,
                        "documents": documents,
                        "tokens": int(lengths.sum()),
                        "padding": plans["sorted"].record()["padded_tokens"] / int(lengths.sum()) - 1,
                        "packed / sorted": shares["packed"],
                        "batches of 16 / sorted": shares["batches of 16"],
                        "sorted s": statistics.median(seconds["sorted"]),
                        "difference": max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in both),
                    }
                )
                print(rows[-1], flush=True)
    frame = pd.DataFrame(rows)
    print(frame.to_string(index=False, float_format=lambda value: f"{value:.3g}"))
    if options.out is not None:
        frame.to_csv(options.out, index=False, float_format="%.4g")


if __name__ == "__main__":
    main()
