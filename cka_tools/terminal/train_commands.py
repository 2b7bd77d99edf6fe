"""`cka train` and `cka recipe show`."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cka_tools.errors import UserError
from cka_tools.formatting import printable
from cka_tools.terminal.options import Json, OutFile, Quiet, at_least
from cka_tools.terminal.output import INTERRUPTED, emit
from cka_tools.terminal.progress import TrainingLine, tell

if TYPE_CHECKING:
    from cka_tools.training.recipe import Phase, Recipe

CHECKPOINTS_BY_DEFAULT = 20
RATES_SHOWN = 10
CONVENTION = (
    "Steps count from 0 in each phase. Warm-up over W steps: (s+1)/W of the peak, from 0, which no step has. "
    "Decay over D steps: 1-sqrt((s+1)/D) between peak and floor, which its last step reaches exactly."
)


class ScaleChoice(StrEnum):
    """Constants of a named recipe."""

    paper = "paper"
    demo = "demo"


class ObjectiveChoice(StrEnum):
    """Objectives of training."""

    mlm = "mlm"
    clm = "clm"


class Precision(StrEnum):
    """Number format of the forward pass; weights and optimizer are always float32."""

    bf16 = "bf16"
    float32 = "float32"


class Attention(StrEnum):
    """Attention implementations with masks of ours."""

    auto = "auto"
    blocked = "blocked"
    sdpa = "sdpa"
    eager = "eager"


class TrainingDevice(StrEnum):
    """What accelerate finds, or the processor."""

    auto = "auto"
    cpu = "cpu"


RecipeGiven = Annotated[
    str, typer.Argument(help="clm-detour, mlm-baseline, reverse-detour, clm-baseline, pretraining, or a .toml file.")
]
Scale = Annotated[
    ScaleChoice | None, typer.Option(help="Constants of a named recipe.  [default: demo]", show_default=False)
]
Tokens = Annotated[
    int | None,
    typer.Option(help="Tokens of Phase 1 of a named recipe, the decay keeps its share of them; of pretraining, all."),
]
ObjectiveGiven = Annotated[
    ObjectiveChoice | None, typer.Option(help="Of pretraining.  [default: mlm]", show_default=False)
]

recipe_app = typer.Typer(no_args_is_help=True, help="Training recipes.")


def train_command(
    recipe: RecipeGiven,
    start: Annotated[
        str,
        typer.Option(
            help="Model to start from: demo:NAME, a directory, org/name or org/name@revision; or a shape, "
            "such as 8x128, of random weights. Pretraining takes a model's shape alone."
        ),
    ],
    corpus: Annotated[str, typer.Option(help="Texts to train on, as `cka compare --corpus` takes them.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Run directory; the model will be in its final/.")],
    scale: Scale = None,
    tokens: Tokens = None,
    objective: ObjectiveGiven = None,
    freeze: Annotated[
        list[str] | None,
        typer.Option(help="LAYERS@PHASE, such as low@clm, 8-14@clm, 0-7@decay or head@decay; repeatable."),
    ] = None,
    learning_rate: Annotated[float | None, typer.Option("--lr", help="Another peak learning rate.")] = None,
    sequence_length: Annotated[int | None, typer.Option(help="Tokens a packed sequence.")] = None,
    sequences_per_step: Annotated[int | None, typer.Option(help="Sequences an optimizer step.")] = None,
    seed: Annotated[int, typer.Option(help="Fixes masks, dropout and random weights.")] = 42,
    data_seed: Annotated[int, typer.Option(help="Fixes the order of the documents.")] = 42,
    epochs: Annotated[int, typer.Option(help="How often each document may be read.")] = 1,
    precision: Annotated[Precision, typer.Option(help="Of the forward pass.")] = Precision.bf16,
    checkpoint_tokens: Annotated[
        int | None,
        typer.Option(
            help=f"A checkpoint every so many tokens.  [default: 1/{CHECKPOINTS_BY_DEFAULT} of the run]",
            show_default=False,
        ),
    ] = None,
    keep_checkpoints: Annotated[
        bool, typer.Option(help="Keep the checkpoints of a finished phase, or only its end.")
    ] = False,
    sequences_per_forward: Annotated[
        int | None, typer.Option(help="Sequences that a process takes at once; less needs less memory.")
    ] = None,
    attention: Annotated[Attention, typer.Option(help="Attention implementation: blocked on a CPU.")] = Attention.auto,
    device: Annotated[TrainingDevice, typer.Option(help="auto or cpu.")] = TrainingDevice.auto,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Train a model by a recipe; started again, a stopped run goes on where it was.

    Two runs of one --data-seed read the same data in the same order; another --seed gives them other masks.

    Several processes: torchrun --nproc-per-node 2 -m -- cka_tools train …

    Example: cka train clm-detour --start demo:theta0 --corpus texts.jsonl.gz --out runs/detour

    Example: cka train pretraining --start 8x128 --corpus texts.jsonl.gz --epochs 2 --out runs/start
    """
    from cka_tools.documents.draw import stream_documents
    from cka_tools.manifest import read_manifest
    from cka_tools.processes import leave
    from cka_tools.training.freezing import freeze as frozen_by
    from cka_tools.training.packing import pack_texts
    from cka_tools.training.recipe import DETOURS, PRETRAINING
    from cka_tools.training.recipe_file import find_recipe
    from cka_tools.training.run import phase_folders, run_notes, train_run
    from cka_tools.training.start_model import load_start, parse_shape, start_folder

    at_least(1, checkpoint_tokens=checkpoint_tokens, sequences_per_forward=sequences_per_forward, epochs=epochs)
    at_least(0, seed=seed, data_seed=data_seed)
    changed: dict[str, Any] = {
        "peak_lr": learning_rate,
        "sequence_length": sequence_length,
        "sequences_per_step": sequences_per_step,
    }
    constants = {key: value for key, value in changed.items() if value is not None}
    chosen = find_recipe(recipe, *_named(scale, tokens, objective), constants)
    if parse_shape(start) is not None and recipe in DETOURS:
        raise UserError(
            f"--start {start!r} has random weights, recipe {recipe!r} goes on from a trained model: "
            f"train it by the recipe {PRETRAINING} first"
        )
    texts = [document.text for document in stream_documents(corpus)]
    with start_folder(start, random=recipe == PRETRAINING, seed=seed) as folder:
        model, tokenizer = load_start(folder, given=start)
        for intervention in freeze or ():
            chosen = frozen_by(chosen, intervention, len(model.model.layers))
        del model
        length, needed = chosen.sequence_length, chosen.tokens
        data = pack_texts(texts, tokenizer, length=length, seed=data_seed, tokens=needed, epochs=epochs)
        del texts
        line = TrainingLine({p.name: (chosen.steps(p) * chosen.tokens_per_step, p.objective) for p in chosen.phases})
        try:
            final = train_run(
                chosen,
                folder,
                data,
                out,
                seed=seed,
                data_seed=data_seed,
                bf16=precision is Precision.bf16,
                report=None if quiet else lambda done: line.show(done.phase, done, f"{done.phase} ({done.objective})"),
                note=lambda text: tell(f"note: {printable(text)}"),
                checkpoint_tokens=checkpoint_tokens or -(-chosen.tokens // CHECKPOINTS_BY_DEFAULT),
                keep_checkpoints=keep_checkpoints,
                sequences_per_forward=sequences_per_forward,
                attention=attention.value,
                device=device.value,
                extra={"start": start, "corpus": corpus},
            )
        except KeyboardInterrupt:
            line.end()
            tell(f"cka: interrupted: the same command goes on from the last checkpoint in {out}")
            sys.exit(INTERRUPTED)
    line.end()
    if not leave():
        return
    manifest = read_manifest(final) or {}
    losses = {
        phase.name: (read_manifest(folder) or {}).get("final_loss")
        for phase, folder in zip(chosen.phases, phase_folders(chosen, out), strict=True)
    }
    if as_json:
        told = ("run_tokens", "final_loss", "weights_sha256", "data_sha256", "seed", "data_seed")
        facts = {key: manifest.get(key) for key in told}
        facts |= {"losses": losses, "notes": run_notes(chosen, out)}
        typer.echo(json.dumps({"model": str(final)} | facts))
    elif not quiet:
        stated = ", ".join(f"{loss:.3f} in {name}" for name, loss in losses.items() if loss is not None)
        tokens_read = f"{manifest.get('run_tokens', 0):,} tokens"
        typer.echo(f"Wrote {final} ({tokens_read}; last training losses in nats a target: {stated})")


def _named(
    scale: ScaleChoice | None, tokens: int | None, objective: ObjectiveChoice | None
) -> tuple[Any, int | None, Any]:
    """Return the options of a named recipe as `find_recipe` takes them."""
    return None if scale is None else scale.value, tokens, None if objective is None else objective.value


@recipe_app.command("show")
def show_recipe_command(
    name: RecipeGiven,
    scale: Scale = None,
    tokens: Tokens = None,
    objective: ObjectiveGiven = None,
    toml: Annotated[bool, typer.Option("--toml", help="Print it as TOML, to be changed and trained.")] = False,
    out: OutFile = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Show a recipe's phases, tokens and learning rates.

    Example: cka recipe show clm-detour --scale paper
    """
    from cka_tools.training.recipe_file import find_recipe, to_toml

    recipe = find_recipe(name, *_named(scale, tokens, objective))
    if toml:
        text = to_toml(recipe)
        emit(lambda console: console.print(text, end="", markup=False, highlight=False, soft_wrap=True),
             json.dumps({"toml": text}), out, quiet=quiet, as_json=as_json)  # fmt: skip
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
    emit(lambda console: print_recipe(recipe, console), json.dumps(data), out, quiet=quiet, as_json=as_json)


def rates(recipe: Recipe, phase: Phase) -> list[dict[str, Any]]:
    """The learning rate at ten steps of a phase, first and last among them; at all steps of a shorter one."""
    last = recipe.steps(phase) - 1
    steps = sorted({round(i * last / (RATES_SHOWN - 1)) for i in range(RATES_SHOWN)})
    return [{"step": step, "learning_rate": recipe.learning_rate(phase, step)} for step in steps]


def print_recipe(recipe: Recipe, console: Console) -> None:
    """Print what a recipe does as two tables and the convention of its schedules."""

    def say(text: str, style: str = "") -> None:
        console.print(Text(text, style=style), highlight=False)

    say(f"{recipe.name}, {recipe.scale} scale: {recipe.tokens:,} tokens", "bold")
    say(
        f"{recipe.sequences_per_step} sequences of {recipe.sequence_length:,} tokens a step "
        f"({recipe.tokens_per_step:,}); AdamW, peak learning rate {recipe.peak_lr:g}, betas "
        f"{recipe.betas[0]:g} and {recipe.betas[1]:g}, decoupled weight decay {recipe.weight_decay:g}"
    )
    table = Table()
    for column in ("Phase", "Objective", "Tokens", "Steps", "Schedule", "Frozen"):
        table.add_column(column, justify="right" if column in ("Tokens", "Steps") else "left")
    for phase in recipe.phases:
        masking = "" if phase.masking is None else f" at {100 * phase.masking.rate:g} %"
        warm_up = f", warm-up over {phase.warmup_tokens:,} tokens" if phase.warmup_tokens else ""
        floor = f" to {100 * phase.floor:g} % of the peak" if phase.schedule == "1-sqrt" else ""
        frozen = ", ".join([*map(str, phase.frozen), *phase.frozen_modules]) or "–"
        steps = recipe.steps(phase)
        read = f"{steps * recipe.tokens_per_step:,}"
        schedule = f"{phase.schedule}{warm_up}{floor}"
        cells = (phase.name, f"{phase.objective.upper()}{masking}", read, f"{steps:,}", schedule, frozen)
        table.add_row(*map(Text, cells))
    console.print(table)
    for phase in recipe.phases:
        grid = Table(title=Text(f"Learning rate in {phase.name}"), title_justify="left")
        grid.add_column("Step", justify="right")
        grid.add_column("Learning rate", justify="right")
        for point in rates(recipe, phase):
            grid.add_row(f"{point['step']:,}", f"{point['learning_rate']:.4g}")
        console.print(grid)
    say(CONVENTION, "dim")
