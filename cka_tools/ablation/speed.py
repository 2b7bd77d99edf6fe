"""How fast each size trains under each objective, measured by a few steps that are thrown away."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from cka_tools.ablation.plan import Plan
from cka_tools.ablation.starts import write_random
from cka_tools.training.loop import StepReport, train
from cka_tools.training.objectives import ObjectiveName
from cka_tools.training.presets import PHASE1_MASKING
from cka_tools.training.processes import make_accelerator
from cka_tools.training.recipe import Phase
from cka_tools.training.start_model import load_start

WARM, TIMED = 1, 3
Speeds = dict[tuple[str, ObjectiveName], float]


def probe_speeds(plan: Plan, *, cpu: bool = False) -> Speeds:
    """Return tokens a second by size and objective; about `WARM + TIMED` steps of each are trained."""
    speeds: Speeds = {}
    device = make_accelerator(cpu=cpu).device
    data = plan.corpus.packed(plan.settings.seeds[0], plan.budget.step * (WARM + TIMED))
    for start in plan.starts.values():
        with tempfile.TemporaryDirectory() as place:
            folder = start.folder or write_random(start, plan.template, Path(place) / "random")
            model, tokenizer = load_start(folder, device_type=device.type)
        model.to(device)
        objectives: tuple[ObjectiveName, ...] = ("clm", "mlm")
        for objective in objectives:
            if (start.size, objective) in speeds:
                continue
            steps = min(WARM + TIMED, data.tokens // plan.budget.step)
            phase = Phase(
                "probe",
                objective,
                steps * plan.budget.step,
                "warmup-constant",
                PHASE1_MASKING if objective == "mlm" else None,
            )
            ends: list[float] = []

            def report(done: StepReport, ends: list[float] = ends) -> None:
                ends.append(time.perf_counter())

            recipe = plan.budget.recipe_of("probe", (phase,))
            bf16 = plan.settings.bf16
            train(model, data, recipe, seed=0, mask_id=tokenizer.mask_token_id, bf16=bf16, report=report)
            # The first step also pays for what is set up once.
            if len(ends) > 1:
                speeds[start.size, objective] = (len(ends) - 1) * plan.budget.step / (ends[-1] - ends[0])
    return speeds


def given_speeds(plan: Plan, tokens_per_second: Sequence[float]) -> Speeds:
    """Return the speeds a user gave: one for all sizes, or one each, in their order."""
    sizes = list(dict.fromkeys(start.size for start in plan.starts.values()))
    each = dict(
        zip(sizes, tokens_per_second, strict=True)
        if len(tokens_per_second) == len(sizes)
        else ((size, tokens_per_second[0]) for size in sizes)
    )
    objectives: tuple[ObjectiveName, ...] = ("clm", "mlm")
    return {(size, objective): each[size] for size in sizes for objective in objectives}


def seconds(tokens: Mapping[tuple[str, ObjectiveName], int], speeds: Speeds) -> float | None:
    """Return the time that so many tokens take; None where a speed is not known."""
    if any(place not in speeds for place in tokens):
        return None
    return sum(count / speeds[place] for place, count in tokens.items())
