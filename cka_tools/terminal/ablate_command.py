"""`cka ablate`."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from cka_tools.errors import UserError
from cka_tools.formatting import printable
from cka_tools.settings import Settings
from cka_tools.terminal.options import Json, Quiet, numbers, with_settings
from cka_tools.terminal.output import INTERRUPTED, print_saved, run_and_save
from cka_tools.terminal.progress import TrainingLine, document_progress, tell
from cka_tools.terminal.train_commands import Precision, ScaleChoice, TrainingDevice

if TYPE_CHECKING:
    from cka_tools.ablation.plan import Plan
    from cka_tools.ablation.train import Speeds
    from cka_tools.ablation.tree import Segment
    from cka_tools.training.loop import StepReport

COMPARING = ".comparing.lock"


class Noise(StrEnum):
    """In what a control differs from its baseline."""

    masks = "masks"
    order = "order"


class Weights(StrEnum):
    """Number formats of checkpoints."""

    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"


@with_settings("ablate", {"seed": "--document-seed"})
def ablate_command(
    axis: Annotated[str, typer.Argument(help="length, decay, freeze, size, direction, or all.")],
    settings: Settings,
    more: Annotated[
        list[Path] | None, typer.Argument(help="Further directories, with --checkpoints.", metavar="DIR")
    ] = None,
    preset: Annotated[
        ScaleChoice, typer.Option(help="Constants of the recipe: the paper's, or a laptop's.")
    ] = ScaleChoice.demo,
    corpus: Annotated[
        str, typer.Option(help="Texts to train on: sample, a file, or what `cka compare --corpus` takes.")
    ] = "sample",
    start: Annotated[
        list[str] | None,
        typer.Option(
            help="A model to start from, or a shape like 4x64 (trained from random weights); one of each "
            "size.  [default: demo:theta0, for size and all also 4x64]",
            show_default=False,
        ),
    ] = None,
    decoder_start: Annotated[
        list[str] | None,
        typer.Option(help="Of the axis direction.  [default: trained by CLM in the shape of each start]"),
    ] = None,
    start_corpus: Annotated[
        str | None, typer.Option(help="Texts that start models of a shape are trained on.  [default: --corpus]")
    ] = None,
    start_tokens: Annotated[
        int | None,
        typer.Option(help="Tokens of their training, the last tenth annealed.  [default: as the given start's]"),
    ] = None,
    start_epochs: Annotated[int, typer.Option(help="How often their training may read each document.")] = 1,
    n: Annotated[
        int | None,
        typer.Option(
            "--n", "--tokens", help="Tokens of Phase 1 at its full length.  [default: 2.5M, or what the corpus holds]"
        ),
    ] = None,
    seeds: Annotated[
        str, typer.Option(help="Of the runs, as 1,2: each fixes the order of the documents and the masks.")
    ] = "1,2",
    noise: Annotated[
        Noise, typer.Option(help="A control has other masks on the same data, or (order) another order of it too.")
    ] = Noise.masks,
    fractions: Annotated[str | None, typer.Option(help="Of the axis length.  [default: 0.1,0.25,0.5,1,2]")] = None,
    decays: Annotated[str | None, typer.Option(help="Of the axis decay.  [default: 0.025,0.1,0.2,0.3,0.5,1]")] = None,
    skip: Annotated[
        list[str] | None, typer.Option(help="Cells to leave out: freeze@4x64, decay:100 %@4x64; repeatable.")
    ] = None,
    learning_rate: Annotated[float | None, typer.Option("--lr", help="Another peak learning rate of the runs.")] = None,
    sequence_length: Annotated[int | None, typer.Option(help="Tokens a packed sequence.")] = None,
    sequences_per_step: Annotated[int | None, typer.Option(help="Sequences an optimizer step.")] = None,
    precision: Annotated[Precision, typer.Option(help="Of training's forward pass.")] = Precision.bf16,
    weights: Annotated[
        Weights, typer.Option(help="Number format in which runs' last checkpoints are kept and compared.")
    ] = Weights.float32,
    checkpoints: Annotated[
        list[Path] | None, typer.Option(help="Train nothing: compare these directories, told by their manifests.")
    ] = None,
    compare_on: Annotated[str, typer.Option(help="Corpus of the comparisons, never trained on.")] = "sample",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the tree of what is trained, and its cost.")
    ] = False,
    tokens_per_second: Annotated[
        str | None, typer.Option(help="For the time expected: one number, or one a size.  [default: a short probe]")
    ] = None,
    device: Annotated[TrainingDevice, typer.Option(help="auto or cpu.")] = TrainingDevice.auto,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Run directory; started again, it goes on.  [default: cka-ablate-AXIS]"),
    ] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Ablate the detour along an axis: train what is lacking, compare, write a table and a figure.

    Example: cka ablate length --preset demo --corpus texts.jsonl.gz --compare-on heldout.jsonl --dry-run
    """
    from cka_tools.ablation.axes import DECAYS, FRACTIONS, check_axis
    from cka_tools.ablation.measure import check_comparison
    from cka_tools.ablation.plan import AblationSettings, make_plan
    from cka_tools.ablation.train import CLAIM
    from cka_tools.training.run import check_claim

    check_axis(axis)
    out = out or Path(f"cka-ablate-{axis}")
    settings = replace(settings, device=device.value)
    if more and not checkpoints:
        raise UserError(f"{str(more[0])!r} is one argument too many: the axis is {axis!r}")
    if checkpoints and dry_run:
        raise UserError("--dry-run shows what would be trained, --checkpoints trains nothing: leave one out")
    if checkpoints:
        from cka_tools.ablation.checkpoints import find_trios
        from cka_tools.ablation.measure import compare_trios

        trios, notes = find_trios(axis, [*checkpoints, *(more or ())], n, noise.value)
        run_and_save(
            lambda told: compare_trios(axis, trios, compare_on, settings, notes=notes, progress=told),
            str(out),
            out,
            quiet=quiet,
            as_json=as_json,
        )
        return
    asked = AblationSettings(
        axis=axis,
        preset=preset.value,
        corpus=corpus,
        starts=tuple(start or ()),
        decoder_starts=tuple(decoder_start or ()),
        start_corpus=start_corpus,
        start_tokens=start_tokens,
        start_epochs=start_epochs,
        noise=noise.value,
        n=n,
        seeds=[int(seed) for seed in numbers(seeds, "--seeds", whole=True)],
        fractions=FRACTIONS if fractions is None else numbers(fractions, "--fractions"),
        decays=DECAYS if decays is None else numbers(decays, "--decays"),
        skip=tuple(skip or ()),
        peak_lr=learning_rate,
        sequence_length=sequence_length,
        sequences_per_step=sequences_per_step,
        bf16=precision is Precision.bf16,
        weights=weights.value,
    )
    speeds_given = None if tokens_per_second is None else numbers(tokens_per_second, "--tokens-per-second")
    if speeds_given is not None and min(speeds_given) <= 0:
        raise UserError(f"--tokens-per-second {tokens_per_second!r} does not fit: give numbers above 0")
    plan = make_plan(asked)
    check_claim(out, plan.identity, **CLAIM)
    check_comparison(plan, out, compare_on, settings)
    if dry_run:
        show_plan(plan, out, speeds_given, device.value, quiet, as_json)
    else:
        train_and_compare(plan, compare_on, settings, out, quiet, as_json)


