"""All that only a GPU can show, in one command: the tests marked `gpu`, and speed and memory on the card.

    python benchmarks/gpu.py --out DIR [--parts tests kernels ...] [--device cpu --tiny]

Without a network: models have random weights, texts are random words. Each part writes DIR/PART.json when it is
done, and a later call with the same DIR leaves those out, so that a run that was stopped goes on; no part
begins later than the limit of seconds allows (--seconds), nor takes more than twice its own. On a card every part
is a process of its own: what one breaks, or holds in memory, is not the next one's. DIR/figures.md holds the
tables of all parts.

    tests       what the tests marked `gpu` say
    kernels     CKA of all layer pairs, products in float64, float32 and TF32: rate beside the card's own
                matmul of the same shapes, and the error in CKA
    features-*  ModernBERT Base and Large: documents a second of features of two models, in sorted batches and packed;
                beside the bare forward passes over the sorted batches; the rate of these as a share of the
                card's matmul rate; the share of all layer pairs' statistics in a whole comparison; peak memory
    training-*  tokens a second and peak memory of a training step, by objective and attention

`--device cpu --tiny` runs the same code with toy shapes in seconds: its figures say nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, get_args
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch
import transformers
from bare_passes import bare_forward, batches_of
from kernels import error_of, features, gram_work, measure, moments_work
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import ModernBertConfig, ModernBertForMaskedLM, ModernBertModel, PreTrainedTokenizerFast

from cka_tools.comparison.pairs import Pair, compare_pairs
from cka_tools.compute import FeatureRun, open_run
from cka_tools.extraction import gathered_rows
from cka_tools.extraction.batches import TokenBatch
from cka_tools.models import LoadedModel
from cka_tools.models.attention import attention_for
from cka_tools.models.check import can_pack
from cka_tools.models.model import is_out_of_memory
from cka_tools.processes import make_accelerator
from cka_tools.settings import Settings
from cka_tools.statistics.linear_cka import LinearCKA
from cka_tools.training.attention import ANYWHERE, IMPLEMENTATIONS
from cka_tools.training.loop import PhaseState, adamw, run_steps
from cka_tools.training.objectives import Objective
from cka_tools.training.packing import pack_tokens
from cka_tools.training.recipe import Masking, ObjectiveName, OptimizerSettings, Phase

Row = dict[str, Any]
TESTS = Path(__file__).resolve().parents[1] / "tests"

SHAPES = {"base": (22, 768, 12, 1152), "large": (28, 1024, 16, 2624), "tiny": (3, 32, 2, 48)}
"""Layers, hidden size, heads and feed-forward width of ModernBERT."""

VOCABULARY = 50_368


@dataclass(frozen=True)
class Bench:
    """Where and how large things are run."""

    device: torch.device
    tiny: bool

    def shape(self, name: str) -> tuple[int, int, int, int]:
        """Layers, hidden size, heads and feed-forward width."""
        return SHAPES["tiny" if self.tiny else name]

    @property
    def vocabulary(self) -> int:
        """Token ids."""
        return 200 if self.tiny else VOCABULARY

    def length(self, tokens: int) -> int:
        """Tokens of the longest sequence."""
        return 24 if self.tiny else tokens

    def clock(self) -> float:
        """Seconds, once the device has done what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def timed(self, run: Callable[[], Any]) -> tuple[float, Any]:
        """Seconds and result of one run."""
        begun = self.clock()
        found = run()
        return self.clock() - begun, found

    def forget_peak(self) -> None:
        """Let the peak of memory start anew."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)

    def peak(self) -> float:
        """Most GiB of the device that tensors have held; NaN where the device does not count."""
        cuda = self.device.type == "cuda"
        return torch.cuda.max_memory_allocated(self.device) / 2**30 if cuda else float("nan")

    def matmul_rate(self, dtype: torch.dtype) -> float:
        """TFLOP/s of a large square product: what the card gives, not what its maker says."""
        size = 256 if self.tiny else 8192
        x, y = (torch.randn(size, size, device=self.device).to(dtype) for _ in range(2))
        x @ y
        seconds = statistics.median(self.timed(lambda: x @ y)[0] for _ in range(5))
        return 2 * size**3 / seconds / 1e12


def run_tests(bench: Bench) -> list[Row]:
    """The tests marked `gpu`, each with its outcome."""
    log = ["-m", "pytest", "-m", "gpu", "-n", "0", "-rA", "-q", "-p", "no:cacheprovider", str(TESTS / "gpu")]
    there = os.environ | {"CKA_TOOLS_TEST_DEVICE": bench.device.type}
    done = subprocess.run(
        [sys.executable, *log], cwd=TESTS.parent, capture_output=True, text=True, check=False, env=there, timeout=280
    )
    if done.returncode not in (0, 1):
        raise RuntimeError(f"pytest left with {done.returncode}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    kinds = ("PASSED", "FAILED", "ERROR", "SKIPPED")
    found = [line.partition(" ") for line in done.stdout.splitlines() if line.startswith(kinds)]
    rows: list[Row] = [{"outcome": outcome, "test": test} for outcome, _, test in found]
    return rows if done.returncode == 0 else [*rows, {"outcome": "log", "test": done.stdout[-20_000:]}]


def run_kernels(bench: Bench) -> list[Row]:
    """CKA of all layer pairs by number format of the products, beside plain products of the same shapes."""
    rows = []
    for name in ("base", "large"):
        layers, width, *_ = bench.shape(name)
        for documents in (16, 40) if bench.tiny else (500, 4096, 8192):
            a, b = ([x.to(bench.device) for x in features(layers, width, documents, seed)] for seed in (1, 2))
            gram = documents < LinearCKA([width] * layers, [width] * layers, device=bench.device).switch
            formats = [("float64", torch.float64), ("float32", torch.float32)]
            formats += [("tf32", torch.float32)] if bench.device.type == "cuda" else []
            for called, dtype in formats:
                torch.backends.cuda.matmul.allow_tf32 = called == "tf32"
                work = (gram_work if gram else moments_work)(a, b, dtype)
                kernel, products, whole = measure(work, 1 if bench.tiny else 3, bench.clock)
                rows.append(
                    {
                        "layers": layers,
                        "width": width,
                        "documents": documents,
                        "products": called,
                        "form": work.form,
                        "share of matmul's rate": products / kernel,
                        "whole products / kernel": whole / kernel,
                        "kernel ms": kernel * 1e3,
                        "kernel TFLOP/s": work.flop / kernel / 1e12,
                        "matmul TFLOP/s": work.flop / products / 1e12,
                        "CKA error": 0.0 if called == "float64" else error_of(a, b, dtype),
                    }
                )
                del work
            torch.backends.cuda.matmul.allow_tf32 = False
    return rows


def word_tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """Whole words w5, w6, …, with [CLS] before and [SEP] behind."""
    ids = {"[CLS]": 0, "[PAD]": 1, "[SEP]": 2, "[UNK]": 3, "[MASK]": 4} | {f"w{i}": i for i in range(5, vocabulary)}
    backend = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 0), ("[SEP]", 2)]
    )
    named = {"cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]", "pad_token": "[PAD]"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", **named)


def random_texts(vocabulary: int, documents: int, length: int) -> list[str]:
    """Documents of a sixteenth of `length` to all of it, special tokens included."""
    draw = np.random.default_rng(0)
    sizes = draw.integers(max(3, length // 16), length - 1, documents)
    return [" ".join(map("w{}".format, draw.integers(5, vocabulary, size))) for size in sizes.tolist()]


def config_of(bench: Bench, shape: str, length: int) -> ModernBertConfig:
    """A ModernBERT of a shape, as published but for its weights."""
    layers, hidden, heads, width = bench.shape(shape)
    special = {"cls_token_id": 0, "bos_token_id": 0, "pad_token_id": 1, "sep_token_id": 2, "eos_token_id": 2}
    return ModernBertConfig(
        vocab_size=bench.vocabulary,
        num_hidden_layers=layers,
        hidden_size=hidden,
        num_attention_heads=heads,
        intermediate_size=width,
        max_position_embeddings=max(length, 8192),
        **special,
    )


def forward_flop(config: ModernBertConfig, lengths: np.ndarray, weights: int) -> float:
    """Operations of one pass over documents of these lengths: weights outside the embedding, and attention."""
    t, local = lengths.astype(np.float64), float(config.local_attention) + 1
    full = sum(kind == "full_attention" for kind in config.layer_types)
    seen = full * t * t + (config.num_hidden_layers - full) * t * np.minimum(t, local)
    return float((2 * weights * t + 4 * config.hidden_size * seen).sum())


def run_features(bench: Bench, shape: str, length: int, budgets: tuple[int, ...]) -> list[Row]:
    """Features and CKA of two random models of a shape in bfloat16, by padded tokens of a batch."""
    torch.manual_seed(0)
    length = bench.length(length)
    dtype, config, words = torch.bfloat16, config_of(bench, shape, length), word_tokenizer(bench.vocabulary)
    attention = attention_for(config, bench.device, dtype)
    with bench.device:
        pair = [ModernBertModel._from_config(config, attn_implementation=attention) for _ in range(2)]
    given = [(model.to(bench.device, dtype).eval(), words) for model in pair]
    documents = 24 if bench.tiny else 2048 if length <= 512 else 64
    texts = random_texts(bench.vocabulary, documents, length)
    table = pair[0].get_input_embeddings().weight.numel()
    weights = sum(p.numel() for p in pair[0].parameters() if p.ndim == 2) - table
    card = bench.matmul_rate(dtype)
    rows: list[Row] = []
    for budget, batching in product(budgets, ("sorted", "packed")):
        options = {"max_length": length, "dtype": "bfloat16", "device": str(bench.device), "cache": False}
        options |= {"batch_tokens": budget, "batching": batching, "documents": documents, "seed": 1}
        settings = Settings.of(options)
        opening, run = bench.timed(partial(open_run, given, texts, settings))
        _load_both(run)  # the first time makes the card ready
        loading, loaded = bench.timed(partial(_load_both, run))
        lengths = run.prepared[0].tables[0].lengths
        if batching == "sorted":
            batches = batches_of(run.prepared[0], loaded[0])
            bare_forward(loaded[0], batches)
            bench.forget_peak()
            bare, _ = bench.timed(partial(_bare_both, loaded, batches))
            bare_peak = bench.peak()
        bench.forget_peak()
        with batches_timed(bench) as spent:
            found = run.features([None, None])
        passes, peak = sum(spent), bench.peak()
        row: Row = {
            "shape": shape,
            "tokens": length,
            "a batch's tokens": budget,
            "batching": found[0][0].extraction.plan.kind,
            "attention": pair[0].config._attn_implementation if batching == "sorted" else "within documents",
            "documents": documents,
            "documents/s of two models": documents / passes,
            "tokens/s of a model": 2 * int(lengths.sum()) / passes,
            "peak GiB": peak,
            "draw, tokens, plan s": opening,
            "checks at load s": loading,
        }
        if batching == "sorted":
            # Twice, before and after: the faster counts, which is the stricter reading of a share.
            bare = min(bare, bench.timed(partial(_bare_both, loaded, batches))[0])
            with batches_timed(bench) as within:
                whole, _ = bench.timed(partial(compare_pairs, run, [Pair(0, 1, whole=True)]))
            rate = 2 * forward_flop(config, lengths, weights) / bare / 1e12
            row |= {"bare TFLOP/s": rate, "matmul TFLOP/s": card, "share of matmul": rate / card}
            row |= {"share of statistics": 1 - sum(within) / (whole - loading), "bare peak GiB": bare_peak}
        rows.append(row | {"features / bare passes in sorted batches": passes / bare})
    return rows


@contextmanager
def batches_timed(bench: Bench) -> Iterator[list[float]]:
    """Seconds of each model's batches that run within it: hooks, pooling and rows, but neither loading nor checks."""
    spent: list[float] = []
    run_batches = gathered_rows.run_batches

    def timed(*args: Any, **options: Any) -> Any:
        seconds, found = bench.timed(partial(run_batches, *args, **options))
        spent.append(seconds)
        return found

    with patch.object(gathered_rows, "run_batches", timed):
        yield spent


