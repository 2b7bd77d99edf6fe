"""The model card of a bundled model, written from its training manifest."""
# ruff: noqa: E501 (a Markdown table row is one line)

from pathlib import Path
from typing import Any

CARD = """\
---
license: apache-2.0
language: en
library_name: transformers
tags: [modernbert, cka, demonstration]
---

# {model}

A demonstration model of cka-tools: small enough to ship, trained just long enough that two ways of training it
leave different representations. **It is of no use for any language task.**

{origin}

| | |
|---|---|
| architecture | ModernBERT masked LM, 8 layers, hidden 128, 2 heads, MLP 192, every third layer global, the others ±32 tokens; 1,024 positions |
| vocabulary | 4,096 byte-level BPE, shared by the family |
| corpus | {corpus_text}; none held out: the held-out loss is on other texts |
| packing | documents begun by [CLS], ended by [SEP], packed to {length} tokens; no attention across documents |
| packed data | {packed:,} tokens, SHA-256 `{data_sha256}` |
| seeds | {seed} (masks), {data_seed} (order of the documents) |
| optimizer | AdamW, peak learning rate {peak_lr:g}, betas {betas}, weight decay {weight_decay:g} in decoupled form; {step_tokens:,} tokens a step; bfloat16 autocast |
| weights | float16 safetensors, SHA-256 `{weights_sha256}` |

| phase | objective | tokens | schedule | last training loss |
|---|---|---|---|---|
{phases}

Held-out MLM loss on {held_out_tokens:,} tokens of PubMed abstracts, 15 % masked (nats per masked token, weights as
saved): **{held_out_mlm_loss:.3f}**. Guessing by token frequency gives {held_out_unigram_loss:.3f}.

The recipe is that of Touchent and de la Clergerie, *A Causal Language Modeling Detour Improves Encoder Continued
Pretraining* (arXiv 2605.12438, 2026), at a size and learning rate of our own. `training.json` is the run's
manifest, `loss.csv` its loss curve; `data/make_demo_models.py` says how the family is made again.
"""

DETOUR = "From `theta0`: next-token prediction under a causal mask, then an MLM decay."
BASELINE = "From `theta0`: MLM on the very tokens that `clm-detour` saw, in the same order, then the same decay."
SECOND = (
    "Made as `mlm-baseline` from the same data in the same order with another seed, so other masks: the yardstick "
    "for what chance alone does."
)
MATCHED = "{} Here the decay is as long as Phase 1, where that of `{}` is a tenth of it."
ORIGIN = {
    "theta0": "The start model of the family: MLM on general English text, from random weights, annealed at its end.",
    "clm-detour": DETOUR,
    "mlm-baseline": BASELINE,
    "mlm-baseline-2": SECOND,
    "clm-detour-matched": MATCHED.format(DETOUR, "clm-detour"),
    "mlm-baseline-matched": MATCHED.format(BASELINE, "mlm-baseline"),
    "mlm-baseline-2-matched": MATCHED.format(SECOND, "mlm-baseline-2"),
}
CORPORA = {
    "general": "13,479 documents of general English text (film reviews, the Brown corpus, news, speeches, web pages), 3.8M words",
    "biomed_train": "13,649 documents of biomedical English text (abstracts and articles under biomedical annotation corpora), 3.1M words",
}


def write_card(folder: Path, manifest: dict[str, Any]) -> None:
    """Write README.md into a model's folder."""
    recipe = manifest["recipe"]
    step_tokens = recipe["sequence_length"] * recipe["sequences_per_step"]
    rows = []
    for phase in recipe["phases"]:
        tokens = round(phase["tokens"] / step_tokens) * step_tokens
        masking = phase["masking"]
        objective = "CLM" if masking is None else f"MLM {masking['rate']:.0%}"
        schedule = f"1-sqrt to {phase['floor']:.0%}" if phase["schedule"] == "1-sqrt" else "warm-up, constant"
        loss = manifest["final_loss"][phase["name"]]
        rows.append(f"| {phase['name']} | {objective} | {tokens:,} | {schedule} | {loss:.3f} |")
    card = CARD.format(
        model=manifest["model"],
        origin=ORIGIN[manifest["model"]],
        corpus_text=CORPORA[manifest["corpus"]],
        length=recipe["sequence_length"],
        packed=manifest["tokens"],
        data_sha256=manifest["data_sha256"],
        seed=manifest["seed"],
        data_seed=manifest["data_seed"],
        peak_lr=recipe["peak_lr"],
        betas=tuple(recipe["betas"]),
        weight_decay=recipe["weight_decay"],
        step_tokens=step_tokens,
        weights_sha256=manifest["weights_sha256"],
        phases="\n".join(rows),
        held_out_tokens=manifest["held_out"]["tokens"],
        held_out_mlm_loss=manifest["held_out_mlm_loss"],
        held_out_unigram_loss=manifest["held_out_unigram_loss"],
    )
    (folder / "README.md").write_text(card, encoding="utf-8")
