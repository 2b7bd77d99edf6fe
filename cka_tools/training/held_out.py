"""Held-out losses of a run: of its start model, of every checkpoint that was kept, and of the model."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cka_tools.manifest import HELD_OUT, read_manifest, trained_tokens
from cka_tools.models.folder import hash_weights
from cka_tools.models.load import load_tokenizer
from cka_tools.store.directory import replace_file
from cka_tools.training.loop import held_out_loss, pack_held_out
from cka_tools.training.packing import PackedTokens
from cka_tools.training.recipe import ObjectiveName, Recipe
from cka_tools.training.run import phase_folders
from cka_tools.training.start_model import load_start

MOST_TOKENS = 200_000
"""Of the held-out texts: a loss over as many does not move by what anyone looks at."""


@dataclass(frozen=True)
class HeldOutLoss:
    """The loss of one checkpoint on held-out texts, in nats a target; `phase` is "start" for the start model."""

    phase: str
    tokens: int
    objective: str
    loss: float
    checkpoint: str
    weights_sha256: str
    data_sha256: str


def pack_for(texts: Sequence[str], start: Path, recipe: Recipe) -> PackedTokens:
    """Held-out texts in sequences of the recipe's length, at most `MOST_TOKENS`.

    Raises:
        UserError: too few for one sequence.
    """
    tokenizer = load_tokenizer(str(start), start)
    packed = pack_held_out(texts, tokenizer, recipe.sequence_length)
    return packed.part(range(max(1, min(packed.sequences, MOST_TOKENS // recipe.sequence_length))))


def measure_run(
    recipe: Recipe, start: Path, out: Path, packed: PackedTokens, tell: Callable[[HeldOutLoss], None] | None = None
) -> list[HeldOutLoss]:
    """Measure a finished run, each of its objectives at each checkpoint, and write `held_out.csv` into it.

    What the file has of these weights and these texts already is not measured again. Masked tokens are those of
    the decay's rate, the same for all.

    Args:
        tell: is given each loss as it is measured.
    """
    objectives: list[ObjectiveName] = list(dict.fromkeys(phase.objective for phase in recipe.phases))
    known = {(row.weights_sha256, row.objective): row for row in read_held_out(out) if _of(row, packed)}
    rows: list[HeldOutLoss] = []
    for phase, folder in _checkpoints(recipe, start, out):
        manifest = read_manifest(folder)
        weights = (manifest or {}).get("weights_sha256") or hash_weights(folder)
        tokens = 0 if phase == "start" else trained_tokens(manifest) or 0
        name = str(folder) if phase == "start" else str(folder.relative_to(out))
        loaded = None
        for objective in objectives:
            found = known.get((weights, objective))
            if found is None:
                loaded = loaded or load_start(folder)
                loss = held_out_loss(loaded[0], packed, loaded[1], objective)
                found = HeldOutLoss(phase, tokens, objective, loss, name, weights, packed.fingerprint)
                if tell is not None:
                    tell(found)
            rows.append(dataclasses.replace(found, phase=phase, tokens=tokens, checkpoint=name))
    replace_file(out / HELD_OUT, lambda staging: _write(staging, rows))
    return rows


def _of(row: HeldOutLoss, packed: PackedTokens) -> bool:
    return row.data_sha256 == packed.fingerprint


def _checkpoints(recipe: Recipe, start: Path, out: Path) -> list[tuple[str, Path]]:
    """The start model, then of each phase the checkpoints that were kept on the way, and its end."""
    found = [("start", start)]
    for phase, folder in zip(recipe.phases, phase_folders(recipe, out), strict=True):
        on_the_way = [
            (trained_tokens(read_manifest(place)) or 0, place)
            for place in folder.with_name(f"{folder.name}-checkpoints").glob("tokens-*")
        ]
        found += [(phase.name, place) for _, place in sorted(on_the_way)]
        found.append((phase.name, folder))
    return found


def _write(path: Path, rows: Sequence[HeldOutLoss]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(HeldOutLoss.__dataclass_fields__)
        table.writerows(dataclasses.astuple(row) for row in rows)


def read_held_out(out: Path) -> list[HeldOutLoss]:
    """What was measured of a run; nothing where it was not, or where the file cannot be read."""
    try:
        with (out / HELD_OUT).open(newline="", encoding="utf-8") as file:
            rows: list[dict[str, Any]] = list(csv.DictReader(file))
        return [HeldOutLoss(**row | {"tokens": int(row["tokens"]), "loss": float(row["loss"])}) for row in rows]
    except (OSError, ValueError, KeyError, TypeError):
        return []
