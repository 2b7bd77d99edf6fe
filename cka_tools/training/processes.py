"""Several processes that train together: what one of them finds out, all must know."""

from collections.abc import Callable
from typing import Any, TypeVar

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from cka_tools.errors import UserError

Found = TypeVar("Found")


def make_accelerator(*, cpu: bool) -> Accelerator:
    """Return accelerate's view of this process and its peers; precision is the loop's own business."""
    return Accelerator(cpu=cpu, mixed_precision="no")


def from_first(accelerator: Accelerator, find: Callable[[], Found]) -> Found:
    """Let the first process look at the disk or write to it, and give what it found to all.

    Raises:
        UserError: in all processes, where the first one met it.
    """
    if accelerator.num_processes == 1:
        return find()
    box: list[Any] = [None, None]
    if accelerator.is_main_process:
        try:
            box[0] = find()
        except UserError as error:
            box[1] = str(error)
    broadcast_object_list(box)
    if box[1] is not None:
        raise UserError(box[1])
    found: Found = box[0]
    return found
