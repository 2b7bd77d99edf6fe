"""Take the bundled models out of a finished `cka ablate`, with their cards and held-out losses.

    cka ablate all --preset demo --start 8x128 --start 4x64 --weights float16 \\
        --start-corpus ../shared/corpora/general.jsonl.gz \\
        --corpus ../shared/corpora/biomed_train.jsonl.gz \\
        --compare-on ../shared/corpora/pubmed_heldout.jsonl.gz --out runs/ablation
    python data/make_demo_models.py runs/ablation

The weights are copied byte for byte, so that the family's rows of `figures/ablation.csv` can be made again
from them. The held-out losses come from documents that no model was trained on. No text is kept.
"""

import argparse
import json
import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from demo_model_card import write_card
from training_texts import BIOMEDICAL, CORPORA, GENERAL, HELD_OUT, MODELS, read_texts

from cka_tools.ablation.checkpoints import Segments
from cka_tools.errors import UserError
from cka_tools.training.checkpoint import (
    LOSSES,
    MANIFEST,
    TOKENIZER_FILES,
    WEIGHTS,
    read_state,
    round_weights,
    write_json,
    write_losses,
)
from cka_tools.training.loop import LOSS_ROWS, LossRow, held_out_loss, pack_held_out, unigram_loss
from cka_tools.training.packing import pack_texts
from cka_tools.training.recipe import DECAY_SHARE, DEMO, START
from cka_tools.training.start_model import load_start

SIZE = "8x128"
HELD_OUT_TOKENS = 100_000
KEPT = ("recipe", "seed", "data_sha256", "numerics", "notes", "versions", "weights_sha256", "weights_dtype")
MATCHED = 1.0
"""The decay that is as long as Phase 1."""


@dataclass(frozen=True)
class Member:
    """A run of the family: Phase 1's objective, the seed of data and masks, the decay's share of Phase 1."""

    name: str
    objective: str
    seed: int
    decay: float


FAMILY = (
    Member("clm-detour", "clm", 1, DECAY_SHARE),
    Member("mlm-baseline", "mlm", 1, DECAY_SHARE),
    Member("mlm-baseline-2", "mlm", 2, DECAY_SHARE),
    Member("clm-detour-matched", "clm", 1, MATCHED),
    Member("mlm-baseline-matched", "mlm", 1, MATCHED),
    Member("mlm-baseline-2-matched", "mlm", 2, MATCHED),
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("ablation", type=Path, help="the run directory of `cka ablate`")
    parser.add_argument("--corpora", type=Path, default=CORPORA)
    parser.add_argument("--out", type=Path, default=MODELS)
    options = parser.parse_args()
    try:
        segments = Segments(options.ablation / "segments")
        leaves = {
            member.name: segments.leaf(
                SIZE, (member.objective, "mlm"), member.seed, DEMO.phase1_tokens, member.decay
            )
            for member in FAMILY
        }
        start = segments.lineage(leaves[FAMILY[0].name])[0]
        for name, leaf in {START: start, **leaves}.items():
            take(name, leaf, segments, options.corpora, options.out / name)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def take(name: str, place: Path, segments: Segments, corpora: Path, out: Path) -> None:
    """Copy one model, and write its manifest, its loss curve and its card."""
    if out.exists():
        shutil.rmtree(out)
    out.mkdir(parents=True)
    for file in ("config.json", WEIGHTS, *TOKENIZER_FILES):
        if (place / file).is_file():
            shutil.copyfile(place / file, out / file)
    is_start = name == START
    found = segments.manifests[place]
    rows = read_state(place).losses if is_start else segments.losses(place)
    # A trunk is shared by runs that call it differently.
    first = found["recipe"]["phases"][0]["name"]
    rows = [replace(row, phase=first) if row.phase == "phase 1" else row for row in rows]
    write_losses(out / LOSSES, thinned(rows))
    corpus = GENERAL if is_start else BIOMEDICAL
    manifest = {key: found[key] for key in KEPT if key in found}
    manifest |= {
        "model": name,
        "start": None if is_start else START,
        "corpus": corpus,
        "tokens": found["run_tokens"],
        "final_loss": {row.phase: round(row.loss, 4) for row in rows},
    }
    write_json(out / MANIFEST, manifest)
    round_weights(out, "float16")
    manifest = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
    manifest |= measure(out, read_texts(corpus, corpora), read_texts(HELD_OUT, corpora), found)
    write_json(out / MANIFEST, manifest)
    write_card(out, manifest)
    print(f"{name}: {manifest['held_out_mlm_loss']:.3f} nats a masked token", flush=True)


def thinned(rows: list[LossRow], most: int = LOSS_ROWS) -> list[LossRow]:
    """Return a loss curve of at most so many rows: means of equally many neighbours within a phase."""
    phases = {phase: [r for r in rows if r.phase == phase] for phase in dict.fromkeys(r.phase for r in rows)}
    together = -(-len(rows) // (most - len(phases)))
    return [
        replace(part[-1], loss=sum(row.loss for row in part) / len(part))
        for own in phases.values()
        for part in (own[i : i + together] for i in range(0, len(own), together))
    ]


def measure(folder: Path, trained: list[str], held_out: list[str], found: dict[str, Any]) -> dict[str, Any]:
    """Return the held-out MLM loss of the weights as saved, beside that of guessing by token frequency."""
    model, tokenizer = load_start(folder)
    length, seed = DEMO.sequence_length, found["seed"]
    packed = pack_held_out(held_out, tokenizer, length, HELD_OUT_TOKENS)
    data = pack_texts(trained, tokenizer, length=length, seed=seed, tokens=found["run_tokens"])
    return {
        "held_out_mlm_loss": round(held_out_loss(model, packed, tokenizer, "mlm"), 4),
        "held_out_unigram_loss": round(unigram_loss(data, packed), 4),
        "held_out": {"corpus": HELD_OUT, "tokens": packed.tokens},
    }


if __name__ == "__main__":
    main()