def _load_both(run: FeatureRun) -> list[LoadedModel]:
    loaded = [run.load(at) for at in (0, 1)]
    if run.settings.batching == "packed":
        assert all(map(can_pack, loaded))  # one of the checks at load
    return loaded


def _bare_both(loaded: list[LoadedModel], batches: list[TokenBatch]) -> None:
    for model in loaded:
        bare_forward(model, batches)


def run_training(bench: Bench, shape: str, length: int) -> list[Row]:
    """Steps of both objectives in every attention that training offers, in bfloat16."""
    length = bench.length(length)
    sequences = 4 if bench.tiny else max(2, 16_384 // length)
    warm, timed, draw = 2, 4, np.random.default_rng(0)
    documents = (draw.integers(5, bench.vocabulary, size) for size in draw.integers(8, length, 10_000))
    packed = pack_tokens(
        documents, length=length, separator=2, special_ids=range(5), sequences=sequences * (warm + timed)
    )
    settings = OptimizerSettings(1e-5, (0.9, 0.98), 1e-8, 1e-5, sequences)
    accelerator = make_accelerator(cpu=bench.device.type == "cpu")
    rows = []
    offered = ANYWHERE if bench.device.type == "cpu" else IMPLEMENTATIONS
    for objective, attention in product(get_args(ObjectiveName), offered):
        torch.manual_seed(0)
        config = config_of(bench, shape, length)
        with bench.device:
            model = ModernBertForMaskedLM._from_config(config, attn_implementation=attention)
        masking = Masking(0.15) if objective == "mlm" else None
        task, state = Objective(objective, masking, 4, bench.vocabulary, seed=0, phase=0), PhaseState()
        optimizer = adamw(model, settings)

        def train(
            steps: int,
            model: ModernBertForMaskedLM = model,
            task: Objective = task,
            optimizer: torch.optim.Optimizer = optimizer,
            state: PhaseState = state,
        ) -> None:
            """Go on until so many steps are done."""
            phase = Phase("bench", task.name, steps * sequences * length, "warmup-constant", task.masking)
            run_steps(model, packed, phase, task, optimizer, settings, state, accelerator, first_sequence=0, bf16=True)

        row: Row = {"shape": shape, "tokens": length, "objective": objective, "attention": attention}
        try:
            train(warm)
            bench.forget_peak()
            seconds, _ = bench.timed(partial(train, warm + timed))
            speed = timed * sequences * length / seconds
            row |= {"tokens/s": speed, "peak GiB": bench.peak(), "loss": state.losses[-1].loss}
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            row |= {"peak GiB": "out of memory"}
        rows.append(row)
        del model, optimizer, train
        bench.forget_peak()
    return rows


PARTS: dict[str, tuple[int, Callable[[Bench], list[Row]]]] = {
    "tests": (150, run_tests),
    "features-base-512": (60, lambda bench: run_features(bench, "base", 512, (16_384, 65_536, 131_072))),
    "kernels": (60, run_kernels),
    "features-large-512": (60, lambda bench: run_features(bench, "large", 512, (16_384, 65_536))),
    "features-base-8192": (60, lambda bench: run_features(bench, "base", 8192, (16_384, 65_536))),
    "features-large-8192": (60, lambda bench: run_features(bench, "large", 8192, (16_384,))),
    "training-base-512": (60, lambda bench: run_training(bench, "base", 512)),
    "training-base-8192": (60, lambda bench: run_training(bench, "base", 8192)),
}
"""Of each part the seconds that it may take, and what it does; the most wanted first."""


def write_part(name: str, bench: Bench, out: Path) -> None:
    """Run one part and write its file, which is whole or not there."""
    seconds, rows = bench.timed(lambda: PARTS[name][1](bench))
    cuda = bench.device.type == "cuda"
    found = {
        "part": name,
        "seconds": round(seconds, 1),
        "tiny": bench.tiny,
        "device": torch.cuda.get_device_name(bench.device) if cuda else platform.processor() or platform.machine(),
        "cuda": torch.version.cuda,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "rows": rows,
    }
    partial_file = out / f".{name}.partial"
    partial_file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    partial_file.replace(out / f"{name}.json")


def write_tables(out: Path) -> Path:
    """The tables of all parts that are done, as Markdown."""
    parts = [json.loads(file.read_text(encoding="utf-8")) for name in PARTS if (file := out / f"{name}.json").exists()]
    text = []
    for part in parts:
        facts = f"{part['device']}, CUDA {part['cuda']}, torch {part['torch']}, transformers {part['transformers']}"
        text += [f"## {part['part']}", f"{facts}; {part['seconds']} s" + ("; toy shapes" if part["tiny"] else "")]
        table = pd.DataFrame(part["rows"])
        cells = [[_cell(value) for value in row] for row in table.itertuples(index=False)]
        lines = [list(map(str, table.columns)), ["---"] * len(table.columns), *cells]
        text.append("\n".join("| " + " | ".join(line) + " |" for line in lines))
    file = out / "figures.md"
    file.write_text("\n\n".join(text) + "\n", encoding="utf-8")
    return file


def _cell(value: object) -> str:
    text = "" if value != value else f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.strip().rpartition("\n")[2].replace("|", "\\|")


def main() -> None:
    """Run the parts that are not done, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="toy shapes, to try the script")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS), metavar="PART")
    parser.add_argument("--seconds", type=float, default=520, help="no part begins that may end later")
    parser.add_argument("--here", action="store_true", help="run all parts in this process")
    options = parser.parse_args()
    bench = Bench(torch.device(options.device), options.tiny)
    if bench.device.type == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA device here: give --device cpu --tiny to try the script")
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true"}
    options.out.mkdir(parents=True, exist_ok=True)
    begun, left, failed = time.perf_counter(), [], []
    for name in options.parts:
        if (options.out / f"{name}.json").exists():
            print(f"{name}: done before", flush=True)
            continue
        time_left = options.seconds - (time.perf_counter() - begun)
        if time_left < PARTS[name][0]:
            left.append(name)
            continue
        if bench.device.type == "cpu" or options.here:
            write_part(name, bench, options.out)
            problem = ""
        else:
            problem = _in_own_process(name, options, min(time_left, 2 * PARTS[name][0]))
        print(f"{name}: {problem or 'done'}", flush=True)
        if problem:
            failed.append(name)
    print(write_tables(options.out).read_text(encoding="utf-8"))
    if left:
        print(f"no time was left for {', '.join(left)}: call it again with the same --out")
    sys.exit(1 if failed or left else 0)


def _in_own_process(name: str, options: argparse.Namespace, seconds: float) -> str:
    """Run a part in a process of its own; what went wrong, or nothing."""
    words = ["--out", str(options.out), "--device", options.device, "--parts", name, "--here"]
    words += ["--tiny"] if options.tiny else []
    log = options.out / f"{name}.log"
    with log.open("w", encoding="utf-8") as file:
        try:
            done = subprocess.run(
                [sys.executable, __file__, *words], stdout=file, stderr=file, check=False, timeout=seconds
            )
        except subprocess.TimeoutExpired:
            return f"took longer than {seconds:.0f} s"
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "" if done.returncode == 0 else f"failed ({lines[-1] if lines else done.returncode}); see {log}"


if __name__ == "__main__":
    main()
