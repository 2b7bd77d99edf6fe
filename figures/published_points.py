"""Published values as reference points on our figures' axes."""

from __future__ import annotations

from collections.abc import Sequence

from cka_tools.paper import PublishedValue, published
from cka_tools.plotting.points import Reference
from cka_tools.statistics.pair import layer_ratios
from cka_tools.training.recipe import PAPER

PAIR, CONTROL = "detour-baseline", "baseline-baseline"
BILLION = 1e9


def along_the_decay() -> dict[str, list[Reference]]:
    """Divergence in percent by the decay's share of Phase 1: one trajectory of a decay of 10B after 10B."""
    return {
        name: [
            Reference((v.at or 0.0) * BILLION / PAPER.phase1_tokens, 100 * v.value)
            for v in published().of(f"{name} divergence", "along the decay")
        ]
        for name in ("mean", "early")
    }


def mean_divergences() -> list[tuple[str, Reference]]:
    """Mean divergence in percent of the three models, with its spread over draws."""
    cases = {
        "Base": "encoder, Base",
        "Large": "encoder, Large",
        "270M\ndecoder": "decoder, reverse detour",
    }
    return [(label, _percent(published().of("mean divergence", case)[0])) for label, case in cases.items()]


def gains_kept() -> list[tuple[str, float]]:
    """Share of the detour's F1 gain over the baseline that is kept when layers are frozen."""
    f1 = {v.case: v.value for v in published().of("downstream F1")}
    gain = f1["detour"] - f1["baseline"]
    frozen = [(v.case, (v.value - f1["baseline"]) / gain) for v in published().of("freeze F1")]
    return [("none", 1.0), *frozen]


def cka_by_depth() -> dict[str, list[Reference]]:
    """CKA of the pair and of the control by relative depth."""
    layers = published().layers
    return {name: _by_depth(layers[key].cka) for name, key in (("pair", PAIR), ("control", CONTROL))}


def mechanism_values() -> dict[str, list[Reference]]:
    """Divergences in percent and ratios by relative depth; divergences along the decay by its share done."""
    layers = published().layers
    pair, control = (layers[key].cka for key in (PAIR, CONTROL))
    return {
        "pair": _by_depth([100 * (1 - cka) for cka in pair]),
        "control": _by_depth([100 * (1 - cka) for cka in control]),
        "ratio": _by_depth(layer_ratios(pair, control).tolist()),
        **along_the_decay(),
    }


def _by_depth(values: Sequence[float]) -> list[Reference]:
    return [Reference(at / (len(values) - 1), value) for at, value in enumerate(values)]


def _percent(value: PublishedValue) -> Reference:
    return Reference(0.0, 100 * value.value, 100 * (value.std or 0.0))
