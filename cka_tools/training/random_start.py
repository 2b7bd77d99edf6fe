"""A start model of random weights: of a shape such as "8x128", or of another model's config."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from transformers import ModernBertConfig, ModernBertForMaskedLM

from cka_tools.errors import UserError
from cka_tools.training.checkpoint import copy_tokenizer, whole_folder
from cka_tools.training.start_model import find_start, quiet_transformers

DEFAULT_START: Final = "demo:theta0"
"""Whose tokenizer and settings a shape takes, where no model is given."""

_SHAPE = re.compile(r"(\d{1,9})x(\d{1,9})")


def parse_shape(given: str) -> tuple[int, int] | None:
    """Return layers and hidden size of "8x128"; None where it is not a shape."""
    match = _SHAPE.fullmatch(given)
    return None if match is None else (int(match[1]), int(match[2]))


def read_config(folder: Path) -> dict[str, Any]:
    """Return a model directory's config as JSON data."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return config


def shaped_config(config: dict[str, Any], layers: int, hidden: int) -> dict[str, Any]:
    """Return a config of another shape: heads keep their width, feed-forward layers their ratio.

    Raises:
        UserError: not a ModernBERT's config, or a shape that cannot be.
    """
    if config["model_type"] != "modernbert":
        raise UserError(f"shape {layers}x{hidden} needs a ModernBERT --start to take its settings from")
    width = config["hidden_size"] // config["num_attention_heads"]
    heads = max(1, hidden // width)
    if layers < 1 or hidden < 2 or hidden % heads or hidden // heads % 2:
        raise UserError(
            f"shape {layers}x{hidden} does not fit: give layers x hidden size, a multiple of {width}"
        )
    kinds = config["layer_types"]
    every = next((i for i in range(1, len(kinds)) if kinds[i] == kinds[0]), 3)
    return config | {
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "intermediate_size": max(1, round(config["intermediate_size"] / config["hidden_size"] * hidden)),
        "layer_types": [kinds[i % every] for i in range(layers)],
    }


def write_random(config: dict[str, Any], seed: int, tokenizer_of: Path, folder: Path) -> Path:
    """Write a ModernBERT with an LM head and random weights, unless it is there; return its directory.

    Args:
        config: a ModernBERT's, as JSON data.
        seed: of the weights.
        tokenizer_of: directory whose tokenizer it gets.

    Raises:
        UserError: the config is not a ModernBERT's.
    """
    if (folder / "config.json").is_file():
        return folder
    if config.get("model_type") != "modernbert":
        kind = config.get("model_type")
        raise UserError(f"random weights of a {kind!r} model are not offered: give a ModernBERT")
    torch.manual_seed(seed)
    kept = {k: v for k, v in config.items() if k not in ("architectures", "transformers_version")}
    with whole_folder(folder) as staging, quiet_transformers():
        model = ModernBertForMaskedLM._from_config(ModernBertConfig(**(kept | {"dtype": "float32"})))
        model.save_pretrained(staging)
        copy_tokenizer(tokenizer_of, staging)
    return folder


@contextmanager
def start_folder(given: str, *, random: bool, seed: int) -> Iterator[Path]:
    """Give the directory of a start model; one of random weights is removed afterwards.

    Args:
        given: a model spec, or a shape such as "8x128" of random weights.
        random: take random weights in place of the model's own, too.
        seed: of random weights.

    Raises:
        UserError: as `find_start`, `shaped_config` and `write_random`.
    """
    shape = parse_shape(given)
    model = find_start(given if shape is None else DEFAULT_START)
    if shape is None and not random:
        yield model
        return
    config = read_config(model) if shape is None else shaped_config(read_config(model), *shape)
    with tempfile.TemporaryDirectory() as place:
        yield write_random(config, seed, model, Path(place) / "random")
