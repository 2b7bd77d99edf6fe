"""Take the bundled models out of finished runs of `cka train`, with their cards and held-out losses.

    cka train pretraining --start 8x128 --corpus ../shared/corpora/general.jsonl.gz --epochs 3 \\
        --seed 1 --data-seed 1 --out runs/start
    cka train clm-detour --start runs/start/final --corpus ../shared/corpora/biomed_train.jsonl.gz \\
        --seed 1 --data-seed 1 --out runs/detour
    …
    python data/make_demo_models.py theta0=runs/start clm-detour=runs/detour mlm-baseline=…

The weights are rounded to float16. The held-out losses come from documents that no model was trained on. No
text is kept.
"""

import argparse
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from demo_model_card import ORIGIN, write_card
from training_texts import BIOMEDICAL, CORPORA, GENERAL, HELD_OUT, MODELS, read_texts

from cka_tools.errors import UserError
from cka_tools.manifest import MANIFEST, read_manifest
from cka_tools.training.checkpoint import (
    LOSSES,
    WEIGHTS,
    copy_tokenizer,
    read_state,
    round_weights,
    write_json,
    write_losses,
)
from cka_tools.training.loop import LOSS_ROWS, LossRow, held_out_loss, pack_held_out, unigram_loss
from cka_tools.training.packing import pack_texts
from cka_tools.training.recipe import START
from cka_tools.training.recipe_file import parse_recipe
from cka_tools.training.run import phase_folders
from cka_tools.training.start_model import load_start

HELD_OUT_TOKENS = 100_000
KEPT = (
    "recipe",
    "seed",
    "data_seed",
    "data_sha256",
    "numerics",
    "notes",
    "versions",
    "weights_sha256",
    "weights_dtype",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="NAME=RUN", help=f"NAME is one of {', '.join(ORIGIN)}")
    parser.add_argument("--corpora", type=Path, default=CORPORA)
    parser.add_argument("--out", type=Path, default=MODELS)
    options = parser.parse_args()
    try:
        for given in options.runs:
            name, _, run = given.partition("=")
            if name not in ORIGIN or not run:
                raise UserError(f"{given!r} does not fit: write NAME=RUN, NAME one of {', '.join(ORIGIN)}")
            take(name, Path(run), options.corpora, options.out / name)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def take(name: str, run: Path, corpora: Path, out: Path) -> None:
    """Copy the model that a run made, and write its manifest, its loss curve and its card.

    Raises:
        UserError: the run is not there or not finished.
    """
    final = run / "final"
    found = read_manifest(final)
    if found is None:
        raise UserError(f"{str(run)!r} is not a finished run of `cka train`: train it to its end")
    if out.exists():
        shutil.rmtree(out)
    out.mkdir(parents=True)
    for file in ("config.json", WEIGHTS):
        shutil.copyfile(final / file, out / file)
    copy_tokenizer(final, out)
    folders = phase_folders(parse_recipe(found["recipe"]), run)
    rows = [row for folder in folders for row in read_state(folder).losses]
    write_losses(out / LOSSES, thinned(rows))
    corpus = GENERAL if name == START else BIOMEDICAL
    manifest = {key: found[key] for key in KEPT if key in found}
    manifest |= {
        "model": name,
        "start": None if name == START else START,
        "corpus": corpus,
        "tokens": found["run_tokens"],
        "final_loss": {row.phase: round(row.loss, 4) for row in rows},
    }
    write_json(out / MANIFEST, manifest)
    round_weights(out, "float16")
    manifest = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
    manifest |= measure(out, read_texts(corpus, corpora), read_texts(HELD_OUT, corpora))
    write_json(out / MANIFEST, manifest)
    write_card(out, manifest)
    print(f"{name}: {manifest['held_out_mlm_loss']:.3f} nats a masked token", flush=True)


def thinned(rows: list[LossRow]) -> list[LossRow]:
    """Return a loss curve of at most `LOSS_ROWS` rows: means of equally many neighbours within a phase."""
    phases = {phase: [r for r in rows if r.phase == phase] for phase in dict.fromkeys(r.phase for r in rows)}
    together = -(-len(rows) // (LOSS_ROWS - len(phases)))
    return [
        replace(part[-1], loss=sum(row.loss for row in part) / len(part))
        for own in phases.values()
        for part in (own[i : i + together] for i in range(0, len(own), together))
    ]


def measure(folder: Path, trained: list[str], held_out: list[str]) -> dict[str, Any]:
    """Return the held-out MLM loss of the weights as saved, beside that of guessing by token frequency."""
    model, tokenizer = load_start(folder)
    length = (read_manifest(folder) or {})["recipe"]["sequence_length"]
    packed = pack_held_out(held_out, tokenizer, length, HELD_OUT_TOKENS)
    data = pack_texts(trained, tokenizer, length=length, seed=0)
    return {
        "held_out_mlm_loss": round(held_out_loss(model, packed, tokenizer, "mlm"), 4),
        "held_out_unigram_loss": round(unigram_loss(data, packed), 4),
        "held_out": {"corpus": HELD_OUT, "tokens": packed.tokens},
    }


if __name__ == "__main__":
    main()
