"""Train a tree of segments, depth first; what is finished is recognised, what was stopped goes on."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, get_args

from cka_tools.ablation.plan import Plan
from cka_tools.ablation.starts import START_SEED, Start, StartKey
from cka_tools.ablation.tree import Segment, sum_tokens
from cka_tools.errors import UserError
from cka_tools.manifest import read_manifest
from cka_tools.processes import from_first, make_accelerator
from cka_tools.training.checkpoint import OPTIMIZER, find_damage, round_weights
from cka_tools.training.loop import PhaseState, StepReport, adamw, run_steps
from cka_tools.training.objectives import Objective
from cka_tools.training.recipe import ObjectiveName, constant_phase
from cka_tools.training.run import claim
from cka_tools.training.segment import BeingTrainedError, train_phase
from cka_tools.training.start_model import load_start, write_random

CLAIM: Final[dict[str, Any]] = {"name": "ablation.json", "what": "ablation", "before": {"noise": "order"}}
"""As `claim` takes it. In directories of before there was a choice a control took another order too."""

SEGMENTS = "segments"
KEY_LETTERS = 16
SECONDS_BETWEEN_LOOKS = 5
"""At branches that another process is training, once all others are finished."""

SAVES, STEPS_BETWEEN_SAVES = 10, 50
"""Checkpoints on the way through a segment, and at least how many steps apart: what a kill costs at most."""

Report = Callable[[Segment, StepReport], None]


def train_tree(
    plan: Plan,
    out: Path,
    *,
    device: Literal["auto", "cpu"] = "auto",
    report: Report | None = None,
    note: Callable[[str], None] | None = None,
) -> dict[str, Path]:
    """Train what is not trained yet; return each segment's checkpoint by its key.

    Several calls at once on one `out`, from as many processes, share the tree: each takes the next branch
    that no other is at, and returns when all are finished. (Processes that `torchrun` started train every
    branch together instead.)

    A segment's optimizer state is removed when all that go on from it are finished. A start model hands none
    on, as one that was given has none. Runs' last checkpoints are rounded to `plan.settings.weights`.

    Raises:
        UserError: `out` holds another ablation or something else, or training stops.
    """
    accelerator = make_accelerator(cpu=device == "cpu")
    from_first(lambda: claim(out, plan.identity, **CLAIM), accelerator)
    tree = plan.tree
    folders = {key: segment_folder(out, key) for key in tree.segments}
    roots: dict[StartKey, Path] = {}
    for key, start in plan.starts.items():
        roots[key] = from_first(partial(start_directory, start, plan.template, out / SEGMENTS), accelerator)

    def train(segment: Segment) -> None:
        corpus = plan.start_corpus if segment.is_start else plan.corpus
        assert corpus is not None
        needed = (segment.first_step + segment.steps) * plan.budget.step
        if not segment.is_start:
            needed = max(needed, plan.budget.longest(plan.cells))
        train_phase(
            roots[segment.start] if segment.parent is None else folders[segment.parent],
            segment.phase,
            corpus.packed(segment.data_seed, needed),
            seed=segment.seed,
            data_seed=segment.data_seed,
            first_sequence=segment.first_step * plan.budget.optimizer.sequences_per_step,
            out=folders[segment.key],
            optimizer=segment.recipe.optimizer,
            bf16=plan.settings.bf16,
            phase_index=segment.phase_index,
            goes_on=goes_on(segment),
            report=None if report is None else lambda done: report(segment, done),
            note=None if note is None else lambda text: note(f"{segment}: {text}"),
            checkpoint_tokens=max(segment.tokens // SAVES, STEPS_BETWEEN_SAVES * plan.budget.step),
            device=device,
            extra={
                "segment": segment.key,
                "recipe": segment.recipe.to_dict(),
                "start": plan.starts[segment.start].given,
                "corpus": corpus.spec,
            },
        )

    sound: set[str] = set()  # keys of those that were hashed once and found finished

    def is_sound(segment: Segment) -> bool:
        folder = folders[segment.key]
        if segment.key not in sound and is_finished(folder, segment.key):
            sound.add(segment.key)
        return segment.key in sound and ((folder / OPTIMIZER).is_file() or not goes_on(segment))

    def goes_on(segment: Segment) -> bool:
        """Tell whether a segment's optimizer state is still needed: a start model hands none on."""
        return not tree.ends_start(segment) and not all(map(is_sound, tree.children(segment.key)))

    def visit(segment: Segment) -> bool:
        """Train a segment and all that go on from it; False where another process is at one of them."""
        if not from_first(lambda: is_sound(segment), accelerator):
            try:
                train(segment)
            except BeingTrainedError:
                if accelerator.num_processes > 1:
                    raise
                return False
        if tree.ends_start(segment):
            drop_optimizer(folders[segment.key])
        children = tree.children(segment.key)
        if done := visit_each(children):
            drop_optimizer(folders[segment.key])
            if not children and accelerator.is_main_process:
                round_weights(folders[segment.key], plan.settings.weights)
        return done

    def drop_optimizer(folder: Path) -> None:
        if accelerator.is_main_process:
            (folder / OPTIMIZER).unlink(missing_ok=True)
        accelerator.wait_for_everyone()

    def visit_each(segments: list[Segment]) -> bool:
        # All of them, whatever the first one gives.
        done = [visit(segment) for segment in segments]
        return all(done)

    trunks = [segment for key in plan.starts for segment in tree.children(None, key)]
    while not visit_each(trunks):
        time.sleep(SECONDS_BETWEEN_LOOKS)
    return folders


