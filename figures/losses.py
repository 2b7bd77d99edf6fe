"""Training and held-out losses of the demo family, both objectives.

    python figures/losses.py [--ablation RUN --corpora FOLDER] [--out PATH]

With no argument: the recorded losses. With an ablation they are measured again, on documents that no model
was trained on: where a piece of Phase 1 or a decay ends, its held-out loss.
"""

from __future__ import annotations

import argparse
import gzip
import json
from pathlib import Path

import pandas as pd
from figure_files import RESULTS, parser, write

from cka_tools.ablation.checkpoints import Segments
from cka_tools.plotting.training_losses import training_losses_figure
from cka_tools.training.checkpoint import read_state
from cka_tools.training.loop import held_out_loss, pack_held_out, unigram_loss
from cka_tools.training.objectives import ObjectiveName
from cka_tools.training.packing import pack_texts
from cka_tools.training.recipe import DEMO
from cka_tools.training.start_model import load_start

LOSSES = RESULTS / "losses.csv"
HELD_OUT_TOKENS = 50_000
MARGIN = 0.5
"""Nats below token frequency that count as having learnt."""
SIZE, SEED = "8x128", 1
RUNS: dict[str, ObjectiveName] = {"detour": "clm", "baseline": "mlm"}


def main() -> None:
    made = parser(__doc__, __file__)
    made.add_argument("--ablation", type=Path, help="a run directory of `cka ablate`: measure again")
    made.add_argument("--corpora", type=Path, help="folder of the training and held-out texts")
    options = made.parse_args()
    if options.ablation:
        measure(options).to_csv(LOSSES, index=False, float_format="%.4f")
    table = pd.read_csv(LOSSES)
    known = table["kind"] == "token frequency"
    unigram = float(table.loc[known, "loss"].iloc[0])
    write(training_losses_figure(table[~known], unigram, MARGIN), options.out)


def measure(options: argparse.Namespace) -> pd.DataFrame:
    """Evaluate both runs of the first seed, and θ0."""
    segments = Segments(options.ablation / "segments")
    rows = []
    for run, objective in RUNS.items():
        leaf = segments.leaf(SIZE, (objective, "mlm"), SEED, DEMO.phase1_tokens)
        start, *own = segments.lineage(leaf)
        _, tokenizer = load_start(start)
        held_out = pack_held_out(
            texts(options.corpora / "pubmed_heldout.jsonl.gz"),
            tokenizer,
            DEMO.sequence_length,
            HELD_OUT_TOKENS,
        )
        for place in own:
            for row in read_state(place).losses:
                rows.append((run, "train", row.objective, row.tokens, row.loss))
        for place in (start, *own):
            model, _ = load_start(place)
            tokens = 0 if place == start else segments.manifests[place]["run_tokens"]
            asked: tuple[ObjectiveName, ...] = ("mlm",) if objective == "mlm" else ("clm", "mlm")
            for each in asked:
                loss = held_out_loss(model, held_out, tokenizer, each)
                rows.append((run, "held-out", each, tokens, loss))
                print(f"{run}  {tokens:>9,} tokens  {each}  {loss:.3f}", flush=True)
    trained = texts(options.corpora / "biomed_train.jsonl.gz")
    packed = pack_texts(trained, tokenizer, length=DEMO.sequence_length, seed=SEED, tokens=DEMO.phase1_tokens)
    rows.append(("", "token frequency", "", 0, unigram_loss(packed, held_out)))
    return pd.DataFrame(rows, columns=["run", "kind", "objective", "tokens", "loss"])


def texts(path: Path) -> list[str]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line in lines]


if __name__ == "__main__":
    main()
