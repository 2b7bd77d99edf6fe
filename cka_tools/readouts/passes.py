"""Passes of one model and its variants over the same batches, each block of equal work run once.

Variants hold other parameters in some places. Two that are alike up to a block have the same hidden state
there: the later one starts from the earlier one's, batch by batch, so nothing but one batch's states is
stored and both give the bits that a pass of their own would give.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cka_tools.compute import FeatureRun, Told
from cka_tools.errors import UserError
from cka_tools.extraction.activations import MaskedSum, OneCall, make_pooler, resolve_layers, site_calls
from cka_tools.extraction.batches import TokenBatch, make_batch, to_device
from cka_tools.extraction.extract import DoesNotFit, non_finite, run_splitting, without_packing, without_padding
from cka_tools.models import LoadedModel
from cka_tools.models.blocks import block_output
from cka_tools.models.parts import holding
from cka_tools.processes import all_gather, this_process
from cka_tools.readouts.readout import Inputs, Readout, Rows, States
from cka_tools.settings import Settings


@dataclass(frozen=True)
class Variant:
    """A model with other parameters in some places.

    Attributes:
        name: for messages.
        model: whose own parameters stand everywhere else; one that several variants share is loaded once.
        tensors: by name, what stands in the place of its own.
        units: what stands where, first before the blocks, then in each block, in any form that can be
            compared; equal beginnings do equal work. Empty: nothing is shared.
    """

    name: str
    model: LoadedModel
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    units: tuple[Hashable, ...] = ()


@dataclass
class Cost:
    """Blocks that ran, times documents, and how many would have run had each variant run whole."""

    blocks: int = 0
    naive: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.blocks + other.blocks, self.naive + other.naive)


def shared_prefixes(units: Sequence[tuple[Hashable, ...]]) -> list[tuple[int, int]]:
    """For each variant an earlier one, and how many blocks it need not run because that one ran them.

    (0, 0) where nothing is shared. Of several the first one: it ran those blocks itself.
    """
    found = []
    for at, own in enumerate(units):
        alike = [_common(own, other) for other in units[:at]]
        blocks = max(alike, default=0)
        found.append((alike.index(blocks), blocks) if blocks > 0 else (0, 0))
    return found


def _common(one: tuple[Hashable, ...], other: tuple[Hashable, ...]) -> int:
    """Blocks that are alike, all that comes before them too."""
    for at, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return max(at - 1, 0)
    return max(min(len(one), len(other)) - 1, 0)


def drawn_inputs(run: FeatureRun, at: int, models: Sequence[LoadedModel]) -> Inputs:
    """The run's documents under the tokenizer of distinct model `at`, in batches that fit all of `models`."""
    prepared = run.prepared[0]
    table = prepared.tables[at]
    plan = without_padding(without_packing(replace(prepared, tables=[table] * len(models))), models).plan
    documents = [run.draws[0].documents[row] for row in prepared.kept.tolist()]
    return Inputs(table, plan, documents)


def read_variants(
    variants: Sequence[Variant],
    inputs: Inputs,
    readout: Readout,
    settings: Settings,
    told: Told | None = None,
    positions: np.ndarray | None = None,
) -> tuple[list[Rows], Cost]:
    """What a readout reads of each variant, all on the same batches.

    Args:
        positions: the draws of token pooling.

    Returns:
        Of each variant its rows, in the documents' order; and what it cost.

    Raises:
        UserError: a non-finite activation, a document that does not fit in memory.
    """
    passes = _Passes(variants, inputs, readout, settings, positions)
    process = this_process()
    done = tokens = 0
    for rows in inputs.plan.shard(process.rank, process.world).batches:
        try:
            for part, found in run_splitting(passes.run, rows, lambda rows: None):
                passes.write(part, found)
        except DoesNotFit as error:
            document, length = inputs.documents[error.row].id, int(inputs.table.lengths[error.row])
            raise UserError(
                f"model {variants[0].name!r} runs out of memory on document {document!r} alone ({length} tokens): "
                "use a shorter max-length, a smaller dtype or another device"
            ) from None
        done, tokens = done + len(rows), tokens + int(inputs.table.lengths[list(rows)].sum())
        if told is not None:
            told(done, tokens)
    if told is not None:
        told.next(len(inputs.documents), int(inputs.table.lengths.sum()))
    return passes.gathered(), passes.cost


