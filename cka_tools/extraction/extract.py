"""A batch that does not fit in memory is split in two and tried again."""

import gc
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

import numpy as np
import torch

from cka_tools.errors import UserError
from cka_tools.extraction.activations import (
    HostCopy,
    PooledForward,
    accumulation_dtype,
    draw_positions,
    nearest_block,
    resolve_layers,
)
from cka_tools.extraction.batches import (
    BatchPlan,
    make_batch,
    make_pack,
    plan_corpus_order,
    plan_equal_lengths,
    plan_packed,
    plan_sorted,
    to_device,
)
from cka_tools.extraction.features import Layout, ModelFeatures
from cka_tools.extraction.tokens import TextDocument, TokenTable, resolve_max_length, tokenize, tokenizer_of
from cka_tools.models.check import can_pack
from cka_tools.models.model import LoadedModel, ModelOutline, is_out_of_memory
from cka_tools.settings import CPU_BATCH_TOKENS, GPU_BATCH_TOKENS, Settings

Result = TypeVar("Result")


class DoesNotFit(Exception):  # noqa: N818 - a condition for the caller to name, not a fault
    """One document alone ran out of memory; `row` says which."""

    def __init__(self, row: int) -> None:
        super().__init__(f"document row {row} does not fit in memory")
        self.row = row


def run_splitting(
    run: Callable[[Sequence[int]], Result], rows: Sequence[int], on_split: Callable[[Sequence[int]], None]
) -> Iterator[tuple[Sequence[int], Result]]:
    """Yield `(rows, run(rows))`, or the same of each half, in order, where memory ran out.

    Raises:
        DoesNotFit: a single document that runs out of memory.
    """
    # The retry happens outside the except clause: the traceback keeps the failed pass's tensors alive.
    try:
        result = run(rows)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    else:
        yield rows, result
        return
    if len(rows) == 1:
        raise DoesNotFit(rows[0])
    on_split(rows)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    middle = len(rows) // 2
    for half in (rows[:middle], rows[middle:]):
        yield from run_splitting(run, half, on_split)


#: Called after each batch with documents and tokens done so far (tokens of the first model's tokenizer).
Progress = Callable[[int, int], None]


@dataclass
class Prepared:
    """What is fixed before anything runs: documents kept, their tokens under each model, the batch plan."""

    kept: np.ndarray
    tables: list[TokenTable]
    plan: BatchPlan
    max_length: int
    shared_tokenizer: bool
    positions: np.ndarray | None
    notes: list[str]
    batching: str = "sorted"


@dataclass
class Extraction:
    """Features of each model and how they came about.

    Attributes:
        features: one a model, in the models' order.
        kept: (n,) indices of the documents the rows belong to; all of them unless some hold no token of text.
        tokens: JSON-ready counts, one a model.
        plan: the batches.
        splits: batches that ran out of memory and were split: model, documents, halves.
        notes: plain sentences for the user.
        cache: one a model: `off`, `made` (kept in the activation store), `resumed` (made, part of it by an
            interrupted run), `hit` (found there) or `streamed` (not kept at all).
        streamed: what is approximate where features were not kept; None where they were.
    """

    features: list[ModelFeatures]
    kept: np.ndarray
    tokens: list[dict[str, Any]]
    plan: BatchPlan
    splits: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    cache: list[str] = field(default_factory=list)
    streamed: dict[str, Any] | None = None

    def record(self) -> dict[str, Any]:
        """JSON-ready provenance: tokens, plan, splits, and where the features came from."""
        plan = self.plan.record() | {"splits": self.splits}
        found = {"tokens": self.tokens, "plan": plan, "cache": self.cache}
        return found if self.streamed is None else found | {"streamed": self.streamed}


def prepare(models: Sequence[LoadedModel], documents: Sequence[TextDocument], settings: Settings) -> Prepared:
    """Tokenize and plan; nothing runs through a model yet.

    Raises:
        UserError: settings that do not fit the models, documents without text.
    """
    max_length, notes = resolve_max_length(models, settings.max_length)
    shared = len(set(map(tokenizer_of, models))) == 1
    if settings.pooling == "token" and not shared:
        first, other = models[0], next(m for m in models if tokenizer_of(m) != tokenizer_of(models[0]))
        raise UserError(
            f"pooling 'token' compares one token at a time, but {first.name!r} and {other.name!r} have "
            "different tokenizers: use pooling 'mean'"
        )
    # Once a tokenizer, however many models share it.
    by_tokenizer: dict[str, TokenTable] = {}
    for model in models:
        if tokenizer_of(model) not in by_tokenizer:
            by_tokenizer[tokenizer_of(model)] = tokenize(documents, model, max_length)
    textual = np.all([table.ordinary_counts() > 0 for table in by_tokenizer.values()], axis=0)
    kept = np.flatnonzero(textual)
    if len(kept) < len(documents):
        empty = [documents[i].id for i in np.flatnonzero(~textual).tolist()]
        named = ", ".join(map(repr, empty[:5])) + (", …" if len(empty) > 5 else "")
        notes.append(f"{len(empty)} documents hold no token of text and were left out: {named}.")
        by_tokenizer = {tokenizer: table.take(kept) for tokenizer, table in by_tokenizer.items()}
    if not len(kept):
        raise UserError(f"none of the {len(documents)} documents holds a token of text: give a corpus of text")
    tables = [by_tokenizer[tokenizer_of(model)] for model in models]
    lengths = np.max([table.lengths for table in by_tokenizer.values()], axis=0)
    if settings.plan == "corpus-order":
        plan = plan_corpus_order(lengths, settings.batch_size)
    else:
        make = plan_sorted if settings.batching == "sorted" else plan_packed
        plan = make(lengths, settings.batch_tokens or _batch_tokens(models))
    positions = draw_positions(tables[0], settings.seed, settings.tokens_per_document) if settings.draws else None
    prepared = Prepared(kept, tables, plan, max_length, shared, positions, notes, settings.batching)
    return without_padding(prepared, models)


