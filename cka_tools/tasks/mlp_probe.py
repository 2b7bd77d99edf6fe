"""The two-layer probe of the needle task: dropout, linear, GELU, dropout, linear, on frozen features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

DROPOUT = 0.1
"""Not stated by the paper, nor are the hidden width (here the features' own) and the optimizer (here AdamW with
its defaults but for the rate)."""

EPOCHS, RATE, BATCH = 3, 2e-5, 4


@dataclass(frozen=True)
class Fitted:
    """A probe after the epoch with the best accuracy on dev; of equal ones the first.

    Attributes:
        network: takes (n, p), gives (n, 2). epoch: from 1. dev: its accuracy there.
    """

    network: nn.Sequential
    epoch: int
    dev: float

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Which rows are said to be true, (n,) bool."""
        with torch.no_grad():
            return self.network(torch.from_numpy(np.asarray(features, dtype=np.float32))).argmax(-1).numpy() == 1


def make_network(width: int, dropout: float = DROPOUT) -> nn.Sequential:
    """The probe with weights drawn from torch's generator."""
    return nn.Sequential(
        nn.Dropout(dropout), nn.Linear(width, width), nn.GELU(), nn.Dropout(dropout), nn.Linear(width, 2)
    )


def fit(
    features: np.ndarray,
    gold: np.ndarray,
    dev: np.ndarray,
    dev_gold: np.ndarray,
    seed: int,
    *,
    dropout: float = DROPOUT,
    epochs: int = EPOCHS,
    rate: float = RATE,
    batch: int = BATCH,
) -> Fitted:
    """Fit the probe by cross-entropy, in float32 on the CPU.

    Weights, the order of the examples in each epoch and dropout are drawn from the seed, one after the other.

    Args:
        features, dev: (n, p), as the model gives them. gold, dev_gold: (n,) bool.

    Source: Touchent and de la Clergerie (2026): 3 epochs, rate 2e-5, batches of 4, best by validation accuracy.
    """
    x, y = torch.from_numpy(np.asarray(features, dtype=np.float32)), torch.from_numpy(gold.astype(np.int64))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = make_network(x.shape[1], dropout)
        optimizer = torch.optim.AdamW(network.parameters(), lr=rate)
        best: tuple[float, int, dict[str, torch.Tensor]] | None = None
        for epoch in range(1, epochs + 1):
            network.train()
            for rows in torch.randperm(len(x)).split(batch):
                optimizer.zero_grad()
                nn.functional.cross_entropy(network(x[rows]), y[rows]).backward()
                optimizer.step()
            network.eval()
            right = float((Fitted(network, epoch, 0.0).predict(dev) == dev_gold).mean())
            if best is None or right > best[0]:
                best = right, epoch, {name: value.clone() for name, value in network.state_dict().items()}
    assert best is not None
    network.load_state_dict(best[2])
    return Fitted(network, best[1], best[0])
