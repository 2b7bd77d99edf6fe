"""The recipe as data: phases over one stream of tokens, the paper's constants, and the named presets.

θ_detour = MLM(CLM(θ0, n), 0.1·n) against θ_baseline = MLM(θ0, 1.1·n) (arXiv 2605.12438): the same start,
data, tokens, schedule and optimizer; only the objective of Phase 1 differs.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from cka_tools.errors import UserError
from cka_tools.training.objectives import Masking, ObjectiveName
from cka_tools.training.schedule import ScheduleName, learning_rate

PresetName = Literal["clm-detour", "mlm-baseline"]
ScaleName = Literal["paper", "demo"]


@dataclass(frozen=True)
class Phase:
    """One stretch of training under one objective and one schedule.

    Attributes:
        tokens: how many tokens it reads; rounded to whole steps.
        masking: MLM's corruption; None in CLM.
        schedule: "warmup-constant", or "1-sqrt" down to `floor` times the peak at the last step.
        warmup_tokens: length of the linear warm-up of "warmup-constant".
    """

    name: str
    objective: ObjectiveName
    tokens: int
    schedule: ScheduleName
    masking: Masking | None = None
    warmup_tokens: int = 0
    floor: float = 0.0

    def __post_init__(self) -> None:
        if (self.objective == "mlm") != (self.masking is not None):
            raise UserError(
                f"phase {self.name!r}: {self.objective} and masking {self.masking} do not go together"
            )
        if self.tokens <= 0:
            raise UserError(f"phase {self.name!r}: {self.tokens} tokens is nothing to train on")


@dataclass(frozen=True)
class Recipe:
    """Everything that makes a run apart from the start model, the data and the seed.

    Attributes:
        peak_lr: the peak of every phase's schedule.
        weight_decay: in the paper's decoupled form, scaled by lr / peak lr.
        sequence_length: tokens a packed sequence.
        sequences_per_step: sequences an optimizer step.
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
        for phase in self.phases:
            if phase.tokens < self.tokens_per_step:
                raise UserError(
                    f"phase {phase.name!r} of {phase.tokens:,} tokens is shorter than one step of "
                    f"{self.tokens_per_step:,} tokens: give more tokens or smaller steps"
                )

    @property
    def tokens_per_step(self) -> int:
        return self.sequence_length * self.sequences_per_step

    def steps(self, phase: Phase) -> int:
        """Return the whole optimizer steps of a phase, rounded to the nearest."""
        return round(phase.tokens / self.tokens_per_step)

    @property
    def tokens(self) -> int:
        """Tokens of all phases in whole steps."""
        return sum(self.steps(phase) for phase in self.phases) * self.tokens_per_step

    def learning_rate(self, phase: Phase, step: int) -> float:
        """Return the learning rate of a phase's step, counted from 0 in that phase."""
        return learning_rate(
            phase.schedule,
            step,
            steps=self.steps(phase),
            peak=self.peak_lr,
            warmup_steps=round(phase.warmup_tokens / self.tokens_per_step),
            floor=phase.floor,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as plain JSON data."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Scale:
    """The constants in which a preset at the paper's size and one at a laptop's differ."""

    phase1_tokens: int
    warmup_tokens: int
    peak_lr: float
    sequence_length: int
    sequences_per_step: int


# The paper's constants (n = 10B is the shortest of its three Phase 1 lengths; the others are 25B and 50B).
PHASE1_MASKING = Masking(0.30)
DECAY_MASKING = Masking(0.15)
DECAY_SHARE = 0.1
DECAY_FLOOR = 0.1
BETAS = (0.9, 0.98)
DECOUPLED_WEIGHT_DECAY = 1e-5
PAPER = Scale(
    phase1_tokens=10_000_000_000,
    warmup_tokens=100_000_000,
    peak_lr=2e-4,
    sequence_length=8192,
    sequences_per_step=384,
)
# Not stated in the paper: torch's default.
EPS = 1e-8
# Our own: small enough for a laptop's processor.
DEMO = Scale(
    phase1_tokens=1_500_000,
    warmup_tokens=50_000,
    peak_lr=1e-3,
    sequence_length=512,
    sequences_per_step=4,
)
SCALES: dict[str, Scale] = {"paper": PAPER, "demo": DEMO}
PRESETS: tuple[PresetName, ...] = ("clm-detour", "mlm-baseline")


def preset(name: PresetName, scale: ScaleName = "demo", phase1_tokens: int | None = None) -> Recipe:
    """Return a named recipe; `phase1_tokens` replaces the scale's n, and the decay keeps its share of it.

    Raises:
        UserError: no such preset or scale.
    """
    if name not in PRESETS:
        raise UserError(f"no recipe is called {name!r}: choose from {', '.join(PRESETS)}")
    if scale not in SCALES:
        raise UserError(f"no scale is called {scale!r}: choose from {', '.join(SCALES)}")
    size = SCALES[scale]
    n = phase1_tokens or size.phase1_tokens
    clm = name == "clm-detour"
    phase1 = Phase(
        name="detour" if clm else "phase 1",
        objective="clm" if clm else "mlm",
        masking=None if clm else PHASE1_MASKING,
        tokens=n,
        schedule="warmup-constant",
        warmup_tokens=size.warmup_tokens,
    )
    decay = Phase(
        name="decay",
        objective="mlm",
        masking=DECAY_MASKING,
        tokens=round(n * DECAY_SHARE),
        schedule="1-sqrt",
        floor=DECAY_FLOOR,
    )
    return at_scale(name, scale, (phase1, decay))


def demo_start(tokens: int) -> Recipe:
    """Return the recipe of the demo family's start model θ0: MLM from random weights, never decayed."""
    phase = Phase(
        name="pretraining",
        objective="mlm",
        masking=PHASE1_MASKING,
        tokens=tokens,
        schedule="warmup-constant",
        warmup_tokens=DEMO.warmup_tokens,
    )
    return at_scale("theta0", "demo", (phase,))


def at_scale(name: str, scale: ScaleName, phases: tuple[Phase, ...]) -> Recipe:
    """Return a recipe of these phases with the optimizer and the batch of a scale."""
    size = SCALES[scale]
    return Recipe(
        name=name,
        scale=scale,
        phases=phases,
        peak_lr=size.peak_lr,
        betas=BETAS,
        eps=EPS,
        weight_decay=DECOUPLED_WEIGHT_DECAY,
        sequence_length=size.sequence_length,
        sequences_per_step=size.sequences_per_step,
    )
