"""Choose the demo scale's peak learning rate: short detours and baselines from θ0, at a few rates.

    python data/sweep_learning_rate.py

Each run reads `TOKENS` biomedical tokens in Phase 1 and a tenth of them in the decay. Writes the held-out MLM
loss (15 % masked, nats a masked token) of each to `data/learning_rate_sweep.csv`, which the choice rests on.
"""

import argparse
import csv
from pathlib import Path

import torch
from make_demo_models import HELD_OUT_SEED, ROOT, START, load, read_corpus
from transformers import AutoTokenizer

from cka_tools.training.loop import evaluate, train
from cka_tools.training.objectives import Objective
from cka_tools.training.packing import pack_texts
from cka_tools.training.presets import DECAY_MASKING, DEMO, preset

RATES = (3e-4, 1e-3, 2e-3, 4e-3)
TOKENS = 250_000
SEED = 1


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpora", type=Path, default=ROOT.parent / "shared" / "corpora")
    parser.add_argument("--out", type=Path, default=ROOT / "data" / "learning_rate_sweep.csv")
    options = parser.parse_args()
    torch.set_num_threads(1)
    start = ROOT / "data" / "models" / START
    tokenizer = AutoTokenizer.from_pretrained(start)
    kept, held_out = read_corpus(options.corpora, "biomed_train")
    tokens = preset("clm-detour", "demo", TOKENS).tokens
    data = pack_texts(kept, tokenizer, length=DEMO.sequence_length, seed=SEED, tokens=tokens)
    unseen = pack_texts(held_out, tokenizer, length=DEMO.sequence_length, seed=HELD_OUT_SEED)
    objective = Objective("mlm", DECAY_MASKING, tokenizer.mask_token_id, len(tokenizer), HELD_OUT_SEED, 0)

    with options.out.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("recipe", "peak_lr", "tokens", "seed", "held_out_mlm_loss"))
        rows.writerow((START, "", 0, "", f"{evaluate(load(start), unseen, objective):.4f}"))
        for rate in RATES:
            for name in ("clm-detour", "mlm-baseline"):
                model = load(start)
                recipe = preset(name, "demo", TOKENS, peak_lr=rate)
                run = train(model, data, recipe, seed=SEED, mask_id=tokenizer.mask_token_id, bf16=True)
                loss = evaluate(model, unseen, objective)
                rows.writerow((name, f"{rate:g}", run.tokens, SEED, f"{loss:.4f}"))
                file.flush()
                print(f"{name}  peak lr {rate:g}  held-out MLM loss {loss:.3f}", flush=True)


if __name__ == "__main__":
    main()
