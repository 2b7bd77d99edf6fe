"""A model directory: what it holds, checked before anything of it is loaded."""

import json
from pathlib import Path
from typing import Any

from cka_tools.errors import UserError
from cka_tools.models.hub import pickled_weights

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "vocab.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
)


def check_folder(given: str, folder: Path) -> dict[str, Any]:
    """Return the parsed config.json of a directory that holds config, safetensors and a tokenizer.

    Raises:
        UserError: one of them is missing, the config is not JSON, or the weights are pickles.
    """
    config_file = folder / "config.json"
    if not config_file.is_file():
        raise UserError(f"model {given!r} has no config.json: give the directory written by save_pretrained")
    try:
        config = json.loads(config_file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise UserError(
            f"model {given!r}: config.json cannot be read ({one_line(error)}): write it anew"
        ) from None
    if not isinstance(config, dict):
        raise UserError(f"model {given!r}: config.json does not hold a JSON object: write it anew")
    if not weight_files(folder):
        if any(file.suffix in {".bin", ".pt", ".pth", ".ckpt"} for file in folder.iterdir()):
            raise pickled_weights(given)
        raise UserError(
            f"model {given!r} has no weights (*.safetensors): give the directory written by save_pretrained"
        )
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise UserError(
            f"model {given!r} has no tokenizer (tokenizer.json or a vocabulary): save it there with "
            "tokenizer.save_pretrained"
        )
    return config


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a directory, sorted by name; `model.safetensors` alone where there is one."""
    single = folder / "model.safetensors"
    if single.is_file():
        return [single]
    shards = sorted(folder.glob("model-*-of-*.safetensors"))
    return shards or sorted(folder.glob("*.safetensors"))


def one_line(error: BaseException, limit: int = 160) -> str:
    """The first line of an exception's text, cut to `limit` characters, or its class name."""
    text = " ".join(str(error).split())
    return text if 0 < len(text) <= limit else (text[: limit - 1] + "…" if text else type(error).__name__)
