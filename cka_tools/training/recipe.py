"""What a run trains: recipes of phases, each with its objective, masking, learning rates and frozen layers.

Recipes have names at the paper's scale and at a laptop's; those of start models are here too.
"""

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass, replace
from typing import Any, Literal, cast, get_args

from cka_tools.errors import UserError

ObjectiveName = Literal["clm", "mlm"]
ScheduleName = Literal["warmup-constant", "1-sqrt"]


def learning_rate(
    name: ScheduleName, step: int, *, steps: int, peak: float, warmup_steps: int = 0, floor: float = 0.0
) -> float:
    """Return the learning rate of step s = `step` of a phase of D = `steps` steps.

    "warmup-constant": (s + 1)/W of the peak below W = `warmup_steps`, linear from 0, which no step has; then
    the peak. "1-sqrt": floor + (1 − floor)·(1 − √((s + 1)/D)) of it, from 1, which no step has, to `floor`.

    `transformers.get_wsd_schedule` warms up *from* its floor and stops one step short of it; these do not.

    Raises:
        ValueError: a step outside the phase.
    """
    if not 0 <= step < steps:
        raise ValueError(f"step {step} lies outside a phase of {steps} steps")
    if name == "warmup-constant":
        return peak * (min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0)
    return peak * (floor + (1 - floor) * (1 - math.sqrt((step + 1) / steps)))


@dataclass(frozen=True)
class Masking:
    """How MLM corrupts its input.

    Of the ordinary tokens a share `rate` becomes targets; of these a share `mask` is replaced by [MASK], a
    share `random` by a random ordinary token, and the rest stays as it is. The paper states its rates but not
    its replacement rule: 80/10/10 is BERT's.

    Raises:
        UserError: shares that are none.
    """

    rate: float
    mask: float = 0.8
    random: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.rate < 1:
            raise UserError(f"a masking rate of {self.rate} does not fit: give a share between 0 and 1")
        if min(self.mask, self.random) < 0 or self.mask + self.random > 1 + 1e-12:
            raise UserError(
                f"a replacement rule of mask {self.mask} and random {self.random} does not fit: "
                f"both must be at least 0 and their sum at most 1"
            )


FrozenModule = Literal["embeddings", "head"]

THIRDS = ("low", "middle", "high")


