"""One phase from checkpoint to checkpoint: a run is a chain of these, a branch one more from a parent."""

from __future__ import annotations

import dataclasses
import json
import platform
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from safetensors import SafetensorError

from cka_tools.errors import UserError, one_line
from cka_tools.manifest import MANIFEST, read_manifest
from cka_tools.models.folder import hash_file, hash_weights
from cka_tools.processes import from_first, make_accelerator
from cka_tools.store.directory import locked
from cka_tools.training.checkpoint import (
    OPTIMIZER,
    STATE,
    find_damage,
    load_optimizer,
    read_state,
    versions,
    write_checkpoint,
)
from cka_tools.training.loop import (
    DECAYED,
    LossNotFiniteError,
    PhaseState,
    StepReport,
    adamw,
    check_fits,
    run_steps,
    sequences_of,
)
from cka_tools.training.objectives import Objective
from cka_tools.training.packing import PackedTokens
from cka_tools.training.recipe import OptimizerSettings, Phase
from cka_tools.training.start_model import AUTO, check_start, load_start

if TYPE_CHECKING:
    from accelerate import Accelerator


class BeingTrainedError(UserError):
    """Another process is at it."""


def train_phase(
    parent: Path,
    phase: Phase,
    data: PackedTokens,
    *,
    seed: int,
    data_seed: int,
    first_sequence: int,
    out: Path,
    optimizer: OptimizerSettings,
    bf16: bool,
    phase_index: int = 0,
    goes_on: bool = False,
    report: Callable[[StepReport], None] | None = None,
    note: Callable[[str], None] | None = None,
    checkpoint_tokens: int | None = None,
    keep_checkpoints: bool = False,
    sequences_per_forward: int | None = None,
    attention: str = AUTO,
    device: Literal["auto", "cpu"] = "auto",
    extra: dict[str, Any] | None = None,
) -> Path:
    """Train one phase on from the checkpoint `parent` and write the checkpoint `out`; return `out`.

    Where `out` is already the result of the same phase on the same parent, data and settings, it is returned
    at once. Where the phase was stopped, it goes on from its last checkpoint: with the same machine, threads,
    processes and versions to the very weights of a run that was never stopped, otherwise with a note that it
    does not. A parent with an optimizer state hands it on; one without starts a fresh optimizer.

    Files are compared with the hashes that were recorded when they were written. Training goes on from the
    last sound checkpoint; a damaged `out` is put aside as `out`-damaged and made again; both are told. A
    damaged parent is refused.

    Several processes (`torchrun`, `accelerate launch`) call this together; the first one writes.

    Args:
        seed: of masks and dropout.
        data_seed: that of the order of the documents in `data`, for the manifest.
        first_sequence: the packed sequence with which the phase begins; see `sequences_of`.
        phase_index: which of its run's phases this is: with seed and sequence it fixes the masks. Pieces of
            one phase share it, and together equal the phase in one piece.
        goes_on: another phase will go on from `out`, so that its optimizer state must be there too.
        report: called after each step, in the first process.
        note: takes what the user should know; by default a Python warning.
        checkpoint_tokens: write a checkpoint about every so many tokens, in `out`-checkpoints.
        keep_checkpoints: keep them, without optimizer states, when `out` is written.
        sequences_per_forward: how many sequences a process takes at once; all of its share when None.
        attention: as `load_start` takes it.
        extra: goes into the manifest.

    Raises:
        BeingTrainedError: another process is training `out`.
        UserError: something does not fit (before any training), another run lies at `out`, or the loss is not
            finite (the last good checkpoint stays).
    """
    check_start(parent)
    weights = hash_weights(parent)
    _check_parent(parent, weights)
    sequences = sequences_of(phase, data, optimizer, first_sequence)
    step_tokens = optimizer.sequences_per_step * data.length
    key = segment_key(parent, weights, phase, data, sequences, seed, optimizer, bf16, phase_index)
    accelerator = make_accelerator(cpu=device == "cpu")
    main = accelerator.is_main_process
    folder = out.with_name(f"{out.name}-checkpoints")
    with _one_writer(out, accelerator):
        finished, resume, found = from_first(lambda: _find(out, folder, key, goes_on), accelerator)
        for damage in found if main else ():
            (note or _warn)(damage)
        if finished:
            if main:
                _clear(folder, keep=keep_checkpoints)
            return out

        source = resume or parent
        model, tokenizer = load_start(source, attention=attention, device_type=accelerator.device.type)
        attention = str(model.config._attn_implementation)
        check_fits(model, data, sequences, tokenizer.mask_token_id, phase)
        model.to(accelerator.device)
        state = PhaseState() if resume is None else read_state(source)
        adam = adamw(model, optimizer)
        kept_moments = load_optimizer(source, model, adam)
        numerics = _numerics(accelerator, attention, sequences_per_forward)
        before = read_manifest(source) or {}
        notes = [*(before.get("notes", []) if resume is not None else []), *found]
        if resume is not None and (reason := why_not_to_the_bit(before["numerics"], numerics)):
            notes.append(f"resumed at step {state.step} {reason}: not bit-identical to a run in one piece")
            if main:
                (note or _warn)(f"{out}: {notes[-1]}")
        manifest = {
            "key": key,
            "phase": phase.to_dict(),
            "steps": phase.steps(step_tokens),
            "fresh_optimizer": before["fresh_optimizer"] if resume is not None else not kept_moments,
            "seed": seed,
            "data_seed": data_seed,
            "data_sha256": data.fingerprint,
            "numerics": numerics,
            "notes": notes,
            **(extra or {}),
        }

        def write(place: Path, state: PhaseState) -> None:
            if not all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters()):
                raise LossNotFiniteError(
                    f"the weights after step {state.step - 1} ({phase.name}) are not finite: "
                    f"training stopped; try a lower learning rate than {optimizer.peak_lr:g}"
                )
            progress = {
                "step": state.step,
                "tokens": state.step * step_tokens,
                "targets": state.targets,
                "next_sequence": first_sequence + state.step * optimizer.sequences_per_step,
                "run_tokens": first_sequence * data.length + state.step * step_tokens,
                "seconds": round(state.seconds, 1),
                "final_loss": state.losses[-1].loss if state.losses else None,
            }
            try:
                write_checkpoint(place, model, adam, state, parent, manifest | progress)
            except (OSError, SafetensorError) as error:
                raise UserError(
                    f"checkpoint {str(place)!r} could not be written ({one_line(error)}): "
                    f"make room and start again, it goes on from the last one"
                ) from error

        def save(state: PhaseState) -> None:
            if state.step % every == 0 and state.step < manifest["steps"]:
                place = folder / f"tokens-{state.step * step_tokens:012d}"
                write(place, state)
                _clear(folder, keep=keep_checkpoints, but=place)

        every = _steps_between(checkpoint_tokens, step_tokens)
        vocabulary = tokenizer.mask_token_id, model.config.vocab_size
        try:
            run_steps(
                model,
                data,
                phase,
                Objective(phase.objective, phase.masking, *vocabulary, seed, phase_index),
                adam,
                optimizer,
                state,
                accelerator,
                first_sequence=first_sequence,
                bf16=bf16,
                sequences_per_forward=sequences_per_forward,
                report=report if main else None,
                after_step=save if main and every else None,
            )
            if main:
                write(out, state)
                _clear(folder, keep=keep_checkpoints)
        except LossNotFiniteError as error:
            last = next(iter(_latest(folder)), parent)
            raise LossNotFiniteError(f"{error}; the last good checkpoint is {str(last)!r}") from error
        accelerator.wait_for_everyone()
    return out


