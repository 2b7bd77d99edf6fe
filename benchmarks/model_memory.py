"""Peak memory of a comparison above the process after imports, against what it must hold.

    python benchmarks/model_memory.py [--documents 64] [--words 120] [--out FILE]

Two random encoders of over 100 MB each, features on disk. Measured: VmHWM of a fresh process, reset after
all imports and a warm-up on models of a few kilobytes, above its resident memory there. Predicted: the
weights of one model (one runs after the other), one batch (the rise of one bare forward pass of the largest
batch, in a process of its own) and the statistics (the rise of the same statistics on random features, in a
process of its own).
Runs on Linux.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from memory import generated_texts
from peak_memory import peak_mib, settle

LARGE = {"hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8, "intermediate_size": 2048}
SMALL = {"hidden_size": 32, "num_hidden_layers": 8, "num_attention_heads": 2, "intermediate_size": 64}
STEPS = ("loading", "batch", "statistics", "comparison")


def save_models(folder: Path) -> None:
    """Write a pair of large and a pair of small random BERTs, with the tokenizer of a bundled model."""
    import torch
    from transformers import BertConfig, BertModel

    from cka_tools.models import load_model

    tokenizer = load_model("demo:mlm-baseline").tokenizer
    for size, shape in (("large", LARGE), ("small", SMALL)):
        for seed in (0, 1):
            torch.manual_seed(seed)
            config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=512, **shape)
            target = folder / f"{size}-{seed}"
            BertModel(config, add_pooling_layer=False).save_pretrained(target)
            tokenizer.save_pretrained(target)


def rise(step: str, folder: Path, documents: int, words: int) -> dict[str, float]:
    """Peak MiB of one step above the process before it, in this process."""
    import torch
    from bare_passes import bare_forward, batches_of

    from cka_tools.comparison.pairs import Pair, compare_pairs
    from cka_tools.compute import open_run
    from cka_tools.documents import draw_documents
    from cka_tools.extraction.extract import prepare
    from cka_tools.models import load_model
    from cka_tools.settings import Settings
    from cka_tools.statistics.pair import compare_features

    torch.set_num_threads(1)
    settings = Settings(documents=documents, memory_limit=0, cache=False, device="cpu")
    texts = list(generated_texts(documents, words))
    draw = draw_documents(texts, documents)
    depth = LARGE["num_hidden_layers"]
    pairs = [(i, i) for i in range(depth)]

    def compare(size: str) -> None:
        run = open_run([folder / f"{size}-{seed}" for seed in (0, 1)], texts, settings)
        compare_pairs(run, [Pair(0, 1, whole=True)])

    compare("small")
    if step == "batch":
        models = [load_model(folder / "large-0")]
        prepared = prepare(models, draw.documents, settings)
        batch = batches_of(prepared, models[0])[0]
    elif step == "statistics":
        rng = np.random.default_rng(0)
        shape = (documents, LARGE["hidden_size"])
        sides = [[rng.standard_normal(shape, np.float32) for _ in range(depth)] for _ in range(2)]
    before = settle()
    if step == "loading":
        held = load_model(folder / "large-0").model
        kept = settle(reset=False)
        weights = sum(p.nbytes for p in [*held.parameters(), *held.buffers()])
        return {"MiB": peak_mib() - before, "kept MiB": kept - before, "weights MiB": weights / 2**20}
    if step == "batch":
        bare_forward(models[0], [batch])
    elif step == "statistics":
        compare_features(sides[0], sides[1], pairs, [0])
    else:
        compare("large")
    return {"MiB": peak_mib() - before}


def main() -> None:
    """Print the table and write it as CSV."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--documents", type=int, default=64)
    parser.add_argument("--words", type=int, default=120)
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    size = options.documents, options.words
    if options.step:
        print(json.dumps(rise(options.step, options.folder, *size)))
        return
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        save_models(Path(folder))
        for step in STEPS:
            numbers = ["--documents", str(size[0]), "--words", str(size[1])]
            command = [sys.executable, __file__, "--step", step, "--folder", folder, *numbers]
            run = subprocess.run(command, check=True, capture_output=True, text=True)
            found[step] = json.loads(run.stdout.splitlines()[-1])
            print(step, found[step], flush=True)
    weights, batch = found["loading"]["weights MiB"], found["batch"]["MiB"]
    predicted = weights + batch + found["statistics"]["MiB"]
    table = pd.DataFrame(
        [
            {
                "measured / predicted": found["comparison"]["MiB"] / predicted,
                "measured MiB": found["comparison"]["MiB"],
                "predicted MiB": predicted,
                "weights MiB": weights,
                "batch MiB": batch,
                "statistics MiB": found["statistics"]["MiB"],
                "peak of loading alone MiB": found["loading"]["MiB"],
                "kept by loading MiB": found["loading"]["kept MiB"],
            }
        ]
    )
    print(table.T.to_string(header=False, float_format=lambda v: f"{v:.3f}"))
    if options.out is not None:
        table.to_csv(options.out, index=False, float_format="%.4f")


if __name__ == "__main__":
    main()
