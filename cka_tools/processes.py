"""Several processes of one command: who they are, what one tells the others, and how all of them end.

A launcher such as torchrun starts the same command N times. Every process makes the same plan and runs its
share of it; the first computes, writes and prints. Messages go through gloo on every machine: they are few
and from the host's memory, so nothing is won by another way, and processes may share a GPU.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

from cka_tools.errors import ProcessLost, UserError

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import Tensor

Found = TypeVar("Found")

TIMEOUT = timedelta(hours=1)
"""A process that is silent for so long is given up. One that ends is noticed at once, by its connection."""

_SPOKEN = "spoken"

LINGER = 2.0
"""Seconds for which the first process, which may hold the place to ask, waits for the others to ask."""


@dataclass(frozen=True)
class Process:
    """One process of a run: its rank among `world` processes."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that computes, writes and prints."""
        return self.rank == 0


_ALONE = Process()
_this = _ALONE


def this_process() -> Process:
    """This process; alone unless `joined` says otherwise."""
    return _this


@contextmanager
def joined() -> Iterator[Process]:
    """Work together with the processes that a launcher started beside this one, if it did.

    Left by an exception the processes stay joined until they end, so that one line is printed for all.
    """
    global _this
    launched = _launched()
    if launched.world == 1 or _this.world > 1:
        yield _this
        return
    import torch.distributed as dist

    with _messages():
        dist.init_process_group("gloo", timeout=TIMEOUT)
    _this = launched
    previous = signal.signal(signal.SIGTERM, _stopped)
    yield _this
    signal.signal(signal.SIGTERM, previous)
    with _messages():
        dist.barrier()
    leave()


def make_accelerator(*, cpu: bool) -> Accelerator:
    """accelerate's view of this process and of those it trains with; precision is the loop's own business.

    Raises:
        UserError: accelerate does not see the processes that a launcher started: each would train for itself;
            more processes on this machine than GPUs; accelerate is not installed.
    """
    import torch

    try:
        from accelerate import Accelerator
    except ImportError as error:
        raise UserError("training needs accelerate: pip install 'cka-tools[train]'") from error

    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if not cpu and torch.cuda.is_available() and here > torch.cuda.device_count():
        raise UserError(
            f"{here} processes were launched here to train on {torch.cuda.device_count()} GPUs: "
            f"start one a GPU, or train with device cpu"
        )
    # Without `cpu` accelerate passes over the launcher's processes on a machine that has nothing else.
    accelerator = Accelerator(cpu=cpu or not torch.accelerator.is_available(), mixed_precision="no")
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != launched:
        raise UserError(
            f"{launched} processes were launched, accelerate sees {accelerator.num_processes}: "
            f"launch with torchrun or with accelerate launch, or start a single process"
        )
    return accelerator


def leave() -> bool:
    """End the work of several processes, however they came together; tell whether this was the first."""
    global _this
    import torch.distributed as dist

    _this = _ALONE
    if not (dist.is_available() and dist.is_initialized()):
        return True
    first = dist.get_rank() == 0
    dist.destroy_process_group()
    return first


def speaks_first() -> bool:
    """Whether this process is the first to ask, of all: the line that ends a run is printed once."""
    if _this.world == 1:
        return True
    import torch.distributed as dist

    try:
        store = dist.distributed_c10d._get_default_store()
        place = store.add(_SPOKEN, 1)
        until = time.monotonic() + LINGER
        while _this.first and store.add(_SPOKEN, 0) < _this.world and time.monotonic() < until:
            time.sleep(0.02)
        return place == 1
    except RuntimeError:  # the launcher is gone, and with it the place to ask
        return _this.first


def from_first(find: Callable[[], Found], accelerator: Accelerator | None = None) -> Found:
    """Let the first process find something out, and tell all.

    Args:
        accelerator: of the processes that train together; by default those that `joined` brought together.

    Raises:
        UserError: in all processes, where the first one met it.
    """
    trains = accelerator and Process(accelerator.process_index, accelerator.num_processes)
    process = trains or _this
    if process.world == 1:
        return find()
    import torch.distributed as dist

    box: list[Any] = [None, None]
    if process.first:
        try:
            box[0] = find()
        except UserError as error:
            box[1] = str(error)
    with _messages():
        dist.broadcast_object_list(box)
    if box[1] is not None:
        raise UserError(box[1])
    found: Found = box[0]
    return found


def gather(value: Found) -> list[Found]:
    """What every process gives, by rank, in the first one; nothing in the others."""
    if _this.world == 1:
        return [value]
    import torch.distributed as dist

    box: list[Any] | None = [None] * _this.world if _this.first else None
    with _messages():
        dist.gather_object(value, box)
    return box or []


def all_gather(value: Found) -> list[Found]:
    """What every process gives, by rank, in all of them."""
    if _this.world == 1:
        return [value]
    import torch.distributed as dist

    box: list[Any] = [None] * _this.world
    with _messages():
        dist.all_gather_object(box, value)
    return box


def send_state(state: dict[str, Tensor]) -> None:
    """Send named tensors to the first process."""
    import torch.distributed as dist

    outline = [(name, tuple(tensor.shape), tensor.dtype) for name, tensor in state.items()]
    with _messages():
        dist.send_object_list([outline], 0)
        for tensor in state.values():
            if tensor.numel():
                dist.send(tensor.cpu().contiguous(), 0)


def receive_state(rank: int) -> dict[str, Tensor]:
    """The named tensors that a process has sent."""
    import torch
    import torch.distributed as dist

    box: list[Any] = [None]
    with _messages():
        dist.recv_object_list(box, rank)
        state = {name: torch.empty(shape, dtype=dtype) for name, shape, dtype in box[0]}
        for tensor in state.values():
            if tensor.numel():
                dist.recv(tensor, rank)
    return state


def local_rank() -> int:
    """This process's number on its machine, by which it chooses a GPU."""
    return int(os.environ.get("LOCAL_RANK", "0")) if _this.world > 1 else 0


def launched_first() -> bool:
    """Whether a launcher started this process as the first, or nobody launched it."""
    return _launched().first


def _launched() -> Process:
    """This process as a launcher started it."""
    if not {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= set(os.environ):
        return _ALONE
    return Process(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))


def _stopped(number: int, frame: FrameType | None) -> None:
    raise ProcessLost


@contextmanager
def _messages() -> Iterator[None]:
    """Turn what the network says of a peer that is gone into one condition."""
    try:
        yield
    except (UserError, ProcessLost):
        raise
    except (RuntimeError, OSError) as error:
        raise ProcessLost from error
