"""Comparisons of made-up features: the statistics and the record are real, no model is run."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from cka_tools.comparison import Comparison, run_comparison
from cka_tools.compute import FeatureRun, Features
from cka_tools.extraction.batches import BatchPlan
from cka_tools.extraction.extract import Extraction, Prepared
from cka_tools.models import LoadOptions
from cka_tools.settings import Settings

#: Debiased CKA by layer, detour against baseline, of arXiv 2605.12438: near 0 beyond layer 15.
PAPER_CKA = [
    0.860, 0.823, 0.797, 0.824, 0.851, 0.864, 0.882, 0.900,
    0.298, 0.364, 0.135, 0.140, 0.148, 0.156, 0.160,
    0.011, 0.012, 0.014, 0.016, 0.019, 0.025, 0.031,
]  # fmt: skip


def make_features(
    n: int,
    depth: int,
    seed: int,
    *,
    width: int = 24,
    drift: float = 1.0,
    massive: Sequence[int] = (),
    constant: Sequence[int] = (),
) -> list[np.ndarray]:
    """Layers (n, width) that share a signal over n documents, less of it the deeper; `drift` 0 shares all."""
    shared, own = np.random.default_rng(n), np.random.default_rng(seed)
    signal = shared.normal(size=(n, width)) * np.geomspace(1, 0.2, width)
    layers = []
    for layer in range(depth):
        where = layer / max(1, depth - 1)
        turn = np.eye(width) + where * shared.normal(size=(width, width)) / 4
        noise = own.normal(size=(n, width)) * (0.2 + 1.5 * where)
        x = signal @ turn + drift * noise
        if layer in massive:
            x[:, 3] = own.normal(size=n) * 40
        if layer in constant:
            x = np.full_like(x, 2.0)
        layers.append(x.astype(np.float32))
    return layers


def make_comparison(
    depth: int = 8,
    depth_b: int | None = None,
    *,
    n: int = 80,
    names: tuple[str, str] = ("demo:clm-detour", "demo:mlm-baseline"),
    corpus: str = "sample",
    notes: Sequence[str] = (),
    control: str | None = None,
    control_drift: float = 0.5,
    rescale: bool = False,
    protocol: Any = None,
    layers: Any = None,
    early: Any = None,
    **features: Any,
) -> Comparison:
    """A comparison as `compare` gives it, of features that are made up; `features` go to `make_features`.

    Args:
        control: name of a control; its features are B's with less noise of their own.
        control_drift: how much of it.
    """
    depth_b = depth_b or depth

    def made_up(models: Any, corpus: Any, settings: Settings, seeds: Sequence[int]) -> FeatureRun:
        draws = []
        for seed in seeds:
            a, b = (make_features(n, depth, seed, **features), make_features(n, depth_b, seed + 100, **features))
            near = np.random.default_rng(seed + 200)
            twin = [layer + control_drift * 0.3 * near.normal(size=layer.shape) for layer in b]
            draws.append([a, b, twin][: len(models)])
        return _run(models, corpus, settings, seeds, draws, notes)

    with patch.object(run_comparison, "open_run", made_up):
        return run_comparison.compare(
            *names, corpus, control=control, rescale=rescale, protocol=protocol, layers=layers, early=early
        )


def _run(
    names: Sequence[str],
    corpus: str,
    settings: Settings,
    seeds: Sequence[int],
    draws: Sequence[Sequence[Sequence[np.ndarray]]],
    notes: Sequence[str],
) -> FeatureRun:
    """A run whose features are known: of each draw and model its layers."""
    n, rows = len(draws[0][0][0]), range(len(draws[0][0][0]))
    plan = BatchPlan("sorted", (tuple(rows),), (8,), 2048)
    origin = {"dtype": settings.dtype or "float32"}
    outlines: list[Any] = [SimpleNamespace(blocks=[None] * len(layers), dtype=torch.float32) for layers in draws[0]]
    tables: list[Any] = [SimpleNamespace(lengths=np.full(n, 8))] * len(names)
    prepared = [Prepared(np.arange(n), tables, plan, 512, True, None, []) for _ in seeds]
    documents = [SimpleNamespace(id=str(row), text=f"text {row}") for row in rows]
    drawn: list[Any] = [
        SimpleNamespace(
            documents=documents, corpus=corpus, seed=seed, notes=list(notes), source={}, counts={},
            fingerprint="f",
        )
        for seed in seeds
    ]  # fmt: skip

    class Known(FeatureRun):
        def size(self, layers: Any) -> int:
            return 0

        def features(self, layers: Any, progress: Any = None) -> list[list[Features]]:
            found = []
            for at, name in enumerate(names):
                own = []
                for draw in draws:
                    chosen = layers[at] or range(len(draw[at]))
                    extraction = Extraction([], np.arange(n), [{}], plan, cache=["off"])
                    kept = {layer: draw[at][layer] for layer in chosen}
                    own.append(Features(name, len(draw[at]), kept, [d.id for d in documents], origin, extraction))
                found.append(own)
            return found

    sources: list[Any] = [SimpleNamespace(name=name, folder=None) for name in names]
    order = list(range(len(names)))
    return Known(sources, outlines, order, drawn, prepared, settings, LoadOptions("cpu"))


def with_diagonal(comparison: Comparison, values: Sequence[float], width: float = 0.02) -> Comparison:
    """The same comparison with other debiased CKA on its layer pairs, each with an interval."""
    for entry, value in zip(comparison.layers, values, strict=True):
        biased = value + 0.3 * (1 - value)
        entry.update(cka_debiased=value, cka_biased=biased, ci_low=value - width, ci_high=value + width)
        entry["divergence"].update(value=1 - value, ci_low=1 - value - width, ci_high=1 - value + width)
        entry["divergence_biased"] = 1 - biased
        comparison.arrays["matrix.debiased"][entry["layer_a"], entry["layer_b"]] = value
    for match in comparison.record["best_match"]:
        row = comparison.arrays["matrix.debiased"][match["layer_a"]]
        match.update(layer_b=int(row.argmax()), cka_debiased=float(row.max()))
    for name, some in (("mean", comparison.layers), ("early", [e for e in comparison.layers if e["early"]])):
        mean = float(np.mean([e["divergence"]["value"] for e in some]))
        for held in (comparison.summary, comparison.record["pairs"][0]):
            held[f"{name}_divergence"]["debiased"].update(value=mean, ci_low=mean - width, ci_high=mean + width)
    return comparison
