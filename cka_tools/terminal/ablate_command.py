"""`cka ablate`."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cka_tools.errors import UserError
from cka_tools.formatting import counted, printable
from cka_tools.settings import Settings, option, parse_numbers
from cka_tools.terminal.options import Output, RunOutput, with_options
from cka_tools.terminal.output import (
    NotDrawn,
    Terminal,
    TrainingLine,
    answer,
    as_json,
    document_progress,
    print_saved,
    run_and_save,
    save_run,
    say,
    tell,
)
from cka_tools.terminal.tracking import check_trackers, log_run
from cka_tools.training.options import AblationSettings

if TYPE_CHECKING:
    from rich.console import Console

    from cka_tools.ablation.plan import Plan
    from cka_tools.ablation.train import Speeds
    from cka_tools.ablation.tree import Segment
    from cka_tools.training.loop import StepReport

COMPARING = ".comparing.lock"


def _names(text: str, name: str) -> tuple[str, ...]:
    """Raise a UserError where a name is empty."""
    names = tuple(part.strip() for part in text.split(","))
    if not all(names):
        raise UserError(f"--{name} {text!r} names no readout: write it like probe:sections,mlm")
    return names


@dataclass(frozen=True)
class AblationOutput(RunOutput):
    """Where an ablation goes."""

    out: Path | None = option(
        None, "Run directory; started again, it goes on.", shown="cka-ablate-AXIS", flag="--out -o"
    )


@with_options("ablate", {"seed": "--document-seed"})
def ablate_command(
    asked: AblationSettings,
    *,
    more: Annotated[
        list[Path] | None, typer.Argument(help="Further directories, with --checkpoints.", metavar="DIR")
    ] = None,
    checkpoints: tuple[Path, ...] = option((), "Train nothing: compare these directories, told by their manifests."),
    compare_on: str = option("sample", "Corpus of the comparisons, never trained on."),
    readout: tuple[str, ...] = option(
        (),
        "Also read of every checkpoint, as probe:sections,mlm; evaluate:TASK fine-tunes it.",
        shown="none",
        parse=_names,
    ),
    dry_run: bool = option(False, "Print the tree of what is trained, and its cost."),
    tokens_per_second: list[float] | None = option(
        None,
        "For the time expected: one number, or one a size.",
        shown="a short probe",
        parse=lambda text, name: parse_numbers(text, f"--{name}"),
    ),
    settings: Settings,
    output: AblationOutput,
) -> None:
    """Vary the detour along an axis: train, compare, one table.

    What is not trained yet is trained; it ends with a table and a figure.

    Example: cka ablate length --preset demo --corpus texts.jsonl.gz --compare-on heldout.jsonl --dry-run
    """
    from cka_tools.ablation.axes import check_axis
    from cka_tools.ablation.measure import check_comparison
    from cka_tools.ablation.plan import make_plan
    from cka_tools.ablation.train import CLAIM
    from cka_tools.training.run import check_claim

    axis = asked.axis
    check_axis(axis)
    check_trackers(output.log)
    out = output.out or Path(f"cka-ablate-{axis}")
    output, settings = replace(output, out=out), replace(settings, device=asked.device)
    if more and not checkpoints:
        raise UserError(f"{str(more[0])!r} is one argument too many: the axis is {axis!r}")
    if checkpoints and dry_run:
        raise UserError("--dry-run shows what would be trained, --checkpoints trains nothing: leave one out")
    if checkpoints:
        from cka_tools.ablation.checkpoints import find_trios
        from cka_tools.ablation.measure import compare_trios

        trios, notes = find_trios(axis, [*checkpoints, *(more or ())], asked.n, asked.noise)
        run_and_save(
            lambda told: compare_trios(axis, trios, compare_on, settings, readout=readout, notes=notes, progress=told),
            str(out),
            output,
        )
        return
    if tokens_per_second and min(tokens_per_second) <= 0:
        given = ",".join(f"{speed:g}" for speed in tokens_per_second)
        raise UserError(f"--tokens-per-second {given!r} does not fit: give numbers above 0")
    plan = make_plan(asked)
    check_claim(out, plan.identity, **CLAIM)
    fine_tuning = check_comparison(plan, out, compare_on, settings, readout)
    if dry_run:
        show_plan(plan, out, tokens_per_second, output, fine_tuning)
    else:
        train_and_compare(plan, compare_on, settings, out, output, readout)


def show_plan(
    plan: Plan, out: Path, given: list[float] | None, output: Output, fine_tuning: list[dict[str, Any]]
) -> None:
    """Print what would be trained, and what it costs; so of readouts that train."""
    from cka_tools.ablation.train import finished_tokens, given_speeds, probe_speeds
    from cka_tools.terminal.ablation_report import plan_data, print_plan

    speeds: Speeds = given_speeds(plan, given) if given else probe_speeds(plan, cpu=plan.settings.device == "cpu")
    data = plan_data(plan, speeds, finished_tokens(plan, out))
    data |= {"fine_tuning": fine_tuning} if fine_tuning else {}

    def tell_all(console: Console) -> None:
        print_plan(plan, data, console)
        for one in fine_tuning:
            words = f"{counted(one['checkpoints'], 'checkpoint')} once each: {one['passes']:,} passes over "
            words += f"{counted(one['texts'], 'text')} of train, in which one backwards counts as two"
            say(console, (f"{printable(one['readout'])} ", "bold"), f"fine-tunes {words}")

    answer(tell_all, as_json(data), output)


def train_and_compare(
    plan: Plan, compare_on: str, settings: Settings, out: Path, output: AblationOutput, readout: tuple[str, ...] = ()
) -> None:
    """Train the tree and compare its leaves."""
    from cka_tools.ablation.measure import compare_plan
    from cka_tools.ablation.train import is_finished, segment_folder, train_tree
    from cka_tools.comparison.results import Ablation
    from cka_tools.processes import leave
    from cka_tools.store.directory import locked

    pieces = {
        s.key: (s.tokens, (s.start[1], s.phase.objective))
        for s in plan.tree.segments.values()
        if not is_finished(segment_folder(out, s.key), s.key)
    }
    line = TrainingLine(pieces)

    def report(segment: Segment, done: StepReport) -> None:
        line.show(segment.key, done, str(segment))

    note = None if output.quiet else lambda text: tell(f"note: {printable(text)}")
    for text in plan.notes:
        if note is not None:
            note(text)
    with line.going_on(out):
        train_tree(plan, out, device=plan.settings.device, report=None if output.quiet else report, note=note)

    def find_saved(out: Path) -> Ablation | None:
        with suppress(UserError):
            return Ablation.load(out)
        return None

    # Several processes train together; one compares.
    if leave():
        with locked(out / COMPARING), document_progress(Terminal(stderr=True), hidden=output.quiet) as progress:
            saved = find_saved(out)
            result = compare_plan(plan, out, compare_on, settings, progress, saved, readout)
        problem = None
        if result is saved:
            tell("note: nothing has changed since this ablation was compared: what was saved is shown")
        else:
            _, problem = save_run(result, out)
        print_saved(result, out, output)
        for text in log_run(output.log, result, out, output.log_project):
            tell(f"note: {text}")
        if problem:
            raise NotDrawn(problem)
