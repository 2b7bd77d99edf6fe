"""What runs found → the numbers of the record: scores, floors, paired differences, what is best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import combinations

import numpy as np

from cka_tools.comparison.record import JsonObject, interval_entry, number
from cka_tools.evaluation.fine_tune import Tuned, headline, readings
from cka_tools.probes.run_probe import floors_of
from cka_tools.readouts.probe import QUANTITIES
from cka_tools.readouts.readout import Quantity
from cka_tools.statistics.intervals import LEVEL
from cka_tools.statistics.paired import Reading
from cka_tools.statistics.seeds import over_seeds, over_seeds_and_documents
from cka_tools.tasks import Task, classifier

MEAN = "mean"
"""The quantity of a mean over tasks, of what stands in the table."""

FLOOR_SEED = 42

BySeed = list[dict[str, Reading]]
"""Scores of a model on a task, one set a seed."""


def table_of(
    tasks: Sequence[Task], models: int, found: Mapping[tuple[int, int], Sequence[tuple[int, Tuned]]]
) -> tuple[JsonObject, dict[str, np.ndarray]]:
    """The parts of the record that are numbers, and scores by task and quantity as arrays (models, seeds).

    Args:
        found: by task and model, what each seed's run found.
    """
    scored = {
        (t, m): [readings(task, [one.labels for one in task.test], tuned.found) for _, tuned in found[t, m]]
        for t, task in enumerate(tasks)
        for m in range(models)
    }
    record: JsonObject = {
        "summary": {
            "n_documents": sum(len(task.test) for task in tasks),
            "interval": {"level": LEVEL, "over": "seeds"},
            "tasks": [_facts(task) for task in tasks],
        },
        "scores": [_scores(t, m, found[t, m], scored[t, m]) for t, m in scored],
        "floors": [floor for t, task in enumerate(tasks) for floor in _floors(t, task)],
        "differences": [],
        "best": [],
    }
    for t in range(len(tasks)):
        columns = [
            {name: [by_seed[name] for by_seed in scored[t, m]] for name in scored[t, m][0]} for m in range(models)
        ]
        apart = [_apart(t, a, b, {q: [columns[a][q]] for q in columns[a]}, {q: [columns[b][q]] for q in columns[b]})
                 for b, a in combinations(range(models), 2)]  # fmt: skip
        record["differences"] += apart
        record["best"].append(_best(t, headline(tasks[t]), record["scores"], apart, models))
    if len(tasks) > 1:
        _add_means(record, tasks, scored, models)
    arrays = {
        f"{t}.{name}": np.array([[by_seed[name].value for by_seed in scored[t, m]] for m in range(models)])
        for t in range(len(tasks))
        for name in scored[t, 0][0]
    }
    return record, arrays


def quantities_of(task: Task) -> Sequence[Quantity]:
    """What a task is scored by; the one in the table first."""
    return sorted(QUANTITIES, key=lambda one: one.name != headline(task))


def _facts(task: Task) -> JsonObject:
    shown = [asdict(one) for one in quantities_of(task)]
    return task.record() | {"headline": headline(task), "quantities": shown, "notes": list(task.notes)}


def _scores(t: int, m: int, runs: Sequence[tuple[int, Tuned]], by_seed: BySeed) -> JsonObject:
    return {
        "task": t,
        "model": m,
        "runs": [
            {"seed": seed, "best_epoch": tuned.best, "dev": [number(one) for one in tuned.dev],
             "readouts": {name: number(one.value) for name, one in scores.items()}}
            for (seed, tuned), scores in zip(runs, by_seed, strict=True)
        ],
        "readouts": {
            name: interval_entry(over_seeds([one[name].value for one in by_seed], share=True)) for name in by_seed[0]
        },
    }  # fmt: skip


def _floors(t: int, task: Task) -> list[JsonObject]:
    """Scores of what reads no model, with intervals over documents."""
    floors = floors_of(task, FLOOR_SEED, [one["id"] for one in classifier.texts_of(task)])
    return [
        {"task": t, "name": name, "readouts": {q: interval_entry(r.interval()) for q, r in one.readings.items()}}
        for name, one in floors.items()
    ]


def _apart(
    t: int | None, a: int, b: int, of_a: Mapping[str, list[list[Reading]]], of_b: Mapping[str, list[list[Reading]]]
) -> JsonObject:
    """a − b, by quantity: of each task one reading a seed."""
    found = {}
    for name in of_a:
        tasks = [[x - y for x, y in zip(*sides, strict=True)] for sides in zip(of_a[name], of_b[name], strict=True)]
        by_seed = [float(np.mean([one[k].value for one in tasks])) for k in range(len(tasks[0]))]
        both = {"over_seeds": over_seeds(by_seed), "over_both": over_seeds_and_documents(tasks)}
        found[name] = {over: interval_entry(one) for over, one in both.items()}
    return {"task": t, "a": a, "b": b, "readouts": found}


def _best(
    t: int | None, shown: str, scores: Sequence[JsonObject], apart: Sequence[JsonObject], models: int
) -> JsonObject:
    """The model with the highest mean, and whether its difference from every other is clear of 0."""
    means = {one["model"]: one["readouts"][shown]["value"] for one in scores if one["task"] == t}
    best = max(range(models), key=lambda m: means[m])
    clear = models > 1
    for one in apart:
        if best in (one["a"], one["b"]):
            found = one["readouts"][shown]["over_both"]
            end = found["ci_low"] if one["a"] == best else found["ci_high"]
            clear &= end is not None and (end > 0) == (one["a"] == best) and end != 0
    return {"task": t, "model": best, "clear": clear}


def _add_means(
    record: JsonObject, tasks: Sequence[Task], scored: Mapping[tuple[int, int], BySeed], models: int
) -> None:
    """The mean over tasks of what stands in the table, seed by seed."""
    columns = [
        [[by_seed[headline(task)] for by_seed in scored[t, m]] for t, task in enumerate(tasks)] for m in range(models)
    ]
    for m, of_tasks in enumerate(columns):
        by_seed = [float(np.mean([one[k].value for one in of_tasks])) for k in range(len(of_tasks[0]))]
        record["scores"].append(
            {"task": None, "model": m, "runs": [], "readouts": {MEAN: interval_entry(over_seeds(by_seed, share=True))}}
        )
    apart = [_apart(None, a, b, {MEAN: columns[a]}, {MEAN: columns[b]}) for b, a in combinations(range(models), 2)]
    record["differences"] += apart
    record["best"].append(_best(None, MEAN, record["scores"], apart, models))