def show_plan(plan: Plan, out: Path, given: list[float] | None, device: str, quiet: bool, as_json: bool) -> None:
    """Print what would be trained, and what it costs."""
    from cka_tools.ablation.train import finished_tokens, given_speeds, probe_speeds
    from cka_tools.terminal.ablation_report import plan_data, print_plan

    speeds: Speeds = given_speeds(plan, given) if given else probe_speeds(plan, cpu=device == "cpu")
    data = plan_data(plan, speeds, finished_tokens(plan, out))
    if as_json:
        typer.echo(json.dumps(data))
    elif not quiet:
        print_plan(plan, data, Console())


def train_and_compare(plan: Plan, compare_on: str, settings: Settings, out: Path, quiet: bool, as_json: bool) -> None:
    """Train the tree and compare its leaves."""
    from cka_tools.ablation.measure import compare_plan
    from cka_tools.ablation.train import is_finished, segment_folder, train_tree
    from cka_tools.processes import leave
    from cka_tools.store.directory import locked

    pieces = {
        s.key: (s.tokens, (s.start[1], s.phase.objective))
        for s in plan.tree.segments.values()
        if not is_finished(segment_folder(out, s.key), s.key)
    }
    line = TrainingLine(pieces)

    def report(segment: Segment, done: StepReport) -> None:
        words = f"{segment.start[1]} {done.phase} ({done.objective}) seed {segment.seed}"
        line.show(segment.key, done, words)

    note = None if quiet else lambda text: tell(f"note: {printable(text)}")
    for text in plan.notes:
        if note is not None:
            note(text)
    try:
        train_tree(
            plan, out, device="cpu" if settings.device == "cpu" else "auto", report=None if quiet else report, note=note
        )
    except KeyboardInterrupt:
        line.end()
        tell(f"cka: interrupted: the same command goes on from the last checkpoint in {out}")
        sys.exit(INTERRUPTED)
    line.end()
    # Several processes train together; one compares.
    if leave():
        with locked(out / COMPARING), document_progress(Console(stderr=True), hidden=quiet) as progress:
            result = compare_plan(plan, out, compare_on, settings, progress)
        result.save(out)
        print_saved(result, out, quiet=quiet, as_json=as_json)
