"""What an ablation does, planned whole before any training: cells, start models, budget and tree.

Its training texts are read once, and packed once for each seed.
"""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from cka_tools.ablation.axes import Cell, check_axis, make_cells
from cka_tools.ablation.starts import SECOND_SHAPE, START_SEED, Start, StartKey, find_starts, tokenizer_hash
from cka_tools.ablation.tree import Budget, Tree, grow_tree
from cka_tools.documents import stream_documents
from cka_tools.errors import UserError
from cka_tools.models.load import load_tokenizer
from cka_tools.training.options import AblationSettings
from cka_tools.training.packing import PackedTokens, pack_texts
from cka_tools.training.recipe import SCALES, START_TOKENS
from cka_tools.training.start_model import DEFAULT_START


class PackedCorpus:
    """A corpus under one tokenizer, read up to `epochs` times; a seed fixes its order, as in `cka train`.

    Raises:
        UserError: the corpus cannot be read.
    """

    def __init__(self, spec: str, tokenizer_of: Path, length: int, epochs: int = 1) -> None:
        self.spec = spec
        self.epochs = epochs
        self.length = length
        self.texts = [document.text for document in stream_documents(spec)]
        self.tokenizer: PreTrainedTokenizerBase = load_tokenizer(str(tokenizer_of), tokenizer_of)
        digest = hashlib.sha256()
        for text in self.texts:
            content = text.encode("utf-8", "surrogatepass")
            digest.update(len(content).to_bytes(8, "little") + content)
        self.texts_sha256 = digest.hexdigest()
        self._tokenizer_sha256 = tokenizer_hash(self.tokenizer)
        self._packed: dict[int, PackedTokens] = {}

    @property
    def identity(self) -> dict[str, Any]:
        """What fixes its packed tokens, besides the seed."""
        return {
            "texts_sha256": self.texts_sha256,
            "tokenizer_sha256": self._tokenizer_sha256,
            "length": self.length,
        } | ({} if self.epochs == 1 else {"epochs": self.epochs})

    def packed(self, seed: int, tokens: int | None = None) -> PackedTokens:
        """Return the packed tokens of a data seed: `tokens` in whole sequences, or all when None.

        Raises:
            UserError: the corpus holds fewer.
        """
        held = self._packed.get(seed)
        if held is None or tokens is None or held.tokens < tokens:
            try:
                held = pack_texts(
                    self.texts, self.tokenizer, length=self.length, seed=seed, tokens=tokens, epochs=self.epochs
                )
            except UserError as error:
                raise UserError(f"corpus {self.spec!r}: {error}") from None
            self._packed[seed] = held
        return held if tokens is None else held.part(range(-(-tokens // self.length)))


@dataclass
class Plan:
    """What an ablation does.

    Attributes:
        identity: JSON data that tells this ablation from another.
        template: directory whose tokenizer all models share.
        notes: plain sentences for the user.
    """

    settings: AblationSettings
    cells: list[Cell]
    budget: Budget
    starts: dict[StartKey, Start]
    tree: Tree
    corpus: PackedCorpus
    start_corpus: PackedCorpus | None
    template: Path
    identity: dict[str, Any]
    notes: list[str] = field(default_factory=list)


def make_plan(settings: AblationSettings) -> Plan:
    """Plan an ablation: find its start models, read its corpora, grow its tree. Nothing is written.

    Raises:
        UserError: anything that does not fit, in one line.
    """
    axes = check_axis(settings.axis)
    given = list(settings.starts) or [DEFAULT_START]
    if not settings.starts and "size" in axes:
        given.append(SECOND_SHAPE)
    starts, template = find_starts(given, list(settings.decoder_starts), with_decoder="direction" in axes)
    depths = {start.size: start.layers for start in starts if start.name == "encoder"}
    cells = make_cells(settings.axis, depths, fractions=settings.fractions, decays=settings.decays, skip=settings.skip)
    used = {(branch.start, branch.size) for cell in cells for branch in (cell.detour, cell.baseline)}
    chosen = {start.key: start for start in starts if start.key in used}
    _check_length(settings.length, chosen)

    notes: list[str] = []
    corpus = PackedCorpus(settings.corpus, template, settings.length)
    budget = _budget(settings, cells, corpus, notes)
    lacking = [start for start in chosen.values() if start.folder is None]
    start_corpus, pretraining_steps = None, 0
    if lacking:
        spec = settings.start_corpus or settings.corpus
        if settings.start_corpus is None:
            notes.append(
                f"start models of a shape are trained on the corpus itself, {spec!r}: name another with --start-corpus"
            )
        start_corpus = corpus
        if spec != corpus.spec or settings.start_epochs > 1:
            start_corpus = PackedCorpus(spec, template, settings.length, settings.start_epochs)
        pretraining_steps = _start_steps(settings, starts, start_corpus, budget, notes)
        for start in lacking:
            phases = budget.pretraining("clm" if start.name == "decoder" else "mlm", pretraining_steps)
            chosen[start.key] = dataclasses.replace(start, pretraining=phases)
    identity = {
        "data": corpus.identity,
        "start_data": start_corpus and start_corpus.identity,
        "optimizer": dataclasses.asdict(budget.optimizer),
        "bf16": settings.bf16,
    }
    tree = grow_tree(cells, settings.seeds, chosen, budget, identity, settings.noise)
    if settings.noise == "masks" and any("mlm" not in cell.baseline.objectives for cell in cells):
        notes.append("a CLM baseline draws no masks: its control reads the data in another order")
    whole = identity | {
        "axis": settings.axis,
        "seeds": list(settings.seeds),
        "noise": settings.noise,
        "cells": [str(cell) for cell in cells],
        "n": budget.n * budget.step,
        "starts": {f"{name} {size}": start.identity for (name, size), start in chosen.items()},
        "start_tokens": pretraining_steps * budget.step,
        "weights": settings.weights,
    }
    return Plan(settings, cells, budget, chosen, tree, corpus, start_corpus, template, whole, notes)


def _check_length(length: int, starts: dict[StartKey, Start]) -> None:
    for start in starts.values():
        positions = start.config.get("max_position_embeddings")
        if isinstance(positions, int) and length > positions:
            raise UserError(
                f"sequences of {length} tokens are longer than the {positions} positions of start model "
                f"{start.given!r}: choose a shorter --sequence-length, or another --start"
            )


def _budget(settings: AblationSettings, cells: list[Cell], corpus: PackedCorpus, notes: list[str]) -> Budget:
    """The budget with the n asked for, or the preset's as far as the corpus goes."""
    scale = SCALES[settings.preset]
    asked = settings.n or scale.phase1_tokens
    budget = Budget(0, 0, settings.length, settings.optimizer, settings.preset)
    budget = dataclasses.replace(budget, n=round(asked / budget.step))
    budget.check(cells)
    needed = budget.longest(cells)
    first = settings.seeds[0]
    try:
        corpus.packed(first, needed)
    except UserError:
        held = corpus.packed(first).tokens
        fitting = budget.fit(cells, held)
        most = fitting.n * budget.step
        if settings.n is not None:
            raise UserError(
                f"corpus {corpus.spec!r} holds {held:,} tokens, but the longest run of n = {settings.n:,} "
                f"reads {needed:,}: give a larger corpus, or --n of at most {most:,}"
            ) from None
        notes.append(
            f"n is {most:,} tokens, not the preset's {asked:,}: corpus {corpus.spec!r} holds {held:,}, "
            f"and the longest run reads {fitting.longest(cells):,}"
        )
        budget = fitting
        budget.check(cells)
    shortest = min(0.1, *settings.fractions)
    warmup = min(round(scale.warmup_tokens / budget.step), int(shortest * budget.n))
    return dataclasses.replace(budget, warmup=warmup)


def _start_steps(
    settings: AblationSettings, starts: list[Start], corpus: PackedCorpus, budget: Budget, notes: list[str]
) -> int:
    """Steps of the start models that are trained here: as long as a given one, or the demo's."""
    known = [start.trained_on for start in starts if start.trained_on]
    asked = settings.start_tokens or (known[0] if known else START_TOKENS)
    assert asked is not None
    steps = round(asked / budget.step)
    try:
        corpus.packed(START_SEED, steps * budget.step)
    except UserError:
        held = corpus.packed(START_SEED).tokens
        most = held // budget.step
        if settings.start_tokens is not None:
            raise UserError(
                f"start corpus {corpus.spec!r} holds {held:,} tokens, fewer than --start-tokens {asked:,}: "
                f"give a larger one, at most {most * budget.step:,}, or more --start-epochs"
            ) from None
        notes.append(f"start models are trained on {most * budget.step:,} tokens, all of {corpus.spec!r}")
        steps = most
    if steps < 2:
        raise UserError(
            f"start models of {asked:,} tokens are shorter than two steps of {budget.step:,} tokens: "
            f"give more --start-tokens or smaller steps"
        )
    return steps
