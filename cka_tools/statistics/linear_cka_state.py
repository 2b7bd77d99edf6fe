"""The state of `LinearCKA` as named arrays: what a snapshot holds and what one process sends another."""

from __future__ import annotations

from dataclasses import fields

import torch
from torch import Tensor

from cka_tools.statistics.linear_cka import LinearCKA
from cka_tools.statistics.moments import CrossMoments

_NAMES = [f.name for f in fields(CrossMoments) if f.name not in ("dims_a", "dims_b", "n")]


def state_of(stat: LinearCKA) -> dict[str, Tensor]:
    """Every array and number of the state, rows not yet folded among them, uncopied.

    Restored, the statistics go on bit for bit as if they had never stopped.
    """
    state = {"epsilon": torch.tensor(stat._epsilon, dtype=torch.float64)}
    if stat._buffer.rows:
        assert stat._buffer.shift is not None
        for side, rows, shift in zip("ab", stat._buffer.gathered(), stat._buffer.shift, strict=True):
            state |= {f"rows_{side}": rows, f"rows_shift_{side}": shift}
    if stat._shift is not None:
        state |= {"shift_a": stat._shift[0], "shift_b": stat._shift[1]}
        state["n"] = torch.tensor(stat._cross[0].n)
        for at, moments in enumerate(stat._moments()):
            # The shift of a part is a part of the shift.
            tensors = moments.tensors().items()
            state |= {f"{at}.{name}": tensor for name, tensor in tensors if not name.startswith("shift")}
    return state


def restore(stat: LinearCKA, state: dict[str, Tensor]) -> None:
    """Put statistics of the same layers and pairs into a state.

    Raises:
        KeyError: a part of the state is missing.
        ValueError: an array has another shape than these layers have.
    """
    stat.reset()
    epsilon = state["epsilon"].tolist()
    stat._epsilon = (epsilon[0], epsilon[1])
    if "n" in state:
        # A copy: an array out of a file need not lie in memory as one that was made here.
        stat._begin((_owned(stat, state["shift_a"]), _owned(stat, state["shift_b"])))
        for at, moments in enumerate(stat._moments()):
            moments.n = int(state["n"])
            for name in _NAMES:
                if name.startswith("shift"):
                    continue
                mine, theirs = getattr(moments, name), state[f"{at}.{name}"]
                if mine.shape != theirs.shape:
                    raise ValueError(f"{name} has shape {tuple(theirs.shape)}, not {tuple(mine.shape)}")
                mine.copy_(theirs)
    if "rows_a" in state:
        shift = _owned(stat, state["rows_shift_a"]), _owned(stat, state["rows_shift_b"])
        stat._buffer.put(_owned(stat, state["rows_a"]), _owned(stat, state["rows_b"]), shift)


def _owned(stat: LinearCKA, tensor: Tensor) -> Tensor:
    return tensor.to(stat.device, copy=True).contiguous()
