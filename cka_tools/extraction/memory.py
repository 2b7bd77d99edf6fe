"""A batch that does not fit in memory is split in two and tried again."""

import gc
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

Result = TypeVar("Result")


class DoesNotFit(Exception):  # noqa: N818 - a condition for the caller to name, not a fault
    """One document alone ran out of memory; `row` says which."""

    def __init__(self, row: int) -> None:
        super().__init__(f"document row {row} does not fit in memory")
        self.row = row


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on any device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "defaultcpuallocator" in text)


def run_splitting(
    run: Callable[[Sequence[int]], Result], rows: Sequence[int], on_split: Callable[[Sequence[int]], None]
) -> Iterator[tuple[Sequence[int], Result]]:
    """Yield `(rows, run(rows))`, or the same of each half, in order, where memory ran out.

    Raises:
        DoesNotFit: a single document that runs out of memory.
    """
    # The retry happens outside the except clause: the traceback keeps the failed pass's tensors alive.
    try:
        result = run(rows)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    else:
        yield rows, result
        return
    if len(rows) == 1:
        raise DoesNotFit(rows[0])
    on_split(rows)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    middle = len(rows) // 2
    for half in (rows[:middle], rows[middle:]):
        yield from run_splitting(run, half, on_split)
