"""The training run, to be read from top to bottom: phases, steps, loss, update, directory."""

import csv
import hashlib
import json
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from cka_tools.errors import UserError
from cka_tools.training.objectives import Objective
from cka_tools.training.optimizer import adamw
from cka_tools.training.packing import PackedTokens
from cka_tools.training.recipe import Recipe
from cka_tools.training.target_loss import TargetLoss

LOSS_ROWS = 200


@dataclass(frozen=True)
class LossRow:
    """A window of steps: its last step and token, counted over the run, its mean loss in nats per target."""

    phase: str
    objective: str
    step: int
    tokens: int
    learning_rate: float
    loss: float
    tokens_per_second: float


@dataclass
class TrainingRun:
    """What a finished run leaves besides the weights."""

    recipe: Recipe
    seed: int
    data_fingerprint: str
    tokens: int = 0
    targets: int = 0
    seconds: float = 0.0
    losses: list[LossRow] = field(default_factory=list)


def train(
    model: PreTrainedModel,
    data: PackedTokens,
    recipe: Recipe,
    *,
    seed: int,
    mask_id: int | None,
    bf16: bool = False,
    sequences_per_forward: int | None = None,
    report: Callable[[LossRow], None] | None = None,
) -> TrainingRun:
    """Train the model in place through all phases of the recipe.

    The phases read on through the packed sequences, so no sequence is seen twice. The optimizer's state is
    kept between phases; only the schedule starts anew. A step's loss is the sum over its target tokens,
    divided by their number, however many forward passes it is cut into.

    Args:
        model: float32 weights on their device; a ModernBertForMaskedLM.
        seed: fixes the masks, together with phase and sequence; the order of the data was fixed by packing.
        mask_id: the id of [MASK].
        bf16: autocast the forward pass to bfloat16; weights and optimizer stay float32.
        sequences_per_forward: how many sequences fit at once; all of a step when None.
        report: called with each row of the loss curve, at most `LOSS_ROWS` of them.

    Raises:
        UserError: the data do not fit the recipe or the model, or the loss is not finite.
    """
    _check(model, data, recipe)
    run = TrainingRun(recipe, seed, data.fingerprint)
    objectives = [
        Objective(phase.objective, phase.masking, mask_id, model.config.vocab_size, seed, index)
        for index, phase in enumerate(recipe.phases)
    ]
    loss_module = TargetLoss(model).train()
    optimizer = adamw(
        model.parameters(),
        peak_lr=recipe.peak_lr,
        betas=recipe.betas,
        eps=recipe.eps,
        decoupled_weight_decay=recipe.weight_decay,
    )
    per_step = recipe.sequences_per_step
    per_forward = sequences_per_forward or per_step
    row_every = -(-sum(recipe.steps(phase) for phase in recipe.phases) // (LOSS_ROWS - len(recipe.phases)))
    step, started = 0, time.perf_counter()

    for phase, objective in zip(recipe.phases, objectives, strict=True):
        window, window_started = [], time.perf_counter()
        for step_in_phase in range(recipe.steps(phase)):
            first = step * per_step
            batches = [
                objective.batch(data, range(i, min(i + per_forward, first + per_step)))
                for i in range(first, first + per_step, per_forward)
            ]
            targets = sum(batch.targets for batch in batches)
            rate = recipe.learning_rate(phase, step_in_phase)
            for group in optimizer.param_groups:
                group["lr"] = rate

            loss = 0.0
            for batch in batches:
                with torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
                    # Very short steps may draw no target at all: their loss is 0, not 0/0.
                    part = loss_module(batch) / max(targets, 1)
                part.backward()
                loss += part.item()
            if not np.isfinite(loss):
                raise UserError(
                    f"the loss of step {step} ({phase.name}) is {loss}: training stopped; "
                    f"try a lower learning rate than {recipe.peak_lr:g}"
                )
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

            step += 1
            run.tokens += per_step * data.length
            run.targets += targets
            window.append(loss)
            if len(window) == row_every or step_in_phase + 1 == recipe.steps(phase):
                now = time.perf_counter()
                speed = len(window) * per_step * data.length / (now - window_started)
                mean = float(np.mean(window))
                row = LossRow(phase.name, phase.objective, step, run.tokens, rate, mean, round(speed, 1))
                run.losses.append(row)
                if report is not None:
                    report(row)
                window, window_started = [], now

    run.seconds = time.perf_counter() - started
    model.eval()
    return run


def evaluate(model: PreTrainedModel, data: PackedTokens, objective: Objective, at_once: int = 8) -> float:
    """Return the mean loss in nats per target over all packed sequences; no weight changes."""
    loss_module = TargetLoss(model).eval()
    total, targets = 0.0, 0
    with torch.inference_mode():
        for first in range(0, data.sequences, at_once):
            batch = objective.batch(data, range(first, min(first + at_once, data.sequences)))
            total += loss_module(batch).item()
            targets += batch.targets
    return total / targets


def save_run(
    out: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    run: TrainingRun,
    *,
    dtype: torch.dtype = torch.float32,
    extra: dict[str, Any] | None = None,
) -> None:
    """Write an ordinary Hugging Face directory in safetensors, `loss.csv`, and `training.json`, the manifest.

    The manifest is written last: a directory that has one is complete. The model is left in `dtype`.
    """
    out.mkdir(parents=True, exist_ok=True)
    model.to(dtype)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    with (out / "loss.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(LossRow.__dataclass_fields__)
        for row in run.losses:
            rate, loss = f"{row.learning_rate:.6g}", f"{row.loss:.4f}"
            rows.writerow(
                (row.phase, row.objective, row.step, row.tokens, rate, loss, f"{row.tokens_per_second:.0f}")
            )
    weights = (out / "model.safetensors").read_bytes()
    manifest = {
        "recipe": run.recipe.to_dict(),
        "seed": run.seed,
        "data_sha256": run.data_fingerprint,
        "tokens": run.tokens,
        "targets": run.targets,
        "seconds": round(run.seconds, 1),
        "final_loss": {row.phase: row.loss for row in run.losses},
        "dtype": str(dtype).removeprefix("torch."),
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        **(extra or {}),
    }
    (out / "training.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def _check(model: PreTrainedModel, data: PackedTokens, recipe: Recipe) -> None:
    if data.length != recipe.sequence_length:
        raise UserError(
            f"the data are packed to {data.length} tokens, the recipe asks for {recipe.sequence_length}: "
            f"pack again"
        )
    if data.length > model.config.max_position_embeddings:
        raise UserError(
            f"sequences of {data.length} tokens are longer than the model's "
            f"{model.config.max_position_embeddings} positions: choose a shorter sequence length"
        )
    if data.tokens < recipe.tokens:
        raise UserError(
            f"the recipe {recipe.name!r} needs {recipe.tokens:,} tokens, "
            f"the packed data hold {data.tokens:,}: give a larger corpus or fewer tokens"
        )
    highest = int(data.input_ids.max())
    if highest >= model.config.vocab_size:
        raise UserError(
            f"token id {highest} lies outside the model's vocabulary of {model.config.vocab_size}: "
            f"pack with the model's own tokenizer"
        )
