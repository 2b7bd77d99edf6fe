"""Runs on disk: one small record for each model, task and seed, shared by all processes that work on them.

    evaluation.json   what makes this evaluation: models and tasks by content, settings
    runs/             the record of each finished run: scores on dev by epoch, labels of test; no text, no weights
    weights/          the fine-tuned models, where they were asked for
    result.json, …    the table of all runs, once they are finished

A run that is stopped is made again from its beginning: nothing of it is kept.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from cka_tools.comparison.record import PACKAGES, circumstances
from cka_tools.evaluation.fine_tune import Tuned
from cka_tools.store.directory import locked, replace_file
from cka_tools.training.checkpoint import WEIGHTS, whole_folder

CLAIM: Final[dict[str, Any]] = {"name": "evaluation.json", "what": "evaluation"}
"""As `training.run.claim` takes it."""

RUNS, KEPT = "runs", "weights"
KEY_LETTERS = 8
PROCEDURE = 1
"""Raised where the same settings give other numbers than before."""

SECONDS_BETWEEN_LOOKS = 2
"""At runs that another process is at, once all others are finished."""


@dataclass(frozen=True)
class Run:
    """One model on one task with one seed.

    Attributes:
        model, task: by their places. name: of its files. key: sha256 of all that can change its numbers.
        outputs: what a classifier's outputs stand for. words: of each text of test the labels that it has: one,
            any number (None), or one a word.
    """

    model: int
    task: int
    seed: int
    name: str
    key: str
    outputs: tuple[str, ...]
    words: tuple[int | None, ...]

    def file(self, out: Path) -> Path:
        """Its record."""
        return out / RUNS / f"{self.name}.json"

    def weights(self, out: Path) -> Path:
        """Its fine-tuned model."""
        return out / KEPT / self.name

    def read(self, out: Path) -> Tuned | None:
        """What it found; None where it is not finished, or its record is damaged or of other settings."""
        try:
            written = json.loads(self.file(out).read_text(encoding="utf-8"))
            if written["key"] != self.key:
                return None
            found = [tuple(self.outputs[at] for at in one if at >= 0) for one in written["found"]]
            sizes = [len(one) for one in found]
            dev, best = [float(one) for one in written["dev"]], int(written["best_epoch"])
            loss = None if written.get("loss") is None else float(written["loss"])
        except (OSError, ValueError, TypeError, KeyError, IndexError):
            return None
        fits = len(sizes) == len(self.words) and all(
            words in (None, size) for words, size in zip(self.words, sizes, strict=True)
        )
        return Tuned(dev, best, found, loss) if fits and 1 <= best <= len(dev) else None

    def is_finished(self, out: Path, *, keep_weights: bool) -> bool:
        """Whether its record is there, and its weights where they are wanted."""
        return self.read(out) is not None and (not keep_weights or (self.weights(out) / WEIGHTS).is_file())


def key_of(facts: dict[str, Any]) -> str:
    """Of JSON data."""
    return sha256(json.dumps(facts | {"procedure": PROCEDURE}, sort_keys=True).encode()).hexdigest()


def share_runs(
    runs: Sequence[Run],
    out: Path,
    make: Callable[[Run], tuple[Tuned, dict[str, Any]]],
    *,
    keep_weights: bool,
    seen: Callable[[Run, bool], None],
) -> None:
    """Make all runs that are not made; of several processes on one directory each takes the next that is free.

    Args:
        make: makes a run, and says what its record holds besides.
        seen: called with every run that is finished, and whether it was made here.
    """
    left = list(runs)
    while left:
        for run in list(left):
            made = False
            if not run.is_finished(out, keep_weights=keep_weights):
                with ExitStack() as held:
                    try:
                        held.enter_context(locked(out / RUNS / f".{run.name}.lock", wait=False))
                    except BlockingIOError:  # another process is at it
                        continue
                    if made := not run.is_finished(out, keep_weights=keep_weights):
                        _write(run, out, *make(run))
            left.remove(run)
            seen(run, made)
        if left:
            time.sleep(SECONDS_BETWEEN_LOOKS)


def _write(run: Run, out: Path, tuned: Tuned, facts: dict[str, Any]) -> None:
    place = {name: at for at, name in enumerate(run.outputs)}
    record = {
        "key": run.key,
        "seed": run.seed,
        **facts,
        "best_epoch": tuned.best,
        "dev": tuned.dev,
        "loss": tuned.loss,
        "outputs": list(run.outputs),
        "found": [[place[name] for name in one] for one in tuned.found],
        **circumstances((*PACKAGES, "accelerate")),
    }
    text = json.dumps(record, ensure_ascii=False)
    replace_file(run.file(out), lambda path: path.write_bytes(text.encode("utf-8", "backslashreplace")))


def keep_model(run: Run, out: Path, model: Any, tokenizer: Any) -> None:
    """Write a fine-tuned model whole."""
    (out / KEPT).mkdir(exist_ok=True)
    if run.weights(out).is_dir():  # of a run that was stopped before its record was written
        shutil.rmtree(run.weights(out))
    with whole_folder(run.weights(out)) as staging:
        model.save_pretrained(staging)
        tokenizer.save_pretrained(staging)