def without_packing(prepared: Prepared) -> Prepared:
    """The same documents in sorted batches where they are packed; else as it is."""
    if not prepared.plan.packed:
        return prepared
    lengths = np.max([table.lengths for table in prepared.tables], axis=0)
    return replace(prepared, plan=plan_sorted(lengths, prepared.plan.limit))


def without_padding(prepared: Prepared, models: Sequence[LoadedModel]) -> Prepared:
    """The same documents in batches that all of the models take: packed, where that was asked for and every
    model is proven to give what it gives of each alone; of equal lengths, where one needs that; else as it is.

    Loading tells both: of an outline they are not known.

    Raises:
        UserError: batching 'packed' with a model whose documents cannot be packed.
    """
    if prepared.plan.packed:
        unfit = [model for model in models if not isinstance(model, ModelOutline) and not can_pack(model)]
        if not unfit:
            return prepared
        if prepared.batching == "packed":
            raise UserError(
                f"batching 'packed': model {unfit[0].name!r} ({type(unfit[0].model).__name__}) gives packed documents "
                "other hidden states than each alone: use sorted, or auto, which packs where that is exact"
            )
        prepared = without_packing(prepared)
    tables = zip(models, prepared.tables, strict=True)
    needed = [table.lengths for model, table in tables if model.needs_equal_lengths]
    if not needed or prepared.plan.kind == "equal-length":
        return prepared
    limit = prepared.plan.limit if prepared.plan.kind == "sorted" else _batch_tokens(models)
    return replace(prepared, plan=plan_equal_lengths(np.stack(needed), limit))


def plan_forwards(
    models: Sequence[LoadedModel], settings: Settings, layers: Sequence[Sequence[int] | None] | None = None
) -> list[PooledForward]:
    """What is hooked in each model; no hook is set yet.

    Raises:
        UserError: a layer a model does not have, or a site that cannot be hooked.
    """
    asked = [settings.layers] * len(models) if layers is None else layers
    return [
        PooledForward(model, settings.sites, resolve_layers(model, wanted), settings.pooling)
        for model, wanted in zip(models, asked, strict=True)
    ]


class RowStore(Protocol):
    """Takes pooled rows. Batches in `finished` need not run again."""

    finished: Collection[Sequence[int]]

    def write(self, rows: Sequence[int], values: Sequence[np.ndarray]) -> None: ...


def run_batches(
    forwards: Sequence[PooledForward],
    stores: Sequence[RowStore],
    prepared: Prepared,
    documents: Sequence[TextDocument],
    progress: Progress | None,
    batches: Iterable[Sequence[int]],
) -> list[dict[str, Any]]:
    """Run batches through every model, write their rows, and return the splits.

    Args:
        batches: of the plan.

    Raises:
        UserError: a non-finite activation, a document that does not fit in memory, no space left on the disk.
    """
    with ExitStack() as stack:
        runs = [
            _ModelRun(stack.enter_context(forward), store, table, prepared, documents)
            for forward, store, table in zip(forwards, stores, prepared.tables, strict=True)
        ]
        lengths = prepared.tables[0].lengths
        done = tokens = 0
        for rows in batches:
            for run in runs:
                run.forward_batch(rows)
            done, tokens = done + len(rows), tokens + int(lengths[list(rows)].sum())
            if progress is not None:
                progress(done, tokens)
        for run in runs:
            run.drain(0)
    return [split for run in runs for split in run.splits]


def describe(
    models: Sequence[LoadedModel],
    prepared: Prepared,
    features: list[ModelFeatures],
    splits: list[dict[str, Any]],
    cache: list[str],
) -> Extraction:
    """Features with what is known of how they came about."""
    return Extraction(
        features=features,
        kept=prepared.kept,
        tokens=[
            {
                "model": model.name,
                "tokens": int(table.lengths.sum()),
                "truncated": table.truncated,
                "max_length": prepared.max_length,
                "shared_tokenizer": prepared.shared_tokenizer,
            }
            for model, table in zip(models, prepared.tables, strict=True)
        ],
        plan=prepared.plan,
        splits=splits,
        notes=[note for model in models for note in model.notes] + prepared.notes,
        cache=cache,
    )


