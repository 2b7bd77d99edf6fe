"""The steps of a phase: optimizer, losses, updates; and the loss on texts that are held out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from cka_tools.errors import UserError
from cka_tools.training.freezing import frozen_list, frozen_parameters
from cka_tools.training.objectives import Objective, TargetLoss
from cka_tools.training.packing import PackedTokens, pack_texts
from cka_tools.training.recipe import DECAY_MASKING, ObjectiveName, OptimizerSettings, Phase

if TYPE_CHECKING:
    from accelerate import Accelerator


def torch_weight_decay(decoupled: float, peak_lr: float) -> float:
    """Convert a decay that is scaled by lr / peak lr (Composer's decoupled form) into torch's, scaled by lr.

    The paper: θ ← θ − (lr / peak)·λ·θ. torch: θ ← θ − lr·w·θ. Equal where w = λ / peak: 0.05 for 1e-5, 2e-4.
    """
    return decoupled / peak_lr


DECAYED = "matrices"
"""Which parameters the weight decay acts on, as a segment's key names it."""


def adamw(model: nn.Module, settings: OptimizerSettings) -> torch.optim.AdamW:
    """Return the optimizer of a whole run; its state is kept between phases.

    Weight decay acts on matrices (embeddings among them), not on biases and norm weights, which have one
    dimension. The learning rate is set before each step; it starts at the peak.
    """
    parameters = list(model.parameters())
    decay = torch_weight_decay(settings.weight_decay, settings.peak_lr)
    return torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": decay},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ],
        lr=settings.peak_lr,
        betas=settings.betas,
        eps=settings.eps,
    )


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


@dataclass(frozen=True)
class StepReport:
    """Where a phase stands after a step; steps and tokens are counted in the phase."""

    phase: str
    objective: str
    step: int
    steps: int
    tokens: int
    learning_rate: float
    loss: float
    tokens_per_second: float


@dataclass
class PhaseState:
    """What a phase has left behind after `step` steps, besides weights and optimizer."""

    step: int = 0
    targets: int = 0
    seconds: float = 0.0
    losses: list[LossRow] = field(default_factory=list)
    window: list[float] = field(default_factory=list)


class LossNotFiniteError(UserError):
    """Training cannot go on."""


