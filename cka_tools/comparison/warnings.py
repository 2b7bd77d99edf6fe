"""Warnings where a number is not what it seems."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any, TypedDict

from cka_tools.comparison.layer_pairs import pairing_in_words
from cka_tools.comparison.record import JsonObject, best_match, early_of
from cka_tools.compute import FLOAT16_ON_CPU
from cka_tools.formatting import MASSIVE_SHARE, counted, layers_in_words, percent
from cka_tools.statistics.intervals import INTERVAL_DOCUMENTS, LEVEL

if TYPE_CHECKING:
    from cka_tools.comparison.pairs import DrawResult, PairResult
    from cka_tools.compute import FeatureRun

ESTIMATOR_GAP = 0.05
"""Biased and debiased CKA further apart than this: the sample is too small for the biased one."""

LEAST_DIMENSION = 3.0
"""Below this effective dimension CKA speaks of two or three directions, not of a space."""

BETTER = 0.02
"""A best match is clearly closer than the layer paired from this gain in CKA, beyond the pair's interval."""

DRAW_OVERLAP = 0.25
"""Draws that share more than this part of their documents are not independent."""


class Warned(TypedDict):
    """A warning: a code for machines, a plain sentence, and the layers (of A) that it concerns."""

    code: str
    text: str
    layers: list[int]


def find_warnings(pair: PairResult, models: Sequence[JsonObject] | None = None) -> list[Warned]:
    """Every warning a comparison deserves.

    Args:
        models: what provenance says of all models that were given, where it is known.
    """
    warnings: list[Warned] = []

    def warn(code: str, text: str, layers: list[int]) -> None:
        warnings.append({"code": code, "text": text, "layers": layers})

    plain, own = pair.plain, [pair.layers_a[one.layer_a] for one in pair.plain.layers]
    if plain.n < INTERVAL_DOCUMENTS:
        few = f"{plain.n} documents are fewer than the {INTERVAL_DOCUMENTS} an interval needs: none is given."
        warn("few-documents", few, [])
    constant, gaps = [], {}
    for layer, one in zip(own, plain.layers, strict=True):
        if one.debiased.value is None:
            constant.append(layer)
        elif one.biased.value is not None and abs(gap := one.biased.value - one.debiased.value) > ESTIMATOR_GAP:
            gaps[layer] = abs(gap)
    if constant:
        start = layers_in_words(constant).capitalize()
        warn("no-variance", f"{start}: no variance over these documents, so CKA is not defined.", constant)
    if gaps:
        warn(
            "estimators-disagree",
            f"Biased and debiased CKA differ by up to {max(gaps.values()):.2f} ({layers_in_words(list(gaps))}): "
            f"{plain.n} documents are too few for the biased one; read the debiased.",
            sorted(gaps),
        )
    given = [(layer, one) for layer, one in zip(own, plain.layers, strict=True) if one.debiased.value is not None]
    for side, indices in (("a", pair.layers_a), ("b", pair.layers_b)):
        massive = []
        for layer, one in given:
            spectrum = getattr(one, f"spectrum_{side}")
            if spectrum.top_feature_share > MASSIVE_SHARE:
                massive.append((indices[getattr(one, f"layer_{side}")], layer, spectrum))
        if massive:
            top = max(massive, key=lambda entry: entry[2].top_feature_share)
            warn(
                "massive-feature",
                f"One feature carries more than half of the variance of model {side.upper()} in "
                f"{layers_in_words([at for at, _, _ in massive])} (feature {top[2].top_feature} carries "
                f"{100 * top[2].top_feature_share:.0f} % in layer {top[0]}): CKA there is nearly the squared "
                "correlation of that feature; compare with --rescale.",
                [row for _, row, _ in massive],
            )
        flat = {
            layer: dimension
            for layer, one in given
            if (dimension := getattr(one, f"spectrum_{side}").effective_dim) < LEAST_DIMENSION
        }
        if flat:
            least = min(flat, key=flat.__getitem__)
            warn(
                "low-dimension",
                f"Model {side.upper()} has an effective dimension below {LEAST_DIMENSION:g} in "
                f"{layers_in_words(list(flat))} ({flat[least]:.1f} beside layer {least} of A): a few directions of "
                "variance decide CKA there; compare with --rescale or another measure.",
                list(flat),
            )
    if models is not None:
        a, b = (models[at] for at in (pair.pair.a, pair.pair.b))
        if a.get("tokenizer_sha256") != b.get("tokenizer_sha256"):
            warn(
                "different-tokenizers",
                "A and B have different tokenizers: texts are cut at other places, and a mean is over other tokens.",
                [],
            )
        if any((one.get("dtype"), str(one.get("device"))) == ("float16", "cpu") for one in (a, b)):
            warn("float16-on-cpu", FLOAT16_ON_CPU, [])
    if documents := len(pair.deciding):
        moved = "read which they are"
        if (without := pair.without_deciding) is not None:
            shown, others = percent(plain.mean.debiased.value), percent(without)
            moved = f"without them it is {others} %" + (" as well" if others == shown else f", not {shown} %")
        who = f"{counted(documents, 'document')} ({percent(documents / len(plain.left_out))} %)"
        text = f"{who} hold half of the sampling variance of the mean divergence: {moved} (see `cka documents`)."
        warn("few-documents-decide", text, [])
    if (elsewhere := _better_elsewhere(pair)) is not None:
        warnings.append(elsewhere)
    return warnings


