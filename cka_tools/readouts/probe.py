"""A task's labels, read from the last layer's features by logistic regression."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cka_tools.documents import Document
from cka_tools.errors import UserError
from cka_tools.extraction.batches import TokenBatch
from cka_tools.extraction.extract import prepare, without_packing
from cka_tools.extraction.words import WordRows, word_rows
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


READOUT_WORDS = 40_000
"""Words of train that a probe of tags is fitted on here, where the features of all hybrids are kept at once."""


@dataclass(frozen=True)
class TaskTexts(Inputs):
    """A task's texts with their examples, or with the places of their words, and the seed of its folds."""

    of: classifier.Labelled | Task = ...  # type: ignore[assignment]
    words: WordRows | None = None
    seed: int = 0


class TaskProbe:
    """Scores on test of a probe that is fitted, for each model anew, on the last layer's features of train.

    Of tags it takes the state of each word's first piece, behind the final norm. It reads the task's texts,
    whatever the run's corpus is.

    Args:
        task: as `tasks.read_task` takes it.

    Raises:
        UserError: a task that does not fit, or scikit-learn is not installed.
    """

    quantities: Sequence[Quantity] = QUANTITIES
    head: HeadKind | None = None

    def __init__(self, task: str) -> None:
        classifier.need_sklearn()
        self.task = read_task(task)
        self.pooled = self.task.kind != "tags"
        if not self.pooled:
            tagger.need_seqeval()
        self.name = f"probe:{self.task.name}"
        self.title = f"{self.task.name} probe"

    def inputs(self, model: LoadedModel, drawn: Inputs, settings: Settings) -> TaskTexts:
        """The task's texts.

        Raises:
            UserError: token pooling.
        """
        one_row_each(settings, self.task)
        part = self.task if self.pooled else tagger.fitting_part(self.task, settings.seed, READOUT_WORDS)
        texts = [Document(one["id"], one["text"]) for one in classifier.texts_of(part)]
        prepared = without_packing(prepare([model], texts, settings))
        documents = [texts[row] for row in prepared.kept.tolist()]
        notes = [*part.notes, *prepared.notes]
        of: classifier.Labelled | Task = part
        words = None
        if self.pooled:
            of = classifier.labelled(part, [one.id for one in documents])
            sizes = f"{len(of.train_gold):,} texts of train and read on {len(of.test_gold):,} of test"
        else:
            words = word_rows(model, prepared, texts, tagger.words_of(part))
            notes += tagger.missed(words.cut, words.lost, part, prepared.max_length)
            sizes = f"{len(part.train):,} sentences of train and read on {len(part.test):,} of test"
        notes.insert(0, f"{self.name}: logistic regression on the last layer, fitted on {sizes}.")
        return TaskTexts(prepared.tables[0], prepared.plan, documents, tuple(notes), of, words, settings.seed)

    def read(self, model: LoadedModel, inputs: Inputs, batch: TokenBatch, states: States) -> Rows:
        """The last layer's pooled features, (b, p); of tags for each sentence those of its words, (words, p)."""
        assert isinstance(inputs, TaskTexts)
        if inputs.words is None:
            return {"features": states.pooled[-1][0].cpu().numpy()}
        last = states.last.float().cpu().numpy()
        found = np.empty(len(batch.rows), dtype=object)
        for at, row in enumerate(batch.rows):
            found[at] = last[at, inputs.words.positions[row]]
        return {"features": found}

    def readings(self, rows: Rows, inputs: Inputs) -> dict[str, Reading]:
        """F1 and accuracy over the texts of test."""
        assert isinstance(inputs, TaskTexts)
        if isinstance(inputs.of, classifier.Labelled):
            return classifier.probe(rows["features"], inputs.of, inputs.seed).readings
        assert inputs.words is not None
        features = np.concatenate(list(rows["features"]))
        return tagger.probe(features, inputs.words.rows, inputs.of, inputs.seed).readings


def one_row_each(settings: Settings, task: Task) -> None:
    """Raise a UserError where a text would give several rows, or a task of tags would be pooled."""
    if task.kind == "tags" and settings.pooling != "mean":
        raise UserError(
            f"pooling {settings.pooling!r}: tags are read from the first piece of each word: leave pooling out"
        )
    if settings.pooling == "token":
        raise UserError("pooling 'token' gives a text several rows, a probe takes one: use mean, cls or last")
