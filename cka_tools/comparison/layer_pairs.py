"""Which layers of two models are paired, which of the pairs are early, and which enter a mean."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cka_tools.errors import UserError
from cka_tools.paper import EARLY_SHARE
from cka_tools.settings import EMBEDDINGS, FINAL_NORM, Settings, explicit_pairs


@dataclass(frozen=True)
class LayerPairing:
    """Layer pairs (ℓ, m) of two models by their own indices, by ascending ℓ.

    Attributes:
        early, counted: positions of the pairs that are early, and that enter a mean over layers: all but the
            embeddings and the final norm, which are rows of their own.
        needed: the layers of A and of B that are asked for; None is all of a model's.
        candidates: layers of B from which each counted pair takes the one that matches best, once CKA is known;
            None where the pairs are fixed.
    """

    pairs: list[tuple[int, int]]
    early: list[int]
    counted: list[int]
    needed: tuple[set[int] | None, set[int] | None]
    candidates: list[int] | None = None


def choose_pairing(depth_a: int, depth_b: int, settings: Settings) -> LayerPairing:
    """What the settings pair.

    Raises:
        UserError: an index that a model does not have, or settings that contradict each other.
    """
    given = explicit_pairs(settings.pairing)
    own = settings.layers_a, settings.layers_b
    for option, layers, depth in zip(("layers-a", "layers-b"), own, (depth_a, depth_b), strict=True):
        if layers is not None:
            _check_exist(option, layers, depth)
    if settings.layers is not None and own != (None, None):
        raise UserError("layers and layers-a or layers-b are both given: leave one of them out")
    if given is not None:
        pairs = _explicit(given, depth_a, depth_b, settings)
    elif own != (None, None):
        pairs = _between(depth_a, depth_b, settings)
    elif settings.pairing == "relative":
        pairs = choose_layers(depth_a, depth_b, settings.layers)
    elif settings.pairing == "index":
        common = range(min(depth_a, depth_b))
        chosen = common if settings.layers is None else settings.layers
        _check_exist("layers", chosen, len(common))
        pairs = [(i, i) for i in sorted(set(chosen))]
    else:
        chosen = range(depth_a) if settings.layers is None else settings.layers
        _check_exist("layers", chosen, depth_a)
        pairs = [(i, min(i, depth_b - 1)) for i in sorted(set(chosen))]
    if settings.final_norm:
        pairs = [*pairs, (FINAL_NORM, FINAL_NORM)]
    counted = [at for at, pair in enumerate(pairs) if not {EMBEDDINGS, FINAL_NORM} & set(pair)]
    best = settings.pairing == "best"
    side = 0 if best or depth_a <= depth_b else 1
    first = early_layers((depth_a, depth_b)[side], settings.early)
    candidates = None
    if best:
        candidates = sorted(set(range(depth_b) if own[1] is None else own[1]) - {EMBEDDINGS}) or None
    needed: list[set[int] | None] = []
    for at, (layers, depth) in enumerate(zip(own, (depth_a, depth_b), strict=True)):
        asked = None if layers is None else set(layers)
        if settings.layers is not None and not (best and at == 1):
            asked = {pair[at] for pair in pairs}
        if beside := {EMBEDDINGS, FINAL_NORM} & {pair[at] for pair in pairs}:
            asked = beside | (set(range(depth)) if asked is None else asked)
        needed.append(asked)
    early = [at for at in counted if pairs[at][side] in first]
    return LayerPairing(pairs, early, counted, (needed[0], needed[1]), candidates)


def _explicit(
    given: Sequence[tuple[int, int]], depth_a: int, depth_b: int, settings: Settings
) -> list[tuple[int, int]]:
    if settings.layers is not None or (settings.layers_a, settings.layers_b) != (None, None):
        raise UserError(
            f"pairing {settings.pairing!r} names the layers itself: leave out layers, layers-a and layers-b"
        )
    for at, depth in enumerate((depth_a, depth_b)):
        _check_exist(f"pairing {settings.pairing!r}: layers of {'AB'[at]}", [pair[at] for pair in given], depth)
    return sorted(given)


def _between(depth_a: int, depth_b: int, settings: Settings) -> list[tuple[int, int]]:
    """Pairs of the layers that were chosen for A and for B each."""
    given = [
        sorted(set(range(depth) if layers is None else layers))
        for layers, depth in ((settings.layers_a, depth_a), (settings.layers_b, depth_b))
    ]
    first, second = ([layer for layer in layers if layer != EMBEDDINGS] for layers in given)
    below = [(EMBEDDINGS, EMBEDDINGS)] if all(EMBEDDINGS in layers for layers in given) else []
    if not below and any(EMBEDDINGS in layers for layers in given):
        raise UserError("the embeddings of one model alone are chosen: name them in layers-a and in layers-b")
    if settings.pairing == "best":
        return below + [(i, second[0]) for i in first if second]
    if settings.pairing == "index":
        common = [(i, i) for i in first if i in second]
        if not below + common:
            raise UserError("pairing 'index': layers-a and layers-b have no index in common")
        return below + common
    if not (first and second):
        return below
    return below + [(first[i], second[j]) for i, j in pair_layers(len(first), len(second))]


def best_pairs(
    pairs: Sequence[tuple[int, int]], candidates: Sequence[int], counted: Sequence[int], cka: np.ndarray
) -> list[tuple[int, int]]:
    """The pairs, each counted one with the candidate that its layer of A is closest to.

    Args:
        pairs, candidates: by position in the matrix. cka: debiased, (L_A, L_B), NaN where undefined; a layer
            without any keeps the pair it has.
    """
    rows = np.asarray(candidates)
    return [
        (i, int(rows[np.nanargmax(cka[i, rows])])) if at in counted and np.isfinite(cka[i, rows]).any() else (i, j)
        for at, (i, j) in enumerate(pairs)
    ]


def pair_layers(depth_a: int, depth_b: int) -> list[tuple[int, int]]:
    """Pairs (ℓ, m): index by index, or ℓ of the shallower with floor(ℓ(L_deep − 1)/(L_shallow − 1) + ½)."""
    if depth_a == depth_b:
        return [(i, i) for i in range(depth_a)]
    shallow, deep = sorted((depth_a, depth_b))
    step = (deep - 1) / (shallow - 1) if shallow > 1 else 0.0
    mapped = [(i, math.floor(i * step + 0.5)) for i in range(shallow)]
    return mapped if depth_a < depth_b else [(j, i) for i, j in mapped]


def choose_layers(depth_a: int, depth_b: int, layers: Sequence[int] | None) -> list[tuple[int, int]]:
    """The layer pairs to compare, by the models' own indices; EMBEDDINGS with EMBEDDINGS.

    Args:
        layers: indices of the shallower model (of both where depths are equal); None is all.

    Raises:
        UserError: an index that the model does not have.
    """
    pairs = pair_layers(depth_a, depth_b)
    if layers is None:
        return pairs
    _check_exist("layers", layers, min(depth_a, depth_b))
    side = 0 if depth_a <= depth_b else 1
    below = [(EMBEDDINGS, EMBEDDINGS)] if EMBEDDINGS in layers else []
    return below + [pair for pair in pairs if pair[side] in set(layers)]


def early_layers(depth: int, given: Sequence[int] | None) -> tuple[int, ...]:
    """Layers that count as early: those given, or the first third of `depth`, rounded up.

    Raises:
        UserError: an index that the model does not have.
    """
    if given is None:
        return tuple(range(-(-depth * EARLY_SHARE[0] // EARLY_SHARE[1])))
    _check_exist("early layers", given, depth, least=0)
    return tuple(sorted(set(given)))


def _check_exist(called: str, given: Sequence[int], depth: int, least: int = EMBEDDINGS) -> None:
    wrong = [i for i in given if not least <= i < depth]
    if wrong or not given:
        raise UserError(f"{called} {wrong or list(given)} do not exist: there are {depth}, 0 to {depth - 1}")


def pairing_in_words(depth_a: int, depth_b: int, settings: Settings) -> str:
    """How layers are paired, as the rest of a sentence after "layers are paired"."""
    if settings.pairing == "best":
        return "each layer of A with the one of B that it is closest to"
    if explicit_pairs(settings.pairing) is not None:
        return f"as given: {settings.pairing}"
    if settings.pairing == "index" or (depth_a == depth_b and settings.layers_a == settings.layers_b):
        return "index by index"
    if (settings.layers_a, settings.layers_b) != (None, None):
        return "by relative place among the layers chosen of A and of B"
    return f"by relative depth: {depth_a} layers of A against {depth_b} of B"
