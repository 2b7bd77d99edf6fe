"""Models fine-tuned on tasks with several seeds → one table: means, intervals, what differs clearly."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cka_tools.comparison.readout_results import Evaluation
from cka_tools.comparison.record import EVALUATION, PACKAGES, JsonObject, circumstances
from cka_tools.errors import UserError
from cka_tools.evaluation.examples import encode, outputs_of
from cka_tools.evaluation.fine_tune import Split, Tuned, fine_tune, headline, readings
from cka_tools.evaluation.heads import check_head
from cka_tools.evaluation.options import EvaluationOptions
from cka_tools.evaluation.runs import CLAIM, KEY_LETTERS, RUNS, Run, keep_model, key_of, share_runs
from cka_tools.evaluation.table import table_of
from cka_tools.extraction.tokens import resolve_max_length, tokenizer_of
from cka_tools.formatting import counted, quoted, slug
from cka_tools.models import LoadOptions, ModelGiven, ModelOutline, ModelSource, as_source
from cka_tools.progress import Progress, Report, reporter
from cka_tools.statistics.paired import Reading
from cka_tools.tasks import Task, classifier, read_task, tagger
from cka_tools.tasks.task import DEV, TEST, TRAIN
from cka_tools.training.run import check_claim, claim

DEV_SHARE, DEV_SEED = 10, 0
"""A tenth of train where there is no dev: the same whatever the seed of a run."""

HASHES = ("weights_sha256", "config_sha256", "tokenizer_sha256", "revision")


def evaluate(
    models: Sequence[ModelGiven] | Plan,
    tasks: Sequence[str | Task] = (),
    *,
    out: str | Path | None = None,
    options: EvaluationOptions | None = None,
    progress: Progress | None = None,
    told: Callable[[str], None] | None = None,
    **given: Any,
) -> Evaluation:
    """Fine-tune every model on every task with every seed, and put the scores on test into one table.

    Heads are those of transformers' classes for sequences and tokens; training is its Trainer. Each run keeps the
    epoch with the best score on dev (a seeded tenth of train where a task has none). One seed gives one result.

    Args:
        models: anything `compare` takes as a model; or a plan, which has all but the arguments that follow `out`.
        tasks: as `tasks.read_task` takes them, or read ones.
        out: directory of the runs. The same call goes on with what is there, several at once share the runs; a
            run that was stopped is made again from its beginning. Without it nothing is kept.
        options: or its fields as keywords (`EvaluationOptions`): seeds, lr, epochs, batch_size, …
        progress: called with texts done, tokens done and texts in all. told: takes a line on each run.

    Returns:
        scores of every model and task with intervals over seeds, and paired differences over seeds and documents.

    Raises:
        UserError: input that does not fit, in one line and before any training; a loss that is not finite.
    """
    plan = (
        models
        if isinstance(models, Plan)
        else make_plan(models, tasks, replace(options or EvaluationOptions(), **given))
    )
    with _finished(plan, out, progress, told) as place:
        return _result(plan, place)


def readings_of(
    plan: Plan, *, out: str | Path | None = None, progress: Progress | None = None
) -> list[dict[str, Reading]]:
    """Fine-tune every model of a plan of one task and one seed: its scores on test as readings over documents.

    Args:
        out, progress: as `evaluate` takes them.

    Raises:
        UserError: as `evaluate`.
    """
    (task,) = plan.tasks
    gold = [one.labels for one in task.test]
    with _finished(plan, out, progress, None) as place:
        return [readings(task, gold, tuned.found) for _, tuned in _read(plan, place)]


@contextmanager
def _finished(
    plan: Plan, out: str | Path | None, progress: Progress | None, told: Callable[[str], None] | None
) -> Iterator[Path]:
    """The directory in which all runs of a plan are finished."""
    with ExitStack() as stack:
        place = Path(out or stack.enter_context(tempfile.TemporaryDirectory(prefix="cka-evaluate-")))
        claim(place, plan.identity, **CLAIM)
        (place / RUNS).mkdir(exist_ok=True)
        _make_runs(plan, place, reporter(progress), told)
        yield place


@dataclass(frozen=True)
class Plan:
    """What is fixed, and checked, before anything is trained.

    Attributes:
        content: of each model its hashes. max_length: tokens a text is cut to. notes: plain sentences.
        splits: the examples as tokens, by task and tokenizer.
    """

    sources: list[ModelSource]
    outlines: list[ModelOutline]
    content: list[JsonObject]
    tasks: list[Task]
    options: EvaluationOptions
    max_length: int
    splits: dict[tuple[int, str], dict[str, Split]]
    notes: list[str]

    @property
    def identity(self) -> JsonObject:
        """What makes an evaluation, but its seeds, which may grow."""
        content = [{name: one[name] for name in HASHES if name in one} for one in self.content]
        tasks = [{"name": task.name, "fingerprint": task.fingerprint} for task in self.tasks]
        return self.options.record() | {"max_length": self.max_length, "models": content, "tasks": tasks}

    def split(self, task: int, model: int) -> dict[str, Split]:
        """A task as a model reads it."""
        return self.splits[task, tokenizer_of(self.outlines[model])]

    def runs(self) -> list[Run]:
        """All of them, seed by seed, so that a part of them is a table of all models."""
        settings = self.options.record() | {"max_length": self.max_length}
        found = []
        for seed in self.options.seeds:
            for t, task in enumerate(self.tasks):
                for m, source in enumerate(self.sources):
                    own = settings | {"epochs": self.options.epochs_of(task.kind), "headline": headline(task)}
                    facts = {"model": self.content[m], "task": task.fingerprint, "seed": seed, "settings": own}
                    key = key_of(facts)
                    name = f"{slug(task.name)}-{slug(source.name)}-seed{seed}-{key[:KEY_LETTERS]}"
                    tags = [len(one.labels) if task.kind == "tags" else None for one in task.test]
                    words = [1 if task.kind == "label" else size for size in tags]
                    found.append(Run(m, t, seed, name, key, outputs_of(task), tuple(words)))
        return found


def make_plan(models: Sequence[ModelGiven], tasks: Sequence[str | Task], options: EvaluationOptions) -> Plan:
    """Open models and tasks, and check all that can be checked without weights.

    Raises:
        UserError: as `evaluate`.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("evaluate trains in one process: start it several times with one --out, to share the runs")
    for what, names in (("model", list(models)), ("task", list(tasks))):
        if not names:
            raise UserError(f"no {what} is given: name one or more")
        if twice := [one for at, one in enumerate(names) if any(one is o or one == o for o in names[:at])]:
            raise UserError(f"{what} {quoted(getattr(twice[0], 'name', twice[0]), 200)} is given twice: name it once")
    read = [one if isinstance(one, Task) else read_task(one) for one in tasks]
    if twice := [task.name for at, task in enumerate(read) if task.name in [one.name for one in read[:at]]]:
        raise UserError(f"two tasks are called {twice[0]!r}: rename one file")
    need_packages(read)
    loading = _loading(options)
    sources = [as_source(one) for one in models]
    outlines = [source.outline(loading) for source in sources]
    for outline in outlines:
        for kind in dict.fromkeys(task.kind for task in read):
            check_head(outline, kind)
    max_length, notes = resolve_max_length(outlines, options.max_length)
    notes = [note.replace("Documents are", "Texts are") for note in notes]
    splits: dict[tuple[int, str], dict[str, Split]] = {}
    for at, task in enumerate(read):
        parts, note = _parts(task)
        notes += [*task.notes, *note]
        for outline in outlines:
            place = at, tokenizer_of(outline)
            if place not in splits:
                splits[place] = {
                    name: Split(part, encode(part, task, outline, max_length)) for name, part in parts.items()
                }
    content = [_content(source, loading) for source in sources]
    return Plan(sources, outlines, content, read, options, max_length, splits, list(dict.fromkeys(notes)))


