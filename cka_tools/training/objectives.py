"""What is asked of each token: inputs and labels of causal (CLM) and masked (MLM) language modelling.

Labels sit where the prediction is made, for both objectives; the loss shifts nothing.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from cka_tools.errors import UserError
from cka_tools.training.packing import PackedTokens

ObjectiveName = Literal["clm", "mlm"]
IGNORED = -100


@dataclass(frozen=True)
class Masking:
    """How MLM corrupts its input.

    Of the ordinary tokens a share `rate` becomes targets; of these a share `mask` is replaced by [MASK], a
    share `random` by a random ordinary token, and the rest stays as it is. The paper states its rates but not
    its replacement rule: 80/10/10 is BERT's.

    Raises:
        UserError: shares that are none.
    """

    rate: float
    mask: float = 0.8
    random: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.rate < 1:
            raise UserError(f"a masking rate of {self.rate} does not fit: give a share between 0 and 1")
        if min(self.mask, self.random) < 0 or self.mask + self.random > 1 + 1e-12:
            raise UserError(
                f"a replacement rule of mask {self.mask} and random {self.random} does not fit: "
                f"both must be at least 0 and their sum at most 1"
            )


def clm_labels(input_ids: np.ndarray, document_ids: np.ndarray) -> np.ndarray:
    """Return label[t] = input[t + 1] within a document, and `IGNORED` elsewhere; shapes (…, length), int64.

    The separator that ends a document is a target; what follows a separator is none, nor is there one at the
    last position of a sequence.
    """
    labels = np.full(input_ids.shape, IGNORED, dtype=np.int64)
    same = document_ids[..., 1:] == document_ids[..., :-1]
    labels[..., :-1] = np.where(same, input_ids[..., 1:], IGNORED)
    return labels


def mlm_inputs_and_labels(
    input_ids: np.ndarray,
    masking: Masking,
    *,
    mask_id: int,
    special_ids: tuple[int, ...],
    vocabulary_size: int,
    seed: int,
    phase: int,
    sequence: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the corrupted inputs and the labels of one sequence (length,), both int64.

    A pure function of its arguments: the draw depends on (seed, phase, sequence) and not on what was drawn
    before, so neither batching, resuming nor the number of processes changes it.
    """
    draw = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, phase, sequence])))
    chosen, replaced = draw.random((2, len(input_ids)))
    ordinary = _ordinary_ids(vocabulary_size, (*special_ids, mask_id))
    random_ids = ordinary[draw.integers(len(ordinary), size=len(input_ids))]

    target = (chosen < masking.rate) & ~np.isin(input_ids, special_ids)
    inputs = input_ids.astype(np.int64)
    inputs[target & (replaced < masking.mask)] = mask_id
    at_random = target & (replaced >= masking.mask) & (replaced < masking.mask + masking.random)
    inputs[at_random] = random_ids[at_random]
    return inputs, np.where(target, input_ids, IGNORED).astype(np.int64)


@lru_cache(maxsize=8)
def _ordinary_ids(vocabulary_size: int, special_ids: tuple[int, ...]) -> np.ndarray:
    return np.setdiff1d(np.arange(vocabulary_size), special_ids)


@dataclass(frozen=True)
class Batch:
    """Some sequences as a model takes them; every array (batch, length) int64."""

    input_ids: np.ndarray
    labels: np.ndarray
    document_ids: np.ndarray
    position_ids: np.ndarray
    causal: bool

    @property
    def targets(self) -> int:
        return int((self.labels != IGNORED).sum())


@dataclass(frozen=True)
class Objective:
    """CLM or MLM, bound to a vocabulary and to the run's seed.

    Args:
        name: "clm" or "mlm".
        masking: MLM's corruption; None in CLM.
        mask_id: the id of [MASK]; may be None in CLM.
        seed, phase: two of the three numbers that fix the masks; the third is the sequence's index.

    Raises:
        UserError: MLM without a masking or without a [MASK] token.
    """

    name: ObjectiveName
    masking: Masking | None
    mask_id: int | None
    vocabulary_size: int
    seed: int
    phase: int

    def __post_init__(self) -> None:
        if self.name == "mlm" and (self.masking is None or self.mask_id is None):
            raise UserError(
                f"masking {self.masking} and mask token {self.mask_id}: masked language modelling needs a "
                f"masking rate and a tokenizer with a [MASK] token"
            )

    def batch(self, data: PackedTokens, sequences: range) -> Batch:
        """Return inputs and labels of these sequences of the packed data."""
        rows = slice(sequences.start, sequences.stop)
        input_ids = data.input_ids[rows].astype(np.int64)
        if self.name == "clm":
            labels = clm_labels(input_ids, data.document_ids[rows])
        else:
            assert self.masking is not None
            assert self.mask_id is not None
            pairs = [
                mlm_inputs_and_labels(
                    data.input_ids[i],
                    self.masking,
                    mask_id=self.mask_id,
                    special_ids=data.special_ids,
                    vocabulary_size=self.vocabulary_size,
                    seed=self.seed,
                    phase=self.phase,
                    sequence=i,
                )
                for i in sequences
            ]
            input_ids = np.stack([inputs for inputs, _ in pairs])
            labels = np.stack([label for _, label in pairs])
        return Batch(
            input_ids,
            labels,
            data.document_ids[rows].astype(np.int64),
            data.part(sequences).position_ids.astype(np.int64),
            causal=self.name == "clm",
        )
