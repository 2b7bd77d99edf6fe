"""What transplants, interpolations, health checks, probes and needles give back; the class of every kind of run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cka_tools.comparison.record import (
    COMPARISON,
    EVALUATION,
    HEALTH,
    INTERPOLATION,
    NEEDLE,
    PROBE,
    TRANSPLANT,
    JsonObject,
    columns,
    tidy,
)
from cka_tools.comparison.results import Ablation, Comparison, Contrast, ModelMatrix, RunResult, Trajectory
from cka_tools.comparison.run_directory import run_kind, write_run

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


class Transplant(RunResult):
    """How much of what two models differ in moves with parts of one.

    `arrays` holds one number a document for every quantity of a language-model readout, such as "mlm.loss"
    (models, documents), in the order of `record["provenance"]["models"]`.
    """

    kind = TRANSPLANT
    table = "transplant.csv"

    def __repr__(self) -> str:
        base, donor = (one["name"] for one in self.record["ends"][:2])
        return (
            f"<Transplant of {donor} into {base}: {len(self.hybrids)} hybrids, {self.summary['n_documents']} documents>"
        )

    @property
    def hybrids(self) -> list[JsonObject]:
        """One entry a hybrid: direction, layers, parts, and its readouts."""
        return self.record["hybrids"]

    def to_frame(self) -> pd.DataFrame:
        """One row for each model or hybrid and quantity."""
        rows: list[JsonObject] = []
        for end in self.record["ends"]:
            for quantity, value in end["readouts"].items():
                rows.append(
                    {"direction": end["role"], "graft": end["name"], "quantity": quantity, **columns("value", value)}
                )
        for one in self.hybrids:
            for quantity, found in one["readouts"].items():
                row = {"direction": one["direction"], "graft": one["label"], "parts": "+".join(one["parts"])}
                row |= {"quantity": quantity, **columns("value", found["value"])}
                row |= columns("difference", found["difference"]) | columns("recovery", found["recovery"], "recovery")
                rows.append(row)
        return tidy([row | {"n_documents": self.summary["n_documents"]} for row in rows])

    def figure(self) -> Figure:
        """Every hybrid's readout between base and donor, and its recovery beside control and reverse."""
        from cka_tools.plotting import transplant_figure

        return transplant_figure(self.record)


class Interpolation(RunResult):
    """Readouts along the straight line between two models.

    `arrays` holds "alpha" (points,) and one number a document for every quantity of a language-model readout,
    such as "mlm.loss" (points, documents).
    """

    kind = INTERPOLATION
    table = "interpolation.csv"

    def __repr__(self) -> str:
        a, b = self.summary["names"]
        return f"<Interpolation of {len(self.points)} points from {a} to {b}: {self.summary['n_documents']} documents>"

    @property
    def points(self) -> list[JsonObject]:
        """One entry a point: alpha, its readouts, and their excess over the line between the ends."""
        return self.record["points"]

    def to_frame(self) -> pd.DataFrame:
        """One row for each point and quantity."""
        rows = []
        for point in self.points:
            for quantity, found in point["readouts"].items():
                row = {"alpha": point["alpha"], "quantity": quantity, **columns("value", found["value"])}
                rows.append(row | columns("excess", found["excess"]))
            for end, value in point.get("divergence", {}).items():
                rows.append({"alpha": point["alpha"], "quantity": f"divergence to {end}", **columns("value", value)})
        return tidy([row | {"n_documents": self.summary["n_documents"]} for row in rows])

    def figure(self) -> Figure:
        """Readout and divergence to both ends along the line."""
        from cka_tools.plotting import interpolation_figure

        return interpolation_figure(self.record)


