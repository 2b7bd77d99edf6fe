"""Start models: a model that is given, or a shape whose random weights are trained on the start corpus."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from transformers import PreTrainedTokenizerBase

from cka_tools.ablation.axes import StartName
from cka_tools.errors import UserError
from cka_tools.manifest import read_manifest, trained_tokens
from cka_tools.models.folder import hash_json, hash_weights
from cka_tools.models.load import load_tokenizer
from cka_tools.training.recipe import Phase
from cka_tools.training.start_model import DEFAULT_START, find_start, parse_shape, read_config, shaped_config

SECOND_SHAPE: Final = "4x64"
"""The other size of the axes `size` and `all`, where none is given."""

START_SEED = 1
"""Of the weights, order and masks of start models that are trained here: one start for all seeds."""

StartKey = tuple[StartName, str]


@dataclass(frozen=True)
class Start:
    """Where runs leave from.

    Attributes:
        given: the spec or shape as the user wrote it.
        folder: the model's directory; None for a shape.
        config: the model's config, as JSON data.
        pretraining: the phases that make it of random weights, on the start corpus; none where it is given.
    """

    name: StartName
    given: str
    folder: Path | None
    config: dict[str, Any]
    pretraining: tuple[Phase, ...] = ()

    @property
    def key(self) -> StartKey:
        return self.name, self.size

    @property
    def layers(self) -> int:
        return int(self.config["num_hidden_layers"])

    @property
    def size(self) -> str:
        return f"{self.layers}x{self.config['hidden_size']}"

    @cached_property
    def identity(self) -> dict[str, Any]:
        """JSON data that fixes its weights, or the random ones that `pretraining` begins with."""
        if self.folder is not None:
            return {"weights_sha256": hash_weights(self.folder)}
        described = {k: v for k, v in self.config.items() if k not in ("transformers_version", "dtype")}
        return {"random": hash_json(described), "seed": START_SEED}

    @property
    def trained_on(self) -> int | None:
        """Tokens that a given model was trained on, where its manifest tells."""
        return None if self.folder is None else trained_tokens(read_manifest(self.folder))


def find_starts(given: list[str], decoders: list[str], *, with_decoder: bool) -> tuple[list[Start], Path]:
    """Return encoder starts, then decoder starts, one of each size; and the directory of their tokenizer.

    A decoder start that is not given has its encoder's shape and class, and is trained by CLM.

    Raises:
        UserError: a model that cannot be trained, two of one size, tokenizers that differ.
    """
    models = {spec: find_start(spec) for spec in (*given, *decoders) if parse_shape(spec) is None}
    template = next(iter(models.values())) if models else find_start(DEFAULT_START)
    encoders = [_start("encoder", spec, models, template) for spec in given]
    sizes = [start.size for start in encoders]
    if twice := next((size for size in sizes if sizes.count(size) > 1), None):
        raise UserError(f"two --start models are {twice}: give one of each size")
    given_decoders = {start.size: start for start in (_start("decoder", spec, models, template) for spec in decoders)}
    for size in given_decoders:
        if size not in sizes:
            raise UserError(
                f"--decoder-start {given_decoders[size].given!r} is {size}, no --start is: "
                f"give a decoder of the shape of a start model"
            )
    starts = list(encoders)
    for one in encoders if with_decoder else ():
        starts.append(given_decoders.get(one.size) or Start("decoder", one.size, None, one.config))
    words = {tokenizer_hash(load_tokenizer(start.given, start.folder)) for start in starts if start.folder is not None}
    if len(words) > 1:
        raise UserError("the start models have different tokenizers: give models of one tokenizer")
    return starts, template


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a hash of a tokenizer's vocabulary."""
    return hash_json(tokenizer.get_vocab())


def _start(name: StartName, given: str, models: dict[str, Path], template: Path) -> Start:
    shape = parse_shape(given)
    if shape is None:
        folder = models[given]
        return Start(name, given, folder, read_config(folder))
    return Start(name, given, None, shaped_config(read_config(template), *shape))
