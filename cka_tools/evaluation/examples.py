"""A task's examples as a model reads them, and its outputs as a task has labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from cka_tools.documents import Document
from cka_tools.extraction.tokens import tokenize
from cka_tools.extraction.words import first_pieces
from cka_tools.models import ModelOutline
from cka_tools.tasks.task import Example, Kind, Task

IGNORED = -100
"""The label of a token that has none, as torch's cross entropy takes it."""


@dataclass(frozen=True)
class Row:
    """An example as tokens.

    Attributes:
        ids: its tokens, special ones too.
        target: the class; a 0 or 1 for every class; or for every token its tag, `IGNORED` where it has none.
        firsts: of tags, the position of each word's first piece; -1 of a word that has none.
    """

    ids: list[int]
    target: int | list[float] | list[int]
    firsts: tuple[int, ...] = ()


@dataclass(frozen=True)
class Rows:
    """Examples as tokens.

    Attributes:
        cut: how many texts were cut. beyond: how many words have no piece, as they lie beyond the cut.
    """

    rows: list[Row] = field(default_factory=list)
    cut: int = 0
    beyond: int = 0


def outputs_of(task: Task) -> tuple[str, ...]:
    """What a classifier's outputs stand for, in order: the classes, or O, B- and I- of every type."""
    if task.kind != "tags":
        return task.classes
    return ("O", *(f"{letter}-{name}" for name in task.classes for letter in "BI"))


def encode(examples: Sequence[Example], task: Task, outline: ModelOutline, max_length: int) -> Rows:
    """Tokenize examples and place their labels.

    Raises:
        UserError: as `tokenize` and, of tags, `first_pieces`.
    """
    place = {name: at for at, name in enumerate(outputs_of(task))}
    table = tokenize([Document(one.id, one.text) for one in examples], outline, max_length)
    # A tokenizer without special tokens may give a text of odd letters none at all.
    ids = [table.row(at).tolist() or [outline.pad_id] for at in range(len(examples))]
    if task.kind == "label":
        return Rows([Row(own, place[one.labels[0]]) for own, one in zip(ids, examples, strict=True)], table.truncated)
    if task.kind == "labels":
        targets = [[float(name in one.labels) for name in task.classes] for one in examples]
        return Rows([Row(own, target) for own, target in zip(ids, targets, strict=True)], table.truncated)
    pieces = first_pieces(outline, [one.words for one in examples], max_length)
    rows = []
    for own, one, piece in zip(ids, examples, pieces, strict=True):
        target = [IGNORED] * len(own)
        for first, label in zip(piece.first.tolist(), one.labels, strict=True):
            if first >= 0:
                target[first] = place[label]
        rows.append(Row(own, target, tuple(piece.first.tolist())))
    return Rows(rows, table.truncated, sum(first < 0 for row in rows for first in row.firsts))


def collate(rows: Sequence[Row], pad_id: int, kind: Kind) -> dict[str, torch.Tensor]:
    """A padded batch: ids, mask and labels."""
    longest = max(len(row.ids) for row in rows)
    filled = [row.ids + [pad_id] * (longest - len(row.ids)) for row in rows]
    mask = [[1] * len(row.ids) + [0] * (longest - len(row.ids)) for row in rows]
    if kind == "tags":
        targets: list[Any] = [[*row.target, *[IGNORED] * (longest - len(row.ids))] for row in rows]  # type: ignore[misc]
    else:
        targets = [row.target for row in rows]
    return {"input_ids": torch.tensor(filled), "attention_mask": torch.tensor(mask), "labels": torch.tensor(targets)}


def labels_of(outputs: np.ndarray, rows: Rows, task: Task) -> list[tuple[str, ...]]:
    """What a model says of each example, in the form of `Example.labels`; words without a piece are O.

    Args:
        outputs: (n, classes) logits; of tags the likeliest output of each token, (n, tokens).
    """
    names = outputs_of(task)
    if task.kind == "label":
        return [(names[at],) for at in outputs.argmax(1)]
    if task.kind == "labels":
        return [tuple(name for name, logit in zip(names, one, strict=True) if logit > 0) for one in outputs]
    return [
        tuple("O" if first < 0 else names[one[first]] for first in row.firsts)
        for row, one in zip(rows.rows, outputs, strict=True)
    ]
