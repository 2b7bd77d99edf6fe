"""A task's labels, read from the last layer's pooled features by logistic regression."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cka_tools.documents import Document
from cka_tools.errors import UserError
from cka_tools.extraction.batches import TokenBatch
from cka_tools.extraction.extract import prepare, without_packing
from cka_tools.models import LoadedModel
from cka_tools.models.language import HeadKind
from cka_tools.readouts.readout import Inputs, Quantity, Rows, States
from cka_tools.settings import Settings
from cka_tools.statistics.paired import Reading
from cka_tools.tasks import Task, classifier, read_task, tagger
from cka_tools.tasks.scores import ACCURACY, MACRO, MICRO

QUANTITIES = (
    Quantity(MACRO, "macro F1", "share", "higher"),
    Quantity(MICRO, "micro F1", "share", "higher"),
    Quantity(ACCURACY, "accuracy", "share", "higher"),
)


@dataclass(frozen=True)
class TaskTexts(Inputs):
    """A task's texts, and the seed of its folds."""

    labelled: classifier.Labelled = ...  # type: ignore[assignment]
    seed: int = 0


class TaskProbe:
    """Scores on test of a probe that is fitted, for each model anew, on the last layer's features of train.

    It reads the task's texts, whatever the run's corpus is.

    Args:
        task: as `tasks.read_task` takes it.

    Raises:
        UserError: a task that does not fit, or scikit-learn is not installed.
    """

    quantities: Sequence[Quantity] = QUANTITIES
    head: HeadKind | None = None
    pooled = True

    def __init__(self, task: str) -> None:
        classifier.need_sklearn()
        self.task = read_task(task)
        if self.task.kind == "tags":
            tagger.need_seqeval()
        self.name = f"probe:{self.task.name}"
        self.title = f"{self.task.name} probe"

    def inputs(self, model: LoadedModel, drawn: Inputs, settings: Settings) -> TaskTexts:
        """The task's texts.

        Raises:
            UserError: token pooling.
        """
        one_row_each(settings, self.task)
        texts = [Document(one["id"], one["text"]) for one in classifier.texts_of(self.task)]
        prepared = without_packing(prepare([model], texts, settings))
        documents = [texts[row] for row in prepared.kept.tolist()]
        of = classifier.labelled(self.task, [one.id for one in documents])
        sizes = f"fitted on {len(of.train_gold):,} texts of train and read on {len(of.test_gold):,} of test"
        notes = (f"{self.name}: logistic regression on the last layer, {sizes}.", *self.task.notes, *prepared.notes)
        return TaskTexts(prepared.tables[0], prepared.plan, documents, notes, of, settings.seed)

    def read(self, model: LoadedModel, inputs: Inputs, batch: TokenBatch, states: States) -> Rows:
        """The last layer's pooled features, (b, p)."""
        return {"features": states.pooled[-1][0].cpu().numpy()}

    def readings(self, rows: Rows, inputs: Inputs) -> dict[str, Reading]:
        """F1 and accuracy over the texts of test."""
        assert isinstance(inputs, TaskTexts)
        return classifier.probe(rows["features"], inputs.labelled, inputs.seed).readings


def one_row_each(settings: Settings, task: Task) -> None:
    """Raise a UserError where a text would give several rows, or a task of tags would be pooled."""
    if task.kind == "tags" and settings.pooling != "mean":
        raise UserError(
            f"pooling {settings.pooling!r}: tags are read from the first piece of each word: leave pooling out"
        )
    if settings.pooling == "token":
        raise UserError("pooling 'token' gives a text several rows, a probe takes one: use mean, cls or last")
