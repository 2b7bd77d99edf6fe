"""What `--layers 0-7` of a 22-layer encoder costs against its full forward passes, forward only.

    python benchmarks/first_layers.py [--documents 16] [--repeats 3] [--hidden 256] [--out FILE]

A random ModernBERT; extraction of the first layers ends each pass after the last of them. Both run over the
same batches, interleaved; times are medians of processor time with one thread.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from bare_passes import bare_forward, batches_of
from transformers import ModernBertConfig, ModernBertModel

from cka_tools.documents import draw_documents
from cka_tools.extraction.activations import PooledForward
from cka_tools.extraction.extract import prepare
from cka_tools.models import LoadedModel, load_model
from cka_tools.settings import Settings

LAYERS = 22
"""Of ModernBERT Base."""

ALLOWED = 0.05
"""Share of a full forward above the layers' own."""


def random_encoder(hidden: int) -> LoadedModel:
    """22 layers of a small width, with a bundled model's tokenizer."""
    tokenizer = load_model("demo:mlm-baseline").tokenizer
    torch.manual_seed(0)
    config = ModernBertConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=hidden * 3 // 2,
        num_hidden_layers=LAYERS,
        num_attention_heads=hidden // 64,
        max_position_embeddings=512,
        pad_token_id=tokenizer.pad_token_id,
    )
    return load_model((ModernBertModel(config).eval(), tokenizer))


def main() -> None:
    """Print the table and write it as CSV."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--corpus", default="sample")
    parser.add_argument("--documents", type=int, default=16)
    parser.add_argument("--first", type=int, default=8, help="Layers from 0 on.")
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = random_encoder(options.hidden)
    draw = draw_documents(options.corpus, options.documents)
    prepared = prepare([model], draw.documents, Settings())
    batches = batches_of(prepared, model)
    some = PooledForward(model, "residual", range(options.first), "mean")

    def first() -> None:
        with some, model.evaluating():
            for batch in batches:
                some(batch)

    ways: dict[str, Callable[[], None]] = {"first layers": first, "all layers": lambda: bare_forward(model, batches)}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(options.repeats + 1):
        for name, run in ways.items():
            start = time.process_time()
            run()
            if repeat:
                seconds[name].append(time.process_time() - start)
    share = statistics.median(seconds["first layers"]) / statistics.median(seconds["all layers"])
    table = pd.DataFrame(
        [
            {
                "layers": f"0-{options.first - 1} of {LAYERS}",
                "share of the full forward": share,
                "share of the layers": options.first / LAYERS,
                "allowed": options.first / LAYERS + ALLOWED,
                "documents": len(draw.documents),
                "hidden": options.hidden,
            }
        ]
    )
    print(table.to_string(index=False, float_format=lambda v: f"{v:.3f}"))
    if options.out is not None:
        table.to_csv(options.out, index=False, float_format="%.4f")


if __name__ == "__main__":
    main()
