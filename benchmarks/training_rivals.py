"""Training steps here and by transformers' Trainer: tokens a second, and memory.

    python benchmarks/training_rivals.py [--steps 3] [--rounds 3] [--dtype bfloat16] [--out FILE]
    python benchmarks/training_rivals.py --memory [--lengths 512] [--out FILE]

One random ModernBERT for all (encoder for MLM, decoder for CLM; head and body as large to each other as in Base),
documents of random tokens as long as PubMed abstracts, AdamW, as many rows a step for all. The Trainer has its data
collator and SDPA: once with a document a row, cut and padded as a collator does, and once with texts joined and cut
into rows, where documents see each other. Tokens that count are those of documents, not padding. Ways run in turn;
the first step of each warms up; times are processor time of one thread, medians over the rounds.

With --memory each way takes two steps in a process of its own, of --rows × --length tokens in rows of --lengths: the
growth of its resident memory over that of model and optimizer, by the highest mark. "sdpa" and "eager" are our own
steps with those kernels.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import torch
from accelerate.state import AcceleratorState
from peak_memory import peak_mib, settle
from transformers import (
    DataCollatorForLanguageModeling,
    ModernBertConfig,
    ModernBertDecoderConfig,
    ModernBertDecoderForCausalLM,
    ModernBertForMaskedLM,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from cka_tools.models import load_model
from cka_tools.processes import make_accelerator
from cka_tools.training.loop import PhaseState, adamw, run_steps
from cka_tools.training.objectives import Objective
from cka_tools.training.packing import pack_tokens
from cka_tools.training.recipe import Masking, ObjectiveName, OptimizerSettings, Phase

MASKED = 0.3
OURS = ("blocked", "sdpa", "eager")
TRAINERS = ("Trainer, padded", "Trainer, joined")


class Clock(TrainerCallback):
    """Processor time at the end of each step."""

    def __init__(self) -> None:
        self.marks = [time.process_time()]

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """A step of the Trainer."""
        self.marks.append(time.process_time())

    @property
    def seconds(self) -> list[float]:
        """Of each step but the first."""
        return np.diff(self.marks)[1:].tolist()


class Bench:
    """The model, the documents and both ways through them."""

    def __init__(self, options: argparse.Namespace, length: int) -> None:
        self.options, self.length = options, length
        self.tokenizer = load_model("demo:theta0").tokenizer
        draw = np.random.default_rng(0)
        sizes = np.clip(draw.normal(355, 130, 4000), 20, 900).astype(int)
        self.documents = [draw.integers(5, len(self.tokenizer), size).tolist() for size in sizes]

    def model(self, objective: str, attention: str) -> Any:
        """The same weights each time."""
        torch.manual_seed(0)
        hidden = self.options.hidden
        decoder = objective == "clm"
        config = (ModernBertDecoderConfig if decoder else ModernBertConfig)(
            vocab_size=len(self.tokenizer), hidden_size=hidden, intermediate_size=hidden * 3 // 2,
            num_hidden_layers=self.options.layers, num_attention_heads=hidden // 64, max_position_embeddings=8192,
            pad_token_id=self.tokenizer.pad_token_id, global_attn_every_n_layers=3,
        )  # fmt: skip
        return (ModernBertDecoderForCausalLM if decoder else ModernBertForMaskedLM)._from_config(
            config, attn_implementation=attention
        )

    def ours(self, objective: ObjectiveName, attention: str, steps: int) -> tuple[list[float], float]:
        """Seconds of each step but the first, and a step's tokens."""
        rows, special = self.options.rows, tuple(self.tokenizer.all_special_ids)
        data = pack_tokens(
            self.documents, length=self.length, separator=int(self.tokenizer.sep_token_id), special_ids=special,
            sequences=rows * steps,
        )  # fmt: skip
        settings = OptimizerSettings(1e-4, (0.9, 0.98), 1e-8, 1e-5, rows)
        masking = Masking(MASKED) if objective == "mlm" else None
        task = Objective(objective, masking, self.tokenizer.mask_token_id, len(self.tokenizer), seed=0, phase=0)
        phase = Phase("bench", task.name, steps * rows * self.length, "warmup-constant", masking)
        AcceleratorState._reset_state(reset_partial_state=True)  # a Trainer may have set its precision
        model, clock = self.model(objective, attention), Clock()
        run_steps(
            model, data, phase, task, adamw(model, settings), settings, PhaseState(), make_accelerator(cpu=True),
            first_sequence=0, bf16=self.options.dtype == "bfloat16", after_step=lambda state: clock.on_step_end(),
        )  # fmt: skip
        return clock.seconds, rows * self.length

    def trainer(self, objective: str, joined: bool, steps: int) -> tuple[list[float], float]:
        """As `ours`."""
        rows, length = self.options.rows, self.length
        if joined:
            stream = [token for document in self.documents[: 2 + rows * steps * length // 300] for token in document]
            texts = [stream[at : at + length] for at in range(0, len(stream) - length + 1, length)]
        else:
            texts = [document[:length] for document in self.documents]
        data = [{"input_ids": text} for text in texts[: rows * steps]]
        collator = DataCollatorForLanguageModeling(self.tokenizer, mlm=objective == "mlm", mlm_probability=MASKED)
        clock = Clock()
        with tempfile.TemporaryDirectory() as folder:
            arguments = TrainingArguments(
                folder, per_device_train_batch_size=rows, max_steps=steps, learning_rate=1e-4, use_cpu=True,
                bf16=self.options.dtype == "bfloat16", report_to=[], save_strategy="no", logging_strategy="no",
                disable_tqdm=True, dataloader_pin_memory=False,
            )  # fmt: skip
            model = self.model(objective, "sdpa")
            Trainer(model, arguments, collator, data, callbacks=[clock]).train()
        return clock.seconds, sum(len(text["input_ids"]) for text in data) / steps

    def run(self, objective: ObjectiveName, way: str, steps: int) -> tuple[list[float], float]:
        """One of the ways."""
        if way in OURS:
            return self.ours(objective, way, steps)
        return self.trainer(objective, way == TRAINERS[1], steps)


def speeds(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Tokens a second of processor time."""
    bench, found = Bench(options, options.length), dict[tuple[str, str], list[float]]()
    for _ in range(options.rounds):
        for objective in get_args(ObjectiveName):
            for way in ("blocked", *TRAINERS):
                seconds, tokens = bench.run(objective, way, options.steps + 1)
                found.setdefault((objective, way), []).append(tokens / statistics.median(seconds))
                gc.collect()
    return [
        {
            "objective": objective,
            "way": "cka train" if way == "blocked" else way,
            "tokens/s": statistics.median(values),
            "min": min(values),
            "max": max(values),
            "cka train / way": statistics.median(
                ours / one for ours, one in zip(found[objective, "blocked"], values, strict=True)
            ),
        }
        for (objective, way), values in found.items()
    ]


def peak_of(options: argparse.Namespace, objective: str, way: str, length: int) -> float:
    """MiB above model and optimizer, of a process of its own; NaN where it failed, and why on standard error."""
    rows = max(1, options.rows * options.length // length)
    words = [sys.executable, __file__, "--one", objective, way, str(length), "--rows", str(rows)]
    words += ["--dtype", options.dtype, "--hidden", str(options.hidden), "--layers", str(options.layers)]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        print(f"{way}, {objective}, {length}: {done.stderr.strip()[-500:]}", file=sys.stderr)
        return float("nan")
    return float(json.loads(done.stdout.splitlines()[-1]))


def one(options: argparse.Namespace) -> None:
    """Print the growth of a way's memory."""
    objective, way, length = options.one
    bench = Bench(options, int(length))
    model = bench.model(objective, "sdpa")
    # Weights, gradients and both moments: what every way holds; one more copy lives here.
    held = sum(p.numel() * p.element_size() for p in model.parameters()) * 4 / 2**20
    del model
    before = settle()
    bench.run(objective, way, 2)
    print(json.dumps(peak_mib() - before - held))


def main() -> None:
    """Print the table and write it as CSV."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--lengths", type=int, nargs="+", default=[512], help="of the rows, with --memory")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.one:
        one(options)
        return
    if options.memory:
        rows = []
        for length, objective, way in itertools.product(options.lengths, get_args(ObjectiveName), (*OURS, TRAINERS[1])):
            called = f"cka train, {way}" if way in OURS else way
            peak = peak_of(options, objective, way, length)
            rows.append({"objective": objective, "way": called, "tokens a row": length, "MiB": peak})
            print(rows[-1], flush=True)
    else:
        rows = speeds(options)
    table = pd.DataFrame(rows)
    print(table.to_string(index=False, float_format=lambda value: f"{value:.4g}"))
    if options.out is not None:
        table.to_csv(options.out, index=False, float_format="%.4g")


if __name__ == "__main__":
    main()