class Health(RunResult):
    """How well checkpoints still do what they were trained for.

    `arrays` holds one number a document for every quantity, such as "mlm.loss" (models, documents); NaN for a
    model with another number of documents.
    """

    kind = HEALTH
    table = "health.csv"

    def __repr__(self) -> str:
        return f"<Health of {len(self.models)} models: {self.summary['n_documents']} documents>"

    @property
    def models(self) -> list[JsonObject]:
        """One entry a model: name, tokens of its training, readouts with intervals, perplexity."""
        return self.record["models"]

    def to_frame(self) -> pd.DataFrame:
        """One row a model and quantity, with its paired difference from the first model."""
        rows = []
        for at, model in enumerate(self.models):
            for quantity, value in model["readouts"].items():
                row = {
                    "model": model["name"],
                    "tokens": model["tokens"],
                    "quantity": quantity,
                    **columns("value", value),
                }
                found = next((one for one in self.record["differences"] if (one["a"], one["b"]) == (at, 0)), None)
                if found is not None and quantity in found["readouts"]:
                    row |= columns("difference_from_first", found["readouts"][quantity], "difference")
                rows.append(row | {"weights_sha256": model["weights_sha256"]})
        return tidy([row | {"n_documents": self.summary["n_documents"]} for row in rows])

    def figure(self) -> Figure:
        """Loss and accuracy of every model."""
        from cka_tools.plotting import health_figure

        return health_figure(self.record)


class Probe(RunResult):
    """How well a task's labels can be read from every layer of models.

    `arrays` holds "accuracy" (models, layers, test documents): 1 where a document's classes are exactly right;
    NaN beyond a model's last layer.
    """

    kind = PROBE
    table = "probe.csv"

    def __repr__(self) -> str:
        return f"<Probe of {len(self.models)} models on {self.summary['task']['name']}>"

    @property
    def models(self) -> list[JsonObject]:
        """One entry a model: name, its layers with their scores, and the layer that train chose."""
        return self.record["models"]

    def to_frame(self) -> pd.DataFrame:
        """One row for each floor and for each layer of each model, by quantity."""
        rows = []
        names = [one["name"] for one in self.summary["readouts"][0]["quantities"]]
        for floor in self.record["floors"]:
            rows += [{"model": floor["name"], "quantity": q, **columns("value", floor["readouts"][q])} for q in names]
        from_first = {one["a"]: one["layers"] for one in self.record["differences"] if one["b"] == 0}
        for at, model in enumerate(self.models):
            apart = {one["layer_a"]: one["readouts"] for one in from_first.get(at, [])}
            for layer in model["layers"]:
                for q in names:
                    row = {"model": model["name"], "layer": layer["layer"], "quantity": q}
                    row |= columns("value", layer["readouts"][q])
                    row |= columns("above_words", layer["above_words"][q], "above_words")
                    if layer["layer"] in apart:
                        row |= columns("difference_from_first", apart[layer["layer"]][q], "difference")
                    for name in ("shuffled", "selectivity"):
                        row |= columns(name, layer[name][q]) if name in layer else {}
                    row |= {"chosen": layer["layer"] == model["chosen_layer"], "strength": layer["strength"]}
                    rows.append(row | {"cv_macro_f1": layer["cv_macro_f1"], "weights_sha256": model["weights_sha256"]})
        frame = tidy([row | {"n_documents": self.summary["n_documents"]} for row in rows])
        return frame.astype({"layer": "Int64"})

    def figure(self) -> Figure:
        """F1 of every model by layer, beside the floors."""
        from cka_tools.plotting import probe_figure

        return probe_figure(self.record)


