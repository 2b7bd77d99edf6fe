"""Comparisons of made-up features: the statistics and the record are real, no model is run."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from cka_tools.comparison import Comparison
from cka_tools.comparison.pairing import choose_layers, early_layers
from cka_tools.comparison.reading import ControlReading, Reading
from cka_tools.comparison.record import build_arrays, build_record
from cka_tools.statistics.pair import compare_features
from cka_tools.statistics.ratio import divergence_ratio

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
    rescale: bool = False,
    protocol: str | None = None,
    layers: Sequence[int] | None = None,
    early: Sequence[int] | None = None,
    notes: Sequence[str] = (),
    control: str | None = None,
    control_drift: float = 0.5,
    **features: Any,
) -> Comparison:
    """A comparison as `compare` gives it; `features` go to `make_features`.

    Args:
        control: name of a control; its features are B's with less noise of their own.
        control_drift: how much of it.
    """
    depth_b = depth_b or depth
    pairs, rows, columns = choose_layers(depth, depth_b, layers)
    layers_a, layers_b = list(rows or range(depth)), list(columns or range(depth_b))
    early_given = early_layers(min(depth, depth_b), early)
    shallow = 0 if depth <= depth_b else 1
    positions = [at for at, pair in enumerate(pairs) if pair[shallow] in early_given]
    within = [(layers_a.index(i), layers_b.index(j)) for i, j in pairs]
    readings = []
    for seed in (42, 43, 44) if protocol else (42,):
        sides = [make_features(n, d, seed + s, **features) for s, d in ((0, depth), (100, depth_b))]
        chosen = [[side[at] for at in kept] for side, kept in zip(sides, (layers_a, layers_b), strict=True)]
        plain, rescaled = (compare_features(*chosen, within, positions, rescale=r) for r in (False, True))
        noise = None
        if control is not None:
            near = np.random.default_rng(seed + 200)
            third = [b + control_drift * 0.3 * near.normal(size=b.shape) for b in chosen[1]]
            apart = compare_features(third, chosen[1], [(j, j) for _, j in within], positions)
            noise = ControlReading(apart, divergence_ratio(plain, apart))
        draw = SimpleNamespace(
            documents=[SimpleNamespace(id=str(i)) for i in range(n)],
            corpus=corpus,
            seed=seed,
            notes=list(notes),
        )
        extraction = SimpleNamespace(kept=np.arange(n), notes=[])
        readings.append(
            Reading(
                draw,  # type: ignore[arg-type]
                extraction,  # type: ignore[arg-type]
                layers_a,
                layers_b,
                positions,
                plain,
                rescaled if rescale else None,
                noise,
            )
        )
    settings = {
        "pooling": "mean", "sites": "residual", "max_length": 512, "tokens_per_document": None,
        "dtype": "float16" if protocol else "float32", "device": "cpu", "seed": 42, "protocol": protocol,
        "rescale": rescale,
    }  # fmt: skip
    provenance = {
        "models": {"a": {"name": names[0]}, "b": {"name": names[1]}}
        | ({} if control is None else {"control": {"name": control}}),
        "corpus": {"spec": corpus},
        "settings": settings,
    }
    models: Any = tuple(SimpleNamespace(blocks=[None] * d) for d in (depth, depth_b))
    record = build_record(readings, models, provenance, early_given, protocol)
    return Comparison(record, build_arrays(readings[0]))


def with_diagonal(comparison: Comparison, values: Sequence[float], width: float = 0.02) -> Comparison:
    """The same comparison with other debiased CKA on its layer pairs, each with an interval."""
    for entry, value in zip(comparison.layers, values, strict=True):
        entry.update(cka_debiased=value, ci_low=value - width, ci_high=value + width)
        entry["cka_biased"] = value + 0.3 * (1 - value)
        comparison.arrays["matrix.debiased"][entry["layer_a"], entry["layer_b"]] = value
    for match in comparison.record["best_match"]:
        row = comparison.arrays["matrix.debiased"][match["layer_a"]]
        match.update(layer_b=int(row.argmax()), cka_debiased=float(row.max()))
    for name, some in (("mean", comparison.layers), ("early", [e for e in comparison.layers if e["early"]])):
        mean = 1 - float(np.mean([e["cka_debiased"] for e in some]))
        found = comparison.summary[f"{name}_divergence"]["debiased"]
        found.update(value=mean, ci_low=mean - width, ci_high=mean + width)
    return comparison
