"""Peak memory of a comparison against the number of documents, with features on disk or not kept at all.

    python benchmarks/memory.py [--documents 1000 4000] [--pooling token] [--words 200] [--streamed]

Each size runs in a process of its own, on generated documents and the bundled pair. The figure to read is the
ratio of the peaks. With --streamed statistics are summed as the models run, and the drawn texts and their
token ids are on disk as well, as they are once a corpus is large.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from peak_memory import peak_mib


def generated_texts(documents: int, words: int) -> Iterator[str]:
    """Documents of `words` words, all different."""
    rng = np.random.default_rng(0)
    vocabulary = [f"{a}{b}" for a in ("cell", "gene", "drug", "dose", "risk") for b in ("", "s", "al", "ing")]
    for _ in range(documents):
        yield " ".join(rng.choice(vocabulary, size=words))


def peak(documents: int, pooling: str, words: int, streamed: bool) -> dict[str, float]:
    """Compare in this process; peak resident MiB before and after, features never in memory as a whole."""
    from cka_tools.comparison.pairs import Pair, compare_pairs
    from cka_tools.compute import open_run
    from cka_tools.documents import draw
    from cka_tools.extraction import tokens
    from cka_tools.settings import Settings

    if streamed:
        draw.TEXT_IN_MEMORY = tokens.IN_MEMORY = 0

    settings = Settings.of(
        {
            "documents": documents,
            "pooling": pooling,
            "memory_limit": 0,
            "cache": False,
            "keep_features": 0 if streamed else "8GiB",
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "texts.txt"
        with corpus.open("w", encoding="utf-8") as file:
            file.writelines(f"{text}\n" for text in generated_texts(documents, words))
        run = open_run(["demo:clm-detour", "demo:mlm-baseline"], corpus, settings)
    before = peak_mib()
    (found,) = compare_pairs(run, [Pair(0, 1, whole=True)])
    sides = [extraction.features[at] for extraction, at in found.extractions]
    kept = [layer for features in sides for layer in features.features]
    assert bool(kept) != streamed
    assert streamed or all(features.on_disk for features in sides)
    size = sum(layer.nbytes for layer in kept)
    return {"documents": documents, "features MiB": size / 2**20, "before MiB": before, "peak MiB": peak_mib()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--documents", type=int, nargs="+", default=[1000, 4000])
    parser.add_argument("--pooling", default="token")
    parser.add_argument("--words", type=int, default=200, help="of a document")
    parser.add_argument("--streamed", action="store_true")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(peak(options.documents[0], options.pooling, options.words, options.streamed)))
        return
    rows = []
    for documents in options.documents:
        command = [sys.executable, __file__, "--one", "--documents", str(documents)]
        command += ["--pooling", options.pooling, "--words", str(options.words)]
        command += ["--streamed"] if options.streamed else []
        found = subprocess.run(command, check=True, capture_output=True, text=True)
        rows.append(json.loads(found.stdout.splitlines()[-1]))
    table = pd.DataFrame(rows)
    table.insert(0, "peak / first peak", table["peak MiB"] / table["peak MiB"][0])
    print(table.to_string(index=False, float_format=lambda v: f"{v:.3f}"))
    if options.out is not None:
        table.to_csv(options.out, index=False, float_format="%.4f")


if __name__ == "__main__":
    main()