def _better_elsewhere(pair: PairResult) -> Warned | None:
    """A warning where layers were paired with others than those of their index, and match others better."""
    if pair.candidates is not None or not pair.pair.whole:
        return None
    better, paired, best = [], [], []
    for at in pair.plain.mean_layers:
        one = pair.plain.layers[at]
        layer, value = best_match(pair, one.layer_a)
        if one.debiased.value is None or value is None:
            continue
        paired.append(one.debiased.value)
        best.append(value)
        top = one.debiased.value if one.debiased.ci_high is None else one.debiased.ci_high
        if value > top and value - one.debiased.value > BETTER:
            better.append((pair.layers_a[one.layer_a], pair.layers_b[one.layer_b], layer, value - one.debiased.value))
    shifted = any(pair.layers_a[one.layer_a] != pair.layers_b[one.layer_b] for one in pair.plain.layers)
    if not shifted or 2 * len(better) < len(paired) or not better:
        return None
    a, b, closest, _ = max(better, key=lambda entry: entry[3])
    text = (
        f"In {layers_in_words([one[0] for one in better])} another layer of B is clearly closer than the one paired "
        f"(mean CKA of all pairs {sum(paired) / len(paired):.2f}, of best matches {sum(best) / len(best):.2f}; layer "
        f"{a} is paired with {b} and closest to {closest}): if layers were cut or added, give --pairing index or best."
    )
    return {"code": "closer-elsewhere", "text": text, "layers": [one[0] for one in better]}


def same_weights(models: Sequence[JsonObject]) -> Warned | None:
    """A warning where A and B are one checkpoint, seen under one mask."""
    a, b = ([one.get(name) for name in ("weights_sha256", "mask")] for one in models[:2])
    if a != b or a[0] is None:
        return None
    text = "A and B hold the same weights: the comparison shows how exact the tool is, not how models differ."
    return {"code": "same-weights", "text": text, "layers": []}


def overlap_warning(draws: Sequence[Sequence[str]]) -> Warned | None:
    """A warning where two draws share more than a quarter of their documents (ids or fingerprints)."""
    worst = max((len(set(a) & set(b)) / max(1, min(len(a), len(b))) for a, b in combinations(draws, 2)), default=0.0)
    if worst <= DRAW_OVERLAP:
        return None
    text = (
        f"Two draws share {100 * worst:.0f} % of their documents: their standard deviation understates the "
        "uncertainty; read the interval."
    )
    return {"code": "overlapping-draws", "text": text, "layers": []}


def many_summary(run: FeatureRun, draw: DrawResult, second: str = "") -> dict[str, Any]:
    """The part of a summary that all runs of many pairs share.

    Args:
        second: what warnings call the second model of every pair, if not by its name.
    """
    names = run.names
    called = [f"{names[one.pair.a]} (A) and {second or names[one.pair.b]} (B)" for one in draw.pairs]
    notes = list(draw.notes)
    if len(set(run.depths)) > 1:
        rule = "by relative depth" if run.settings.pairing == "relative" else pairing_in_words(0, 1, run.settings)
        notes.append(f"The models have different depths; layers are paired {rule}.")
    weights = [origin["weights_sha256"] for origin in draw.provenance]
    for at, one in enumerate(weights):
        same = weights.index(one)
        if same < at and run.order[same] != run.order[at]:
            notes.append(f"{names[same]} and {names[at]} hold the same weights.")
    return {
        "n_documents": len(draw.ids),
        "interval": {"level": LEVEL, "over": "documents"},
        "early_layers": early_of(draw.pairs[0]),
        "warnings": grouped_warnings(zip(called, draw.pairs, strict=True), draw.provenance),
        "notes": list(dict.fromkeys(notes)),
    }


def grouped_warnings(
    named: Iterable[tuple[str, PairResult]], models: Sequence[JsonObject] | None = None
) -> list[dict[str, Any]]:
    """One warning a code: the pairs that it concerns by name, and its text for the first of them.

    Args:
        models: as in `find_warnings`.
    """
    grouped: dict[str, dict[str, Any]] = {}
    for name, pair in named:
        for one in find_warnings(pair, models):
            first = {"code": one["code"], "text": f"{name}: {one['text']}", "pairs": []}
            grouped.setdefault(one["code"], first)["pairs"].append(name)
    return list(grouped.values())
