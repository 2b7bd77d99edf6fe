"""Two models, one corpus: the main job, from models to a `Comparison`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cka_tools import paper
from cka_tools.comparison.floors import Floors
from cka_tools.comparison.layer_pairs import pairing_in_words
from cka_tools.comparison.pairs import DrawResult, Pair, PairResult, compare_pairs, without_each
from cka_tools.comparison.record import (
    COMPARISON,
    ESTIMATORS,
    MEANS,
    best_matches,
    best_over,
    control_noise,
    early_of,
    mean_entries,
    number,
    pair_entry,
    provenance,
)
from cka_tools.comparison.results import Comparison
from cka_tools.comparison.verdict import verdict
from cka_tools.comparison.warnings import find_warnings, overlap_warning, same_weights
from cka_tools.compute import CorpusGiven, FeatureRun, Progress, open_run
from cka_tools.errors import UserError
from cka_tools.formatting import layers_in_words, printable
from cka_tools.models import ModelGiven
from cka_tools.settings import Settings, takes_settings
from cka_tools.statistics.intervals import LEVEL
from cka_tools.statistics.pair import FeatureComparison, ratio_of_means
from cka_tools.statistics.ratio import ROUNDING

NOT_COMPUTED = "pairs 'diagonal': only the paired layers were compared; all other entries are null"


@takes_settings("compare")
def compare(
    model_a: ModelGiven,
    model_b: ModelGiven,
    corpus: CorpusGiven = "sample",
    *,
    control: ModelGiven | None = None,
    labels: Mapping[str, str] | None = None,
    settings: Settings | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Comparison:
    """Compare two models layer by layer over documents of a corpus.

    Args:
        model_a, model_b: `demo:NAME`, a local directory, `org/name[@revision]`, `(model, tokenizer)`, or a
            model source.
        corpus: a corpus spec, a path, a list of strings or a `datasets.Dataset`.
        control: a baseline of another seed, as deep as `model_b`: its divergence from `model_b` is the seed
            noise that the pair's divergence is divided by. Every model runs once.
        labels: what "A", "B" and "control" are called in figures and tables; kept in the run.
        settings: or its fields as keywords: documents, max_length, pooling, sites, layers, early, pairs,
            measures, dtype, device, seed, rescale, protocol, batch_tokens, tokens_per_document,
            keep_features, snapshot_every, trust_remote_code, cache; see `Settings`.
        progress: called after each batch with documents done, tokens done, documents in all (those in the cache
            not among them); True for a bar, False for none; by default a bar in notebooks.

    Raises:
        UserError: input that does not fit, in one line.
    """
    asked = Settings.of(options, settings)
    called = _labels(labels or {}, control=control is not None)
    exact, seeds = asked.for_protocol()
    models = [model_a, model_b, *([] if control is None else [control])]
    run = open_run(models, corpus, exact, seeds)
    whole = exact.pairs == "all"
    pairs = [Pair(0, 1, control=None if control is None else 1, whole=whole, floors=True)]
    if control is not None:
        _check_control(run)
        pairs.append(Pair(2, 1, called=("the control", "B")))
    draws = compare_pairs(run, pairs, progress)
    roles = ["a", "b", "control"][: len(models)]
    origin = provenance(run, draws, roles, asked.record())
    for model in origin["models"]:
        model |= {"label": called[model["role"]]} if model["role"] in called else {}
    return Comparison(_record(run, draws, origin, asked.protocol), _arrays(draws[0]))


def _labels(given: Mapping[str, str], *, control: bool) -> dict[str, str]:
    """Labels by role.

    Raises:
        UserError: of what is not there, or one without a letter.
    """
    roles = {"A": "a", "B": "b"} | ({"control": "control"} if control else {})
    for name, label in given.items():
        if name not in roles:
            raise UserError(f"label {f'{name}={label}'!r} is of none of {', '.join(roles)}: write it like A=detour")
        if not printable(label):
            raise UserError(f"label {f'{name}={label}'!r} has no letter: write it like {name}=detour")
    return {roles[name]: printable(label) for name, label in given.items()}


def _check_control(run: FeatureRun) -> None:
    """Raise a UserError where the control is not as deep as B."""
    (_, b, control), (_, b_name, control_name) = run.depths, run.names
    if control != b:
        raise UserError(
            f"control {control_name!r} has {control} layers, {b_name!r} has {b}: give a model trained like "
            "B with another seed, which is as deep"
        )


def _record(
    run: FeatureRun, draws: Sequence[DrawResult], origin: dict[str, Any], protocol: str | None
) -> dict[str, Any]:
    """The content of `result.json`; numbers are of the first draw, the protocol's spread of all."""
    first = draws[0]
    pair, control = first.pairs[0], _control(first)
    plain = pair.plain
    warnings = find_warnings(pair, first.provenance)
    if (same := same_weights(first.provenance)) is not None:
        warnings.append(same)
    if len(draws) > 1 and (overlap := overlap_warning([draw.ids for draw in draws])):
        warnings.append(overlap)
    entry = pair_entry(pair, control, best=True, role="pair")
    pairs = [entry] + ([] if control is None else [pair_entry(control, role="control")])
    summary: dict[str, Any] = {
        **mean_entries(plain),
        "early_layers": early_of(pair),
        "n_documents": plain.n,
        "interval": {"level": LEVEL, "over": "documents"},
        "pairing": pairing_in_words(run.depths[0], run.depths[1], run.settings),
        "best_over": best_over(pair),
        "floors": _floors(pair, run.settings),
        "warnings": warnings,
        "notes": _notes(run, draws, pair),
    }
    if pair.rescaled is not None:
        summary["rescaled"] = mean_entries(pair.rescaled)
    if control is not None:
        summary["control"] = {"name": run.names[2], **entry["control"]}
        summary["ratio"] = entry["ratio"]
        summary["noise"] = control_noise(run, 1, 2)
    if protocol is not None:
        summary["protocol"] = {"name": protocol, "source": paper.CITATION, **_spread(draws)}
    summary["verdict"] = verdict({"summary": summary, "layers": entry["layers"]})
    return {
        "kind": COMPARISON,
        "summary": summary,
        "n_documents": plain.n,
        "warnings": warnings,
        "layers": entry["layers"],
        "best_match": best_matches(pair),
        "matrix": {
            "layers_a": pair.layers_a,
            "layers_b": pair.layers_b,
            **_matrices(plain),
            **({} if pair.rescaled is None else {"rescaled": _matrices(pair.rescaled)}),
            **({} if pair.pair.whole else {"reason": NOT_COMPUTED}),
        },
        "pairs": pairs,
        "provenance": origin,
    }