def run_steps(
    model: PreTrainedModel,
    data: PackedTokens,
    phase: Phase,
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    settings: OptimizerSettings,
    state: PhaseState,
    accelerator: Accelerator,
    *,
    first_sequence: int,
    bf16: bool = False,
    sequences_per_forward: int | None = None,
    report: Callable[[StepReport], None] | None = None,
    after_step: Callable[[PhaseState], None] | None = None,
) -> None:
    """Run the steps of a phase that `state` does not have yet; model, optimizer and state change in place.

    A step's loss is the sum over its target tokens, divided by their number, over all processes and forward
    passes. Masks depend on seed, phase and sequence alone, so neither the cut nor a restart changes them.

    Args:
        first_sequence: the packed sequence with which the phase begins.
        bf16: autocast the forward pass to bfloat16; weights and optimizer stay float32.
        sequences_per_forward: how many sequences a process takes at once; all of its share when None.
        report: called after each step.
        after_step: called after each step's update, to save.

    Raises:
        LossNotFiniteError: before the update that it would have spoilt.
    """
    tokens_per_step = settings.sequences_per_step * data.length
    steps = phase.steps(tokens_per_step)
    row_every = -(-steps // LOSS_ROWS)
    names = phase.name, phase.objective
    with frozen_parameters(model, phase):
        loss_module = accelerator.prepare(TargetLoss(model).train())
        began = window_began = time.perf_counter()
        began_at = window_at = state.step
        seconds_before = state.seconds

        while state.step < steps:
            # This step: its sequences, this process's share of them, its learning rate.
            first = first_sequence + state.step * settings.sequences_per_step
            parts = forward_passes(first, settings.sequences_per_step, accelerator, sequences_per_forward)
            batches = [objective.batch(data, part) for part in parts]
            targets = int(_sum(accelerator, sum(batch.targets for batch in batches)))
            rate = phase.learning_rate(state.step, tokens_per_step=tokens_per_step, peak=settings.peak_lr)
            for group in optimizer.param_groups:
                group["lr"] = rate
            # For start models with dropout: what it drops depends on the step, not on what was drawn before.
            torch.manual_seed(_number(objective.seed, objective.phase, first, accelerator.process_index))

            # Loss and gradients. Wrapped modules average over processes; the sum over targets is wanted.
            # Very short steps may draw no target at all: their loss is 0, not 0/0.
            local_loss = 0.0
            for i, batch in enumerate(batches):
                with (
                    accelerator.no_sync(loss_module) if i + 1 < len(batches) else nullcontext(),
                    torch.autocast(model.device.type, torch.bfloat16, enabled=bf16),
                ):
                    part_loss = loss_module(batch) / max(targets, 1)
                    accelerator.backward(part_loss * accelerator.num_processes)
                local_loss += part_loss.item()
            loss = float(_sum(accelerator, local_loss))
            if not np.isfinite(loss):
                raise LossNotFiniteError(
                    f"the loss of step {state.step} ({phase.name}) is {loss}: training stopped; "
                    f"try a lower learning rate than {settings.peak_lr:g}"
                )

            # Update, and what is told of it.
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            state.step += 1
            state.targets += targets
            state.window.append(loss)
            now = time.perf_counter()
            state.seconds = seconds_before + now - began
            if state.step % row_every == 0 or state.step == steps:
                sequences = first + settings.sequences_per_step
                place = sequences // settings.sequences_per_step, sequences * data.length
                speed = round((state.step - window_at) * tokens_per_step / (now - window_began), 1)
                state.losses.append(LossRow(*names, *place, rate, float(np.mean(state.window)), speed))
                state.window, window_began, window_at = [], now, state.step
            if report is not None:
                pace = (now - began) / (state.step - began_at)
                at = state.step, steps, state.step * tokens_per_step
                report(StepReport(*names, *at, rate, loss, tokens_per_step / pace))
            if after_step is not None:
                after_step(state)
    model.eval()


def forward_passes(first: int, count: int, accelerator: Accelerator, at_once: int | None = None) -> list[range]:
    """Cut a step's sequences into this process's share, and the share into forward passes."""
    rank, processes = accelerator.process_index, accelerator.num_processes
    share = range(first + rank * count // processes, first + (rank + 1) * count // processes)
    if not share:
        raise UserError(
            f"a step of {count} sequences cannot be shared by {processes} processes: "
            f"start fewer, or give more sequences a step"
        )
    size = at_once or len(share)
    return [share[i : i + size] for i in range(0, len(share), size)]


def sequences_of(phase: Phase, data: PackedTokens, settings: OptimizerSettings, first: int) -> range:
    """Return the packed sequences that a phase reads from `first` on: where it ends, the next begins.

    Raises:
        UserError: the data hold fewer.
    """
    stop = first + phase.steps(settings.sequences_per_step * data.length) * settings.sequences_per_step
    if data.sequences < stop:
        raise UserError(
            f"phase {phase.name!r} needs {stop * data.length:,} tokens, "
            f"the packed data hold {data.tokens:,}: give a larger corpus or fewer tokens"
        )
    return range(first, stop)


def check_fits(model: PreTrainedModel, data: PackedTokens, sequences: range, mask_id: int | None, phase: Phase) -> None:
    """Raise a UserError where model, data and phase do not fit together, before any training."""
    frozen_list(model, phase)
    if data.length > model.config.max_position_embeddings:
        raise UserError(
            f"sequences of {data.length} tokens are longer than the model's "
            f"{model.config.max_position_embeddings} positions: choose a shorter sequence length"
        )
    highest = int(data.input_ids[sequences.start : sequences.stop].max())
    if highest >= model.config.vocab_size:
        raise UserError(
            f"token id {highest} lies outside the model's vocabulary of {model.config.vocab_size}: "
            f"pack with the model's own tokenizer"
        )
    if phase.objective == "mlm" and mask_id is None:
        raise UserError(f"phase {phase.name!r} is MLM, but the tokenizer has no [MASK] token: add one")


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


def _sum(accelerator: Accelerator, value: float) -> float:
    """Return the sum over processes."""
    if accelerator.num_processes == 1:
        return value
    return accelerator.reduce(torch.tensor(value, dtype=torch.float64, device=accelerator.device)).item()


def _number(*parts: int) -> int:
    """Return one number that depends on all of these."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


SEED = 0
"""Of the order of held-out documents and of their masks: the same for every model."""


def pack_held_out(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, length: int, tokens: int | None = None
) -> PackedTokens:
    """Return held-out texts as they are packed for training."""
    return pack_texts(texts, tokenizer, length=length, seed=SEED, tokens=tokens)


def held_out_loss(
    model: PreTrainedModel, packed: PackedTokens, tokenizer: PreTrainedTokenizerBase, name: ObjectiveName
) -> float:
    """Return the mean loss in nats a target: of next tokens, or of those masked at the decay's rate."""
    masking = DECAY_MASKING if name == "mlm" else None
    objective = Objective(name, masking, tokenizer.mask_token_id, model.config.vocab_size, SEED, phase=0)
    return evaluate(model, packed, objective)


def unigram_loss(trained_on: PackedTokens, packed: PackedTokens) -> float:
    """Return the mean loss in nats of guessing ordinary tokens by their frequency in the training data.

    Every token counts once more than it was seen, so that none has no probability.
    """
    highest = int(max(trained_on.input_ids.max(), packed.input_ids.max()))
    frequency = np.bincount(trained_on.input_ids.ravel(), minlength=highest + 1) + 1.0
    ordinary = packed.input_ids[~np.isin(packed.input_ids, packed.special_ids)]
    return float(-np.log(frequency / frequency.sum())[ordinary].mean())
