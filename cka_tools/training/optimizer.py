"""AdamW with the weight decay of the paper's form."""

import torch
from torch import nn

from cka_tools.training.recipe import OptimizerSettings


def torch_weight_decay(decoupled: float, peak_lr: float) -> float:
    """Convert a decay that is scaled by lr / peak lr (Composer's decoupled form) into torch's, scaled by lr.

    The paper: θ ← θ − (lr / peak)·λ·θ. torch: θ ← θ − lr·w·θ. Equal where w = λ / peak: 0.05 for 1e-5, 2e-4.
    """
    return decoupled / peak_lr


DECAYED = "matrices"
"""Which parameters the weight decay acts on, as a segment's key names it: neither biases nor norms (the paper)."""


def adamw(model: nn.Module, settings: OptimizerSettings) -> torch.optim.AdamW:
    """Return the optimizer of a whole run; its state is kept between phases.

    Weight decay acts on matrices (embeddings among them), not on biases and norm weights, which have one
    dimension. The learning rate is set before each step; it starts at the peak.
    """
    parameters = list(model.parameters())
    decay = torch_weight_decay(settings.weight_decay, settings.peak_lr)
    return torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": decay},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ],
        lr=settings.peak_lr,
        betas=settings.betas,
        eps=settings.eps,
    )
