"""A reference and checkpoints, one corpus: from models to a trajectory, one pass a model."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cka_tools.comparison.pairs import DrawResult, Pair, compare_pairs, divergences
from cka_tools.comparison.readout_entries import readout_entries
from cka_tools.comparison.record import ESTIMATORS, TRAJECTORY, control_noise, pair_entry, provenance
from cka_tools.comparison.results import Trajectory
from cka_tools.comparison.warnings import many_summary
from cka_tools.compute import CorpusGiven, FeatureRun, Progress, open_run
from cka_tools.errors import UserError, failing_as
from cka_tools.manifest import read_manifest, trained_tokens
from cka_tools.models import ModelGiven, ModelSource, as_source
from cka_tools.models.folder import hash_json
from cka_tools.readouts import Readout
from cka_tools.readouts.of_models import announce_readings, language_readout, read_models
from cka_tools.settings import Settings, takes_settings

XKind = Literal["tokens", "given", "position"]
LABELS: dict[XKind, str] = {
    "tokens": "tokens of the run",
    "given": "x as given",
    "position": "position among the checkpoints given",
}


@takes_settings("trajectory")
def trajectory(
    reference: ModelGiven,
    checkpoints: ModelGiven | Sequence[ModelGiven],
    corpus: CorpusGiven = "sample",
    *,
    control: ModelGiven | None = None,
    x: Sequence[float] | None = None,
    health: bool = False,
    settings: Settings | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Trajectory:
    """Follow the divergence of checkpoints from a reference along a training.

    Costs one pass over the documents for each model, the reference and the control among them, and none for
    what the activation store has.

    Args:
        checkpoints: models, or a directory that holds those of a training run.
        control: a model that differs from the reference by its seed: its divergence is the noise floor, and
            every checkpoint's divergence is also given as a multiple of it.
        x: one number a checkpoint, in the order given; None takes the tokens of the manifests of `cka train`
            if all have one, else the position.
        health: also read every model's language-model loss and accuracy, one pass more each.
        settings, options, progress: as `compare` takes them.

    Raises:
        UserError: input that does not fit, in one line.
    """
    single = isinstance(checkpoints, str | PathLike | tuple)
    series = find_series([checkpoints] if single else list(checkpoints), x)  # type: ignore[list-item,arg-type]
    if control is not None and as_source(control) == as_source(reference):
        raise UserError(f"the control {str(control)!r} is the reference itself: name a model of another seed")
    models = [reference, *series.checkpoints, *([] if control is None else [control])]
    run = open_run(models, corpus, Settings.of(options, settings))
    count = len(series.x)
    # A ratio by layer needs the control's own layer pairs: all three models of one depth.
    noise = count if control is not None and run.depths[-1] == run.depths[0] else None
    pairs = [Pair(at, 0, control=noise if run.depths[at] == run.depths[0] else None) for at in range(1, count + 1)]
    if control is not None:
        pairs.append(Pair(count + 1, 0, called=("the control", "the reference")))
    readout = language_readout(run) if health else None
    if readout is not None:
        announce_readings(run)
    draw = compare_pairs(run, pairs, progress)[0]
    record = _record(run, draw, series)
    if readout is not None:
        _add_health(record, run, readout, progress)
    return Trajectory(record, _arrays(draw, series))


def _add_health(record: dict[str, Any], run: FeatureRun, readout: Readout, progress: Progress | None) -> None:
    """Put each model's readings into its pair's entry, the reference's into the summary."""
    read = read_models(run, readout, progress)
    entries = [readout_entries(readout.name, read[at]) for at in run.order]
    first = f"{readout.name}.{readout.quantities[0].name}"
    record["summary"]["health"] = {"title": readout.title, "quantity": first, "reference": entries[0]}
    for pair in record["pairs"]:
        pair["health"] = entries[pair["a"]]


def _record(run: FeatureRun, draw: DrawResult, series: CheckpointSeries) -> dict[str, Any]:
    count, names = len(series.x), run.names
    summary = many_summary(run, draw, "the reference")
    summary["notes"] = [*series.notes, *summary["notes"]]
    weights = [origin["weights_sha256"] for origin in draw.provenance]
    if count < len(draw.pairs):
        summary["noise"] = control_noise(run, 0, count + 1)
        if weights[-1] == weights[0]:
            summary["notes"].append("The control holds the reference's weights: its divergence is no floor.")
    summary["x"] = {"kind": series.kind, "label": LABELS[series.kind]}
    control = draw.pairs[count] if count < len(draw.pairs) else None
    roles = ["checkpoint"] * count + ["control"] * (len(draw.pairs) - count)
    pairs = []
    for at, (pair, role) in enumerate(zip(draw.pairs, roles, strict=True)):
        own = at < count
        facts: dict[str, Any] = {"role": role, "name": names[at + 1], "tokens": series.tokens[at] if own else None}
        facts |= {"weights_sha256": weights[at + 1]} | ({"x": series.x[at]} if own else {})
        pairs.append(pair_entry(pair, control if own else None, **facts))
    origin = provenance(run, [draw], ["reference", *roles], run.settings.record())
    return {"kind": TRAJECTORY, "summary": summary, "pairs": pairs, "provenance": origin}