def _control(draw: DrawResult) -> PairResult | None:
    return draw.pairs[1] if len(draw.pairs) > 1 else None


def _arrays(draw: DrawResult) -> dict[str, np.ndarray]:
    """The arrays beside the record: matrices, and each pair's debiased CKA without each document in turn."""
    pair, control = draw.pairs[0], _control(draw)
    arrays = _arrays_of(pair)
    if pair.rescaled is not None:
        arrays |= {f"rescaled.matrix.{e}": pair.rescaled.matrices[e] for e in ESTIMATORS}  # type: ignore[index]
    if control is not None:
        arrays |= {f"control.{name}": array for name, array in _arrays_of(control).items()}
    return arrays


def _arrays_of(pair: PairResult) -> dict[str, np.ndarray]:
    matrices = {f"matrix.{e}": matrix for e, matrix in pair.plain.matrices.items()}
    return matrices | {"leave_one_out": without_each(pair)}


def _matrices(found: FeatureComparison) -> dict[str, Any]:
    return {e: [[number(v) for v in row] for row in matrix] for e, matrix in found.matrices.items()}


def _floors(pair: PairResult, settings: Settings) -> dict[str, Any]:
    """How values for permuted documents were made, or why there are none."""
    found = pair.floors or Floors(reason="none were asked for")
    entry = {"permutations": found.permutations, "seed": settings.seed, "of": "documents, the same in all layers"}
    return entry if found.reason is None else entry | {"reason": found.reason}


def _notes(run: FeatureRun, draws: Sequence[DrawResult], pair: PairResult) -> list[str]:
    notes: list[str] = []
    pairing = pairing_in_words(run.depths[0], run.depths[1], run.settings)
    if run.depths[0] != run.depths[1]:
        notes.append(f"The models have different depths; layers are paired {pairing}.")
    elif pairing != "index by index":
        notes.append(f"Layers are paired {pairing}.")
    if pair.candidates is not None:
        notes.append(
            f"The pairs were chosen by their CKA among {layers_in_words(pair.candidates)} of B: intervals do not "
            "know of the choice, and divergences are the smallest there are."
        )
    if not pair.pair.whole:
        notes.append("Only paired layers were compared (pairs 'diagonal'): no other entry, no best match.")
    return list(dict.fromkeys([*notes, *(note for draw in draws for note in draw.notes)]))


def _spread(draws: Sequence[DrawResult]) -> dict[str, Any]:
    """Mean and standard deviation (divisor draws − 1) over the draws, of means and of each layer."""
    spread: dict[str, Any] = {"seeds": [draw.draw.seed for draw in draws]}
    spread |= _spread_of([draw.pairs[0].plain for draw in draws])
    controls = [found.plain for draw in draws if (found := _control(draw)) is not None]
    if controls:
        spread["control"] = _spread_of(controls)
        spread["ratio"] = {of: _ratio_spread(draws, controls, of) for of in MEANS}
    return spread


def _spread_of(found: Sequence[FeatureComparison]) -> dict[str, Any]:
    spread: dict[str, Any] = {
        f"{name}_divergence": {e: _over_draws([getattr(getattr(f, name), e).value for f in found]) for e in ESTIMATORS}
        for name in MEANS
    }
    spread["layers"] = [
        {e: _over_draws([getattr(f.layers[at], e).value for f in found]) for e in ESTIMATORS}
        for at in range(len(found[0].layers))
    ]
    return spread


def _ratio_spread(draws: Sequence[DrawResult], controls: Sequence[FeatureComparison], of: str) -> dict[str, Any]:
    """Ratio of the means in each draw: of the biased ones, as published, and of the debiased ones."""
    pairs = [draw.pairs[0] for draw in draws]
    biased = [_biased_ratio(pair.plain, control, of) for pair, control in zip(pairs, controls, strict=True)]
    debiased = [getattr(pair.ratio, of).value for pair in pairs]
    return {"biased": _over_draws(biased), "debiased": _over_draws(debiased)}


def _biased_ratio(pair: FeatureComparison, control: FeatureComparison, of: str) -> float | None:
    d, e = (getattr(found, of).biased.value for found in (pair, control))
    if d is None or e is None or e <= ROUNDING:
        return None
    return ratio_of_means([1 - d], [1 - e])


def _over_draws(values: Sequence[float | None]) -> dict[str, Any]:
    known = [v for v in values if v is not None]
    if len(known) < len(values):
        return {"mean": None, "std": None, "draws": list(values), "reason": "undefined in one of the draws"}
    return {"mean": float(np.mean(known)), "std": float(np.std(known, ddof=1)), "draws": known}
