"""One fine-tuning: a model with a fresh head, trained by transformers' Trainer, its best epoch read on test."""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import EvalPrediction, PrinterCallback, Trainer, TrainerCallback, TrainingArguments, set_seed
from transformers.trainer_pt_utils import LengthGroupedSampler

from cka_tools.errors import UserError
from cka_tools.evaluation.examples import Row, Rows, collate, labels_of, outputs_of
from cka_tools.evaluation.heads import model_with_head
from cka_tools.evaluation.options import EvaluationOptions
from cka_tools.models import LoadOptions, ModelSource
from cka_tools.models.load import quiet_transformers
from cka_tools.statistics.paired import Reading
from cka_tools.tasks.scores import ACCURACY, MACRO, MICRO, entity_scores, scores
from cka_tools.tasks.task import Example, Task

EVALUATED = 4
"""Batches of training in one of reading: reading keeps no activations."""

Labels = Sequence[tuple[str, ...]]


@dataclass(frozen=True)
class Split:
    """Examples with their tokens."""

    examples: Sequence[Example]
    rows: Rows

    @property
    def by_length(self) -> list[int]:
        """Their places, the shortest first: batches that are only read hold little padding so."""
        return sorted(range(len(self.rows.rows)), key=lambda at: len(self.rows.rows[at].ids))

    def sorted_rows(self) -> list[Row]:
        """The tokens in that order."""
        return [self.rows.rows[at] for at in self.by_length]

    def labels(self, outputs: Any, task: Task) -> list[tuple[str, ...]]:
        """What a model says of each example, of its outputs in that order."""
        return labels_of(np.asarray(outputs)[np.argsort(self.by_length)], self.rows, task)


@dataclass(frozen=True)
class Tuned:
    """What a run found.

    Attributes:
        dev: the headline score on dev after each epoch. best: the epoch that was kept, from 1; of equal ones the
            first.
        found: labels of each text of test, in the form of `Example.labels`.
        loss: of training, the mean over its steps.
    """

    dev: list[float]
    best: int
    found: list[tuple[str, ...]]
    loss: float | None = None


def headline(task: Task) -> str:
    """The score that chooses the epoch and stands in the table: the task's own metric where it names one."""
    if task.kind == "tags":
        return MICRO
    return {"micro F1": MICRO, "accuracy": ACCURACY}.get(task.facts.get("metric", ""), MACRO)


def readings(task: Task, gold: Labels, found: Labels) -> dict[str, Reading]:
    """Scores of labels over the texts that they are of."""
    if task.kind == "tags":
        return entity_scores(gold, found)
    sides = [np.array([[name in own for name in task.classes] for own in side], dtype=bool) for side in (gold, found)]
    return scores(*sides)


