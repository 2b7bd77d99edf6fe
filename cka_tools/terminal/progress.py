"""How far a command has come: the bar of a comparison, the line of a training."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

if TYPE_CHECKING:
    from cka_tools.training.loop import StepReport

SECONDS_A_LINE = 30
INTERRUPTED = 130


class _Rate(ProgressColumn):
    """Documents and tokens per second since the first batch was started."""

    def render(self, task: Task) -> Text:
        if not task.elapsed or not task.completed:
            return Text("")
        tokens = task.fields.get("tokens", 0)
        return Text(f"{task.completed / task.elapsed:,.1f} documents/s  {tokens / task.elapsed:,.0f} tokens/s")


@contextmanager
def document_progress(console: Console, *, hidden: bool) -> Iterator[Callable[[int, int, int], None]]:
    """A bar that takes documents done, tokens done, documents in all; nothing outside a terminal."""
    columns = (
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        _Rate(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, disable=hidden or not console.is_terminal, transient=True) as bar:
        task: list = []

        def report(documents: int, tokens: int, total: int) -> None:
            if not task:
                task.append(bar.add_task("documents", total=total, tokens=0))
            bar.update(task[0], completed=documents, tokens=tokens)

        yield report


class TrainingLine:
    """Where training stands: one line that changes in a terminal, one now and then elsewhere."""

    def __init__(self, pieces: Mapping[str, tuple[int, Hashable]]) -> None:
        """Take what is left to train.

        Args:
            pieces: for each piece its tokens and its kind; pieces of one kind are equally fast.
        """
        self._number = {key: i for i, key in enumerate(pieces, 1)}
        self._left = {key: tokens for key, (tokens, _) in pieces.items()}
        self._kind = {key: kind for key, (_, kind) in pieces.items()}
        self._speeds: dict[Hashable, float] = {}
        self._console = Console(stderr=True)
        self._told = time.monotonic()

    def show(self, key: str, done: StepReport, what: str) -> None:
        """Tell of a step of the piece `key`; `what` says in words which one it is."""
        self._left[key] = done.tokens * (done.steps - done.step) // done.step
        # What has not been trained yet may be faster or slower: this one's speed until it is known.
        self._speeds[self._kind.get(key)] = now = done.tokens_per_second
        left = sum(tokens / self._speeds.get(self._kind.get(one), now) for one, tokens in self._left.items())
        text = (
            f"{self._number.get(key, 0)}/{len(self._number)} {what}  step {done.step:,}/{done.steps:,}  "
            f"{done.tokens:,} tokens  loss {done.loss:.3f}  lr {done.learning_rate:.2e}  "
            f"{done.tokens_per_second:,.0f} tokens/s  {duration(left)} left"
        )
        if self._console.is_terminal:
            self._rewrite(text[: self._console.width - 1])
        elif done.step == done.steps or time.monotonic() - self._told > SECONDS_A_LINE:
            self._told = time.monotonic()
            tell(text)

    @contextmanager
    def going_on(self, out: Path) -> Iterator[None]:
        """Leave the line at the end; where the user stops a training in `out`, say how it goes on, and exit."""
        try:
            yield
        except KeyboardInterrupt:
            self._end()
            tell(f"cka: interrupted: the same command goes on from the last checkpoint in {out}")
            sys.exit(INTERRUPTED)
        self._end()

    def _end(self) -> None:
        if self._console.is_terminal:
            self._rewrite("")

    def _rewrite(self, text: str) -> None:
        self._console.file.write(f"\r\x1b[2K{text}")
        self._console.file.flush()


def tell(text: str) -> None:
    """Print a line about the work, on standard error."""
    print(text, file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """Seconds as "2 h 05 min", "3 min 20 s" or "41 s"."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"