def third(name: str, layers: int) -> tuple[int, ...]:
    """Return the layers of a third, whose borders are rounded up: of 22 they are 0–7, 8–14 and 15–21.

    Raises:
        UserError: no such third, or no layer in it.
    """
    if name not in THIRDS:
        raise UserError(f"no third of the layers is called {name!r}: choose from {', '.join(THIRDS)}")
    k = THIRDS.index(name)
    chosen = tuple(range(-(-k * layers // 3), -(-(k + 1) * layers // 3)))
    if not chosen:
        raise UserError(f"a model of {layers} layers has no {name} third: give the layers outright")
    return chosen


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
            raise UserError(f"eps {self.eps} or weight decay {self.weight_decay} does not fit: one is too small")
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
        return OptimizerSettings(self.peak_lr, self.betas, self.eps, self.weight_decay, self.sequences_per_step)

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


ScaleName = Literal["paper", "demo"]


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
EPS = 1e-6
DECOUPLED_WEIGHT_DECAY = 1e-5
PAPER = Scale(
    phase1_tokens=10_000_000_000, warmup_tokens=100_000_000, peak_lr=2e-4, sequence_length=8192, sequences_per_step=384
)
# Our own: small enough for a laptop's processor. As in the paper Phase 1 runs below the start model's own peak, here at
# a quarter of it: at the peak two baselines wander apart by the optimizer's noise (`data/learning_rate_sweep.csv`).
START_LR = 1e-3
DEMO = Scale(
    phase1_tokens=2_500_000, warmup_tokens=50_000, peak_lr=START_LR / 4, sequence_length=512, sequences_per_step=4
)
SCALES: dict[str, Scale] = {"paper": PAPER, "demo": DEMO}
# A start model that is trained here: our own constants, as the paper starts from models of others.
START = "theta0"
PRETRAINING, ANNEALING = START_PHASES = ("pretraining", "annealing")
START_TOKENS = 12_000_000
ANNEALING_SHARE = 0.1
ANNEALING_FLOOR = 0.05

# Phase 1 and decay of each; its masking where it is MLM. The last two start from a decoder trained by CLM.
DETOURS: dict[str, tuple[ObjectiveName, ObjectiveName]] = {
    "clm-detour": ("clm", "mlm"),
    "mlm-baseline": ("mlm", "mlm"),
    "reverse-detour": ("mlm", "clm"),
    "clm-baseline": ("clm", "clm"),
}


PRESETS = (*DETOURS, PRETRAINING)


def preset(
    name: str,
    scale: ScaleName = "demo",
    tokens: int | None = None,
    objective: ObjectiveName | None = None,
    **constants: float,
) -> Recipe:
    """Return a named recipe.

    Args:
        tokens: of Phase 1, in place of the scale's n, and the decay keeps its share of it; of `pretraining`
            all tokens, the annealing's included.
        objective: of `pretraining` alone, which is MLM unless it says "clm".
        constants: `peak_lr`, `sequence_length` or `sequences_per_step` in place of the scale's.

    Raises:
        UserError: no such preset or scale, or one that does not take what is given.
    """
    if name not in PRESETS:
        raise UserError(f"no recipe is called {name!r}: choose from {', '.join(PRESETS)}")
    if scale not in SCALES:
        raise UserError(f"no scale is called {scale!r}: choose from {', '.join(SCALES)}")
    if tokens is not None and tokens <= 0:
        raise UserError(f"{tokens} tokens is nothing to train on: give more")
    size = replace(SCALES[scale], **cast(dict[str, Any], constants))
    if name == PRETRAINING:
        if scale != "demo":
            raise UserError(
                f"recipe {name!r} has no scale {scale!r}, as the paper starts from models of others: "
                f"leave it out, and give --tokens"
            )
        size = replace(size, peak_lr=constants.get("peak_lr", START_LR))
        whole = tokens or START_TOKENS
        annealed = round(whole * ANNEALING_SHARE)
        phases = pretraining_phases(objective or "mlm", whole - annealed, annealed, size.warmup_tokens)
        return at_scale(name, scale, phases, size)
    if objective is not None:
        raise UserError(f"recipe {name!r} fixes its objectives: leave out --objective {objective}")
    n = size.phase1_tokens if tokens is None else tokens
    first, last = DETOURS[name]
    phase1 = constant_phase("detour" if name.endswith("detour") else "phase 1", first, n, min(size.warmup_tokens, n))
    return at_scale(name, scale, (phase1, decay_phase(last, round(n * DECAY_SHARE))), size)


def constant_phase(
    name: str, objective: ObjectiveName, tokens: int, warmup_tokens: int, frozen: tuple[int, ...] = ()
) -> Phase:
    """Return a phase at the peak rate after a warm-up, such as Phase 1; MLM at its masking rate."""
    masking = PHASE1_MASKING if objective == "mlm" else None
    return Phase(name, objective, tokens, "warmup-constant", masking, warmup_tokens, frozen=frozen)


def decay_phase(objective: ObjectiveName, tokens: int, frozen: tuple[int, ...] = ()) -> Phase:
    """Return the decay that ends a run; MLM at its masking rate, below Phase 1's."""
    masking = DECAY_MASKING if objective == "mlm" else None
    return Phase("decay", objective, tokens, "1-sqrt", masking, floor=DECAY_FLOOR, frozen=frozen)


def pretraining_phases(objective: ObjectiveName, tokens: int, annealed: int, warmup_tokens: int) -> tuple[Phase, Phase]:
    """Return what makes a start model of random weights: `tokens` at a constant rate, then the annealing."""
    first = constant_phase(PRETRAINING, objective, tokens, min(warmup_tokens, tokens))
    return first, Phase(ANNEALING, objective, annealed, "1-sqrt", first.masking, floor=ANNEALING_FLOOR)


def at_scale(name: str, scale: ScaleName, phases: tuple[Phase, ...], size: Scale) -> Recipe:
    """Return a recipe of these phases with the optimizer and the batch of `size`."""
    optimizer = size.peak_lr, BETAS, EPS, DECOUPLED_WEIGHT_DECAY
    return Recipe(name, scale, phases, *optimizer, size.sequence_length, size.sequences_per_step)