@contextmanager
def reproducible(seed: int) -> Iterator[None]:
    """Every draw inside follows from the seed; the caller's generators and switches are put back."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None
    # transformers seeds NumPy's old generator too.
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    strict, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    # Without this cuBLAS may sum in another order from call to call, and torch refuses it.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    try:
        set_seed(seed)
        torch.use_deterministic_algorithms(True)
        yield
    finally:
        torch.use_deterministic_algorithms(strict, warn_only=warns)
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)


def fine_tune(
    source: ModelSource,
    loading: LoadOptions,
    task: Task,
    splits: Mapping[str, Split],
    pad_id: int,
    options: EvaluationOptions,
    seed: int,
    *,
    told: Callable[[int, int], None] | None = None,
    keep: Callable[[Any], None] | None = None,
) -> Tuned:
    """Fine-tune a model on a task's train split, keep its best epoch by dev, and label test.

    AdamW, gradients cut at norm 1, no warm-up. One seed gives one result: it fixes the head's first weights, the
    order of the data and dropout.

    Args:
        splits: "train", "dev" and "test". pad_id: fills batches.
        told: called after each step with texts and tokens done. keep: takes the model of the best epoch.

    Raises:
        UserError: as `model_with_head`; a loss that is not finite.
    """
    with reproducible(seed), tempfile.TemporaryDirectory(prefix="cka-evaluate-") as scratch:
        model = model_with_head(source, loading, task.kind, outputs_of(task))
        best = _Best()
        trainer = _Trainer(
            model=model,
            args=_arguments(Path(scratch), options, task, seed),
            data_collator=partial(collate, pad_id=pad_id, kind=task.kind),
            train_dataset=splits["train"].rows.rows,
            eval_dataset=splits["dev"].sorted_rows(),
            compute_metrics=partial(_dev_score, task=task, split=splits["dev"]),
            preprocess_logits_for_metrics=_likeliest if task.kind == "tags" else None,
            callbacks=[best, *([] if told is None else [_Told(told, splits["train"].rows, options)])],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.low_precision = options.precision == "bf16"
        if options.group_by_length:
            trainer.lengths = [len(row.ids) for row in splits["train"].rows.rows]
        with quiet_transformers():
            loss = float(trainer.train().training_loss)
            model.load_state_dict(best.weights)
            trainer.compute_metrics = None
            found = trainer.predict(splits["test"].sorted_rows()).predictions
        if keep is not None:
            keep(model.cpu())
    return Tuned(best.scores, best.epoch, splits["test"].labels(found, task), loss)


def _arguments(scratch: Path, options: EvaluationOptions, task: Task, seed: int) -> TrainingArguments:
    arguments = TrainingArguments(
        output_dir=str(scratch),
        seed=seed,
        num_train_epochs=options.epochs_of(task.kind),
        learning_rate=options.lr,
        weight_decay=options.weight_decay,
        per_device_train_batch_size=options.batch_size,
        per_device_eval_batch_size=EVALUATED * options.batch_size,
        use_cpu=options.device == "cpu",
        eval_strategy="epoch",
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # data parallelism would draw other dropout
    return arguments


class _Trainer(Trainer):
    """With autocast where it is asked for, and an end where the loss is not finite."""

    low_precision = False
    lengths: list[int] | None = None
    """Of the texts, where batches hold like ones."""

    def compute_loss_context_manager(self) -> Any:
        if not self.low_precision:
            return super().compute_loss_context_manager()
        return torch.autocast(self.args.device.type, dtype=torch.bfloat16)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if self.lengths is None:
            return super()._get_train_sampler(train_dataset)
        generator = torch.Generator().manual_seed(self.args.seed)
        return LengthGroupedSampler(self.args.train_batch_size, lengths=self.lengths, generator=generator)

    def training_step(self, *given: Any, **named: Any) -> torch.Tensor:
        loss: torch.Tensor = super().training_step(*given, **named)
        if not bool(torch.isfinite(loss)):
            raise UserError(
                f"the loss is not finite at step {self.state.global_step + 1}: training stopped; try a lower learning "
                f"rate than --lr {self.args.learning_rate:g}"
            )
        return loss


class _Best(TrainerCallback):
    """The weights of the best epoch, in memory."""

    def __init__(self) -> None:
        self.scores: list[float] = []
        self.epoch = 0
        self.weights: dict[str, torch.Tensor] = {}

    def on_evaluate(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        score = float(named["metrics"]["eval_score"])
        if not self.scores or score > max(self.scores):
            self.epoch = len(self.scores) + 1
            state_dict = named["model"].state_dict()
            self.weights = {name: value.detach().to("cpu", copy=True) for name, value in state_dict.items()}
        self.scores.append(score)


class _Told(TrainerCallback):
    def __init__(self, told: Callable[[int, int], None], rows: Rows, options: EvaluationOptions) -> None:
        self.told, self.texts, self.batch = told, len(rows.rows), options.batch_size
        self.tokens = sum(len(row.ids) for row in rows.rows)

    def on_step_end(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        steps = -(-self.texts // self.batch)
        epoch, step = divmod(state.global_step, steps)
        done = epoch * self.texts + min(step * self.batch, self.texts)
        self.told(done, round(done / self.texts * self.tokens))


def _dev_score(given: EvalPrediction, task: Task, split: Split) -> dict[str, float]:
    found = split.labels(given.predictions, task)
    gold = [one.labels for one in split.examples]
    return {"score": readings(task, gold, found)[headline(task)].value}


def _likeliest(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return logits.argmax(-1)
