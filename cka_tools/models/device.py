"""The device and the number format a model runs in, by the names a user gives."""

import torch

from cka_tools.errors import UserError
from cka_tools.processes import local_rank

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}


def resolve_device(name: str | torch.device) -> torch.device:
    """`auto` is cuda, else mps, else cpu; any other name is taken at its word.

    Of several processes on a machine each takes a GPU of its own for `auto` and `cuda`, as far as they go.

    Raises:
        UserError: no such device, here or at all.
    """
    if local_rank() and str(name) in ("auto", "cuda") and torch.cuda.is_available():
        return torch.device("cuda", local_rank() % torch.cuda.device_count())
    if str(name) == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, ValueError):
        raise UserError(f"device {str(name)!r} is unknown: use auto, cpu, cuda, cuda:N or mps") from None
    missing = (
        (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count())
        or (device.type == "mps" and not torch.backends.mps.is_available())
        or device.type not in {"cpu", "cuda", "mps"}
    )
    if missing:
        raise UserError(f"device {str(name)!r} is not on this machine: use auto or cpu")
    return device


def resolve_dtype(name: str | torch.dtype, device: torch.device) -> torch.dtype:
    """The torch dtype of a name.

    Raises:
        UserError: not one of the four, or float64 on a device without it.
    """
    short = str(name).removeprefix("torch.")
    if short not in DTYPES:
        raise UserError(f"dtype {short!r} is not one of {', '.join(DTYPES)}")
    if device.type == "mps" and short == "float64":
        raise UserError("dtype 'float64' does not exist on mps: use float32, or device cpu")
    return DTYPES[short]
