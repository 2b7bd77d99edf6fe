"""Several processes of one command: who they are, what one tells the others, and how all of them end.

A launcher such as torchrun starts the same command N times. Every process makes the same plan and runs its
share of it; the first computes, writes and prints. Messages go through gloo on every machine: they are few
and from the host's memory, so nothing is won by another way, and processes may share a GPU.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

from cka_tools.errors import ProcessLost, UserError

if TYPE_CHECKING:
    from torch import Tensor

Found = TypeVar("Found")

TIMEOUT = timedelta(hours=1)
"""A process that is silent for so long is given up. One that ends is noticed at once, by its connection."""

_SPOKEN = "spoken"

LINGER = 2.0
"""Seconds for which the first process, which may hold the place to ask, waits for the others to ask."""


@dataclass(frozen=True)
class Crew:
    """This process's rank among `world` processes."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that computes, writes and prints."""
        return self.rank == 0


_ALONE = Crew()
_crew = _ALONE


def crew() -> Crew:
    """This process and its peers; one alone unless `joined` says otherwise."""
    return _crew


@contextmanager
def joined() -> Iterator[Crew]:
    """Work together with the processes that a launcher started beside this one, if it did.

    Left by an exception the processes stay joined until they end, so that one line is printed for all.
    """
    global _crew
    rank, world = _launched()
    if world == 1 or _crew.world > 1:
        yield _crew
        return
    import torch.distributed as dist

    with _messages():
        dist.init_process_group("gloo", timeout=TIMEOUT)
    _crew = Crew(rank, world)
    previous = signal.signal(signal.SIGTERM, _stopped)
    yield _crew
    signal.signal(signal.SIGTERM, previous)
    with _messages():
        dist.barrier()
    dist.destroy_process_group()
    _crew = _ALONE


def speaks_first() -> bool:
    """Whether this process is the first to ask, of all: the line that ends a run is printed once."""
    if _crew.world == 1:
        return True
    import torch.distributed as dist

    try:
        store = dist.distributed_c10d._get_default_store()
        place = store.add(_SPOKEN, 1)
        until = time.monotonic() + LINGER
        while _crew.first and store.add(_SPOKEN, 0) < _crew.world and time.monotonic() < until:
            time.sleep(0.02)
        return place == 1
    except RuntimeError:  # the launcher is gone, and with it the place to ask
        return _crew.first


def from_first(find: Callable[[], Found]) -> Found:
    """Let the first process find something out, and tell all.

    Raises:
        UserError: in all processes, where the first one met it.
    """
    if _crew.world == 1:
        return find()
    return told_by_first(find, _broadcast, first=_crew.first)


def _broadcast(box: list[Any]) -> None:
    import torch.distributed as dist

    with _messages():
        dist.broadcast_object_list(box)


def told_by_first(find: Callable[[], Found], broadcast: Callable[[list[Any]], Any], *, first: bool) -> Found:
    """`from_first` through any broadcast of a list of objects."""
    box: list[Any] = [None, None]
    if first:
        try:
            box[0] = find()
        except UserError as error:
            box[1] = str(error)
    broadcast(box)
    if box[1] is not None:
        raise UserError(box[1])
    found: Found = box[0]
    return found


def at_first(value: Found) -> list[Found]:
    """What every process gives, by rank, in the first one; nothing in the others."""
    if _crew.world == 1:
        return [value]
    import torch.distributed as dist

    box: list[Any] | None = [None] * _crew.world if _crew.first else None
    with _messages():
        dist.gather_object(value, box)
    return box or []


def at_all(value: Found) -> list[Found]:
    """What every process gives, by rank, in all of them."""
    if _crew.world == 1:
        return [value]
    import torch.distributed as dist

    box: list[Any] = [None] * _crew.world
    with _messages():
        dist.all_gather_object(box, value)
    return box


def send(tensors: Sequence[Tensor]) -> None:
    """Send tensors to the first process, which knows their shapes and types."""
    import torch.distributed as dist

    with _messages():
        for tensor in tensors:
            dist.send(tensor.cpu().contiguous(), 0)


def receive(into: Sequence[Tensor], rank: int) -> None:
    """Fill tensors with what a process has sent."""
    import torch.distributed as dist

    with _messages():
        for tensor in into:
            dist.recv(tensor, rank)


def send_state(state: dict[str, Tensor]) -> None:
    """Send named tensors to the first process."""
    import torch.distributed as dist

    outline = [(name, tuple(tensor.shape), tensor.dtype) for name, tensor in state.items()]
    with _messages():
        dist.send_object_list([outline], 0)
    send([tensor.reshape(-1) for tensor in state.values() if tensor.numel()])


def receive_state(rank: int) -> dict[str, Tensor]:
    """The named tensors that a process has sent."""
    import torch
    import torch.distributed as dist

    box: list[Any] = [None]
    with _messages():
        dist.recv_object_list(box, rank)
    state = {name: torch.empty(shape, dtype=dtype) for name, shape, dtype in box[0]}
    receive([tensor.view(-1) for tensor in state.values() if tensor.numel()], rank)
    return state


def local_rank() -> int:
    """This process's number on its machine, by which it chooses a GPU."""
    return int(os.environ.get("LOCAL_RANK", "0")) if _crew.world > 1 else 0


def launched_first() -> bool:
    """Whether a launcher started this process as the first, or nobody launched it."""
    return _launched()[0] == 0


def _launched() -> tuple[int, int]:
    """Rank and number of the processes a launcher started."""
    if not {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= set(os.environ):
        return 0, 1
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


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
