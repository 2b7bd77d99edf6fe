"""From a run's last checkpoint back to its start, by what the manifests say: its segments and its losses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cka_tools.errors import UserError
from cka_tools.training.checkpoint import MANIFEST, read_manifest, read_state
from cka_tools.training.loop import LossRow
from cka_tools.training.presets import DECAY_SHARE, PRETRAINING


class Segments:
    """The finished segments of an ablation's directory, found by what they hold.

    Raises:
        UserError: no finished segment in it.
    """

    def __init__(self, folder: Path) -> None:
        places = [place.parent for place in sorted(folder.glob(f"*/{MANIFEST}"))]
        self.manifests: dict[Path, dict[str, Any]] = {p: read_manifest(p) or {} for p in places}
        if not self.manifests:
            raise UserError(f"{str(folder)!r} holds no finished segment: name the `segments` of an ablation")
        self._by_weights = {manifest["weights_sha256"]: p for p, manifest in self.manifests.items()}

    def lineage(self, leaf: Path) -> list[Path]:
        """Return the segments from the start model's to this one."""
        parent = self._by_weights.get(self.manifests[leaf]["key"]["parent_weights_sha256"])
        return [*([] if parent is None else self.lineage(parent)), leaf]

    def leaf(
        self, size: str, objectives: tuple[str, str], seed: int, phase1: int, decay: float = DECAY_SHARE
    ) -> Path:
        """Return the last checkpoint of a run with no layer frozen.

        Args:
            size: layers x hidden size.
            objectives: of Phase 1 and of the decay.
            phase1: tokens of Phase 1; decay: its length as a share of them. Both in whole steps.

        Raises:
            UserError: it is not there, or not finished.
        """
        for place, manifest in self.manifests.items():
            recipe = manifest["recipe"]
            step = recipe["sequence_length"] * recipe["sequences_per_step"]
            phases = recipe["phases"]
            steps = [round(phase["tokens"] / step) for phase in phases]
            asked = [round(phase1 / step), round(decay * round(phase1 / step))]
            if (
                manifest["key"]["phase_index"] == 1
                and manifest["seed"] == seed
                and [phase["objective"] for phase in phases] == list(objectives)
                and not any(phase.get("frozen") for phase in phases)
                and steps == asked
                and self.size(place) == size
            ):
                return place
        raise UserError(
            f"no finished {' → '.join(objectives)} run of {size}, seed {seed}, {phase1:,} tokens and a decay "
            f"of {100 * decay:g} % is there: finish the ablation"
        )

    def size(self, place: Path) -> str:
        config = json.loads((place / "config.json").read_text(encoding="utf-8"))
        return f"{config['num_hidden_layers']}x{config['hidden_size']}"

    def losses(self, leaf: Path) -> list[LossRow]:
        """Return the training losses of a run, its start model's left out."""
        own = [place for place in self.lineage(leaf) if not self.is_start(place)]
        return [row for place in own for row in read_state(place).losses]

    def is_start(self, place: Path) -> bool:
        return bool(self.manifests[place]["phase"]["name"] == PRETRAINING)
