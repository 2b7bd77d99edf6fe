"""Saved runs of every kind for reports: those that figures are drawn from, and made-up ones of full size."""

import copy
import json
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from synthetic_comparison import make_comparison

from cka_tools import ModelMatrix
from cka_tools.comparison.readout_results import Evaluation, open_run
from cka_tools.comparison.results import RunResult
from cka_tools.comparison.run_matrix import average_linkage
from cka_tools.evaluation.fine_tune import Tuned
from cka_tools.evaluation.options import EvaluationOptions
from cka_tools.evaluation.table import table_of
from cka_tools.tasks.task import Example, check_task

RESULTS = Path(__file__).parents[2] / "figures" / "results"
SAVED = ("detour", "decay", "health", "contrast", "family", "transplant", "line-theta0-clm-detour", "needle")

EVIL = (
    "<script>hacked=1</script>",
    '"><img src=x onerror=hacked=1>',
    "</script><script>hacked=1</script>",
    '<a href="javascript:hacked=1">x</a>',
    "{{ 7 * 7 }}{% raw %} %{x} ${hacked=1}",
    "=cmd()|<svg onload=hacked=1>",
)


def saved(result: RunResult, place: Path) -> Path:
    """A run directory without table and figure, which take their time."""
    record = {"format": 2, **result.record}
    for draw in record["provenance"]["corpus"].get("draws", []):
        if not draw["tokens"][0]:  # made-up features have none
            draw["tokens"] = None
    place.mkdir(parents=True)
    (place / "result.json").write_text(json.dumps(record))
    save_file(
        {name: np.ascontiguousarray(array) for name, array in result.arrays.items()}, place / "arrays.safetensors"
    )
    return place


def made_matrix(models: int = 10, depth: int = 28) -> ModelMatrix:
    """A matrix of models whose pairs have random divergences."""
    rng = np.random.default_rng(0)
    one = make_comparison(depth, n=24)
    mean, layers = rng.uniform(0.01, 0.4, (models, models)), rng.uniform(0, 0.5, (depth, models, models))
    mean, layers = (mean + mean.T) / 2, (layers + layers.transpose(0, 2, 1)) / 2
    np.fill_diagonal(mean, 0)
    pairs = []
    for a, b in combinations(range(models), 2):
        pair = copy.deepcopy(one.record["pairs"][0]) | {"a": a, "b": b, "role": "pair"}
        value = float(mean[a, b])
        pair["mean_divergence"]["debiased"] = {"value": value, "ci_low": value - 0.01, "ci_high": value + 0.01}
        pairs.append(pair)
    known = [{"role": "model", "name": f"runs/m-{at}/final", "weights_sha256": "0" * 64} for at in range(models)]
    summary = {name: one.summary[name] for name in ("n_documents", "interval", "early_layers", "warnings", "notes")}
    record = {
        "kind": "matrix",
        "summary": summary | {"diagonal": "0 by definition"},
        "pairs": pairs,
        "linkage": average_linkage(mean),
        "provenance": one.record["provenance"] | {"models": known},
    }
    arrays = {"mean.debiased": mean, "early.debiased": mean, "layers.debiased": layers}
    return ModelMatrix(record, arrays | {name.replace("de", "", 1): value for name, value in arrays.items()})


def made_evaluation(seeds: int = 3) -> Evaluation:
    """Two models on two tasks, the second model right three times as often, as no training makes them."""
    rng = np.random.default_rng(0)
    tasks, found = [], {}
    for t, name in enumerate(("first", "second")):
        gold = [("ab"[at % 2],) for at in range(60)]
        examples = [Example(str(at), f"w{at} {' '.join(one)}", one) for at, one in enumerate(gold)]
        splits = {"train": examples[:30], "dev": [], "test": examples[30:]}
        tasks.append(check_task(name, name, splits, "label"))
        for m, wrong in enumerate((0.45, 0.15)):
            flipped = rng.random((seeds, 30)) < wrong
            found[t, m] = [
                (seed, Tuned([0.5], 1, [("ba"[at % 2],) if flip else ("ab"[at % 2],) for at, flip in enumerate(row)]))
                for seed, row in enumerate(flipped, 1)
            ]
    record, arrays = table_of(tasks, 2, found)
    names = ["runs/detour/final", "runs/baseline/final"]
    record["summary"] |= {"notes": [], "warnings": [], "seeds": list(range(1, seeds + 1))}
    settings = EvaluationOptions().record() | {
        "max_length": 512,
        "dtype": "float32",
        "epochs": {"first": 1, "second": 1},
    }
    provenance = {
        "models": [{"role": "model", "name": name, "weights_sha256": "0" * 64} for name in names],
        "corpus": {"spec": "tasks first, second", "source": {}},
        "settings": settings,
        "command": "cka evaluate",
        "versions": {},
        "created": "2026-01-01",
    }
    models = [{"name": name, "weights_sha256": "0" * 64} for name in names]
    return Evaluation({"kind": "evaluation", "models": models, **record, "pairs": [], "provenance": provenance}, arrays)


def hostile(name: str) -> RunResult:
    """A saved run whose names and texts a browser, a template, plotly or a spreadsheet would obey."""
    result = made_evaluation() if name == "evaluation" else open_run(RESULTS / name)
    record, number = result.record, iter(range(10**6))

    def evil(text: Any) -> str:
        return f"{EVIL[next(number) % len(EVIL)]}{text}"

    for model in record["provenance"]["models"]:
        model["name"] = evil(model["name"])
    for pair in record["pairs"]:
        for key in ("name", "cell", "size", "axis"):
            if key in pair:
                pair[key] = EVIL[1] + str(pair[key])
    for model in record.get("models", []):
        model["name"] = evil(model["name"])
    for end in record.get("ends", []):
        end["name"] = evil(end["name"])
    for hybrid in record.get("hybrids", []):
        hybrid["label"] = EVIL[2] + hybrid["label"]
    summary = record["summary"]
    if "names" in summary:
        summary["names"] = [evil(one) for one in summary["names"]]
    for task in summary.get("tasks", []):
        task["name"] = evil(task["name"])
    for floor in record.get("floors", []):
        floor["name"] = evil(floor["name"])
    if record["kind"] == "needle":
        summary["measured_by"] = evil("")
        summary["positions"] = [evil(one) for one in summary["positions"]]
        for at, group in enumerate(one for one in record["groups"] if one["position"]):  # positions in turn
            group["position"] = summary["positions"][at % len(summary["positions"])]
    for group in summary.get("groups", []):
        group["name"] = evil(group["name"])
    summary["notes"] = list(EVIL)
    summary["warnings"] = [{"code": EVIL[0], "text": text} for text in EVIL]
    record["provenance"]["corpus"]["spec"] = EVIL[1]
    record["provenance"]["command"] = f"cka {' '.join(EVIL)}\n\x1b[31m"
    record["provenance"]["settings"]["pooling"] = EVIL[2]
    return result
