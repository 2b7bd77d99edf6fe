"""Hidden states (b, t, d) and a mask (b, t) → pooled vectors, on the device, without a copy kept."""

import hashlib
from collections.abc import Callable

import numpy as np
import torch

from cka_tools.extraction.tokens import TokenTable

#: Hidden states (b, t, d) → pooled vectors (k, b, d), k = 1 but for token pooling.
Pooler = Callable[[torch.Tensor], torch.Tensor]


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """float32 for every model but a float64 one."""
    return torch.float64 if dtype == torch.float64 else torch.float32


class MaskedSum:
    """Σ over unpadded tokens of hidden states: (b, t, d) → (b, d) in float32 (float64 for float64).

    One batched matrix product with the mask (b, 1, t): it reads the hidden states once and writes only
    the result.
    """

    def __init__(self, mask: torch.Tensor, dtype: torch.dtype) -> None:
        self.weights = mask.to(accumulation_dtype(dtype)).unsqueeze(1)
        self.counts = self.weights.sum(-1)

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """Sum one site's hidden states."""
        return torch.bmm(self.weights, hidden.to(self.weights.dtype)).squeeze(1)


def make_pooler(pooling: str, total: MaskedSum, mask: torch.Tensor, positions: torch.Tensor | None) -> Pooler:
    """The pooler of one batch. `positions` (b, k) are token pooling's draws, counted from the first token."""
    dtype = total.weights.dtype
    if pooling == "mean":
        return lambda hidden: (total(hidden) / total.counts).unsqueeze(0)
    first = mask.argmax(-1)
    if pooling == "cls":
        chosen = first.unsqueeze(1)
    elif pooling == "last":
        chosen = (mask.shape[1] - 1 - mask.flip(-1).argmax(-1)).unsqueeze(1)
    else:
        assert positions is not None
        chosen = first.unsqueeze(1) + positions
    row = torch.arange(mask.shape[0], device=mask.device).unsqueeze(1)
    return lambda hidden: hidden[row, chosen].transpose(0, 1).to(dtype)


def draw_positions(table: TokenTable, seed: int, draws: int) -> np.ndarray:
    """(n, draws) positions of ordinary tokens, a pure function of the seed and the document's ids.

    Without replacement within a document as far as it goes; each draw alone is uniform over the document's
    ordinary tokens.
    """
    return np.stack([_draw(table, row, seed, draws) for row in range(len(table.lengths))])


def _draw(table: TokenTable, row: int, seed: int, draws: int) -> np.ndarray:
    choices = table.ordinary_positions(row)
    digest = hashlib.blake2b(table.row(row).tobytes(), digest_size=16, key=str(seed).encode()).digest()
    generator = np.random.default_rng(int.from_bytes(digest, "little"))
    rounds = -(-draws // len(choices))
    return np.concatenate([generator.permutation(choices) for _ in range(rounds)])[:draws]
