"""What a run is about to do, told before it does it.

Inside `planning` an analysis makes all of its checks and stops before the first weights are read; what it opened
and the passes that it would make are known then, from the very code that would make them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal

WorkKind = Literal["features", "streamed", "readings", "hybrids", "trained"]


@dataclass(frozen=True)
class Work:
    """Passes over the documents of a run.

    Attributes:
        run: a `compute.FeatureRun`.
        kind: pooled features, which the store keeps for whoever asks for the same; features that are only summed;
            what a readout reads of models; what it reads of models that are made of others; what models are trained
            on, a step counting as the passes that it costs.
        passes: of each distinct model that runs, by its place in the run, how many, in whole passes.
        layers: of each distinct model those whose features the store is asked for; None is all.
    """

    run: Any
    kind: WorkKind
    passes: Mapping[int, float]
    layers: tuple[tuple[int, ...] | None, ...] = ()


@dataclass
class Plan:
    """What an analysis opened and was about to do.

    Attributes:
        runs: every `compute.FeatureRun` that was opened. inputs: fingerprints of what else was read, by its name.
    """

    runs: list[Any] = field(default_factory=list)
    work: list[Work] = field(default_factory=list)
    inputs: dict[str, str] = field(default_factory=dict)


class Planned(BaseException):
    """Everything was checked; what follows costs passes. No fault: what handles those shall not see it."""


_plan: ContextVar[Plan | None] = ContextVar("plan", default=None)


def plan_of(analysis: Callable[[], object]) -> Plan:
    """What an analysis would do; it stops before it reads weights.

    Raises:
        UserError: what the analysis refuses.
    """
    with _planning() as plan, suppress(Planned):
        analysis()
    return plan


@contextmanager
def _planning() -> Iterator[Plan]:
    plan = Plan()
    token = _plan.set(plan)
    try:
        yield plan
    finally:
        _plan.reset(token)


def opened(run: Any) -> None:
    """Tell of a run that was opened."""
    if (plan := _plan.get()) is not None:
        plan.runs.append(run)


def was_read(name: str, fingerprint: str) -> None:
    """Tell of an input beside models and corpus, such as a task, with the hash of its content."""
    if (plan := _plan.get()) is not None:
        plan.inputs[name] = fingerprint


def announce(work: Work) -> None:
    """Tell of passes that come next."""
    if (plan := _plan.get()) is not None:
        plan.work.append(work)


def is_planning() -> bool:
    """Whether only a plan was asked for, so that what it costs to tell of it is worth it."""
    return _plan.get() is not None


def stop_if_planning() -> None:
    """Go no further where only a plan was asked for."""
    if is_planning():
        raise Planned