def _arrays(draw: DrawResult, series: CheckpointSeries) -> dict[str, np.ndarray]:
    pairs = draw.pairs[: len(series.x)]
    layers = max(len(pair.plain.layers) for pair in pairs)
    arrays = {"x": np.array(series.x, dtype=np.float64)}
    for estimator in ESTIMATORS:
        values = np.full((len(pairs), layers), np.nan)
        for at, pair in enumerate(pairs):
            found = divergences(pair, estimator)
            values[at, : len(found)] = found
        arrays[f"divergence.{estimator}"] = values
    return arrays


@dataclass(frozen=True)
class CheckpointSeries:
    """Checkpoints by ascending x.

    Attributes:
        tokens: of each one's run, by its manifest; None where there is none.
        kind: where x comes from: the manifests' tokens, the user, or the order given.
    """

    checkpoints: list[ModelSource]
    x: list[float]
    tokens: list[int | None]
    kind: XKind
    notes: list[str]


def find_series(given: Sequence[ModelGiven], x: Sequence[float] | None = None) -> CheckpointSeries:
    """Expand folders of runs and place each checkpoint.

    Args:
        given: models; a directory that holds checkpoints instead of a model stands for all of them.
        x: one number a checkpoint, in the order given; None takes tokens from the manifests of `cka train`
            if all have one, else the position.

    Raises:
        UserError: no checkpoint, a folder without any, numbers that do not fit, two checkpoints at one x.
    """
    checkpoints = [as_source(one) for spec in given for one in expand(spec)]
    if not checkpoints:
        raise UserError("no checkpoint is given: name one or more, or a training run's folder")
    manifests = [read_manifest(one.folder) for one in checkpoints]
    tokens = [trained_tokens(manifest) for manifest in manifests]
    notes: list[str] = []
    kind: XKind
    if x is not None:
        kind, places = "given", [float(value) for value in x]
        if len(places) != len(checkpoints):
            raise UserError(
                f"x has {len(places)} numbers for {len(checkpoints)} checkpoints: give one for each, in order"
            )
        if not all(map(math.isfinite, places)):
            raise UserError(f"x {', '.join(f'{v:g}' for v in places)}: give finite numbers")
    elif all(count is not None for count in tokens):
        kind, places = "tokens", [float(count or 0) for count in tokens]
        runs = {hash_json([m.get("recipe"), m.get("seed"), m.get("data_sha256")]) for m in manifests if m}
        if len(runs) > 1:
            notes.append(
                f"The checkpoints are of {len(runs)} training runs (recipe, seed or data differ): "
                "each is placed at its own run's tokens."
            )
    else:
        kind, places = "position", [float(at) for at in range(1, len(checkpoints) + 1)]
        lacking = tokens.count(None)
        notes.append(
            f"x is the position: {lacking} of {len(checkpoints)} checkpoints have no tokens in a manifest; "
            "give --x for another axis."
        )
    _check_apart(checkpoints, places, kind)
    order = sorted(range(len(places)), key=places.__getitem__)
    ordered, x = [checkpoints[at] for at in order], [places[at] for at in order]
    return CheckpointSeries(ordered, x, [tokens[at] for at in order], kind, notes)


def expand(given: ModelGiven) -> list[ModelGiven]:
    """The checkpoints of a training run's folder, by their tokens, or else by the numbers in their names.

    Anything but a directory without a model of its own is returned as it is.

    Raises:
        UserError: a directory with neither a model nor checkpoints.
    """
    if not isinstance(given, str | PathLike):
        return [given]
    with failing_as(f"checkpoint {given!r} is not a path"):
        folder = Path(given).expanduser()
    if str(given).startswith("demo:") or not folder.is_dir() or (folder / "config.json").is_file():
        return [given]
    found = [
        path
        for pattern in ("*", "*-checkpoints/*")
        for path in folder.glob(pattern)
        if (path / "config.json").is_file() and not path.name.startswith(".")
    ]
    if not found:
        raise UserError(
            f"{str(given)!r} holds no model and no checkpoints: give a directory with config.json, or the "
            "folder that `cka train --keep-checkpoints` wrote"
        )
    return [str(path) for path in sorted(found, key=_place_in_run)]


def _place_in_run(path: Path) -> tuple[float, list[tuple[int, str]]]:
    tokens = trained_tokens(read_manifest(path))
    parts = re.findall(r"\d+|\D+", str(path))
    natural = [(int(part), "") if part.isdigit() else (-1, part) for part in parts]
    return math.inf if tokens is None else float(tokens), natural


def _check_apart(checkpoints: Sequence[ModelSource], places: Sequence[float], kind: XKind) -> None:
    seen: dict[float, str] = {}
    for one, place in zip(checkpoints, places, strict=True):
        if place in seen:
            pair = f"{seen[place]!r} and {one.name!r}"
            if kind == "given":
                raise UserError(f"x {place:g} is given to both {pair}: give different numbers")
            raise UserError(
                f"checkpoints {pair} both have {place:,.0f} tokens by their manifests: leave one out, or "
                "place them with --x"
            )
        seen[place] = one.name
