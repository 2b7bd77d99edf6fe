"""A batch through a model → pooled activations of the hooked sites, nothing run above the last of them."""

import inspect
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any

import torch
from torch import nn

from cka_tools.extraction.batches import TokenBatch
from cka_tools.extraction.pooling import MaskedSum, Pooler, make_pooler
from cka_tools.extraction.sites import site_paths
from cka_tools.models.blocks import block_output
from cka_tools.models.model import LoadedModel


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
        self._paths = site_paths(model, site, layers)
        self._options = forward_options(model)
        self._handles: list[Any] = []
        self._pool: Pooler | None = None
        self._sum: MaskedSum | None = None
        self._real: torch.Tensor | None = None
        self._pooled: list[torch.Tensor] = []
        self._checks: list[torch.Tensor] = []

    @property
    def widths(self) -> list[int]:
        """Features of each hooked layer."""
        return [int(self.model.blocks[layer].width or 0) for layer in self.layers]

    def __enter__(self) -> "PooledForward":
        modules = dict(self.model.model.named_modules())
        try:
            for path in self._paths:
                handle = modules[path].register_forward_hook(self._make_hook(last=path == self._paths[-1]))
                self._handles.append(handle)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._handles:
            self._handles.pop().remove()

    def _make_hook(self, *, last: bool) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if self._pool is None or self._sum is None:
                return  # one model compared with itself: the other side's pass is running
            hidden = block_output(output)
            if self._real is not None:
                hidden = hidden.masked_fill(~self._real, 0)
            self._pooled.append(self._pool(hidden))
            if self.pooling != "mean":
                # The pooled token may be finite where another one of the document is not.
                self._checks.append(self._sum(hidden).sum(-1))
            if last:
                raise StopForward

        return hook

    def __call__(
        self, batch: TokenBatch, positions: torch.Tensor | None = None, *, blank_padding: bool = False
    ) -> tuple[list[torch.Tensor], torch.Tensor | None]:
        """Run one batch.

        `blank_padding` zeroes padded positions before pooling (only a non-finite value there needs it: zero
        times infinity is not zero).

        Returns:
            The pooled tensors, one a layer, (k, b, d); and (layers, b) sums that are finite where every
            activation of the document is, or None where the pooled values say it themselves.
        """
        mask = batch.attention_mask
        self._sum = MaskedSum(mask, self.model.dtype)
        self._pool = make_pooler(self.pooling, self._sum, mask, positions)
        self._real = mask.bool().unsqueeze(-1) if blank_padding else None
        self._pooled, self._checks = [], []
        try:
            self.model.model(input_ids=batch.input_ids, attention_mask=mask, **self._options)
        except StopForward:
            pass
        finally:
            pooled, checks = self._pooled, self._checks
            self._pool = self._sum = self._real = None
            self._pooled, self._checks = [], []
        return pooled, torch.stack(checks) if checks else None


def forward_options(model: LoadedModel) -> dict[str, Any]:
    """Keyword arguments that keep a forward pass from storing what nobody reads."""
    options: dict[str, Any] = {}
    if "use_cache" in inspect.signature(model.model.forward).parameters:
        options["use_cache"] = False
    for name in ("output_hidden_states", "output_attentions"):
        if getattr(model.model.config, name, False):
            options[name] = False
    return options


def bare_forward(model: LoadedModel, batches: Iterable[TokenBatch]) -> None:
    """Run batches through the whole base model and keep nothing: the floor extraction is measured against."""
    options = forward_options(model)
    with model.evaluating():
        for batch in batches:
            model.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, **options)
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
