"""A checkpoint on disk: an ordinary Hugging Face directory, its manifest, and what training needs to go on.

    config.json, model.safetensors, tokenizer   what transformers loads
    training.json                               the manifest: what was trained on what, by which versions
    loss.csv                                    the loss curve
    optimizer.safetensors                       AdamW's moments, by parameter name
    trainer_state.json                          steps done, and the loss curve in full precision

Nothing is pickled. A directory is written under another name and then renamed: one that is there is whole.
"""

import csv
import dataclasses
import json
import os
import platform
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from cka_tools.errors import UserError
from cka_tools.manifest import LOSSES, MANIFEST, read_manifest
from cka_tools.models.folder import hash_file, hash_weights
from cka_tools.models.load import quiet_transformers
from cka_tools.store.directory import locked, replace_file
from cka_tools.training.loop import LossRow, PhaseState

WEIGHTS = "model.safetensors"
OPTIMIZER = "optimizer.safetensors"
STATE = "trainer_state.json"
WeightsDtype = Literal["float32", "float16", "bfloat16"]
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Give a directory to fill; it takes the name `folder` when it is full and on the disk."""
    staging = folder.with_name(f".{folder.name}.partial")
    if staging.exists():
        shutil.rmtree(staging)
    staging.mkdir(parents=True)
    try:
        yield staging
        for path in (*staging.iterdir(), staging):
            _flush(path)
        staging.replace(folder)
    except Exception:  # half of it shall not fill the disk
        shutil.rmtree(staging, ignore_errors=True)
        raise
    _flush(folder.parent)


def write_checkpoint(
    folder: Path,
    model: PreTrainedModel,
    optimizer: torch.optim.Optimizer,
    state: PhaseState,
    tokenizer_of: Path,
    manifest: dict[str, Any],
) -> None:
    """Write a checkpoint whole, with the hashes of weights, optimizer and training state in its manifest.

    Args:
        tokenizer_of: the directory whose tokenizer is copied, byte for byte.
    """
    with whole_folder(folder) as staging:
        with quiet_transformers():
            model.save_pretrained(staging)
        copy_tokenizer(tokenizer_of, staging)
        save_file(optimizer_tensors(model, optimizer), staging / OPTIMIZER)
        write_json(staging / STATE, dataclasses.asdict(state))
        write_losses(staging / LOSSES, state.losses)
        written = {
            "weights_sha256": hash_weights(staging),
            "optimizer_sha256": hash_file(staging / OPTIMIZER),
            "state_sha256": hash_file(staging / STATE),
            "versions": versions(),
        }
        write_json(staging / MANIFEST, manifest | written)


def copy_tokenizer(of: Path, to: Path) -> None:
    """Copy a directory's tokenizer, byte for byte."""
    for name in TOKENIZER_FILES:
        if (of / name).is_file():
            shutil.copyfile(of / name, to / name)


