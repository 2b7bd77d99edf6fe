"""Make the bundled models: θ0 on general text, then the detour, its baseline and a second baseline.

    python data/make_demo_models.py                    # all that is not finished yet
    python data/make_demo_models.py --only clm-detour  # one of them (and θ0 where it is missing)

Reads `general.jsonl.gz` and `biomed_train.jsonl.gz` from `../shared/corpora`, or from `--corpora`. On one
thread of a laptop's processor all of it takes about half an hour. Every `HELD_OUT_EVERY`-th document is never
trained on: the held-out losses come from those. No text is kept, only weights and a tokenizer.
"""

import argparse
import gzip
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from demo_model_card import write_card
from transformers import AutoTokenizer, ModernBertConfig, ModernBertForMaskedLM, PreTrainedTokenizerBase

from cka_tools.errors import UserError
from cka_tools.training.checkpoint import save_run
from cka_tools.training.loop import StepReport, evaluate, train
from cka_tools.training.objectives import Objective
from cka_tools.training.packing import PackedTokens, pack_texts
from cka_tools.training.presets import DECAY_MASKING, DEMO, demo_start, preset
from cka_tools.training.recipe import Recipe
from cka_tools.training.tokenizer import train_tokenizer

ROOT = Path(__file__).resolve().parent.parent
START = "theta0"
START_TOKENS = 3_000_000
VOCABULARY = 4096
CONTEXT = 1024
HELD_OUT_EVERY = 50
HELD_OUT_SEED = 0
SHOW_EVERY = 10


@dataclass(frozen=True)
class Member:
    """One model of the family; the seed fixes the order of its data and its masks."""

    name: str
    recipe: Recipe
    corpus: str
    seed: int


FAMILY = (
    Member(START, demo_start(START_TOKENS), "general", seed=1),
    Member("clm-detour", preset("clm-detour", "demo"), "biomed_train", seed=1),
    Member("mlm-baseline", preset("mlm-baseline", "demo"), "biomed_train", seed=1),
    Member("mlm-baseline-2", preset("mlm-baseline", "demo"), "biomed_train", seed=2),
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=[member.name for member in FAMILY])
    parser.add_argument("--corpora", type=Path, default=ROOT.parent / "shared" / "corpora")
    parser.add_argument("--out", type=Path, default=ROOT / "data" / "models")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    try:
        for member in FAMILY:
            if options.only in (None, member.name) or member.name == START:
                make(member, options.corpora, options.out)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def make(member: Member, corpora: Path, models: Path) -> None:
    """Train one member, unless its directory holds the same recipe and seed, finished."""
    out = models / member.name
    if finished(out, member):
        print(f"{member.name}: finished already", flush=True)
        return
    tokenizer = family_tokenizer(corpora, models)
    kept, held_out = read_corpus(corpora, member.corpus)
    data = pack_texts(
        kept, tokenizer, length=DEMO.sequence_length, seed=member.seed, tokens=member.recipe.tokens
    )
    model = new_model(tokenizer, member.seed) if member.name == START else load(models / START)
    run = train(
        model,
        data,
        member.recipe,
        seed=member.seed,
        mask_id=tokenizer.mask_token_id,
        bf16=True,
        report=lambda done: show(member.name, done),
    )
    save_run(out, model, tokenizer, run, dtype=torch.float16)
    measured = measure(out, tokenizer, data, held_out)
    manifest = json.loads((out / "training.json").read_text(encoding="utf-8"))
    manifest |= {"model": member.name, "start": None if member.name == START else START} | measured
    manifest |= {"corpus": member.corpus, "torch_threads": torch.get_num_threads(), "autocast": "bfloat16"}
    (out / "training.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    write_card(out, manifest)
    print(f"{member.name}: {run.tokens / run.seconds:,.0f} tokens/s, {measured}", flush=True)


def finished(out: Path, member: Member) -> bool:
    """Tell whether a directory holds this member, card and all."""
    if not (out / "README.md").is_file() or not (out / "training.json").is_file():
        return False
    manifest = json.loads((out / "training.json").read_text(encoding="utf-8"))
    recipe = json.loads(json.dumps(member.recipe.to_dict()))
    return bool(manifest["recipe"] == recipe and manifest["seed"] == member.seed)


def family_tokenizer(corpora: Path, models: Path) -> PreTrainedTokenizerBase:
    """Load the family's tokenizer, or train it on both training corpora."""
    folder = models / START
    if not (folder / "tokenizer.json").is_file():
        texts = [text for corpus in ("general", "biomed_train") for text in read_corpus(corpora, corpus)[0]]
        train_tokenizer(texts, vocabulary_size=VOCABULARY, model_max_length=CONTEXT).save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def read_corpus(corpora: Path, name: str) -> tuple[list[str], list[str]]:
    """Return the texts to train on and those held out."""
    path = corpora / f"{name}.jsonl.gz"
    if not path.is_file():
        raise UserError(f"no corpus at {str(path)!r}: name its folder with --corpora")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line in lines]
    kept = [text for i, text in enumerate(texts) if i % HELD_OUT_EVERY]
    return kept, texts[::HELD_OUT_EVERY]


