"""The paper's constants, ours at a laptop's size, and the named recipes made of them."""

from dataclasses import dataclass, replace
from typing import Any, Literal, cast

from cka_tools.errors import UserError
from cka_tools.training.objectives import Masking, ObjectiveName
from cka_tools.training.recipe import Phase, Recipe

PresetName = Literal["clm-detour", "mlm-baseline", "reverse-detour", "clm-baseline"]
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
    phase1_tokens=10_000_000_000,
    warmup_tokens=100_000_000,
    peak_lr=2e-4,
    sequence_length=8192,
    sequences_per_step=384,
)
# Our own: small enough for a laptop's processor. The peak rate rests on `data/learning_rate_sweep.csv`: 2e-3
# gains less than 0.06 nats over 1e-3, and 4e-3 is worse than both: 1e-3 lies farther from that edge.
DEMO = Scale(
    phase1_tokens=2_500_000,
    warmup_tokens=50_000,
    peak_lr=1e-3,
    sequence_length=512,
    sequences_per_step=4,
)
SCALES: dict[str, Scale] = {"paper": PAPER, "demo": DEMO}
START, PRETRAINING = "theta0", "pretraining"
"""The start model θ0 that is trained here, and its one phase."""

# Phase 1 and decay of each; its masking where it is MLM. The last two start from a decoder trained by CLM.
PRESETS: dict[PresetName, tuple[ObjectiveName, ObjectiveName]] = {
    "clm-detour": ("clm", "mlm"),
    "mlm-baseline": ("mlm", "mlm"),
    "reverse-detour": ("mlm", "clm"),
    "clm-baseline": ("clm", "clm"),
}


def preset(
    name: PresetName,
    scale: ScaleName = "demo",
    phase1_tokens: int | None = None,
    **constants: float,
) -> Recipe:
    """Return a named recipe.

    Args:
        phase1_tokens: replaces the scale's n; the decay keeps its share of it.
        constants: `peak_lr`, `sequence_length` or `sequences_per_step` in place of the scale's.

    Raises:
        UserError: no such preset or scale.
    """
    if name not in PRESETS:
        raise UserError(f"no recipe is called {name!r}: choose from {', '.join(PRESETS)}")
    if scale not in SCALES:
        raise UserError(f"no scale is called {scale!r}: choose from {', '.join(SCALES)}")
    if phase1_tokens is not None and phase1_tokens <= 0:
        raise UserError(f"a Phase 1 of {phase1_tokens} tokens is nothing to train on: give more")
    size = replace(SCALES[scale], **cast(dict[str, Any], constants))
    n = size.phase1_tokens if phase1_tokens is None else phase1_tokens
    first, last = PRESETS[name]
    phase1 = Phase(
        name="detour" if name.endswith("detour") else "phase 1",
        objective=first,
        masking=PHASE1_MASKING if first == "mlm" else None,
        tokens=n,
        schedule="warmup-constant",
        warmup_tokens=min(size.warmup_tokens, n),
    )
    decay = Phase(
        name="decay",
        objective=last,
        masking=DECAY_MASKING if last == "mlm" else None,
        tokens=round(n * DECAY_SHARE),
        schedule="1-sqrt",
        floor=DECAY_FLOOR,
    )
    return at_scale(name, scale, (phase1, decay), size)


def at_scale(name: str, scale: ScaleName, phases: tuple[Phase, ...], size: Scale | None = None) -> Recipe:
    """Return a recipe of these phases with the optimizer and the batch of a scale, or of `size`."""
    size = size or SCALES[scale]
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
