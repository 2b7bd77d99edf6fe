"""How far a run is: its pace and the time left, and a bar for notebooks."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

from cka_tools.formatting import duration

Report = Callable[[int, int, int], None]
"""Called with documents done, tokens done and documents in all, over all models and draws; what was found in the
cache is in none of them."""

Progress = Report | bool
"""What a function takes as `progress`: a function of one's own, True for a bar, False for none; None (the default)
is a bar in notebooks alone."""


class Pace:
    """Documents and tokens a second, from the first report on: what comes before it is loading."""

    def __init__(self) -> None:
        self._first: tuple[float, int, int] | None = None

    def words(self, documents: int, tokens: int, total: int) -> str:
        """ "120/500 documents  4,567 tokens/s  1 min 10 s left"; without a pace at the first report."""
        now = time.monotonic()
        began, before, tokens_before = self._first = self._first or (now, documents, tokens)
        text = f"{documents:,}/{total:,} documents"
        if now == began or documents == before:
            return text
        left = (total - documents) * (now - began) / (documents - before)
        return f"{text}  {(tokens - tokens_before) / (now - began):,.0f} tokens/s  {duration(left)} left"


def in_notebook() -> bool:
    """Whether this runs in a notebook's kernel."""
    interactive = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return interactive is not None and hasattr(interactive, "kernel")


def reporter(asked: Progress | None) -> Report | None:
    """What a run reports to, if anything."""
    if callable(asked):
        return asked
    return _bar() if (in_notebook() if asked is None else asked) else None


def _bar() -> Report:
    """A bar of tqdm's, the kind that fits where it is shown; it closes itself at the end."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a notebook without widgets has a bar of text
        from tqdm.auto import tqdm
    bars: list[Any] = []

    def report(documents: int, tokens: int, total: int) -> None:
        if not bars:
            bars.append(tqdm(total=total, unit=" documents"))
        (bar,) = bars
        bar.total, bar.n = total, documents
        bar.set_postfix_str(f"{tokens:,} tokens", refresh=False)
        bar.refresh()
        if documents >= total:
            bar.close()
            bars.clear()

    return report
