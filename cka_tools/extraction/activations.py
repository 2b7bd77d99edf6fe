"""Which layers are hooked, and at which module of each."""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import nn

from cka_tools.errors import UserError
from cka_tools.extraction.batches import TokenBatch, to_device
from cka_tools.extraction.tokens import TokenTable
from cka_tools.models.blocks import Block, block_input, block_output, own_tokens
from cka_tools.models.model import LoadedModel
from cka_tools.settings import EMBEDDINGS, FINAL_NORM


def resolve_layers(model: LoadedModel, layers: Sequence[int] | None) -> list[int]:
    """Layer indices, ascending and each once; all layers for None. EMBEDDINGS and FINAL_NORM are no layers but
    may be among them.

    Raises:
        UserError: an index the model does not have.
    """
    depth = len(model.blocks)
    if layers is None:
        return list(range(depth))
    chosen = sorted(set(layers))
    outside = [layer for layer in chosen if not EMBEDDINGS <= layer < depth and layer != FINAL_NORM]
    if outside:
        raise UserError(
            f"layers {', '.join(map(str, outside))}: model {model.name!r} has layers 0 to {depth - 1}: "
            "choose among them"
        )
    return chosen


class OneCall:
    """A hook on one call of a module that a forward pass may run several times, as a layer each time.

    `seen` counts the calls of a pass; a hook that outlives one is set back to 0.
    """

    def __init__(self, hook: Callable[[nn.Module, Any, Any], None], call: int) -> None:
        self.hook, self.call, self.seen = hook, call, 0

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        """As torch calls a forward hook."""
        self.seen += 1
        if self.seen == self.call + 1:
            self.hook(module, args, output)


def site_calls(model: LoadedModel, site: str, layers: Sequence[int]) -> list[tuple[str, int]]:
    """Module path of the site in each layer, below the base model, and which call of the module is the layer's.

    The embeddings are what goes into the first block; what leaves the final norm is, in a model without one,
    what leaves the last block.

    Raises:
        UserError: a branch that could not be checked at load, or a branch's site outside the blocks.
    """
    found = []
    for layer in layers:
        if layer in (EMBEDDINGS, FINAL_NORM):
            if site != "residual":
                what = "the embeddings" if layer == EMBEDDINGS else "the final norm"
                raise UserError(f"sites {site!r}: {what} of model {model.name!r} belong to no branch: leave them out")
            if layer == EMBEDDINGS and not model.embeddings_seen:
                first = f"the first block of model {model.name!r} is not given its first hidden state"
                raise UserError(f"layers 'embeddings': {first}: leave them out")
            last = model.blocks[-1]
            norm = (last.path, last.call) if model.final_norm is None else (model.final_norm, 0)
            found.append((model.blocks[0].path, 0) if layer == EMBEDDINGS else norm)
            continue
        block = model.blocks[layer]
        path = block.path if site == "residual" else getattr(block, site)
        if path is None:
            raise UserError(
                f"sites {site!r}: in layer {layer} of model {model.name!r} ({block.kind}) no module was "
                "found whose output is what the branch adds to the residual: use sites 'residual'"
            )
        found.append((path, block.call))
    return found


def nearest_block(model: LoadedModel, layer: int) -> Block:
    """The block of a layer; the first for the embeddings, the last for what leaves the final norm."""
    return model.blocks[max(0, min(layer, len(model.blocks) - 1))]


