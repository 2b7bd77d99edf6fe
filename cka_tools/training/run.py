"""A whole run on disk: the recipe's phases, one after the other, each a checkpoint in the run's directory.

run.json              what makes this run: recipe, start, data, seed, precision
1-detour/             the checkpoint after the first phase, with its optimizer state
1-detour-checkpoints/ those on the way to it, where they were asked for
final/                the checkpoint after the last phase: the model
loss.csv              the loss curve of all phases
held_out.csv          losses on held-out texts, where they were asked for
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from cka_tools.errors import UserError
from cka_tools.manifest import FINAL, LOSSES, RUN, read_manifest
from cka_tools.models.folder import hash_weights
from cka_tools.processes import from_first, make_accelerator
from cka_tools.training.checkpoint import find_damage, read_state, write_json, write_losses
from cka_tools.training.loop import StepReport, check_fits, sequences_of
from cka_tools.training.objectives import TargetLoss
from cka_tools.training.packing import PackedTokens
from cka_tools.training.recipe import Recipe
from cka_tools.training.segment import train_phase, why_not_to_the_bit
from cka_tools.training.start_model import AUTO, check_start, load_start


def train_run(
    recipe: Recipe,
    start: Path,
    data: PackedTokens,
    out: Path,
    *,
    seed: int,
    data_seed: int,
    bf16: bool = True,
    report: Callable[[StepReport], None] | None = None,
    note: Callable[[str], None] | None = None,
    checkpoint_tokens: int | None = None,
    keep_checkpoints: bool = True,
    sequences_per_forward: int | None = None,
    attention: str = AUTO,
    device: Literal["auto", "cpu"] = "auto",
    extra: dict[str, Any] | None = None,
) -> Path:
    """Train all phases of a recipe into the directory `out`; return that of the final model.

    The same call on a stopped run goes on with it, on a finished one it returns at once. The phases read on
    through the packed sequences. What is found damaged is made again from the last sound state, with a note.
    See `train_phase` for the arguments.

    Raises:
        UserError: anything that does not fit, before any training; a loss that is not finite.
    """
    accelerator = make_accelerator(cpu=device == "cpu")
    check_run(recipe, start, data, attention=attention)
    identity = {
        "recipe": recipe.to_dict(),
        "start_weights_sha256": hash_weights(start),
        "data_sha256": data.fingerprint,
        "seed": seed,
        "data_seed": data_seed,
        "bf16": bf16,
    }
    from_first(lambda: claim(out, identity), accelerator)

    parent, first, folders = start, 0, phase_folders(recipe, out)
    for index, (phase, folder) in enumerate(zip(recipe.phases, folders, strict=True)):
        parent = train_phase(
            parent,
            phase,
            data,
            seed=seed,
            data_seed=data_seed,
            first_sequence=first,
            out=folder,
            optimizer=recipe.optimizer,
            bf16=bf16,
            phase_index=index,
            goes_on=any(find_damage(later) is not None for later in folders[index + 1 :]),
            report=report,
            note=note,
            checkpoint_tokens=checkpoint_tokens,
            keep_checkpoints=keep_checkpoints,
            sequences_per_forward=sequences_per_forward,
            attention=attention,
            device=device,
            extra={"recipe": recipe.to_dict(), **(extra or {})},
        )
        first = sequences_of(phase, data, recipe.optimizer, first).stop
    if accelerator.is_main_process:
        write_losses(out / LOSSES, [row for folder in folders for row in read_state(folder).losses])
        for text in run_notes(recipe, out, borders_only=True):  # the others were told when they came up
            if note is not None:
                note(text)
    accelerator.wait_for_everyone()
    return parent


def run_notes(recipe: Recipe, out: Path, *, borders_only: bool = False) -> list[str]:
    """Return what the user should know of a finished run: why it may differ in bits from one in one piece."""
    notes: list[str] = []
    before: dict[str, Any] = {}
    for phase, folder in zip(recipe.phases, phase_folders(recipe, out), strict=True):
        manifest = read_manifest(folder) or {}
        if not borders_only:
            notes += [f"{phase.name}: {note}" for note in manifest.get("notes", [])]
        now = manifest.get("numerics", {})
        if before and before != now and (reason := why_not_to_the_bit(before, now)):
            notes.append(f"{phase.name}: begun {reason}: not bit-identical to a run in one piece")
        before = now
    return notes


def check_run(recipe: Recipe, start: Path, data: PackedTokens, *, attention: str = AUTO) -> None:
    """Raise a UserError where recipe, start model and data do not fit together."""
    check_start(start)
    if data.length != recipe.sequence_length:
        raise UserError(
            f"the data are packed to {data.length} tokens, the recipe asks for {recipe.sequence_length}: pack again"
        )
    model, tokenizer = load_start(start, attention=attention)
    TargetLoss(model)
    first = 0
    for phase in recipe.phases:
        sequences = sequences_of(phase, data, recipe.optimizer, first)
        check_fits(model, data, sequences, tokenizer.mask_token_id, phase)
        first = sequences.stop


def phase_folders(recipe: Recipe, out: Path) -> list[Path]:
    """Return where each phase's checkpoint lies; the last one's is `final`."""
    names = [f"{i}-{re.sub(r'[^A-Za-z0-9_.]+', '-', phase.name)}" for i, phase in enumerate(recipe.phases, 1)]
    return [out / name for name in (*names[:-1], FINAL)]


def claim(
    out: Path,
    identity: Mapping[str, Any],
    name: str = RUN,
    what: str = "run",
    before: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Make `out` the directory of the work that `identity` fixes, written to its file `name`.

    Args:
        identity: JSON data.
        what: what the user calls such work.
        before: what held of directories whose file does not mention it.

    Raises:
        UserError: other work, or something else, is in it; it cannot be written.
    """
    check_claim(out, identity, name, what, before)
    if (out / name).is_file():
        return
    staging = out / f".{name}.partial"
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_json(staging, dict(identity))
        staging.replace(out / name)
    except OSError as error:
        raise UserError(f"output directory {str(out)!r} cannot be written ({error.strerror})") from error


def check_claim(out: Path, identity: Mapping[str, Any], name: str, what: str, before: Mapping[str, Any]) -> None:
    """Raise a UserError where `claim` would, before anything is written."""
    file = out / name
    if not file.is_file():
        if out.exists() and (out.is_file() or {place.name for place in out.iterdir()} - {f".{name}.partial"}):
            raise UserError(f"output directory {str(out)!r} holds something else than this {what}: name another")
        return
    try:
        there = {**before, **json.loads(file.read_text(encoding="utf-8"))}
    except (ValueError, TypeError) as error:
        raise UserError(f"{str(file)!r} cannot be read: remove its directory, or name another") from error
    same = json.loads(json.dumps(dict(identity)))
    if different := [key for key in same if there.get(key) != same[key]]:
        named = ", ".join(key.removesuffix("_sha256").replace("_", " ") for key in different)
        raise UserError(f"output directory {str(out)!r} holds another {what} (it differs in {named}): name another")