def segment_key(
    parent: Path,
    weights_sha256: str,
    phase: Phase,
    data: PackedTokens,
    sequences: range,
    seed: int,
    optimizer: OptimizerSettings,
    bf16: bool,
    phase_index: int = 0,
) -> dict[str, Any]:
    """Return all that fixes a phase's result, as JSON data; of the data only the `sequences` that it reads."""
    moments = parent / OPTIMIZER
    key = {
        "parent_weights_sha256": weights_sha256,
        "parent_optimizer_sha256": hash_file(moments) if moments.is_file() else None,
        "parent_config_sha256": hash_file(parent / "config.json"),
        "phase": phase.to_dict(),
        "phase_index": phase_index,
        "seed": seed,
        "sequences": [sequences.start, sequences.stop],
        "sequences_sha256": data.part(sequences).fingerprint,
        "special_ids": data.special_ids,
        "optimizer": dataclasses.asdict(optimizer),
        "decayed": DECAYED,
        "bf16": bf16,
    }
    return cast(dict[str, Any], json.loads(json.dumps(key)))


def _find(out: Path, folder: Path, key: dict[str, Any], goes_on: bool) -> tuple[bool, Path | None, list[str]]:
    """Tell whether `out` is finished, from which checkpoint it can go on, and what was found damaged.

    Raises:
        UserError: something else lies there.
    """
    manifest = read_manifest(out)
    found: list[str] = []
    if manifest is None and out.exists() and (out.is_file() or any(out.iterdir())):
        raise UserError(f"output directory {str(out)!r} holds something else than a training run: name another")
    if manifest is not None:
        _check_same(out, manifest, key)
        damage = find_damage(out, optimizer=goes_on)
        if damage is None:
            return True, None, found
        aside = out.with_name(f"{out.name}-damaged")
        shutil.rmtree(aside, ignore_errors=True)
        out.replace(aside)
        found.append(f"{out.name} is damaged ({damage}): put aside as {aside.name} and made again")
    for place in _latest(folder):
        _check_same(folder, read_manifest(place) or {}, key)
        damage = find_damage(place, optimizer=True)
        if damage is None:
            return False, place, found
        found.append(f"checkpoint {place.name} is damaged ({damage}): passed over for the last sound one")
    return False, None, found