def need_packages(tasks: Sequence[Task]) -> None:
    """Raise a UserError where a package that fine-tuning or its scores need is not installed."""
    classifier.need_sklearn("floors of evaluations")
    if any(task.kind == "tags" for task in tasks):
        tagger.need_seqeval()
    try:
        import accelerate  # noqa: F401
    except ImportError as error:
        raise UserError("fine-tuning needs accelerate: pip install 'cka-tools[evaluate]'") from error


def check_out(plan: Plan, out: Path) -> None:
    """Raise a UserError where a directory holds another evaluation, or something else."""
    check_claim(out, plan.identity, before={}, **CLAIM)


def _loading(options: EvaluationOptions) -> LoadOptions:
    return LoadOptions(device=options.device, trust_remote_code=options.trust_remote_code, allow_bin=options.allow_bin)


def _content(source: ModelSource, loading: LoadOptions) -> JsonObject:
    """Hashes of a model; of one in memory, or with code of its own, they are known when it is loaded."""
    return source.fingerprint() or {k: v for k, v in source.load(loading).provenance.items() if k.endswith("_sha256")}


def _parts(task: Task) -> tuple[dict[str, Sequence[Any]], list[str]]:
    """The three splits; where there is no dev, a tenth of train is."""
    if task.dev:
        return {TRAIN: task.train, DEV: task.dev, TEST: task.test}, []
    size = -(-len(task.train) // DEV_SHARE)
    order = np.random.default_rng(DEV_SEED).permutation(len(task.train))
    drawn = set(order[:size].tolist())
    dev = [one for at, one in enumerate(task.train) if at in drawn]
    rest = [one for at, one in enumerate(task.train) if at not in drawn]
    note = (
        f"{task.name} has no dev split: {size:,} texts of train, a tenth drawn with seed {DEV_SEED}, choose the epoch."
    )
    return {TRAIN: rest, DEV: dev, TEST: task.test}, [note]


def _make_runs(plan: Plan, out: Path, progress: Report | None, told: Callable[[str], None] | None) -> None:
    runs, options = plan.runs(), plan.options
    size = {run: _texts(plan, run) for run in runs}
    total, done, tokens = sum(size.values()), 0, 0

    def step(texts: int, read: int) -> None:
        if progress is not None:
            progress(done + texts, tokens + read, total)

    def make(run: Run) -> tuple[Tuned, JsonObject]:
        started, task, source = time.perf_counter(), plan.tasks[run.task], plan.sources[run.model]
        outline = plan.outlines[run.model]
        tuned = fine_tune(
            source, _loading(options), task, plan.split(run.task, run.model), outline.pad_id, options, run.seed,
            told=step,
            keep=(lambda model: keep_model(run, out, model, outline.tokenizer)) if options.keep_weights else None,
        )  # fmt: skip
        facts = {"model": source.name, "task": task.name, "content": plan.content[run.model],
                 "task_fingerprint": task.fingerprint, "settings": options.record(),
                 "seconds": round(time.perf_counter() - started, 1)}  # fmt: skip
        return tuned, facts

    def seen(run: Run, made: bool) -> None:
        nonlocal done, tokens
        done += size[run]
        tokens += _tokens(plan, run)
        if told is not None and made:
            tuned = run.read(out)
            score = (
                ""
                if tuned is None
                else f": best of {counted(len(tuned.dev), 'epoch')} is {tuned.best} (dev {100 * max(tuned.dev):.1f})"
            )
            told(f"{plan.tasks[run.task].name}, {plan.sources[run.model].name}, seed {run.seed}{score}")

    share_runs(runs, out, make, keep_weights=options.keep_weights, seen=seen)


def _texts(plan: Plan, run: Run) -> int:
    task = plan.tasks[run.task]
    return plan.options.epochs_of(task.kind) * len(plan.split(run.task, run.model)[TRAIN].examples)


def _tokens(plan: Plan, run: Run) -> int:
    rows = plan.split(run.task, run.model)[TRAIN].rows.rows
    return plan.options.epochs_of(plan.tasks[run.task].kind) * sum(len(row.ids) for row in rows)


def _read(plan: Plan, out: Path) -> Iterator[tuple[Run, Tuned]]:
    for run in plan.runs():
        tuned = run.read(out)
        if tuned is None:
            raise UserError(f"the record {str(run.file(out))!r} was damaged meanwhile: start again to make it anew")
        yield run, tuned


def _result(plan: Plan, out: Path) -> Evaluation:
    found: dict[tuple[int, int], list[tuple[int, Tuned]]] = {}
    for run, tuned in _read(plan, out):
        found.setdefault((run.task, run.model), []).append((run.seed, tuned))
    record, arrays = table_of(plan.tasks, len(plan.sources), found)
    notes = plan.notes + _cut_notes(plan)
    options, outlines = plan.options, plan.outlines
    record["models"] = [
        {"name": source.name, "weights_sha256": content.get("weights_sha256")}
        for source, content in zip(plan.sources, plan.content, strict=True)
    ]
    record["summary"] |= {"notes": notes, "warnings": [], "seeds": list(options.seeds)}
    settings = options.record() | {"max_length": plan.max_length, "dtype": options.precision}
    settings |= {"epochs": {task.name: options.epochs_of(task.kind) for task in plan.tasks}}
    record["provenance"] = {
        "models": [
            {"role": "model", "name": source.name, **outline.provenance, **content}
            for source, outline, content in zip(plan.sources, outlines, plan.content, strict=True)
        ],
        "corpus": {"spec": f"tasks {', '.join(task.name for task in plan.tasks)}", "source": {}},
        "settings": settings,
        **circumstances((*PACKAGES, "accelerate", "scikit-learn")),
    }
    return Evaluation({"kind": EVALUATION, **record, "pairs": []}, arrays)


def _cut_notes(plan: Plan) -> list[str]:
    """How many texts were cut, and how many words of test nothing was said of."""
    notes = []
    for at, task in enumerate(plan.tasks):
        for m, source in enumerate(plan.sources):
            rows: Mapping[str, Split] = plan.split(at, m)
            train, test = rows[TRAIN].rows, rows[TEST].rows
            told = []
            if train.cut or test.cut:
                told = [f"{train.cut:,} texts of train and {test.cut:,} of test were cut to {plan.max_length} tokens"]
            if test.beyond:
                told.append(f"{test.beyond:,} words of test lie beyond the cut or have no piece, and count as O")
            notes += [f"{task.name}, {source.name}: {'; '.join(told)}."] if told else []
    return notes
