"""Blocks that a transplant runs, and its time, beside the naive way, in which every hybrid runs whole.

    OMP_NUM_THREADS=1 python benchmarks/transplants.py [--documents 50] [--repeats 3] [--layers 22] [--width 64]

The models are randomly initialised ModernBERTs: what counts is how many blocks run. Both ways run on the same
batches in turn, and give the same bits. "passes" are blocks run over the blocks of one whole pass.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from transformers import AutoTokenizer, ModernBertConfig, ModernBertForMaskedLM

from cka_tools.bundled import bundled_data
from cka_tools.compute import open_run
from cka_tools.interventions.hybrids import everything, hybrid
from cka_tools.interventions.plan import plan_grafts
from cka_tools.models.graft import load_two
from cka_tools.models.parts import select
from cka_tools.readouts import find_readout
from cka_tools.readouts.passes import Variant, drawn_inputs, read_variants
from cka_tools.settings import Settings

PARTS = ("all", "attention", "mlp")


def model(seed: int, layers: int, width: int, vocabulary: int) -> ModernBertForMaskedLM:
    """A randomly initialised masked language model."""
    torch.manual_seed(seed)
    config = ModernBertConfig(
        vocab_size=vocabulary, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers,
        num_attention_heads=max(1, width // 32), pad_token_id=0, bos_token_id=2, eos_token_id=3, cls_token_id=2,
        sep_token_id=3,
    )  # fmt: skip
    return ModernBertForMaskedLM(config).eval()


def measure(layers: int, width: int, documents: int, repeats: int) -> list[dict[str, Any]]:
    """One row a plan of grafts: passes and seconds of both ways."""
    tokenizer = AutoTokenizer.from_pretrained(bundled_data() / "models" / "theta0")
    pairs = [(model(seed, layers, width, len(tokenizer)), tokenizer) for seed in (0, 1)]
    run = open_run(pairs, "sample", Settings(documents=documents, cache=False, device="cpu"))
    base, donor = load_two(run.sources[0], run.sources[1], run.options.with_head())
    readout = find_readout("mlm")
    inputs = readout.inputs(base, drawn_inputs(run, 0, [base, donor]), run.settings)
    whole = everything(base)
    thirds = [one for one in plan_grafts(layers, "thirds", ["all"]) if one.layers is not None]
    rows = []
    for name, grafts, reverse in (
        ("thirds", thirds, False),
        ("default: 12 grafts", plan_grafts(layers, "thirds", PARTS), False),
        ("default and reverse", plan_grafts(layers, "thirds", PARTS), True),
    ):
        taken = [select(base, one.layers, one.parts) for one in grafts]
        sets = [set(), whole, *taken, *([whole - one for one in taken] if reverse else [])]
        if name == "thirds":
            sets = [set(), *taken]
        shared = [hybrid("", base, donor, one) for one in sets]
        ways = {"shared": shared, "naive": [replace(one, units=()) for one in shared]}
        times: dict[str, list[float]] = {way: [] for way in ways}
        cost, found = {}, {}
        for _ in range(repeats):
            for way, variants in ways.items():
                begin = time.process_time()
                found[way], cost[way] = read(variants, inputs, readout, run.settings)
                times[way].append(time.process_time() - begin)
        for one, other in zip(found["shared"], found["naive"], strict=True):
            np.testing.assert_array_equal(one["loss"], other["loss"])
        pass_of = layers * documents
        hybrids = len(sets) - (1 if name == "thirds" else 2)
        ends = len(sets) - hybrids
        seconds = {way: min(values) for way, values in times.items()}
        rows.append(
            {
                "plan": name,
                "hybrids": hybrids,
                "passes": cost["shared"].blocks / pass_of,
                "naive passes": cost["naive"].blocks / pass_of,
                "share of hybrids' passes": (cost["shared"].blocks / pass_of - ends) / hybrids,
                "CPU s": seconds["shared"],
                "naive CPU s": seconds["naive"],
                "time": seconds["shared"] / seconds["naive"],
            }
        )
    return rows


def read(variants: list[Variant], inputs: Any, readout: Any, settings: Settings) -> Any:
    """All variants once."""
    return read_variants(variants, inputs, readout, settings)


def main() -> None:
    """Print the table and write it as CSV."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--documents", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--layers", type=int, default=22)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "transplants.csv")
    options = parser.parse_args()
    table = pd.DataFrame(measure(options.layers, options.width, options.documents, options.repeats))
    table.to_csv(options.out, index=False, float_format="%.4f")
    print(table.to_string(index=False, float_format=lambda v: f"{v:.3f}"))


if __name__ == "__main__":
    main()
