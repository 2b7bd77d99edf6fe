"""The recipe as data: phases over one stream of tokens, and what the optimizer is told.

θ_detour = MLM(CLM(θ0, n), 0.1·n) against θ_baseline = MLM(θ0, 1.1·n) (arXiv 2605.12438): the same start,
data, tokens, schedule and optimizer; only the objective of Phase 1 differs.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any, Literal, get_args

from cka_tools.errors import UserError
from cka_tools.training.objectives import Masking, ObjectiveName
from cka_tools.training.schedule import ScheduleName, learning_rate

FrozenModule = Literal["embeddings", "head"]


@dataclass(frozen=True)
class Phase:
    """One stretch of training under one objective and one schedule.

    Attributes:
        tokens: how many tokens it reads; rounded to whole steps.
        masking: MLM's corruption; None in CLM.
        schedule: "warmup-constant", or "1-sqrt" down to `floor` times the peak at the last step.
        warmup_tokens: length of the linear warm-up of "warmup-constant".
        frozen: indices of the layers that do not learn in this phase.
        frozen_modules: "embeddings" or "head", which learn in every phase that does not name them.

    Raises:
        UserError: a phase that cannot be.
    """

    name: str
    objective: ObjectiveName
    tokens: int
    schedule: ScheduleName
    masking: Masking | None = None
    warmup_tokens: int = 0
    floor: float = 0.0
    frozen: tuple[int, ...] = ()
    frozen_modules: tuple[FrozenModule, ...] = ()

    def __post_init__(self) -> None:
        if self.objective not in get_args(ObjectiveName):
            raise self._impossible(f"objective {self.objective!r} is neither 'clm' nor 'mlm'")
        if self.schedule not in get_args(ScheduleName):
            raise self._impossible(f"schedule {self.schedule!r} is neither 'warmup-constant' nor '1-sqrt'")
        if (self.objective == "mlm") != (self.masking is not None):
            raise self._impossible(
                f"{self.objective} and masking {self.masking} do not go together: "
                f"mlm needs a masking rate, clm takes none"
            )
        if self.tokens <= 0:
            raise self._impossible(f"{self.tokens} tokens is nothing to train on")
        if not 0 <= self.warmup_tokens <= self.tokens:
            raise self._impossible(
                f"a warm-up of {self.warmup_tokens:,} tokens does not fit into {self.tokens:,} tokens"
            )
        if not 0 <= self.floor <= 1:
            raise self._impossible(f"a floor of {self.floor} is no share of the peak: give 0 to 1")
        if self.schedule == "1-sqrt" and self.warmup_tokens:
            raise self._impossible("'1-sqrt' has no warm-up: leave out warmup_tokens")
        if self.schedule == "warmup-constant" and self.floor:
            raise self._impossible("'warmup-constant' has no floor: leave it out")
        if any(layer < 0 for layer in self.frozen) or len(set(self.frozen)) < len(self.frozen):
            raise self._impossible(f"frozen layers {list(self.frozen)}: give each index once, from 0")
        for module in self.frozen_modules:
            if module not in get_args(FrozenModule):
                raise self._impossible(f"frozen module {module!r} is neither 'embeddings' nor 'head'")

    def _impossible(self, why: str) -> UserError:
        return UserError(f"phase {self.name!r}: {why}")

    def steps(self, tokens_per_step: int) -> int:
        """Return the whole optimizer steps of the phase, rounded to the nearest.

        Raises:
            UserError: not one.
        """
        if self.tokens < tokens_per_step:
            raise UserError(
                f"phase {self.name!r} of {self.tokens:,} tokens is shorter than one step of "
                f"{tokens_per_step:,} tokens: give more tokens or smaller steps"
            )
        return round(self.tokens / tokens_per_step)

    def learning_rate(self, step: int, *, tokens_per_step: int, peak: float) -> float:
        """Return the learning rate of a step, counted from 0 in this phase."""
        return learning_rate(
            self.schedule,
            step,
            steps=self.steps(tokens_per_step),
            peak=peak,
            warmup_steps=round(self.warmup_tokens / tokens_per_step),
            floor=self.floor,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the phase as plain JSON data; what is not frozen is not mentioned."""
        data = dataclasses.asdict(self)
        return {key: value for key, value in data.items() if value or not key.startswith("frozen")}


@dataclass(frozen=True)
class OptimizerSettings:
    """What the optimizer is told, equal in all phases of a run.

    Attributes:
        peak_lr: the peak of every phase's schedule.
        betas, eps: AdamW's.
        weight_decay: in the paper's decoupled form, scaled by lr / peak lr.
        sequences_per_step: sequences an optimizer step, over all processes and forward passes.
    """

    peak_lr: float
    betas: tuple[float, float]
    eps: float
    weight_decay: float
    sequences_per_step: int

    def __post_init__(self) -> None:
        if not 0 < self.peak_lr < float("inf"):
            raise UserError(f"a peak learning rate of {self.peak_lr} does not fit: give one above 0")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise UserError(f"betas {list(self.betas)} do not fit: give two shares below 1")
        if not self.eps > 0 or not 0 <= self.weight_decay < float("inf"):
            raise UserError(
                f"eps {self.eps} or weight decay {self.weight_decay} does not fit: one is too small"
            )
        if self.sequences_per_step < 1:
            raise UserError(f"{self.sequences_per_step} sequences a step does not fit: give at least 1")


@dataclass(frozen=True)
class Recipe:
    """Everything that makes a run apart from the start model, the data and the seed.

    Attributes:
        peak_lr … weight_decay, sequences_per_step: see `OptimizerSettings`.
        sequence_length: tokens a packed sequence.
    """

    name: str
    scale: str
    phases: tuple[Phase, ...]
    peak_lr: float
    betas: tuple[float, float]
    eps: float
    weight_decay: float
    sequence_length: int
    sequences_per_step: int

    def __post_init__(self) -> None:
        if not self.phases:
            raise UserError(f"recipe {self.name!r} has no phase: give at least one")
        if self.sequence_length < 2:
            raise UserError(f"a sequence length of {self.sequence_length} is too short: give at least 2")
        names = [phase.name for phase in self.phases]
        if len(set(names)) < len(names):
            raise UserError(f"recipe {self.name!r} has phases {names}: give each a name of its own")
        assert self.optimizer  # checks its numbers
        for phase in self.phases:
            phase.steps(self.tokens_per_step)

    @property
    def optimizer(self) -> OptimizerSettings:
        return OptimizerSettings(
            self.peak_lr, self.betas, self.eps, self.weight_decay, self.sequences_per_step
        )

    @property
    def tokens_per_step(self) -> int:
        return self.sequence_length * self.sequences_per_step

    def steps(self, phase: Phase) -> int:
        """Return the whole optimizer steps of a phase, rounded to the nearest."""
        return phase.steps(self.tokens_per_step)

    @property
    def tokens(self) -> int:
        """Tokens of all phases in whole steps."""
        return sum(self.steps(phase) for phase in self.phases) * self.tokens_per_step

    def learning_rate(self, phase: Phase, step: int) -> float:
        """Return the learning rate of a phase's step, counted from 0 in that phase."""
        return phase.learning_rate(step, tokens_per_step=self.tokens_per_step, peak=self.peak_lr)

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as plain JSON data."""
        return dataclasses.asdict(self) | {"phases": [phase.to_dict() for phase in self.phases]}

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the recipe's canonical JSON, names included."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()