def _batch_tokens(models: Sequence[LoadedModel]) -> int:
    on_cpu = any(model.device.type == "cpu" for model in models)
    return CPU_BATCH_TOKENS if on_cpu else GPU_BATCH_TOKENS


def feature_dtype(model: LoadedModel) -> np.dtype[Any]:
    """float32; float64 for a float64 model."""
    return np.dtype("float64" if accumulation_dtype(model.dtype) == torch.float64 else "float32")


def feature_bytes(model: LoadedModel, rows: int, layers: Sequence[int] | None) -> int:
    """Bytes of so many rows of a model's features, loaded or not."""
    widths = [nearest_block(model, layer).width or model.hidden_size for layer in resolve_layers(model, layers)]
    return rows * sum(widths) * feature_dtype(model).itemsize


def layout_of(forward: PooledForward, prepared: Prepared, settings: Settings) -> Layout:
    """Shapes and dtype of a model's features."""
    return Layout(
        tuple(forward.layers),
        tuple(forward.widths),
        len(prepared.kept),
        settings.draws,
        feature_dtype(forward.model).name,
    )


@dataclass
class _ModelRun:
    """One model's way through the batches: forward, copy to the host, check, write."""

    forward: PooledForward
    store: RowStore
    table: TokenTable
    prepared: Prepared
    documents: Sequence[TextDocument]
    splits: list[dict[str, Any]] = field(default_factory=list)
    pending: deque[tuple[Sequence[int], HostCopy]] = field(default_factory=deque)

    @property
    def model(self) -> LoadedModel:
        """The model that runs."""
        return self.forward.model

    def forward_batch(self, rows: Sequence[int]) -> None:
        """Launch one batch, splitting it where memory runs out, and write what is ready."""
        if rows in self.store.finished:
            return
        try:
            for part, copy in run_splitting(self._run, rows, self._record_split):
                self.pending.append((part, copy))
                # On a GPU the next batch is launched before the last one's rows are waited for.
                self.drain(1 if self.model.device.type == "cuda" else 0)
        except DoesNotFit as error:
            document = self._document(error.row)
            length = int(self.table.lengths[error.row])
            raise UserError(
                f"model {self.model.name!r} runs out of memory on document {document!r} alone ({length} "
                "tokens): use a shorter max-length, a smaller dtype or another device"
            ) from None

    def drain(self, leave: int) -> None:
        """Check and write the oldest pending rows until `leave` batches are pending."""
        while len(self.pending) > leave:
            rows, copy = self.pending.popleft()
            values, checks = copy.wait()
            if not _finite(values, checks):
                values = self._rerun(rows)
            self.store.write(rows, values)

    def _run(self, rows: Sequence[int], *, blank_padding: bool = False) -> HostCopy:
        # A non-finite value reaches other documents of a pack: it is looked for in padded rows.
        make = make_pack if self.prepared.plan.packed and not blank_padding else make_batch
        batch = make(self.table, rows, self.model.device)
        positions = None
        if self.prepared.positions is not None:
            positions = to_device(self.prepared.positions[list(rows)], self.model.device)
        with self.model.evaluating():
            return HostCopy(*self.forward(batch, positions, blank_padding=blank_padding))

    def _rerun(self, rows: Sequence[int]) -> list[np.ndarray]:
        """A batch with non-finite values once more, padding blanked out: a fault of padding alone goes away.

        Raises:
            UserError: naming the first layer and document with a non-finite activation.
        """
        values, checks = self._run(rows, blank_padding=True).wait()
        if _finite(values, checks):
            return values
        for at, layer in enumerate(self.forward.layers):
            bad = ~np.isfinite(values[at]).all(axis=(0, 2))
            if len(checks):
                bad |= ~np.isfinite(checks[at])
            if bad.any():
                document = self._document(rows[int(np.flatnonzero(bad)[0])])
                raise non_finite(self.model, layer, document)
        raise AssertionError("a non-finite value was seen but not found")

    def _record_split(self, rows: Sequence[int]) -> None:
        self.splits.append(
            {"model": self.model.name, "rows": list(rows), "halves": [len(rows) // 2, len(rows) - len(rows) // 2]}
        )

    def _document(self, row: int) -> str:
        return self.documents[int(self.prepared.kept[row])].id


def non_finite(model: LoadedModel, layer: int, document: str) -> UserError:
    """The error for an activation that is infinite or not a number."""
    dtype = model.dtype_name
    cure = {
        "float16": "float16 overflows at 65,504: use dtype bfloat16 or float32",
        "bfloat16": "use dtype float32",
    }.get(dtype, "its weights are damaged; with sound weights use dtype float64")
    return UserError(
        f"model {model.name!r}: non-finite activation in layer {layer} on document {document!r} ({dtype}): {cure}"
    )


def _finite(values: Sequence[np.ndarray], checks: np.ndarray) -> bool:
    return all(bool(np.isfinite(value).all()) for value in (*values, checks))
