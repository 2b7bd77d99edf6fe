"""What a user names as checkpoints → the checkpoints, in order, each with its place on the x-axis."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cka_tools.errors import UserError
from cka_tools.manifest import read_manifest, trained_tokens
from cka_tools.models import ModelGiven, parse_spec
from cka_tools.models.folder import hash_json

XKind = Literal["tokens", "given", "position"]
LABELS: dict[XKind, str] = {
    "tokens": "tokens of the run",
    "given": "x as given",
    "position": "position among the checkpoints given",
}


@dataclass(frozen=True)
class CheckpointSeries:
    """Checkpoints by ascending x.

    Attributes:
        tokens: of each one's run, by its manifest; None where there is none.
        kind: where x comes from: the manifests' tokens, the user, or the order given.
    """

    checkpoints: list[ModelGiven]
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
    checkpoints = [one for spec in given for one in expand(spec)]
    if not checkpoints:
        raise UserError("no checkpoint is given: name one or more, or a training run's folder")
    manifests = [_manifest(one) for one in checkpoints]
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
    return CheckpointSeries(
        [checkpoints[at] for at in order], [places[at] for at in order], [tokens[at] for at in order],
        kind, notes,
    )  # fmt: skip


def expand(given: ModelGiven) -> list[ModelGiven]:
    """The checkpoints of a training run's folder, by their tokens, or else by the numbers in their names.

    Anything but a directory without a model of its own is returned as it is.

    Raises:
        UserError: a directory with neither a model nor checkpoints.
    """
    if isinstance(given, tuple):
        return [given]
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


def _manifest(given: ModelGiven) -> dict[str, Any] | None:
    folder = None if isinstance(given, tuple) else parse_spec(given).folder
    return None if folder is None else read_manifest(folder)


def _check_apart(checkpoints: Sequence[ModelGiven], places: Sequence[float], kind: XKind) -> None:
    seen: dict[float, ModelGiven] = {}
    for one, place in zip(checkpoints, places, strict=True):
        if place in seen:
            pair = f"{_name(seen[place])!r} and {_name(one)!r}"
            if kind == "given":
                raise UserError(f"x {place:g} is given to both {pair}: give different numbers")
            raise UserError(
                f"checkpoints {pair} both have {place:,.0f} tokens by their manifests: leave one out, or "
                "place them with --x"
            )
        seen[place] = one


def _name(given: ModelGiven) -> str:
    return type(given[0]).__name__ if isinstance(given, tuple) else str(given)