def new_model(tokenizer: PreTrainedTokenizerBase, seed: int) -> ModernBertForMaskedLM:
    """Return a ModernBERT of 8 layers with random weights; every third layer is global, from the first on."""
    torch.manual_seed(seed)
    config = ModernBertConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=192,
        num_hidden_layers=8,
        num_attention_heads=2,
        local_attention=64,
        max_position_embeddings=CONTEXT,
        pad_token_id=tokenizer.pad_token_id,
        cls_token_id=tokenizer.cls_token_id,
        sep_token_id=tokenizer.sep_token_id,
        bos_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id,
        tie_word_embeddings=True,
    )
    return ModernBertForMaskedLM._from_config(config, attn_implementation="sdpa")


def load(folder: Path, dtype: torch.dtype = torch.float32) -> ModernBertForMaskedLM:
    return ModernBertForMaskedLM.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa")


def measure(
    folder: Path, tokenizer: PreTrainedTokenizerBase, data: PackedTokens, held_out: Sequence[str]
) -> dict[str, Any]:
    """Return the held-out MLM loss of the weights as saved, beside the loss of guessing by token frequency.

    Raises:
        ArithmeticError: the rounding to float16 made a forward pass non-finite.
    """
    packed = pack_texts(held_out, tokenizer, length=DEMO.sequence_length, seed=HELD_OUT_SEED)
    objective = Objective(
        "mlm", DECAY_MASKING, tokenizer.mask_token_id, len(tokenizer), HELD_OUT_SEED, phase=0
    )
    half = load(folder, torch.float16)
    with torch.inference_mode():
        states = half.model(
            torch.from_numpy(packed.input_ids[:4]).long(), output_hidden_states=True
        ).hidden_states
    if not all(torch.isfinite(state).all() for state in states):
        raise ArithmeticError(f"{folder.name}: not finite in float16")
    loss = evaluate(load(folder), packed, objective)
    frequency = np.bincount(data.input_ids.ravel(), minlength=len(tokenizer)) + 1.0
    ordinary = packed.input_ids[~np.isin(packed.input_ids, packed.special_ids)]
    unigram = -np.log(frequency / frequency.sum())[ordinary].mean()
    if not math.isfinite(loss):
        raise ArithmeticError(f"{folder.name}: the held-out loss is {loss}")
    return {"held_out_mlm_loss": round(loss, 4), "held_out_unigram_loss": round(float(unigram), 4)}


def show(name: str, done: StepReport) -> None:
    if done.step % SHOW_EVERY == 0 or done.step == done.steps:
        print(
            f"{name}  {done.phase:<12} {done.tokens:>10,} tokens  loss {done.loss:.3f}  "
            f"lr {done.learning_rate:.2e}  {done.tokens_per_second:,.0f} tokens/s",
            flush=True,
        )


if __name__ == "__main__":
    main()
