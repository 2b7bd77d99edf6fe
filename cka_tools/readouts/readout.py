"""Readouts: named functions of one model over documents, which give one number a document.

A new readout is a class with the attributes and methods of `Readout` and an entry in `READOUTS`
(`readouts/__init__.py`); every analysis that takes `--readout` knows it by its name. What stands behind a
colon is its argument: "probe:TASK" calls the entry "probe" with "TASK".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from torch import Tensor

from cka_tools.documents import Document
from cka_tools.extraction.batches import BatchPlan, TokenBatch
from cka_tools.extraction.tokens import TokenTable
from cka_tools.models import LoadedModel
from cka_tools.models.language import HeadKind
from cka_tools.settings import Settings
from cka_tools.statistics.paired import Reading

Rows = dict[str, np.ndarray]
"""What a readout reads of documents, by a name of its own: arrays whose first axis is the documents."""


@dataclass(frozen=True)
class Quantity:
    """A number that a readout gives a document.

    Attributes:
        name: key in records, unique within the readout. title: what a table calls it.
        unit: "nats", or "share" (a fraction, shown in percent).
        better: which way is better.
    """

    name: str
    title: str
    unit: Literal["nats", "share"]
    better: Literal["lower", "higher"]


@dataclass(frozen=True)
class Inputs:
    """What a model reads: n documents under its tokenizer, in batches.

    Attributes:
        table: token ids; a readout may have changed them (masked, put a needle in).
        plan: the batches, of the table's rows.
        documents: with their ids and metadata, in row order.
        notes: plain sentences for the user.
    """

    table: TokenTable
    plan: BatchPlan
    documents: Sequence[Document]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class States:
    """What one pass gives of a batch of b documents, padded to t tokens.

    Attributes:
        last: the model's last hidden state, behind its final norm, (b, t, d).
        pooled: of each layer that the run extracts (all, unless the settings name some) its pooled output as
            the settings pool it, (k, b, d) with k = 1 but for token pooling; empty unless the readout asks.
    """

    last: Tensor
    pooled: Sequence[Tensor]


class Readout(Protocol):
    """A function of one model over documents: one number a document for each of its quantities.

    It keeps no state: batches may come in any order, in several processes, and twice.

    Attributes:
        name: on the command line and in records. title: what a figure calls it.
        quantities: what it gives, the first one first in tables.
        head: the language-model head that it needs, None where the base model does.
        pooled: whether `States.pooled` is wanted.
    """

    name: str
    title: str
    quantities: Sequence[Quantity]
    head: HeadKind | None
    pooled: bool

    def inputs(self, model: LoadedModel, drawn: Inputs, settings: Settings) -> Inputs:
        """What a model reads: equal for all models of its tokenizer.

        Args:
            drawn: the run's documents, as they are.

        Raises:
            UserError: documents, or a tokenizer, that do not fit.
        """

    def read(self, model: LoadedModel, inputs: Inputs, batch: TokenBatch, states: States) -> Rows:
        """What is read of a batch, arrays whose first axis is its documents (`batch.rows`).

        Those under the name of a quantity, one number a document, are saved with the run.
        """

    def readings(self, rows: Rows, inputs: Inputs) -> dict[str, Reading]:
        """Each quantity over all documents, by name, from the rows of all batches in the documents' order.

        Raises:
            UserError: documents that do not fit.
        """
