"""Phase 1's peak learning rate, as shares of θ0's: what each does to the mark, to the noise and to the loss.

    python data/sweep_learning_rate.py --start runs/start/final --runs runs/sweep

For each rate a detour, its baseline (the same data, order and seed) and its control (another seed) are
trained; a sweep that was stopped goes on. Writes one row a rate to `data/learning_rate_sweep.csv`: mean
divergence of detour and baseline, that of control and baseline, their ratio, and the held-out MLM losses
(15 % masked, nats a masked token).
"""

import argparse
import csv
from pathlib import Path

import torch
from training_texts import BIOMEDICAL, CORPORA, HELD_OUT, ROOT, read_texts

from cka_tools import compare
from cka_tools.training.loop import held_out_loss, pack_held_out
from cka_tools.training.packing import pack_texts
from cka_tools.training.recipe import DEMO, START_LR, preset
from cka_tools.training.run import train_run
from cka_tools.training.start_model import load_start

RATES = tuple(START_LR / part for part in (1, 2, 4, 8))
TOKENS = 2_500_000
DATA_SEED = 1
RUNS = {"detour": ("clm-detour", 1), "baseline": ("mlm-baseline", 1), "control": ("mlm-baseline", 2)}
DOCUMENTS = 300
HELD_OUT_TOKENS = 100_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--start", type=Path, required=True, help="directory of θ0")
    parser.add_argument("--runs", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--tokens", type=int, default=TOKENS, help="of Phase 1")
    parser.add_argument("--corpora", type=Path, default=CORPORA)
    parser.add_argument("--out", type=Path, default=ROOT / "data" / "learning_rate_sweep.csv")
    options = parser.parse_args()
    torch.set_num_threads(1)
    _, tokenizer = load_start(options.start)
    length = DEMO.sequence_length
    needed = preset("clm-detour", "demo", options.tokens).tokens
    texts = read_texts(BIOMEDICAL, options.corpora)
    data = pack_texts(texts, tokenizer, length=length, seed=DATA_SEED, tokens=needed)
    unseen = pack_held_out(read_texts(HELD_OUT, options.corpora), tokenizer, length, HELD_OUT_TOKENS)

    with options.out.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        means = ("divergence", "noise", "ratio")
        rows.writerow(("peak_lr", "tokens", *means, *(f"held_out_mlm_loss_{run}" for run in RUNS)))
        for rate in RATES:
            models = {
                run: train_run(
                    preset(name, "demo", options.tokens, peak_lr=rate),
                    options.start,
                    data,
                    options.runs / f"{run}-{rate:g}",
                    seed=seed,
                    data_seed=DATA_SEED,
                )
                for run, (name, seed) in RUNS.items()
            }
            found = compare(
                str(models["detour"]),
                str(models["baseline"]),
                str(options.corpora / f"{HELD_OUT}.jsonl.gz"),
                control=str(models["control"]),
                documents=DOCUMENTS,
            ).summary
            values = (
                found["mean_divergence"]["debiased"]["value"],
                found["control"]["mean_divergence"]["debiased"]["value"],
                found["ratio"]["mean"]["value"],
            )
            losses = [held_out_loss(load_start(one)[0], unseen, tokenizer, "mlm") for one in models.values()]
            rows.writerow((f"{rate:g}", needed, *(f"{value:.5g}" for value in (*values, *losses))))
            file.flush()


if __name__ == "__main__":
    main()