def optimizer_tensors(model: PreTrainedModel, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Return the optimizer's state as tensors called `parameter/moment`; none for what never learnt."""
    return {
        f"{name}/{moment}": value.detach().cpu().contiguous()
        for name, parameter in model.named_parameters()
        for moment, value in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer(folder: Path, model: PreTrainedModel, optimizer: torch.optim.Optimizer) -> bool:
    """Give the optimizer the state in `folder`; False where there is none.

    Raises:
        UserError: the state belongs to another model, or its file is damaged.
    """
    file = folder / OPTIMIZER
    if not file.is_file():
        return False
    parameters = dict(model.named_parameters())
    try:
        tensors = load_file(file)
    except SafetensorError as error:
        raise UserError(f"the optimizer state {str(file)!r} cannot be read ({error}): remove it") from error
    for key, value in tensors.items():
        name, _, moment = key.rpartition("/")
        parameter = parameters.get(name)
        if parameter is None or (moment != "step" and value.shape != parameter.shape):
            raise UserError(f"the optimizer state {str(file)!r} is of another model ({name}): remove that file")
        # AdamW counts its steps on the CPU.
        optimizer.state[parameter][moment] = value if moment == "step" else value.to(parameter.device)
    return True


def read_state(folder: Path) -> PhaseState:
    """Return how far the phase of a checkpoint had come."""
    data = json.loads((folder / STATE).read_text(encoding="utf-8"))
    return PhaseState(**data | {"losses": [LossRow(**row) for row in data["losses"]]})


def find_damage(folder: Path, *, optimizer: bool = False) -> str | None:
    """Return what is wrong with a checkpoint that was written here, None where nothing is.

    Weights, optimizer state and training state are compared with the hashes in the manifest. A checkpoint of
    before they were recorded is taken with those that it has.

    Args:
        optimizer: whether the optimizer state must be there; else it may have been removed.
    """
    manifest = read_manifest(folder) or {}
    if not (folder / "config.json").is_file():
        return "config.json is missing"
    try:
        weights = hash_weights(folder)
    except UserError:
        return f"{WEIGHTS} is missing"
    if manifest.get("weights_sha256") != weights:
        return f"{WEIGHTS} is not what was written"
    try:
        read_state(folder)
    except (OSError, ValueError, TypeError, KeyError):
        return f"{STATE} is missing or cannot be read"
    if optimizer and not (folder / OPTIMIZER).is_file():
        return f"{OPTIMIZER} is missing"
    for name, recorded in ((OPTIMIZER, "optimizer_sha256"), (STATE, "state_sha256")):
        there = (folder / name).is_file() and recorded in manifest
        if there and manifest[recorded] != hash_file(folder / name):
            return f"{name} is not what was written"
    return None


def write_json(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_losses(path: Path, losses: Sequence[LossRow]) -> None:
    """Write the loss curve as CSV, rounded for reading."""
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(LossRow.__dataclass_fields__)
        for row in losses:
            numbers = f"{row.learning_rate:.6g}", f"{row.loss:.4f}", f"{row.tokens_per_second:.0f}"
            rows.writerow((row.phase, row.objective, row.step, row.tokens, *numbers))


def round_weights(folder: Path, dtype: WeightsDtype) -> None:
    """Round the weights of a finished checkpoint to `dtype` in place; nothing where they are in it already.

    The manifest is written last, so a call that was stopped is made good by the next one.

    Raises:
        UserError: the weights overflow in `dtype`, or cannot be written.
    """
    with locked(folder.with_name(f".{folder.name}.lock")):
        _round_weights(folder, dtype)


def _round_weights(folder: Path, dtype: WeightsDtype) -> None:
    manifest = read_manifest(folder) or {}
    if manifest.get("weights_dtype", "float32") == dtype:
        return
    if dtype == "float32":
        raise UserError(f"the weights of {str(folder)!r} were rounded to {manifest['weights_dtype']} already")
    file = folder / WEIGHTS
    rounded = {name: tensor.to(getattr(torch, dtype)) for name, tensor in load_file(file).items()}
    if lost := next((name for name, tensor in rounded.items() if not tensor.isfinite().all()), None):
        raise UserError(f"the weights {lost} of {str(folder)!r} are not finite in {dtype}: keep float32")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8")) | {"dtype": dtype}
    try:
        replace_file(file, lambda staging: save_file(rounded, staging, metadata={"format": "pt"}))
        replace_file(folder / "config.json", lambda staging: write_json(staging, config))
        manifest |= {"weights_dtype": dtype, "weights_sha256": hash_weights(folder)}
        replace_file(folder / MANIFEST, lambda staging: write_json(staging, manifest))
    except (OSError, SafetensorError) as error:
        raise UserError(f"{str(folder)!r} could not be written ({error}): make room, start again") from error


def versions() -> dict[str, str]:
    packages = ("torch", "transformers", "accelerate", "numpy")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}


def _flush(path: Path) -> None:
    """Ask the system to put a file or a directory on the disk."""
    if os.name == "nt":  # which opens no folder, and flushes only what may be written
        if path.is_file():
            with path.open("rb+") as file:
                os.fsync(file.fileno())
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
