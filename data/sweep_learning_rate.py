"""Choose the demo scale's peak learning rate: short detours and baselines from θ0, at a few rates.

    python data/sweep_learning_rate.py

Each run reads `TOKENS` biomedical tokens in Phase 1 and a tenth of them in the decay. Writes the held-out MLM
loss (15 % masked, nats a masked token) of each to `data/learning_rate_sweep.csv`, which the choice rests on.
"""

import argparse
import csv
from pathlib import Path

import torch
from training_texts import BIOMEDICAL, CORPORA, HELD_OUT, MODELS, ROOT, read_texts

from cka_tools.training.loop import held_out_loss, pack_held_out, train
from cka_tools.training.packing import pack_texts
from cka_tools.training.recipe import DEMO, START, preset
from cka_tools.training.start_model import load_start

RATES = (3e-4, 1e-3, 2e-3, 4e-3)
TOKENS = 250_000
SEED = 1
HELD_OUT_TOKENS = 100_000


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpora", type=Path, default=CORPORA)
    parser.add_argument("--out", type=Path, default=ROOT / "data" / "learning_rate_sweep.csv")
    options = parser.parse_args()
    torch.set_num_threads(1)
    start = MODELS / START
    _, tokenizer = load_start(start)
    tokens = preset("clm-detour", "demo", TOKENS).tokens
    texts = read_texts(BIOMEDICAL, options.corpora)
    data = pack_texts(texts, tokenizer, length=DEMO.sequence_length, seed=SEED, tokens=tokens)
    unseen = pack_held_out(
        read_texts(HELD_OUT, options.corpora), tokenizer, DEMO.sequence_length, HELD_OUT_TOKENS
    )

    with options.out.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("recipe", "peak_lr", "tokens", "seed", "held_out_mlm_loss"))
        rows.writerow(
            (START, "", 0, "", f"{held_out_loss(load_start(start)[0], unseen, tokenizer, 'mlm'):.4f}")
        )
        for rate in RATES:
            for name in ("clm-detour", "mlm-baseline"):
                model, _ = load_start(start)
                recipe = preset(name, "demo", TOKENS, peak_lr=rate)
                run = train(model, data, recipe, seed=SEED, mask_id=tokenizer.mask_token_id, bf16=True)
                loss = held_out_loss(model, unseen, tokenizer, "mlm")
                rows.writerow((name, f"{rate:g}", run.tokens, SEED, f"{loss:.4f}"))
                file.flush()
                print(f"{name}  peak lr {rate:g}  held-out MLM loss {loss:.3f}", flush=True)


if __name__ == "__main__":
    main()
