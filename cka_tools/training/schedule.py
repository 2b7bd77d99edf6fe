"""The learning rate of each step, as a share of the peak. One schedule a phase; steps count from 0 in each.

`transformers.get_wsd_schedule` warms up *from* its floor and stops one step short of it; these do not.
"""

import math
from typing import Literal

ScheduleName = Literal["warmup-constant", "1-sqrt"]


def warmup_then_constant(step: int, warmup_steps: int) -> float:
    """Return (s + 1)/W below W steps, and 1 from then on: linear from 0, which no step uses, to the peak."""
    return min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0


def one_minus_sqrt(step: int, steps: int, floor: float) -> float:
    """Return floor + (1 − floor)·(1 − √((s + 1)/D)): from 1, which no step has, to `floor` at the last."""
    return floor + (1 - floor) * (1 - math.sqrt((step + 1) / steps))


def learning_rate(
    name: ScheduleName, step: int, *, steps: int, peak: float, warmup_steps: int = 0, floor: float = 0.0
) -> float:
    """Return the learning rate of step `step` of a phase of `steps` steps.

    Raises:
        ValueError: a step outside the phase.
    """
    if not 0 <= step < steps:
        raise ValueError(f"step {step} lies outside a phase of {steps} steps")
    if name == "warmup-constant":
        return peak * warmup_then_constant(step, warmup_steps)
    return peak * one_minus_sqrt(step, steps, floor)