def _check_parent(parent: Path, weights_sha256: str) -> None:
    """Raise a UserError where a parent's weights, of this hash, are not those that its manifest records."""
    recorded = (read_manifest(parent) or {}).get("weights_sha256")
    if recorded is not None and recorded != weights_sha256:
        raise UserError(
            f"start model {str(parent)!r} is damaged: its weights are not those that its {MANIFEST} records; "
            f"copy or train it again"
        )


def _check_same(place: Path, manifest: dict[str, Any], key: dict[str, Any]) -> None:
    there = manifest.get("key") or {}
    if different := [name for name in key if there.get(name) != key[name]]:
        raise UserError(
            f"output directory {str(place)!r} holds another run (it differs in {', '.join(different)}): "
            f"name another directory, or remove that one"
        )


def _latest(folder: Path) -> list[Path]:
    """Return the checkpoints from which training can go on, that of the most tokens first."""
    whole = [place for place in folder.glob("tokens-*") if (place / OPTIMIZER).is_file()]
    return sorted(whole, key=lambda place: place.name, reverse=True)


def _clear(folder: Path, *, keep: bool, but: Path | None = None) -> None:
    """Remove what checkpoints are needed for no longer: all of them, or their training states only."""
    for place in folder.glob("tokens-*"):
        if place == but:
            continue
        # The optimizer first: without it nothing resumes from here, however little of the rest is gone.
        (place / OPTIMIZER).unlink(missing_ok=True)
        (place / STATE).unlink(missing_ok=True)
        if not keep:
            shutil.rmtree(place, ignore_errors=True)
    if not keep and but is None:
        shutil.rmtree(folder, ignore_errors=True)


def _steps_between(checkpoint_tokens: int | None, tokens_per_step: int) -> int:
    """Return the steps between two checkpoints; 0 for none."""
    if checkpoint_tokens is None:
        return 0
    if checkpoint_tokens <= 0:
        raise UserError(f"a checkpoint every {checkpoint_tokens} tokens does not fit: give more than 0")
    return max(1, round(checkpoint_tokens / tokens_per_step))


@contextmanager
def _one_writer(out: Path, accelerator: Accelerator) -> Iterator[None]:
    """Hold the output directory's lock, which the death of its holder releases."""
    where = f"output directory {str(out)!r}"
    with ExitStack() as held:
        try:
            if accelerator.is_main_process:
                held.enter_context(locked(out.with_name(f".{out.name}.lock"), wait=False))
        except BlockingIOError:
            raise BeingTrainedError(f"{where} is being trained by another process: wait for it") from None
        except OSError as error:
            raise UserError(f"{where} cannot be written ({error.strerror})") from error
        yield


def _numerics(accelerator: Accelerator, attention: str, sequences_per_forward: int | None) -> dict[str, Any]:
    """Return what must be equal for two runs to agree to the bit."""
    cuda = accelerator.device.type == "cuda"
    return {
        "threads": torch.get_num_threads(),
        "processes": accelerator.num_processes,
        "sequences_per_forward": sequences_per_forward,
        "attention": attention,
        "device": torch.cuda.get_device_name() if cuda else accelerator.device.type,
        "machine": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        **versions(),
    }


def why_not_to_the_bit(before: dict[str, Any], now: dict[str, Any]) -> str:
    """Return what keeps a resumed run from being bit-identical; nothing where nothing does."""
    changed = [f"{name} ({before.get(name)}, now {now[name]})" for name in now if before.get(name) != now[name]]
    if changed:
        return f"with another {', '.join(changed)}"
    # Some of an accelerator's kernels add up in an order that no seed fixes.
    return "" if now["device"] == "cpu" else f"on {now['device']}"


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=3)
