"""A model that is ready to be compared: its base model, its tokenizer, its blocks, and where it came from."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from cka_tools.models.blocks import Block, text_config


@dataclass
class LoadedModel:
    """A base model (no head) with its tokenizer and blocks.

    `name` is the spec as it was given (a class name for a model given in memory).
    `provenance` is JSON-ready: spec, revision (hub), weights_sha256, architecture, a summary of the config.
    `notes` are plain sentences for the user.
    """

    name: str
    model: Any
    tokenizer: Any
    blocks: list[Block]
    provenance: dict[str, Any]
    final_norm: str | None = None
    in_memory: bool = False
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
