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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import accelerate
import numpy as np
import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from cka_tools.errors import UserError
from cka_tools.models.folder import hash_weight_files, weight_files
from cka_tools.models.load import quiet_transformers
from cka_tools.store.directory import locked
from cka_tools.training.loop import LossRow, PhaseState, TrainingRun

MANIFEST = "training.json"
WEIGHTS = "model.safetensors"
OPTIMIZER = "optimizer.safetensors"
STATE = "trainer_state.json"
LOSSES = "loss.csv"
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
    yield staging
    for path in (*staging.iterdir(), staging):
        _flush(path)
    staging.replace(folder)
    _flush(folder.parent)


def write_checkpoint(
    folder: Path,
    model: PreTrainedModel,
    optimizer: torch.optim.Optimizer,
    state: PhaseState,
    tokenizer_of: Path,
    manifest: dict[str, Any],
) -> None:
    """Write a checkpoint whole, with the weights' hash in its manifest.

    Args:
        tokenizer_of: the directory whose tokenizer is copied, byte for byte.
    """
    with whole_folder(folder) as staging:
        with quiet_transformers():
            model.save_pretrained(staging)
        for name in TOKENIZER_FILES:
            if (tokenizer_of / name).is_file():
                shutil.copyfile(tokenizer_of / name, staging / name)
        save_file(optimizer_tensors(model, optimizer), staging / OPTIMIZER)
        write_json(staging / STATE, dataclasses.asdict(state))
        write_losses(staging / LOSSES, state.losses)
        weights = hash_weight_files(weight_files(staging))
        write_json(staging / MANIFEST, manifest | {"weights_sha256": weights, "versions": versions()})


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
        UserError: the state belongs to another model.
    """
    file = folder / OPTIMIZER
    if not file.is_file():
        return False
    parameters = dict(model.named_parameters())
    for key, value in load_file(file).items():
        name, _, moment = key.rpartition("/")
        parameter = parameters.get(name)
        if parameter is None or (moment != "step" and value.shape != parameter.shape):
            raise UserError(
                f"the optimizer state {str(file)!r} is of another model ({name}): remove that file"
            )
        # AdamW counts its steps on the CPU.
        place = value if moment == "step" else value.to(parameter.device)
        optimizer.state[parameter][moment] = place
    return True


def read_state(folder: Path) -> PhaseState:
    """Return how far the phase of a checkpoint had come."""
    data = json.loads((folder / STATE).read_text(encoding="utf-8"))
    return PhaseState(**data | {"losses": [LossRow(**row) for row in data["losses"]]})


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Return the manifest of a directory, None where it has none.

    Raises:
        UserError: it cannot be read.
    """
    file = folder / MANIFEST
    if not file.is_file():
        return None
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise UserError(f"manifest {str(file)!r} cannot be read: remove its directory") from error
    if not isinstance(manifest, dict):
        raise UserError(f"manifest {str(file)!r} holds no JSON object: remove its directory")
    return manifest


def write_json(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_losses(path: Path, losses: Sequence[LossRow]) -> None:
    """Write the loss curve as CSV, rounded for reading."""
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(LossRow.__dataclass_fields__)
        for row in losses:
            rate, loss = f"{row.learning_rate:.6g}", f"{row.loss:.4f}"
            rows.writerow(
                (row.phase, row.objective, row.step, row.tokens, rate, loss, f"{row.tokens_per_second:.0f}")
            )


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
        _replace(file, lambda staging: save_file(rounded, staging, metadata={"format": "pt"}))
        _replace(folder / "config.json", lambda staging: write_json(staging, config))
        manifest |= {"weights_dtype": dtype, "weights_sha256": hash_weight_files(weight_files(folder))}
        _replace(folder / MANIFEST, lambda staging: write_json(staging, manifest))
    except (OSError, SafetensorError) as error:
        raise UserError(f"{str(folder)!r} could not be written ({error}): make room, start again") from error


def _replace(file: Path, write: Callable[[Path], None]) -> None:
    """Write a file under another name, then put it in place."""
    staging = file.with_name(f".{file.name}.partial")
    write(staging)
    _flush(staging)
    staging.replace(file)


def versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "accelerate": accelerate.__version__,
        "numpy": np.__version__,
    }


def save_run(
    out: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    run: TrainingRun,
    *,
    dtype: torch.dtype = torch.float32,
    extra: dict[str, Any] | None = None,
) -> None:
    """Write what a run in memory left: a Hugging Face directory in `dtype`, `loss.csv` and the manifest.

    The manifest is written last: a directory that has one is complete. The model is left in `dtype`.
    """
    out.mkdir(parents=True, exist_ok=True)
    model.to(dtype)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    write_losses(out / LOSSES, run.losses)
    manifest = {
        "recipe": run.recipe.to_dict(),
        "seed": run.seed,
        "data_sha256": run.data_fingerprint,
        "tokens": run.tokens,
        "targets": run.targets,
        "seconds": round(run.seconds, 1),
        "final_loss": {row.phase: row.loss for row in run.losses},
        "dtype": str(dtype).removeprefix("torch."),
        "weights_sha256": hash_weight_files(weight_files(out)),
        "versions": versions(),
        **(extra or {}),
    }
    write_json(out / MANIFEST, manifest)


def _flush(path: Path) -> None:
    """Ask the system to put a file or a directory on the disk."""
    if os.name == "nt" and path.is_dir():
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
