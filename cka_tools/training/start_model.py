"""The model that training starts from: a ModernBERT with its LM head, of a directory or of random weights.

Random weights are of a shape such as "8x128", or of another model's config.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import safe_open
from transformers import (
    AutoConfig,
    ModernBertConfig,
    ModernBertDecoderForCausalLM,
    ModernBertForMaskedLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from cka_tools.errors import UserError, failing_as
from cka_tools.models.folder import check_folder, parse_spec, weight_files
from cka_tools.models.load import load_tokenizer, quiet_transformers
from cka_tools.models.snapshot import fetch_snapshot
from cka_tools.training.attention import ANYWHERE, BLOCKED, FLEX, IMPLEMENTATIONS
from cka_tools.training.checkpoint import copy_tokenizer, whole_folder

AUTO = "auto"

ENCODER = "ModernBertForMaskedLM"
CLASSES = {ENCODER: ModernBertForMaskedLM, "ModernBertDecoderForCausalLM": ModernBertDecoderForCausalLM}


def find_start(given: str) -> Path:
    """Return the local directory of a model spec, checked to be one that can be trained.

    Args:
        given: demo:NAME, a directory, org/name or org/name@revision; a hub repository is fetched, without
            code and without pickles.

    Raises:
        UserError: not a model spec, a repository that cannot be fetched, a directory without config, weights
            or tokenizer, a class that cannot be trained here, or a config that does not fit the weights.
    """
    folder = fetch_snapshot(parse_spec(given)).folder
    _check_config(folder, given, CLASSES[check_start(folder, given)])
    return folder


def _check_config(folder: Path, given: str, model_class: type[PreTrainedModel]) -> None:
    """Raise a UserError where a config makes no model, or one of other shapes than the weights have."""
    with (
        failing_as(f"start model {given!r} cannot be made as its config.json says"),
        quiet_transformers(),
        torch.device("meta"),
    ):
        model = model_class._from_config(AutoConfig.from_pretrained(folder))
    made = {name: list(value.shape) for name, value in model.state_dict().items()}
    for file in weight_files(folder, given):
        with safe_open(file, "pt") as weights:
            for name in weights.keys():  # noqa: SIM118
                shape = weights.get_slice(name).get_shape()
                if shape != made.get(name, shape):
                    raise UserError(
                        f"start model {given!r} has a {name} of {shape}, not the {made[name]} of its config.json: "
                        "correct that, or give the weights that belong to it"
                    )


def check_start(folder: Path, given: str | None = None) -> str:
    """Return the name of a model's class, one of `CLASSES`, by the first of `architectures` in its config.

    Nothing is loaded, so that a whole plan can be checked before any training.

    Args:
        given: how the user named the directory, for the error; its path when None.

    Raises:
        UserError: not a model directory (config, safetensors, tokenizer), or another class.
    """
    name = given or str(folder)
    if not folder.is_dir():
        raise UserError(f"start model {name!r} is not a directory: give one written by save_pretrained")
    written = check_folder(name, folder).get("architectures") or ["none"]
    if written[0] not in CLASSES:
        raise UserError(
            f"start model {name!r} is a {written[0]}: training needs an LM head, so give a {' or a '.join(CLASSES)}"
        )
    return str(written[0])


def load_start(
    folder: Path, *, attention: str = AUTO, device_type: str = "cpu", given: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return the model in float32, on the CPU, in eval mode, and its tokenizer.

    Weights that the directory holds in another format are cast; every parameter must be in it, as a head
    with random weights would be trained without a word.

    Args:
        folder: a directory that `check_start` accepts.
        attention: one of `IMPLEMENTATIONS`, or "auto": blocked on a CPU, where it is half as fast again as
            SDPA, SDPA elsewhere and for models with attention dropout.
        device_type: where it will be trained, as `torch.device.type` has it: chooses between the two, and flex
            attention is for a GPU alone.
        given: how the user named the directory, for errors.

    Raises:
        UserError: as `check_start`; weights that are not there, the LM head's above all; an attention
            implementation that is not offered, or not for this model.
    """
    if attention not in (AUTO, *IMPLEMENTATIONS):
        raise UserError(
            f"attention implementation {attention!r} is not offered: choose {', '.join(IMPLEMENTATIONS)} or {AUTO}"
        )
    if device_type in ("cpu", "mps") and attention not in (AUTO, *ANYWHERE):
        raise UserError(
            f"attention implementation {attention!r} has no backward pass on {device_type!r}: "
            f"choose {', '.join(ANYWHERE)} or {AUTO}"
        )
    name = given or str(folder)
    model_class = CLASSES[check_start(folder, given)]
    dropout = read_config(folder).get("attention_dropout") or 0.0
    if isinstance(dropout, int | float) and not 0 <= dropout < 1:
        raise UserError(
            f"start model {name!r} has attention dropout of {dropout}, not a share of 0 to below 1: correct config.json"
        )
    if dropout and attention in (BLOCKED, FLEX):
        raise UserError(
            f"start model {name!r} has attention dropout of {dropout}, which {attention} attention does not "
            f"offer: choose sdpa"
        )
    if attention == AUTO:
        attention = BLOCKED if device_type == "cpu" and not dropout else "sdpa"
    with failing_as(f"start model {name!r} cannot be loaded as its config.json says"), quiet_transformers():
        model, info = model_class.from_pretrained(
            folder, dtype=torch.float32, attn_implementation=attention, output_loading_info=True
        )
    tokenizer = load_tokenizer(name, folder)
    if missing := sorted(info["missing_keys"]):
        raise UserError(
            f"start model {name!r} lacks the weights of {missing[0]} (and {len(missing) - 1} more): "
            f"give a checkpoint that was trained with its LM head"
        )
    return model, tokenizer


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
        raise UserError(f"shape {layers}x{hidden} does not fit: give layers x hidden size, a multiple of {width}")
    # Of older files other settings say which layers are local.
    kinds = config.get("layer_types") or ModernBertConfig(**config).layer_types
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
