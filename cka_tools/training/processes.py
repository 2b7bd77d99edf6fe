"""Several processes that train together: what one of them finds out, all must know."""

import os
from collections.abc import Callable
from typing import TypeVar

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast_object_list

from cka_tools.errors import UserError
from cka_tools.processes import told_by_first

Found = TypeVar("Found")


def make_accelerator(*, cpu: bool) -> Accelerator:
    """Return accelerate's view of this process and its peers; precision is the loop's own business.

    Raises:
        UserError: accelerate does not see the peers that a launcher started: each would train for itself.
    """
    # Without `cpu` accelerate passes over the launcher's processes on a machine that has nothing else.
    accelerator = Accelerator(cpu=cpu or not torch.accelerator.is_available(), mixed_precision="no")
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != launched:
        raise UserError(
            f"{launched} processes were launched, accelerate sees {accelerator.num_processes}: "
            f"launch with torchrun or with accelerate launch, or start a single process"
        )
    return accelerator


def from_first(accelerator: Accelerator, find: Callable[[], Found]) -> Found:
    """Let the first process look at the disk or write to it, and give what it found to all.

    Raises:
        UserError: in all processes, where the first one met it.
    """
    if accelerator.num_processes == 1:
        return find()
    return told_by_first(find, broadcast_object_list, first=accelerator.is_main_process)


def leave_processes() -> bool:
    """End the work of several processes; tell whether this is the one that speaks for them."""
    state = PartialState()
    first = bool(state.is_main_process)
    if state.num_processes > 1:
        state.destroy_process_group()
    return first
