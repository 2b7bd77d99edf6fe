"""`cka train` and `cka recipe show`."""

from __future__ import annotations

from dataclasses import MISSING, asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console

from cka_tools.errors import UserError
from cka_tools.formatting import NOTHING, counted, printable, units_in_words
from cka_tools.manifest import HELD_OUT
from cka_tools.settings import Reading, option
from cka_tools.terminal.options import Output, with_options
from cka_tools.terminal.output import TrainingLine, as_json, echo, emit, say, tell
from cka_tools.terminal.tables import Column, print_table
from cka_tools.training.options import CHECKPOINTS_BY_DEFAULT, RecipeOptions, TrainingOptions

if TYPE_CHECKING:
    from cka_tools.training.loop import StepReport
    from cka_tools.training.recipe import Phase, Recipe

RATES_SHOWN = 10
CONVENTION = (
    "Steps count from 0 in each phase. Warm-up over W steps: (s+1)/W of the peak, from 0, which no step has. "
    "Decay over D steps: 1-sqrt((s+1)/D) between peak and floor, which its last step reaches exactly."
)


RECIPE = option(
    MISSING, "clm-detour, mlm-baseline, reverse-detour, clm-baseline, pretraining, or a .toml file.", argument=True
)

recipe_app = typer.Typer(no_args_is_help=True, help="Training recipes.")


@dataclass(frozen=True)
class TrainOutput(Output):
    """Where a training goes."""

    out: Path = option(MISSING, "Run directory; the model will be in its final/.", flag="--out -o")


