"""The progress bar: documents and tokens per second."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text


class _Rate(ProgressColumn):
    """Documents and tokens per second since the first batch was started."""

    def render(self, task: Task) -> Text:
        if not task.elapsed or not task.completed:
            return Text("")
        tokens = task.fields.get("tokens", 0)
        return Text(
            f"{task.completed / task.elapsed:,.1f} documents/s  {tokens / task.elapsed:,.0f} tokens/s"
        )


@contextmanager
def document_progress(console: Console, *, hidden: bool) -> Iterator[Callable[[int, int, int], None]]:
    """A bar that takes documents done, tokens done, documents in all; nothing outside a terminal."""
    columns = (
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        _Rate(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(
        *columns, console=console, disable=hidden or not console.is_terminal, transient=True
    ) as bar:
        task: list = []

        def report(documents: int, tokens: int, total: int) -> None:
            if not task:
                task.append(bar.add_task("documents", total=total, tokens=0))
            bar.update(task[0], completed=documents, tokens=tokens)

        yield report
