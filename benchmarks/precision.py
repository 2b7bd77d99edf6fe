"""What the number format of the forward passes costs in debiased CKA, against float64 activations.

    python benchmarks/precision.py [--corpus FILE] [--documents 96] [--out FILE]

The same documents go through each pair of models in every format; sums over documents are float64
throughout.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from end_to_end import CORPUS, perturbed_copy, pretrained_encoder

from cka_tools.compute import compute_features
from cka_tools.errors import UserError
from cka_tools.models import load_model
from cka_tools.statistics.linear_cka import LinearCKA

DTYPES = ("float64", "float32", "bfloat16", "float16")


@contextmanager
def pairs() -> Iterator[dict[str, tuple[str, str]]]:
    """The bundled pair, and a pretrained MiniLM with a perturbed copy of it."""
    source = pretrained_encoder()
    with tempfile.TemporaryDirectory() as folder:
        noisy = perturbed_copy(load_model(source), Path(folder))
        yield {
            "clm-detour, mlm-baseline": ("demo:clm-detour", "demo:mlm-baseline"),
            "MiniLM, perturbed": (str(source), str(noisy)),
        }


def diagonal(pair: tuple[str, str], corpus: str, documents: int, dtype: str) -> np.ndarray:
    """Debiased CKA of each layer of A with that of B, (L,)."""
    found = compute_features(pair, corpus, documents=documents, dtype=dtype, cache=False)
    sides = [list(features.layers.values()) for features in found]
    stat = LinearCKA(*([x.shape[1] for x in side] for side in sides), pairs="diagonal")
    stat.update(*sides)
    return stat.compute("debiased").diagonal().numpy()


def main() -> None:
    """Print the table and write it as CSV."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--corpus", default=str(CORPUS))
    parser.add_argument("--documents", type=int, default=96)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    with pairs() as known:
        for name, pair in known.items():
            exact = diagonal(pair, options.corpus, options.documents, DTYPES[0])
            for dtype in DTYPES[1:]:
                row = {"pair": name, "documents": options.documents, "dtype": dtype}
                try:
                    error = np.abs(diagonal(pair, options.corpus, options.documents, dtype) - exact)
                except UserError as refused:  # an activation beyond the format's range
                    rows.append(row | {"note": str(refused)})
                    continue
                worst = int(error.argmax())
                rows.append(
                    row
                    | {
                        "largest error": error[worst],
                        "mean error": error.mean(),
                        "in layer": worst,
                        "its divergence": 1 - exact[worst],
                        "error / divergence": error[worst] / abs(1 - exact[worst]),
                    }
                )
                print(rows[-1], flush=True)
    table = pd.DataFrame(rows)
    print(table.to_string(index=False, float_format=lambda v: f"{v:.2g}"))
    if options.out is not None:
        table.to_csv(options.out, index=False, float_format="%.4g")


if __name__ == "__main__":
    main()
