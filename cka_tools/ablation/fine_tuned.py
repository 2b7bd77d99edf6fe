"""Fine-tuning as a readout of an ablation's checkpoints: "evaluate:TASK"."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cka_tools.comparison.record import JsonObject
from cka_tools.compute import FeatureRun, Progress
from cka_tools.evaluation.heads import check_head
from cka_tools.evaluation.in_study import BACKWARD, options_in, place_in
from cka_tools.evaluation.options import EvaluationOptions
from cka_tools.evaluation.run_evaluate import make_plan, need_packages, readings_of
from cka_tools.evaluation.table import quantities_of
from cka_tools.readouts.readout import Quantity
from cka_tools.statistics.paired import Reading
from cka_tools.tasks import Task, read_task

EVALUATE = "evaluate:"
SEED = 1


@dataclass
class FineTuned:
    """Checkpoints fine-tuned on a task with one seed, and read on its test split.

    Attributes:
        name, title, quantities: as those of a `Readout`.
    """

    task: Task
    options: EvaluationOptions
    name: str = field(init=False)
    title: str = field(init=False)
    quantities: Sequence[Quantity] = field(init=False)

    def __post_init__(self) -> None:
        self.name, self.title = f"{EVALUATE}{self.task.name}", f"{self.task.name}, fine-tuned"
        self.quantities = quantities_of(self.task)

    def read(self, run: FeatureRun, parts: Path | None, progress: Progress | None) -> list[dict[str, Reading]]:
        """Scores of each distinct model of a run.

        Args:
            parts: where finished fine-tunings are kept and found again; None: nowhere.

        Raises:
            UserError: as `evaluate`.
        """
        plan = make_plan(run.sources, [self.task], self.options)
        return readings_of(plan, out=place_in(parts, plan), progress=progress)

    def note(self) -> str:
        """What its intervals hold."""
        return (
            f"{self.name} is of one seed ({SEED}) of fine-tuning each: its intervals are over texts of test, and what "
            "another seed would change is not in them"
        )

    def cost(self, run: FeatureRun) -> JsonObject:
        """Of all of its fine-tunings, in passes over the texts of train; backwards counts as two."""
        passes = (1 + BACKWARD) * self.options.epochs_of(self.task.kind)
        return {
            "readout": self.name, "checkpoints": len(run.sources), "texts": len(self.task.train),
            "passes": passes * len(run.sources),
        }  # fmt: skip


def fine_tuned(run: FeatureRun, name: str) -> FineTuned:
    """What fine-tunes a run's models on the task behind the colon; checked as far as that needs no weights.

    Raises:
        UserError: no such task; a model that takes no head for it; packages that lack.
    """
    task = read_task(name.removeprefix(EVALUATE))
    need_packages([task])
    for outline in run.outlines:
        check_head(outline, task.kind)
    return FineTuned(task, EvaluationOptions(seeds=(SEED,), **options_in(run.settings)))
