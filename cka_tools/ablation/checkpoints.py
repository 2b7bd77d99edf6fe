"""Checkpoints → the trios that they make up, by what their manifests say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cka_tools.ablation.axes import BASELINE, CLM_BASELINE, DETOUR, REVERSE_DETOUR, check_axis, span
from cka_tools.ablation.measure import Trained, Trio
from cka_tools.errors import UserError
from cka_tools.manifest import MANIFEST, NoiseKind, noise_kind, read_manifest
from cka_tools.models.folder import hash_json
from cka_tools.training.options import DECAYS, FRACTIONS
from cka_tools.training.recipe import DECAY_SHARE, START_PHASES
from cka_tools.training.start_model import read_config

BASELINE_OF = {DETOUR: BASELINE, REVERSE_DETOUR: CLM_BASELINE}


@dataclass(frozen=True)
class Known:
    """What a manifest says of a run of two phases."""

    trained: Trained
    size: str
    objectives: tuple[str, str]
    tokens: tuple[int, int]
    frozen: tuple[tuple[int, ...], tuple[int, ...]]
    step: int
    manifest: dict[str, Any]

    @property
    def data(self) -> str | None:
        return self.manifest.get("data_sha256")

    @property
    def shape(self) -> tuple[object, ...]:
        """What two runs share that differ in their seeds alone."""
        return self.size, self.objectives, self.tokens, self.frozen


def find_trios(
    axis: str, folders: Sequence[Path], n: int | None = None, noise: NoiseKind = "masks"
) -> tuple[list[Trio], list[str]]:
    """Return the trios that checkpoints make up, and notes on what was left out.

    A detour's baseline has its size, tokens, seed and data; the control is that baseline with another seed.

    Args:
        n: tokens that count as Phase 1 at its full length; the longest Phase 1 when None.
        noise: which kind of control is taken where there are several; each trio says which it has.

    Raises:
        UserError: a directory without a manifest, no detour, or one without its baseline.
    """
    axes = check_axis(axis)
    read = [(folder, _read(folder)) for folder in folders]
    known = [one for _, one in read if one is not None]
    notes = [
        f"{folder} is no run of Phase 1 and decay, such as a start model: left out"
        for folder, one in read
        if one is None
    ]
    detours = [one for one in known if one.objectives in BASELINE_OF]
    if not detours:
        raise UserError(
            f"--checkpoints: none of the {len(folders)} directories is a detour (CLM, then MLM; or MLM, "
            f"then CLM): give detours and baselines"
        )
    full = n or max(one.tokens[0] for one in detours)
    trios: list[Trio] = []
    for detour in detours:
        baseline = _baseline(detour, known)
        controls = [(noise_kind(baseline.manifest, one.manifest), one) for one in known if _is_control(one, baseline)]
        kind, control = min(controls, key=lambda found: found[0] != noise, default=(None, None))
        runs = detour.trained, baseline.trained, None if control is None else control.trained
        shared = detour.size, detour.trained.seed, detour.objectives == REVERSE_DETOUR, *runs, kind
        trios += [Trio(at, cell, position, *shared) for at, (cell, position) in _cells(axes, detour, full).items()]
    trios.sort(key=lambda t: (axes.index(t.axis), t.size, t.position or 0.0, t.cell, t.seed))
    if not trios:
        raise UserError(f"--checkpoints: none of them lies on axis {axis!r}: name another axis")
    return trios, notes


def _read(folder: Path) -> Known | None:
    manifest = read_manifest(folder) if folder.is_dir() else None
    if manifest is None:
        raise UserError(
            f"checkpoint {str(folder)!r} has no {MANIFEST}: give directories that `cka train` or `cka ablate` wrote"
        )
    recipe = manifest.get("recipe")
    try:
        if not isinstance(recipe, dict) or len(recipe["phases"]) != 2 or _is_unfinished(manifest):
            return None
        first, last = recipe["phases"]
        if last["name"] in START_PHASES:
            return None
        step = recipe["sequence_length"] * recipe["sequences_per_step"]
        tokens = [round(phase["tokens"] / step) * step for phase in (first, last)]
        return Known(
            Trained(folder, int(manifest["seed"]), int(manifest["data_seed"]), sum(tokens), hash_json(recipe)),
            "{num_hidden_layers}x{hidden_size}".format_map(read_config(folder)),
            (first["objective"], last["objective"]),
            (tokens[0], tokens[1]),
            (tuple(first.get("frozen", ())), tuple(last.get("frozen", ()))),
            step,
            manifest,
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"manifest of checkpoint {str(folder)!r} cannot be read ({error!r})") from error


def _is_unfinished(manifest: dict[str, Any]) -> bool:
    """Tell whether a manifest is of a phase before the run's last, or of a step before a phase's last."""
    phase, last = manifest.get("phase"), manifest["recipe"]["phases"][-1]
    finished = manifest.get("step") == manifest.get("steps")
    return isinstance(phase, dict) and (phase.get("name") != last["name"] or not finished)


def _baseline(detour: Known, known: Sequence[Known]) -> Known:
    wanted = BASELINE_OF[detour.objectives]  # type: ignore[index]
    for one in known:
        same = one.size == detour.size and one.trained.seed == detour.trained.seed and one.data == detour.data
        if same and one.objectives == wanted and one.tokens == detour.tokens and not any(one.frozen):
            return one
    raise UserError(
        f"--checkpoints: detour {str(detour.trained.folder)!r} has no baseline among them of its data, size "
        f"{detour.size}, seed {detour.trained.seed} and tokens {detour.tokens[0]:,} + {detour.tokens[1]:,}"
    )


def _is_control(one: Known, baseline: Known) -> bool:
    return one.trained.seed != baseline.trained.seed and one.shape == baseline.shape


def _named(tokens: int, of: int, step: int, shares: Sequence[float]) -> float:
    """The share that a length is of another: one of those an axis names, if rounding to steps explains it."""
    near = [share for share in shares if abs(tokens - share * of) <= step]
    share = tokens / of
    return min(near, key=lambda one: abs(one - share), default=share)


def _cells(axes: Sequence[str], detour: Known, full: int) -> dict[str, tuple[str, float | None]]:
    """The axes that a detour lies on, with its cell and position on each."""
    length = _named(detour.tokens[0], full, detour.step, FRACTIONS)
    decay = _named(detour.tokens[1], detour.tokens[0], detour.step, DECAYS)
    encoder, free = detour.objectives == DETOUR, not any(detour.frozen)
    usual, whole = decay == DECAY_SHARE, length == 1
    cells: dict[str, tuple[str, float | None]] = {}
    if encoder and free and usual:
        cells["length"] = (f"{length:.3g}", length)
    if encoder and free and whole:
        cells["decay"] = (f"{100 * decay:.3g} %", decay)
    if encoder and whole and usual:
        spans = [
            f"{span(frozen)} in {where}"
            for frozen, where in zip(detour.frozen, ("CLM", "decay"), strict=True)
            if frozen
        ]
        cells["freeze"] = (" and ".join(spans) or "none", None)
    if encoder and free and whole and usual:
        cells["size"] = (detour.size, None)
    if free and whole and usual:
        cells["direction"] = ("encoder" if encoder else "decoder", None)
    return {axis: cells[axis] for axis in axes if axis in cells}
