"""Language modelling as a readout: loss and accuracy of hidden tokens (`mlm`) and of next tokens (`clm`)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from cka_tools.errors import UserError
from cka_tools.extraction.activations import accumulation_dtype
from cka_tools.extraction.batches import TokenBatch
from cka_tools.extraction.tokens import TokenTable
from cka_tools.formatting import counted
from cka_tools.models import LoadedModel
from cka_tools.models.language import HeadKind, vocabulary_logits
from cka_tools.readouts.readout import Inputs, Quantity, Rows, States
from cka_tools.settings import Settings
from cka_tools.statistics.paired import Reading

MASKED_SHARE = 0.15
"""Of a document's ordinary tokens, as in the decay phase of the recipe."""

LOGITS_AT_ONCE = 2**24
"""Logits are made of so many at a time: 64 MiB in float32."""

LOSS = Quantity("loss", "loss", "nats", "lower")
ACCURACY = Quantity("accuracy", "accuracy", "share", "higher")


@dataclass(frozen=True)
class Targets(Inputs):
    """Tokens to be predicted.

    Attributes:
        positions: (targets,) int64, at which token of its document each is predicted.
        labels: (targets,) int64, the token that is right.
        offsets: (n + 1,) int64; document i has targets `offsets[i]:offsets[i + 1]`.
    """

    positions: np.ndarray = ...  # type: ignore[assignment]
    labels: np.ndarray = ...  # type: ignore[assignment]
    offsets: np.ndarray = ...  # type: ignore[assignment]


def masked_positions(table: TokenTable, row: int, seed: int) -> np.ndarray:
    """Positions of a document's tokens that are hidden, ascending: 15 % of the ordinary ones, at least one.

    A pure function of the document's ids and the seed. Special tokens are never among them.
    """
    choices = table.ordinary_positions(row)
    digest = hashlib.blake2b(table.row(row).tobytes(), digest_size=16, key=f"mlm {seed}".encode()).digest()
    generator = np.random.default_rng(int.from_bytes(digest, "little"))
    count = max(1, round(MASKED_SHARE * len(choices)))
    return np.sort(generator.choice(choices, count, replace=False))


class _Predicted:
    """What both readouts share: loss and accuracy of targets, a mean over each document's own."""

    quantities: Sequence[Quantity] = (LOSS, ACCURACY)
    pooled = False

    def read(self, model: LoadedModel, inputs: Inputs, batch: TokenBatch, states: States) -> Rows:
        """Mean loss in nats and share of right predictions, (b,) float64; 0 for a document without targets."""
        assert isinstance(inputs, Targets)
        ends = [(inputs.offsets[row], inputs.offsets[row + 1]) for row in batch.rows]
        chosen = np.concatenate([np.arange(*both) for both in ends])
        counts = np.array([last - first for first, last in ends])
        of = np.repeat(np.arange(len(counts)), counts)
        place = states.last.device
        hidden = states.last[torch.from_numpy(of).to(place), torch.from_numpy(inputs.positions[chosen]).to(place)]
        labels = torch.from_numpy(inputs.labels[chosen]).to(place)
        losses, hits = [], []
        size = max(1, LOGITS_AT_ONCE // model.vocabulary)
        for part, label in zip(hidden.split(size), labels.split(size), strict=True):
            logits = vocabulary_logits(model, part).to(accumulation_dtype(model.dtype))
            losses.append(torch.nn.functional.cross_entropy(logits, label, reduction="none").double().cpu())
            hits.append((logits.argmax(-1) == label).double().cpu())
        found = {}
        for quantity, values in ((LOSS, losses), (ACCURACY, hits)):
            sums = np.bincount(of, torch.cat(values).numpy() if values else None, len(counts))
            found[quantity.name] = sums / np.maximum(counts, 1)
        return found

    def readings(self, rows: Rows, inputs: Inputs) -> dict[str, Reading]:
        """Means over the documents that have targets."""
        assert isinstance(inputs, Targets)
        have = np.diff(inputs.offsets) > 0
        return {quantity.name: Reading.mean(rows[quantity.name][have]) for quantity in self.quantities}


class MaskedModelling(_Predicted):
    """Hidden tokens: 15 % of each document's ordinary ones, every one of them replaced by the mask token."""

    name = "mlm"
    title = "masked-LM"
    head: HeadKind | None = "masked"

    def inputs(self, model: LoadedModel, drawn: Inputs, settings: Settings) -> Targets:
        """Documents with masks.

        Raises:
            UserError: the tokenizer has no mask token.
        """
        mask = model.tokenizer.mask_token_id
        if mask is None:
            raise UserError(f"model {model.name!r}: its tokenizer has no mask token: readout 'mlm' needs one")
        table = drawn.table
        found = [masked_positions(table, row, settings.seed) for row in range(len(table.lengths))]
        ids = np.array(table.ids)
        everywhere = np.concatenate([start + at for start, at in zip(table.offsets, found, strict=False)])
        labels = ids[everywhere].astype(np.int64)
        ids[everywhere] = mask
        offsets = np.concatenate([[0], np.cumsum([len(one) for one in found])]).astype(np.int64)
        positions = np.concatenate(found).astype(np.int64)
        masked = replace(table, ids=ids)
        return Targets(masked, drawn.plan, drawn.documents, drawn.notes, positions, labels, offsets)


class CausalModelling(_Predicted):
    """Next tokens: every ordinary token of a document but its first token, from those before it."""

    name = "clm"
    title = "causal-LM"
    head: HeadKind | None = "causal"

    def inputs(self, model: LoadedModel, drawn: Inputs, settings: Settings) -> Targets:
        """Documents as they are, and what comes next.

        Raises:
            UserError: no document of two tokens.
        """
        table = drawn.table
        found, labels = [], []
        for row in range(len(table.lengths)):
            next_ones = table.ordinary_positions(row)
            next_ones = next_ones[next_ones > 0]
            found.append(next_ones - 1)
            labels.append(table.row(row)[next_ones])
        counts = np.array([len(one) for one in found])
        notes = drawn.notes
        if empty := int((counts == 0).sum()):
            if empty == len(counts):
                raise UserError(f"none of the {empty} documents has a second token to predict: give longer texts")
            notes += (f"{counted(empty, 'document')} of a single token have no next one and were left out.",)
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        positions, right = (np.concatenate(parts).astype(np.int64) for parts in (found, labels))
        return Targets(table, drawn.plan, drawn.documents, notes, positions, right, offsets)
