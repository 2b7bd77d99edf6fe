"""The machine and the libraries, as far as they can change a bit of a feature."""

import os
import platform
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import transformers

# Both pick kernels; libraries read them when they start.
_KERNEL_VARIABLES = (
    "MKL_CBWR",
    "MKL_ENABLE_INSTRUCTIONS",
    "ONEDNN_MAX_CPU_ISA",
    "ONEDNN_DEFAULT_FPMATH_MODE",
)


def numerics(device: torch.device) -> dict[str, Any]:
    """JSON-ready state of everything below the model's own code.

    The number of threads belongs to it on a CPU: a float32 product of (7, 768) and (768, 768) was seen to
    differ between one thread and two. A CPU is named by its instruction set, not by its model.
    """
    common = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": device.type,
        "float32_precision": _float32_precision(),
        "autocast": str(torch.get_autocast_dtype(device.type))
        if torch.is_autocast_enabled(device.type)
        else None,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "default_dtype": str(torch.get_default_dtype()),
    }
    if device.type == "cuda":
        return common | _cuda(device)
    # On Apple's GPU some operations fall back to the CPU.
    return common | {
        "architecture": platform.machine(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "flush_denormal": bool(torch.tensor([1e-40]).mul(1.0).item() == 0.0),
        "mkldnn": torch.backends.mkldnn.enabled,
        "environment": {name: os.environ[name] for name in _KERNEL_VARIABLES if name in os.environ},
    }


def _cuda(device: torch.device) -> dict[str, Any]:
    cuda = torch.backends.cuda
    return {
        "gpu": torch.cuda.get_device_name(device),
        "cuda": torch.version.cuda or torch.version.hip,
        "cudnn": torch.backends.cudnn.version(),
        "reduced_precision": [
            str(cuda.matmul.allow_fp16_reduced_precision_reduction),
            str(cuda.matmul.allow_bf16_reduced_precision_reduction),
        ],
        "attention_kernels": [
            cuda.flash_sdp_enabled(),
            cuda.mem_efficient_sdp_enabled(),
            cuda.math_sdp_enabled(),
            cuda.cudnn_sdp_enabled(),
        ],
    }


def _float32_precision() -> list[str]:
    """What float32 products may be rounded to, as the older and the newer settings of torch say it."""
    backends = torch.backends
    settings: list[Callable[[], object]] = [
        torch.get_float32_matmul_precision,
        lambda: backends.cuda.matmul.allow_tf32,
        lambda: backends.cudnn.allow_tf32,
    ]
    places = [backends, backends.cuda.matmul, backends.cudnn, getattr(backends.mkldnn, "matmul", None)]
    settings += [partial(getattr, place, "fp32_precision", None) for place in places]
    return [_read(setting) for setting in settings]


def _read(setting: Callable[[], object]) -> str:
    try:
        return str(setting())
    except RuntimeError:  # torch does not answer by the older names once the newer were used
        return "mixed"
