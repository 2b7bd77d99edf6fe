"""The device and the number format a model runs in, by the names a user gives."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from cka_tools.errors import UserError
from cka_tools.models.blocks import Block, text_config
from cka_tools.processes import local_rank

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


def resolve_device(name: str | torch.device) -> torch.device:
    """`auto` is cuda, else mps, else cpu; any other name is taken at its word.

    Of several processes on a machine each takes a GPU of its own for `auto` and `cuda`, as far as they go.

    Raises:
        UserError: no such device, here or at all.
    """
    if local_rank() and str(name) in ("auto", "cuda") and torch.cuda.is_available():
        return torch.device("cuda", local_rank() % torch.cuda.device_count())
    if str(name) == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, ValueError):
        raise UserError(f"device {str(name)!r} is unknown: use auto, cpu, cuda, cuda:N or mps") from None
    missing = (
        (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count())
        or (device.type == "mps" and not torch.backends.mps.is_available())
        or device.type not in {"cpu", "cuda", "mps"}
    )
    if missing:
        raise UserError(f"device {str(name)!r} is not on this machine: use auto or cpu")
    return device


def resolve_dtype(name: str | torch.dtype, device: torch.device) -> torch.dtype:
    """The torch dtype of a name.

    Raises:
        UserError: not one of the four, or float64 on a device without it.
    """
    short = str(name).removeprefix("torch.")
    if short not in DTYPES:
        raise UserError(f"dtype {short!r} is not one of {', '.join(DTYPES)}")
    if device.type == "mps" and short == "float64":
        raise UserError("dtype 'float64' does not exist on mps: use float32, or device cpu")
    return DTYPES[short]


@dataclass
class LoadedModel:
    """A base model (no head) with its tokenizer and blocks.

    `name` is the spec as it was given (a class name for a model given in memory).
    `provenance` is JSON-ready: spec, revision (hub), weights_sha256, architecture, a summary of the config.
    `notes` are plain sentences for the user. `needs_equal_lengths`: padding or a longer document beside it
    changes a document's hidden states, so it runs in batches without padding.
    """

    name: str
    model: Any
    tokenizer: Any
    blocks: list[Block]
    provenance: dict[str, Any]
    final_norm: str | None = None
    embeddings_seen: bool = True
    in_memory: bool = False
    needs_equal_lengths: bool = False
    notes: list[str] = field(default_factory=list)

    @property
    def device(self) -> torch.device:
        """Where the model's parameters lie."""
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The number format of the model's parameters."""
        return next(p.dtype for p in self.model.parameters() if p.is_floating_point())

    @property
    def dtype_name(self) -> str:
        """The number format as a user gives it: float32, not torch.float32."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def hidden_size(self) -> int:
        """Features of a layer by the config; 0 where it does not say."""
        return int(getattr(text_config(self.model.config), "hidden_size", 0) or 0)

    @property
    def max_length(self) -> int | None:
        """The longest sequence the model takes, in tokens; None where neither config nor tokenizer says."""
        limits = []
        declared = getattr(text_config(self.model.config), "max_position_embeddings", None)
        if isinstance(declared, int) and declared > 0:
            limits.append(declared)
        for path, module in self.model.named_modules():
            if path.endswith("position_embeddings") and isinstance(module, nn.Embedding):
                # RoBERTa's positions start behind its padding index: 514 rows hold 512 positions.
                skipped = 0 if module.padding_idx is None else module.padding_idx + 1
                limits.append(module.num_embeddings - skipped)
        if not limits and 0 < self.tokenizer.model_max_length < 1_000_000:
            # Tokenizers say 1e30 where nobody set a limit.
            limits.append(int(self.tokenizer.model_max_length))
        return min(limits) if limits else None

    @property
    def vocabulary(self) -> int:
        """Rows of the embedding matrix: one more than the largest token id the model can take."""
        return int(self.model.get_input_embeddings().weight.shape[0])

    @property
    def pad_id(self) -> int:
        """The tokenizer's or the model's pad id; 0 where there is none (GPT-2), as padding is masked."""
        for candidate in (self.tokenizer.pad_token_id, getattr(self.model.config, "pad_token_id", None)):
            if isinstance(candidate, int) and 0 <= candidate < self.vocabulary:
                return candidate
        return 0

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Evaluation without gradients; on leaving, each module has its training flag back."""
        training = [module for module in self.model.modules() if module.training]
        try:
            for module in training:
                module.training = False
            # A buffer that a forward pass of inference mode rewrites could not be trained with afterwards.
            with torch.no_grad() if self.in_memory else torch.inference_mode():
                yield
        finally:
            for module in training:
                module.training = True


@dataclass
class ModelOutline(LoadedModel):
    """A model whose weights are not in memory (they are on torch's meta device): it is planned with, not run.

    `place` is the device that it will run on.
    """

    place: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def device(self) -> torch.device:
        """Where the model will run."""
        return self.place