class _Passes:
    def __init__(
        self,
        variants: Sequence[Variant],
        inputs: Inputs,
        readout: Readout,
        settings: Settings,
        positions: np.ndarray | None,
    ) -> None:
        self.variants, self.inputs, self.readout = variants, inputs, readout
        self.settings, self.positions = settings, positions
        self.prefixes = shared_prefixes([one.units for one in variants])
        self.wanted: list[set[int]] = [set() for _ in variants]
        for parent, blocks in self.prefixes:
            if blocks:
                self.wanted[parent].add(blocks)
        self.cost = Cost()
        self._found: list[Rows] = [{} for _ in variants]
        self._mine: list[Sequence[int]] = []

    def run(self, rows: Sequence[int]) -> list[Rows]:
        """All variants on some documents."""
        device = self.variants[0].model.device
        batch = make_batch(self.inputs.table, rows, device)
        kept: dict[tuple[int, int], Any] = {}
        pooled: list[list[Tensor]] = []
        found = []
        for at, variant in enumerate(self.variants):
            parent, start = self.prefixes[at]
            begun = kept[parent, start] if start else None
            below = sum(layer < start for layer in resolve_layers(variant.model, self.settings.layers))
            before = pooled[parent][:below] if below and self.readout.pooled else []
            states, seen = self._forward(variant, batch, start, begun, self.wanted[at], before)
            kept |= {(at, blocks): output for blocks, output in seen.items()}
            pooled.append(list(states.pooled))
            with variant.model.evaluating(), holding(variant.model, variant.tensors):
                found.append(self.readout.read(variant.model, self.inputs, batch, states))
            self._check(variant, found[-1], rows)
            depth = len(variant.model.blocks)
            self.cost += Cost((depth - start) * len(rows), depth * len(rows))
        return found

    def _forward(
        self, variant: Variant, batch: TokenBatch, start: int, begun: Any, wanted: set[int], before: list[Tensor]
    ) -> tuple[States, dict[int, Any]]:
        """One pass from block `start` on; also the outputs of the blocks before each of `wanted`."""
        model, mask = variant.model, batch.attention_mask
        modules = dict(model.model.named_modules())
        seen: dict[int, Any] = {}
        pooled: list[Tensor] = list(before)
        total = MaskedSum(mask, model.dtype)
        drawn = None if self.positions is None else to_device(self.positions[list(batch.rows)], mask.device)
        pool = make_pooler(self.settings.pooling, total, drawn)

        def record(blocks: int) -> Any:
            return lambda module, args, output: seen.__setitem__(blocks, output)

        def take(module: nn.Module, args: Any, output: Any) -> None:
            hidden = block_output(output)
            if hidden.dtype in (torch.float16, torch.bfloat16):  # an overflow of padding alone is no fault
                hidden = hidden.masked_fill(~mask.bool().unsqueeze(-1), 0)
            pooled.append(pool(hidden))

        with ExitStack() as stack:
            stack.enter_context(holding(model, variant.tensors))
            for block in model.blocks[:start]:
                stack.enter_context(_giving(block.module, begun))
            for blocks in wanted:
                hook = model.blocks[blocks - 1].module.register_forward_hook(record(blocks))
                stack.enter_context(hook)
            if self.readout.pooled:
                layers = [layer for layer in resolve_layers(model, self.settings.layers) if layer >= start]
                for path, call in site_calls(model, self.settings.sites, layers):
                    stack.enter_context(modules[path].register_forward_hook(OneCall(take, call)))
            stack.enter_context(model.evaluating())
            output = model.run(batch.input_ids, mask, batch.token_type_ids, return_dict=True)
        return States(output.last_hidden_state, pooled), seen

    def _check(self, variant: Variant, found: Rows, rows: Sequence[int]) -> None:
        for values in found.values():
            bad = np.array([not np.isfinite(one).all() for one in values])
            if bad.any():
                document = self.inputs.documents[rows[int(np.flatnonzero(bad)[0])]].id
                raise non_finite(variant.model, len(variant.model.blocks) - 1, document)

    def write(self, rows: Sequence[int], found: list[Rows]) -> None:
        """Keep what was read of some documents."""
        n = len(self.inputs.documents)
        self._mine.append(rows)
        for own, values in zip(self._found, found, strict=True):
            for name, value in values.items():
                if name not in own:
                    own[name] = np.full((n, *value.shape[1:]), np.nan, value.dtype)
                own[name][list(rows)] = value

    def gathered(self) -> list[Rows]:
        """The rows of all processes, in all of them."""
        if this_process().world == 1:
            return self._found
        mine = np.array([row for rows in self._mine for row in rows], dtype=np.int64)
        parts = all_gather((mine, [{name: one[mine] for name, one in own.items()} for own in self._found]))
        n = len(self.inputs.documents)
        whole: list[Rows] = [{} for _ in self.variants]
        for rows, found in parts:
            for own, values in zip(whole, found, strict=True):
                for name, value in values.items():
                    own.setdefault(name, np.full((n, *value.shape[1:]), np.nan, value.dtype))[rows] = value
        self.cost = sum((Cost(*one) for one in all_gather((self.cost.blocks, self.cost.naive))), Cost())
        return whole


@contextmanager
def _giving(module: nn.Module, output: Any) -> Iterator[None]:
    """A module that gives this output instead of running."""
    module.__dict__["forward"] = lambda *args, **options: output
    try:
        yield
    finally:
        del module.__dict__["forward"]
