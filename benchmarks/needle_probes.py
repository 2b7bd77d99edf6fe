"""What the two probes of `cka needle` read of a direction that holds the answer, by how far it sets the two apart.

    OMP_NUM_THREADS=1 python benchmarks/needle_probes.py

Features are noise of variance 1, and along one direction the two answers are `apart` standard deviations from each
other; the best that any probe can reach is known. As many examples as the needle task has by default.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from probe_coverage import write_table
from scipy.special import ndtr
from sklearn.linear_model import LogisticRegression

from cka_tools.probes.run_needle import DEV_SHARE, EXAMPLES, TRAINING
from cka_tools.tasks import mlp_probe

SIZES = {"train": TRAINING, "dev": round(TRAINING * DEV_SHARE), "test": EXAMPLES}
WIDTHS, APART = (128, 768), (1.0, 2.0, 4.0, 8.0)
STRENGTH = 0.01
"""C of the regression, among those that it chooses from."""


def accuracies(rng: np.random.Generator, width: int, apart: float) -> dict[str, float]:
    """One draw of features, both probes."""
    gold = {split: np.arange(size) % 2 == 0 for split, size in SIZES.items()}
    direction = rng.normal(size=width)
    direction *= apart / np.linalg.norm(direction)
    x = {
        split: (rng.normal(size=(len(held), width)) + np.where(held, 0.5, -0.5)[:, None] * direction).astype(np.float32)
        for split, held in gold.items()
    }
    two_layers = mlp_probe.fit(x["train"], gold["train"], x["dev"], gold["dev"], 0)
    regression = LogisticRegression(C=STRENGTH).fit(x["train"], gold["train"])
    found = {"mlp": two_layers.predict(x["test"]), "logistic": regression.predict(x["test"])}
    return {"best": float(ndtr(apart / 2))} | {
        name: float((said == gold["test"]).mean()) for name, said in found.items()
    }


def main() -> None:
    """Print the table and write it as CSV."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "needle_probes.csv")
    options = parser.parse_args()
    start, rng = time.process_time(), np.random.default_rng(0)
    rows = [{"width": width, "apart": apart} | accuracies(rng, width, apart) for width in WIDTHS for apart in APART]
    write_table(rows, options.out, start)


if __name__ == "__main__":
    main()
