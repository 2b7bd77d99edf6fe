"""How long everything lasts, in whole optimizer steps."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass

from cka_tools.ablation.axes import RECIPE_NAMES, Branch, Cell
from cka_tools.errors import UserError
from cka_tools.training.objectives import ObjectiveName
from cka_tools.training.presets import DECAY_FLOOR, DECAY_MASKING, PHASE1_MASKING, PRETRAINING
from cka_tools.training.recipe import OptimizerSettings, Phase, Recipe


@dataclass(frozen=True)
class Budget:
    """n, the batch and the optimizer, equal for all runs of an ablation.

    Attributes:
        n: steps of Phase 1 at its full length.
        warmup: steps of the warm-up, equal in all runs, as they share it.
        length: tokens a packed sequence.
    """

    n: int
    warmup: int
    length: int
    optimizer: OptimizerSettings
    scale: str

    @property
    def step(self) -> int:
        """Tokens of an optimizer step."""
        return self.length * self.optimizer.sequences_per_step

    def phase1(self, branch: Branch) -> int:
        return round(branch.phase1 * self.n)

    def decay(self, branch: Branch) -> int:
        return round(branch.decay * self.phase1(branch))

    def tokens(self, branch: Branch) -> int:
        """Tokens of a whole run, its start model's not counted."""
        return (self.phase1(branch) + self.decay(branch)) * self.step

    def longest(self, cells: Iterable[Cell]) -> int:
        """Tokens that the longest run reads, of each seed's data."""
        return max(self.tokens(branch) for cell in cells for branch in (cell.detour, cell.baseline))

    def check(self, cells: Iterable[Cell]) -> None:
        """Raise a UserError where a phase would be shorter than one step."""
        share, cell = min((c.detour.phase1 * min(c.detour.decay, 1.0), str(c)) for c in cells)
        if share * self.n < 1 - 1e-9:
            least = math.ceil(1 / share - 1e-9) * self.step
            raise UserError(
                f"n of {self.n * self.step:,} tokens makes a phase of cell {cell!r} shorter than one step of "
                f"{self.step:,} tokens: give --n of at least {least:,}, or smaller steps"
            )

    def fit(self, cells: list[Cell], tokens: int) -> Budget:
        """Return the budget with the largest n whose longest run reads no more than `tokens`."""
        share = max(cell.detour.phase1 * (1 + cell.detour.decay) for cell in cells)
        n = int(tokens / self.step / share)
        fitting = dataclasses.replace(self, n=n)
        while fitting.n and fitting.longest(cells) > tokens:
            fitting = dataclasses.replace(fitting, n=fitting.n - 1)
        return fitting

    def phase1_piece(self, branch: Branch, start: int, stop: int) -> Phase:
        """Return Phase 1 from one step to another; the pieces of one Phase 1 together equal it."""
        objective = branch.objectives[0]
        return Phase(
            name="phase 1",
            objective=objective,
            tokens=(stop - start) * self.step,
            schedule="warmup-constant",
            masking=PHASE1_MASKING if objective == "mlm" else None,
            warmup_tokens=self.warmup * self.step if start == 0 else 0,
            frozen=branch.frozen[0],
        )

    def decay_phase(self, branch: Branch) -> Phase:
        objective = branch.objectives[1]
        return Phase(
            name="decay",
            objective=objective,
            tokens=self.decay(branch) * self.step,
            schedule="1-sqrt",
            masking=DECAY_MASKING if objective == "mlm" else None,
            floor=DECAY_FLOOR,
            frozen=branch.frozen[1],
        )

    def recipe(self, branch: Branch) -> Recipe:
        """Return a whole run's recipe, as `cka train` takes it."""
        name = RECIPE_NAMES[branch.objectives]
        phase1 = self.phase1_piece(branch, 0, self.phase1(branch))
        if name.endswith("detour"):
            phase1 = dataclasses.replace(phase1, name="detour")
        return self.recipe_of(name, (phase1, self.decay_phase(branch)))

    def pretraining(self, objective: ObjectiveName, steps: int) -> Phase:
        """Return the one phase of a start model, from random weights, never decayed."""
        return Phase(
            name=PRETRAINING,
            objective=objective,
            tokens=steps * self.step,
            schedule="warmup-constant",
            masking=PHASE1_MASKING if objective == "mlm" else None,
            warmup_tokens=min(self.warmup, steps) * self.step,
        )

    def recipe_of(self, name: str, phases: tuple[Phase, ...]) -> Recipe:
        settings = self.optimizer
        return Recipe(
            name=name,
            scale=self.scale,
            phases=phases,
            peak_lr=settings.peak_lr,
            betas=settings.betas,
            eps=settings.eps,
            weight_decay=settings.weight_decay,
            sequence_length=self.length,
            sequences_per_step=settings.sequences_per_step,
        )