class Evaluation(RunResult):
    """How models do on tasks that they were fine-tuned for, over seeds.

    `arrays` holds scores as (models, seeds), by the place of the task and the quantity, such as "0.macro_f1".
    """

    kind = EVALUATION
    table = "evaluation.csv"

    def __repr__(self) -> str:
        tasks, seeds = len(self.summary["tasks"]), len(self.summary["seeds"])
        return f"<Evaluation of {len(self.models)} models on {tasks} tasks with {seeds} seeds>"

    def save(self, run_dir: str | Path) -> Path:
        """As the others, into a directory that may hold the runs themselves.

        Raises:
            UserError: there is no room.
        """
        return write_run(
            Path(run_dir), self.record, self.arrays, self.to_frame, self.figure, table_name=self.table, into=True
        )

    @property
    def models(self) -> list[JsonObject]:
        """One entry a model: its name and the hash of its weights."""
        return self.record["models"]

    def to_frame(self) -> pd.DataFrame:
        """One row for each floor, and for each model, task and quantity: the mean over seeds, and each seed's."""
        tasks, rows = self.summary["tasks"], list[JsonObject]()

        def named(t: int | None) -> JsonObject:
            return {"task": "mean of tasks" if t is None else tasks[t]["name"]}

        for floor in self.record["floors"]:
            for name, value in floor["readouts"].items():
                rows.append(named(floor["task"]) | {"model": floor["name"], "quantity": name} | columns("value", value))
        from_first = {(one["task"], one["a"]): one["readouts"] for one in self.record["differences"] if one["b"] == 0}
        clear = {one["task"]: one["model"] for one in self.record["best"] if one["clear"]}
        for one in self.record["scores"]:
            model = self.models[one["model"]]
            for name, value in one["readouts"].items():
                row = named(one["task"]) | {"model": model["name"], "quantity": name, "seed": None}
                row |= columns("value", value) | {"clearly_best": clear.get(one["task"]) == one["model"]}
                if apart := from_first.get((one["task"], one["model"]), {}).get(name):
                    row |= columns("difference_from_first", apart["over_both"], "difference")
                    row |= columns("difference_over_seeds", apart["over_seeds"])
                rows.append(row | {"weights_sha256": model["weights_sha256"]})
                for run in one["runs"]:
                    row = named(one["task"]) | {"model": model["name"], "quantity": name, "seed": run["seed"]}
                    rows.append(row | {"value": run["readouts"][name], "best_epoch": run["best_epoch"]})
        frame = tidy(rows)
        return frame.astype({"best_epoch": "Int64"})

    def figure(self) -> Figure:
        """Every model's score on every task, seed by seed, with its interval."""
        from cka_tools.plotting import evaluation_figure

        return evaluation_figure(self.record)


class Needle(RunResult):
    """How well the output of frozen encoders tells that a long document holds a fact.

    `arrays` holds "mlp" and "logistic" (models, layers, test examples): 1 where a probe is right; and of each
    example "example.length", "example.place" (words before the fact, as a share), "example.label", and
    "example.position" and "example.template" by their place in the summary's lists.
    """

    kind = NEEDLE
    table = "needle.csv"

    def __repr__(self) -> str:
        return f"<Needle of {len(self.models)} models: {self.summary['n_documents']} examples>"

    @property
    def models(self) -> list[JsonObject]:
        """One entry a model: name, and by layer and probe the accuracies of all groups."""
        return self.record["models"]

    @property
    def groups(self) -> list[JsonObject]:
        """What the accuracies are of: all examples, those of a length, of a position, of both; null is all."""
        return self.record["groups"]

    def to_frame(self) -> pd.DataFrame:
        """One row for each model, layer, probe and group, with the paired difference from the first model."""
        rows: list[JsonObject] = []
        from_first = {
            (one["a"], layer["layer_a"]): layer["probes"]
            for one in self.record["differences"]
            for layer in one["layers"]
            if one["b"] == 0
        }
        for at, model in enumerate(self.models):
            for layer in model["layers"]:
                apart = from_first.get((at, layer["layer"]))
                for name, probe in layer["probes"].items():
                    for number, group in enumerate(self.groups):
                        row = {"model": model["name"], "layer": layer["layer"], "output": layer["output"]}
                        row |= {"probe": name, "length": group["length"], "position": group["position"] or "all"}
                        row |= columns("accuracy", probe["accuracy"][number])
                        row |= columns("shuffled", probe["shuffled"][number]) if "shuffled" in probe else {}
                        if apart is not None:
                            row |= columns("difference_from_first", apart[name]["accuracy"][number], "difference")
                        rows.append(row | {"examples": group["examples"], "weights_sha256": model["weights_sha256"]})
        return tidy(rows).astype({"length": "Int64", "layer": "Int64"})

    def figure(self) -> Figure:
        """Accuracy by length and position of every model, beside chance."""
        from cka_tools.plotting import needle_figure

        return needle_figure(self.record)


KINDS: dict[str, type[RunResult]] = {
    result.kind: result
    for result in (
        Comparison,
        Trajectory,
        ModelMatrix,
        Contrast,
        Ablation,
        Transplant,
        Interpolation,
        Health,
        Probe,
        Needle,
        Evaluation,
    )
}
"""The class of each kind of run."""


def open_run(run_dir: Path) -> RunResult:
    """Read a run by the kind that its record names; without one it is read as a comparison.

    Raises:
        UserError: no run there, or one that is damaged or of a later format.
    """
    return KINDS.get(run_kind(run_dir) or COMPARISON, KINDS[COMPARISON]).load(run_dir)
