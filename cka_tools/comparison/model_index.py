"""An evaluation as the `model-index` of a model card, as the hub reads it."""

from __future__ import annotations

from cka_tools.comparison.readout_results import Evaluation
from cka_tools.comparison.record import JsonObject
from cka_tools.formatting import counted, printable

DECIMALS = 4
METRICS = {"accuracy": "accuracy", "precision": "precision", "recall": "recall"}
"""What the hub calls a quantity; all others are a kind of F1."""


def model_index_yaml(result: Evaluation) -> list[str]:
    """For each model a block of YAML to paste between the lines `---` of its README.md; fractions."""
    from huggingface_hub import EvalResult, ModelCardData

    tasks, seeds = result.summary["tasks"], result.summary["seeds"]
    blocks = []
    for m, model in enumerate(result.models):
        found = []
        for one in result.record["scores"]:
            if one["model"] != m or one["task"] is None:
                continue
            task = tasks[one["task"]]
            for quantity in task["quantities"]:
                value = one["readouts"][quantity["name"]]
                if value["value"] is None:
                    continue
                found.append(
                    EvalResult(
                        task_type="token-classification" if task["kind"] == "tags" else "text-classification",
                        dataset_type=printable(task.get("hub") or task["name"]),
                        dataset_name=printable(task.get("title", task["name"])),
                        dataset_split="test",
                        metric_type=METRICS.get(quantity["name"], "f1"),
                        metric_name=f"{printable(quantity['title'])}, mean of {counted(len(seeds), 'seed')}",
                        metric_value=round(value["value"], DECIMALS),
                        metric_args=_interval(value),
                    )
                )
        name = printable(model["name"]).rstrip("/").split("/")[-1]
        text = ModelCardData(model_name=name, eval_results=found).to_yaml()
        blocks.append(f"# {printable(model['name'])}\n{text}\n")
    return blocks


def _interval(value: JsonObject) -> dict[str, float] | None:
    """The ends of the interval over seeds, where there are several."""
    if value["ci_low"] is None or value["ci_high"] is None:
        return None
    return {"ci_low": round(value["ci_low"], DECIMALS), "ci_high": round(value["ci_high"], DECIMALS)}
