"""Fine-tuning as a study has it: settings in place of options, and its cost told before it trains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cka_tools.comparison.readout_results import Evaluation
from cka_tools.compute import open_run
from cka_tools.evaluation.options import SHARED, EvaluationOptions
from cka_tools.evaluation.run_evaluate import Plan, evaluate, make_plan
from cka_tools.evaluation.runs import key_of
from cka_tools.models import ModelGiven
from cka_tools.planning import Work, announce, is_planning, stop_if_planning, was_read
from cka_tools.progress import Progress
from cka_tools.settings import Settings

PLACE_LETTERS = 12

BACKWARD = 2
"""Passes that going backwards costs, in those forwards."""


def evaluate_in_study(
    models: Sequence[ModelGiven],
    tasks: Sequence[str],
    *,
    seeds: int | Sequence[int] | None = None,
    lr: float | None = None,
    weight_decay: float | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    precision: str | None = None,
    group_by_length: bool | None = None,
    device: str = "auto",
    max_length: int | None = None,
    trust_remote_code: bool = False,
    allow_bin: bool = False,
    settings: Settings | None = None,
    progress: Progress | None = None,
    parts: Path | None = None,
) -> Evaluation:
    """As `evaluate`, which see; None is its default.

    Args:
        settings: in place of those keywords that it has too. parts: where finished runs are kept and found again, in a
            folder for these models, tasks and options but seeds.

    Raises:
        UserError: as `evaluate`.
    """
    common: dict[str, Any] = {"device": device, "max_length": max_length, "trust_remote_code": trust_remote_code}
    common["allow_bin"] = allow_bin
    if settings is not None:
        common = options_in(settings)
    own: dict[str, Any] = {
        "seeds": seeds,
        "lr": lr,
        "weight_decay": weight_decay,
        "epochs": epochs,
        "batch_size": batch_size,
    }
    own |= {"precision": precision, "group_by_length": group_by_length}
    options = EvaluationOptions(**common | {name: value for name, value in own.items() if value is not None})
    plan = make_plan(models, tasks, options)
    if is_planning():
        _announce(plan, settings or Settings())
    stop_if_planning()
    return evaluate(plan, out=place_in(parts, plan), progress=progress)


def place_in(parts: Path | None, plan: Plan) -> Path | None:
    """The folder among others' in which a plan's finished runs are kept; None where nothing is."""
    if parts is None:
        return None
    parts.mkdir(parents=True, exist_ok=True)
    return parts / key_of(plan.identity)[:PLACE_LETTERS]


def options_in(settings: Settings) -> dict[str, Any]:
    """What settings say of fine-tuning."""
    common = {name: getattr(settings, name) for name in SHARED}
    if common["device"] == "cuda":  # which transformers takes of itself
        common["device"] = "auto"
    return common


def _announce(plan: Plan, settings: Settings) -> None:
    """Tell of the training of every model on every task, in passes over the texts of train."""
    for task in plan.tasks:
        was_read(f"task {task.name}", task.fingerprint)
        texts = [{"id": f"{at}", "text": one.text} for at, one in enumerate(task.train)]
        read = replace(settings, documents=len(texts), max_length=plan.max_length, layers=None, measures=("cka",))
        run = open_run(plan.sources, texts, read)
        epochs = plan.options.epochs_of(task.kind)
        beside = (epochs * len(task.dev) + len(task.test)) / len(texts)
        each = len(plan.options.seeds) * ((1 + BACKWARD) * epochs + beside)
        announce(Work(run, "trained", {at: each * run.order.count(at) for at in range(len(run.sources))}))