def _take_input(hook: Callable[..., None], module: nn.Module, args: Any, kwargs: Any) -> None:
    hook(module, args, block_input(args, kwargs))


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
        self._mask = mask

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """Sum one site's hidden states."""
        return torch.bmm(self.weights, hidden.to(self.weights.dtype)).squeeze(1)

    def places(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Rows (b, 1) that documents stand in, and the places (b,) there of their first and last tokens."""
        rows = torch.arange(len(self._mask), device=self._mask.device).unsqueeze(1)
        last = self._mask.shape[1] - 1 - self._mask.flip(-1).argmax(-1)
        return rows, self._mask.argmax(-1), last


class PackedSum:
    """As `MaskedSum`, of documents of some lengths one behind the other: (1, t, d) → (b, d)."""

    def __init__(self, lengths: Sequence[int], dtype: torch.dtype, device: torch.device) -> None:
        self._sizes = to_device(np.array(lengths), device)
        self._document = to_device(np.repeat(np.arange(len(lengths)), lengths), device)
        self._dtype = accumulation_dtype(dtype)
        self.counts = self._sizes.to(self._dtype).unsqueeze(1)

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """Sum one site's hidden states."""
        values = hidden[0].to(self._dtype)
        if values.device.type == "cuda":  # where adding by index has no fixed order
            return torch.segment_reduce(values, "sum", lengths=self._sizes, axis=0)
        return values.new_zeros(len(self._sizes), values.shape[1]).index_add_(0, self._document, values)

    def places(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """As those of `MaskedSum`."""
        last = torch.cumsum(self._sizes, 0) - 1
        return torch.zeros_like(last).unsqueeze(1), last + 1 - self._sizes, last


def make_pooler(pooling: str, total: MaskedSum | PackedSum, positions: torch.Tensor | None) -> Pooler:
    """The pooler of one batch. `positions` (b, k) are token pooling's draws, counted from the first token."""
    dtype = total.counts.dtype
    if pooling == "mean":
        return lambda hidden: (total(hidden) / total.counts).unsqueeze(0)
    row, first, last = total.places()
    if pooling == "cls":
        chosen = first.unsqueeze(1)
    elif pooling == "last":
        chosen = last.unsqueeze(1)
    else:
        assert positions is not None
        chosen = first.unsqueeze(1) + positions
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


class HostCopy:
    """A copy under way; `wait` gives the arrays."""

    def __init__(self, pooled: Sequence[torch.Tensor], checks: torch.Tensor) -> None:
        self._tensors = [*pooled, checks]
        self._event: torch.cuda.Event | None = None
        if pooled[0].device.type == "cuda":
            self._tensors = [
                torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)
                for tensor in self._tensors
            ]
            self._event = torch.cuda.Event()
            self._event.record(torch.cuda.current_stream(pooled[0].device))

    def wait(self) -> tuple[list[np.ndarray], np.ndarray]:
        """The pooled arrays, one a layer, and the sums that tell non-finite documents, if any."""
        if self._event is not None:
            self._event.synchronize()
        *pooled, checks = (tensor.cpu().numpy() for tensor in self._tensors)
        return pooled, checks


class StopForward(BaseException):
    """Ends a forward pass from the last hook needed. No Exception: model code must not swallow it."""


class PooledForward:
    """A context in which a model is hooked: `forward(batch)` gives the pooled sites. No hook outlives it.

    Sites are pooled in the hook, on the device; the hidden states themselves are not kept.
    """

    def __init__(self, model: LoadedModel, site: str, layers: Sequence[int], pooling: str) -> None:
        self.model = model
        self.pooling = pooling
        self.layers = list(layers)
        self._sites = site_calls(model, site, layers)
        self._counting: list[OneCall] = []
        self._hooks = ExitStack()
        self._take: Callable[[torch.Tensor], None] | None = None

    @property
    def widths(self) -> list[int]:
        """Features of each hooked layer."""
        return [int(nearest_block(self.model, layer).width or 0) for layer in self.layers]

    def __enter__(self) -> "PooledForward":
        modules = dict(self.model.model.named_modules())
        with ExitStack() as hooks:
            for layer, (path, call) in zip(self.layers, self._sites, strict=True):
                hook = OneCall(self._make_hook(last=layer == self.layers[-1]), call)
                self._counting.append(hook)
                if layer == EMBEDDINGS:
                    taken = modules[path].register_forward_pre_hook(partial(_take_input, hook), with_kwargs=True)
                else:
                    taken = modules[path].register_forward_hook(hook)
                hooks.enter_context(taken)
            self._hooks = hooks.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hooks.close()
        self._counting.clear()  # they know this object: a circle would keep the model in memory

    def _make_hook(self, *, last: bool) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if self._take is None:
                return  # one model compared with itself: the other side's pass is running
            self._take(block_output(output))
            if last:
                raise StopForward

        return hook

    def __call__(
        self, batch: TokenBatch, positions: torch.Tensor | None = None, *, blank_padding: bool = False
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Run one batch.

        `blank_padding` zeroes padded positions before pooling (only a non-finite value there needs it: zero
        times infinity is not zero).

        Returns:
            The pooled tensors, one a layer, (k, b, d); and (layers, b) sums that are finite where every
            activation of the document is, empty where the pooled values say it themselves.
        """
        mask = batch.attention_mask
        total: MaskedSum | PackedSum = MaskedSum(mask, self.model.dtype)
        if batch.lengths is not None:
            total = PackedSum(batch.lengths, self.model.dtype, mask.device)
        pool = make_pooler(self.pooling, total, positions)
        pooled: list[torch.Tensor] = []
        checks: list[torch.Tensor] = []

        def take(hidden: torch.Tensor) -> None:
            # Layers of a model that is spread over devices lie where their weights do.
            hidden = own_tokens(hidden, mask.shape[1]).to(mask.device)
            if blank_padding:
                hidden = hidden.masked_fill(~mask.bool().unsqueeze(-1), 0)
            pooled.append(pool(hidden))
            if self.pooling != "mean":
                # The pooled token may be finite where another one of the document is not.
                checks.append(total(hidden).sum(-1))

        self._take = take
        for hook in self._counting:
            hook.seen = 0
        try:
            if batch.lengths is None:
                self.model.run(batch.input_ids, mask, batch.token_type_ids)
            else:
                self.model.run_packed(batch.input_ids, batch.lengths, batch.token_type_ids)
        except StopForward:
            pass
        finally:
            self._take = None
        return pooled, torch.stack(checks) if checks else mask.new_empty(0)