@with_options("train")
def train_command(
    recipe: str = RECIPE,
    *,
    start: str = option(
        MISSING,
        "Model to start from: demo:NAME, a directory, org/name or org/name@revision; or a shape, "
        "such as 8x128, of random weights. Pretraining takes a model's shape alone.",
    ),
    corpus: str = option(MISSING, "Texts to train on, as `cka compare --corpus` takes them."),
    reading: Reading,
    options: TrainingOptions,
    output: TrainOutput,
) -> None:
    """Train a model by a recipe; a stopped run goes on.

    Two runs of one --data-seed read the same data in the same order; another --seed gives them other masks.

    Several processes: torchrun --nproc-per-node 2 -m -- cka_tools train …

    Example: cka train clm-detour --start demo:theta0 --corpus texts.jsonl.gz --out runs/detour

    Example: cka train pretraining --start 8x128 --corpus texts.jsonl.gz --epochs 2 --out runs/start
    """
    from cka_tools.documents.corpus_spec import open_corpus
    from cka_tools.documents.draw import stream_documents
    from cka_tools.manifest import read_manifest
    from cka_tools.processes import leave
    from cka_tools.training.freezing import freeze as frozen_by
    from cka_tools.training.held_out import HeldOutLoss, measure_run, pack_for
    from cka_tools.training.packing import pack_texts
    from cka_tools.training.recipe import DETOURS, PRETRAINING
    from cka_tools.training.recipe_file import find_recipe
    from cka_tools.training.run import phase_folders, run_notes, train_run
    from cka_tools.training.start_model import load_start, parse_shape, start_folder

    out, seed, data_seed = output.out, options.seed, options.data_seed
    chosen = find_recipe(recipe, options.scale, options.tokens, options.objective, options.constants)
    if parse_shape(start) is not None and recipe in DETOURS:
        raise UserError(
            f"--start {start!r} has random weights, recipe {recipe!r} goes on from a trained model: "
            f"train it by the recipe {PRETRAINING} first"
        )
    opened = open_corpus(corpus, reading=reading)
    texts = [document.text for document in stream_documents(opened)]
    held = f"{counted(len(texts), 'document')}{units_in_words({'spec': corpus, 'source': opened.source})}"
    others = None
    if options.held_out is not None:
        others = [document.text for document in stream_documents(open_corpus(options.held_out, reading=reading))]
        if both := len(set(texts) & set(others)):
            tell(f"note: {counted(both, 'text')} of --eval {options.held_out!r} are trained on as well")
    with start_folder(start, random=recipe == PRETRAINING, seed=seed) as folder:
        model, tokenizer = load_start(folder, given=start)
        packed = None if others is None else pack_for(others, folder, chosen)
        for intervention in options.freeze:
            chosen = frozen_by(chosen, intervention, len(model.model.layers))
        del model
        data = pack_texts(
            texts, tokenizer, length=chosen.sequence_length, seed=data_seed, tokens=chosen.tokens, epochs=options.epochs
        )
        del texts

        def tell_loss(found: HeldOutLoss) -> None:
            tell(f"held out: {found.objective} loss {found.loss:.3f} in {found.phase} at {found.tokens:,} tokens")

        line = TrainingLine({p.name: (chosen.steps(p) * chosen.tokens_per_step, p.objective) for p in chosen.phases})

        def report(done: StepReport) -> None:
            line.show(done.phase, done, f"{done.phase} ({done.objective})")

        with line.going_on(out):
            final = train_run(
                chosen,
                folder,
                data,
                out,
                seed=seed,
                data_seed=data_seed,
                bf16=options.precision == "bf16",
                report=None if output.quiet else report,
                note=lambda text: tell(f"note: {printable(text)}"),
                checkpoint_tokens=options.checkpoint_tokens or -(-chosen.tokens // CHECKPOINTS_BY_DEFAULT),
                keep_checkpoints=options.keep_checkpoints,
                sequences_per_forward=options.sequences_per_forward,
                attention=options.attention,
                device=options.device,
                extra={"start": start, "corpus": corpus},
            )
        if not leave():
            return
        measured: list[HeldOutLoss] = []
        if packed is not None:
            measured = measure_run(chosen, folder, out, packed, None if output.quiet else tell_loss)
    manifest = read_manifest(final) or {}
    losses = {
        phase.name: (read_manifest(folder) or {}).get("final_loss")
        for phase, folder in zip(chosen.phases, phase_folders(chosen, out), strict=True)
    }
    if output.as_json:
        told = ("run_tokens", "final_loss", "weights_sha256", "data_sha256", "seed", "data_seed")
        facts = {key: manifest.get(key) for key in told}
        facts |= {"losses": losses, "notes": run_notes(chosen, out)}
        facts |= {"held_out": [asdict(loss) for loss in measured]} if measured else {}
        echo(as_json({"model": str(final)} | facts))
    elif not output.quiet:
        stated = ", ".join(f"{loss:.3f} in {name}" for name, loss in losses.items() if loss is not None)
        tokens_read = f"{manifest.get('run_tokens', 0):,} tokens from {held}"
        echo(f"Wrote {printable(str(final))} ({tokens_read}; last training losses in nats a target: {stated})")
        if packed is not None:
            ends = {loss.objective: loss.loss for loss in measured}
            told_ends = ", ".join(f"{loss:.3f} {name}" for name, loss in ends.items())
            echo(f"On {packed.tokens:,} held-out tokens its loss is {told_ends} (`cka show {out}`, {HELD_OUT})")


@recipe_app.command("show")
@with_options()
def show_recipe_command(
    name: str = RECIPE,
    *,
    options: RecipeOptions,
    toml: bool = option(False, "Print it as TOML, to be changed and trained."),
    output: Output,
) -> None:
    """Show a recipe's phases, tokens and learning rates.

    Example: cka recipe show clm-detour --scale paper
    """
    from cka_tools.training.recipe_file import find_recipe, to_toml

    recipe = find_recipe(name, options.scale, options.tokens, options.objective)
    if toml:
        text = to_toml(recipe)
        emit(lambda console: console.print(text, end="", markup=False, highlight=False, soft_wrap=True),
             as_json({"toml": text}), output)  # fmt: skip
        return
    phases = [
        {"name": phase.name, "steps": recipe.steps(phase), "rates": rates(recipe, phase)} for phase in recipe.phases
    ]
    data = {
        "recipe": recipe.to_dict(),
        "tokens": recipe.tokens,
        "tokens_per_step": recipe.tokens_per_step,
        "phases": phases,
        "convention": CONVENTION,
        "sha256": recipe.fingerprint,
    }
    emit(lambda console: print_recipe(recipe, console), as_json(data), output)


def rates(recipe: Recipe, phase: Phase) -> list[dict[str, Any]]:
    """The learning rate at ten steps of a phase, first and last among them; at all steps of a shorter one."""
    last = recipe.steps(phase) - 1
    steps = sorted({round(i * last / (RATES_SHOWN - 1)) for i in range(RATES_SHOWN)})
    return [{"step": step, "learning_rate": recipe.learning_rate(phase, step)} for step in steps]


def print_recipe(recipe: Recipe, console: Console) -> None:
    """Print what a recipe does as two tables and the convention of its schedules."""
    say(console, f"{recipe.name}, {recipe.scale} scale: {recipe.tokens:,} tokens", style="bold")
    say(
        console,
        f"{recipe.sequences_per_step} sequences of {recipe.sequence_length:,} tokens a step "
        f"({recipe.tokens_per_step:,}); AdamW, peak learning rate {recipe.peak_lr:g}, betas "
        f"{recipe.betas[0]:g} and {recipe.betas[1]:g}, decoupled weight decay {recipe.weight_decay:g}",
    )
    rows: list[tuple[str, ...]] = []
    for phase in recipe.phases:
        masking = "" if phase.masking is None else f" at {100 * phase.masking.rate:g} %"
        warm_up = f", warm-up over {phase.warmup_tokens:,} tokens" if phase.warmup_tokens else ""
        floor = f" to {100 * phase.floor:g} % of the peak" if phase.schedule == "1-sqrt" else ""
        frozen = ", ".join([*map(str, phase.frozen), *phase.frozen_modules]) or NOTHING
        steps = recipe.steps(phase)
        schedule = f"{phase.schedule}{warm_up}{floor}"
        tokens = f"{steps * recipe.tokens_per_step:,}"
        rows.append((phase.name, f"{phase.objective.upper()}{masking}", tokens, f"{steps:,}", schedule, frozen))
    names, objectives, tokens_read, steps_made, schedules, frozen_layers = map(list, zip(*rows, strict=True))
    left: Any = "left"
    columns = [
        Column("Phase", names, justify=left),
        Column("Objective", objectives, 5, left),
        Column("Tokens", tokens_read),
        Column("Steps", steps_made, 4),
    ]
    print_table(console, columns, "--json")
    for name, schedule, frozen in zip(names, schedules, frozen_layers, strict=True):
        say(console, f"Schedule of {name}: {schedule}; frozen: {frozen}")
    for phase in recipe.phases:
        points = rates(recipe, phase)
        columns = [
            Column("Step", [f"{point['step']:,}" for point in points]),
            Column("Learning rate", [f"{point['learning_rate']:.4g}" for point in points]),
        ]
        say(console, f"Learning rate in {phase.name}")
        print_table(console, columns, "--json")
    say(console, CONVENTION, style="dim")
