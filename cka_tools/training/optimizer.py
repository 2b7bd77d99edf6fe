"""AdamW with the weight decay of the paper's form."""

from collections.abc import Iterable

import torch
from torch.nn import Parameter

from cka_tools.training.recipe import OptimizerSettings


def torch_weight_decay(decoupled: float, peak_lr: float) -> float:
    """Convert a decay that is scaled by lr / peak lr (Composer's decoupled form) into torch's, scaled by lr.

    The paper: θ ← θ − (lr / peak)·λ·θ. torch: θ ← θ − lr·w·θ. Equal where w = λ / peak: 0.05 for 1e-5, 2e-4.
    """
    return decoupled / peak_lr


def adamw(parameters: Iterable[Parameter], settings: OptimizerSettings) -> torch.optim.AdamW:
    """Return the optimizer of a whole run: its state is kept between phases, and every parameter decays.

    Its learning rate is set before each step; it starts at the peak.
    """
    return torch.optim.AdamW(
        parameters,
        lr=settings.peak_lr,
        betas=settings.betas,
        eps=settings.eps,
        weight_decay=torch_weight_decay(settings.weight_decay, settings.peak_lr),
    )