def start_directory(start: Start, template: Path, place: Path) -> Path:
    """Return the directory of a start model; one of random weights is written into `place`."""
    if start.folder is not None:
        return start.folder
    return write_random(start.config, START_SEED, template, place / f"random-{start.name}-{start.size}")


def segment_folder(out: Path, key: str) -> Path:
    return out / SEGMENTS / key[:KEY_LETTERS]


def is_finished(folder: Path, key: str) -> bool:
    """Tell whether a directory holds this very segment, trained to its end and undamaged."""
    manifest = read_manifest(folder)
    return manifest is not None and manifest.get("segment") == key and find_damage(folder) is None


def finished_tokens(plan: Plan, out: Path) -> dict[tuple[str, str], int]:
    """Return the tokens that need not be trained any more, by size and objective."""
    return sum_tokens(s for s in plan.tree.segments.values() if is_finished(segment_folder(out, s.key), s.key))


WARM, TIMED = 1, 3
Speeds = dict[tuple[str, str], float]


def probe_speeds(plan: Plan, *, cpu: bool = False) -> Speeds:
    """Return tokens a second by size and objective; about `WARM + TIMED` steps of each are trained."""
    speeds: Speeds = {}
    accelerator = make_accelerator(cpu=cpu)
    settings, step = plan.budget.optimizer, plan.budget.step
    data = plan.corpus.packed(plan.settings.seeds[0], step * (WARM + TIMED))
    for start in plan.starts.values():
        with tempfile.TemporaryDirectory() as place:
            folder = start_directory(start, plan.template, Path(place))
            model, tokenizer = load_start(folder, device_type=accelerator.device.type)
        model.to(accelerator.device)
        for name in get_args(ObjectiveName):
            if (start.size, name) in speeds:
                continue
            phase = constant_phase("probe", name, min(WARM + TIMED, data.tokens // step) * step, 0)
            ends: list[float] = []
            run_steps(
                model,
                data,
                phase,
                Objective(name, phase.masking, tokenizer.mask_token_id, model.config.vocab_size, 0, 0),
                adamw(model, settings),
                settings,
                PhaseState(),
                accelerator,
                first_sequence=0,
                bf16=plan.settings.bf16,
                report=lambda done, ends=ends: ends.append(time.perf_counter()),  # type: ignore[misc]
            )
            # The first step also pays for what is set up once.
            if len(ends) > 1:
                speeds[start.size, name] = (len(ends) - 1) * step / (ends[-1] - ends[0])
    return speeds


def given_speeds(plan: Plan, tokens_per_second: Sequence[float]) -> Speeds:
    """Return the speeds a user gave: one for all sizes, or one each, in their order.

    Raises:
        UserError: another number of them.
    """
    sizes = list(dict.fromkeys(start.size for start in plan.starts.values()))
    given = list(tokens_per_second) * (len(sizes) if len(tokens_per_second) == 1 else 1)
    if len(given) != len(sizes):
        raise UserError(
            f"--tokens-per-second has {len(given)} numbers, the sizes are {', '.join(sizes)}: "
            f"give one for all, or one for each"
        )
    speeds = zip(sizes, given, strict=True)
    return {(size, objective): speed for size, speed in speeds for objective in get_args(ObjectiveName)}


def seconds(tokens: Mapping[tuple[str, str], int], speeds: Speeds) -> float | None:
    """Return the time that so many tokens take; None where a speed is not known."""
    if any(place not in speeds for place in tokens):
        return None
    return sum(count / speeds[place] for place, count in tokens.items())
