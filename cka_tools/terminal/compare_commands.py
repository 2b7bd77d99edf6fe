"""`cka compare`, `cka demo`, `cka trajectory`, `cka matrix` and `cka contrast`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING

from cka_tools.errors import UserError
from cka_tools.formatting import slug
from cka_tools.settings import Settings, option, parse_numbers
from cka_tools.terminal.options import RunOutput, with_options
from cka_tools.terminal.output import run_and_save

DEMO_PAIR = ("demo:clm-detour", "demo:mlm-baseline")
DEMO_CONTROL = "demo:mlm-baseline-2"

CORPUS = option(
    "sample",
    "sample, pubmed, biomed-enriched, hf:ID, a folder, a file (.txt .jsonl .json .csv .tsv .parquet, or PubMed .xml; "
    "also .gz or .zst), or - for standard input.",
)


@with_options("compare")
def compare_command(
    model_a: str = option(MISSING, "demo:NAME, a directory, org/name or org/name@revision.", argument=True),
    model_b: str = option(MISSING, "The model to compare it with.", argument=True),
    *,
    control: str | None = option(
        None, "Model B trained with another seed: its distance from B is the seed noise to divide by."
    ),
    corpus: str = CORPUS,
    label: tuple[str, ...] = option(
        (), "A=…, B=… or control=…: its name in figures and tables; repeatable.", shown="what tells them apart"
    ),
    settings: Settings,
    output: RunOutput,
) -> None:
    """Compare two models layer by layer: table, figure, saved run.

    Example: cka compare demo:clm-detour demo:mlm-baseline --corpus abstracts.jsonl.gz --out comparisons/detour
    """
    from cka_tools.comparison import compare

    labels = parse_labels(label)
    run_and_save(
        lambda progress: compare(
            model_a, model_b, corpus, control=control, labels=labels, settings=settings, progress=progress
        ),
        f"cka-{slug(model_a)}-vs-{slug(model_b)}",
        output,
    )


@with_options("demo")
def demo_command(
    *, documents: int = option(500, "Documents to draw from the bundled corpus."), output: RunOutput
) -> None:
    """Compare the bundled pair and its seed noise, offline.

    Example: cka demo --out comparisons/demo
    """
    from cka_tools.comparison import compare

    run_and_save(
        lambda progress: compare(*DEMO_PAIR, control=DEMO_CONTROL, documents=documents, progress=progress),
        "cka-demo",
        output,
    )


@with_options("trajectory")
def trajectory_command(
    reference: str = option(
        MISSING, "What all are compared with: demo:NAME, a directory, org/name[@revision].", argument=True
    ),
    checkpoints: tuple[str, ...] = option(
        (), "Checkpoints, or the folder of a training run, which stands for all of its own.", argument=True
    ),
    *,
    control: str | None = option(None, "A model that differs from the reference by its seed: the noise floor."),
    x: list[float] | None = option(
        None,
        "The x-axis, a number a checkpoint, as 0.5,1,1.5.",
        shown="tokens of the manifests, or the position",
        parse=lambda text, name: parse_numbers(text, f"--{name}"),
    ),
    health: bool = option(False, "Also every model's language-model loss and accuracy, as `cka health` gives them."),
    corpus: str = CORPUS,
    settings: Settings,
    output: RunOutput,
) -> None:
    """Follow how checkpoints of a training leave a reference.

    One pass a model, however many pairs it is in.

    Example: cka trajectory runs/baseline/final runs/detour --control runs/baseline-2/final --out comparisons/along
    """
    from cka_tools.comparison import trajectory

    run_and_save(
        lambda progress: trajectory(
            reference,
            list(checkpoints),
            corpus,
            control=control,
            x=x,
            health=health,
            settings=settings,
            progress=progress,
        ),
        f"cka-trajectory-{slug(reference)}",
        output,
    )


@with_options("matrix")
def matrix_command(
    *,
    models: tuple[str, ...] = option(
        (), "Two or more: demo:NAME, a directory, org/name or org/name@revision.", argument=True
    ),
    corpus: str = CORPUS,
    settings: Settings,
    output: RunOutput,
) -> None:
    """Compare every pair of models: a matrix and a dendrogram.

    One pass a model, however many pairs it is in.

    Example: cka matrix demo:clm-detour demo:mlm-baseline demo:mlm-baseline-2 --documents 200
    """
    from cka_tools.comparison import matrix

    run_and_save(
        lambda progress: matrix(list(models), corpus, settings=settings, progress=progress), "cka-matrix", output
    )


@with_options("contrast")
def contrast_command(
    *,
    group: tuple[str, ...] = option(
        (), "NAME=MODEL,MODEL,…: a group of checkpoints that differ by their seeds. Give it twice."
    ),
    paired: bool = option(
        False, "Checkpoint i of one group shares something with i of the other, such as its data order."
    ),
    corpus: str = CORPUS,
    settings: Settings,
    output: RunOutput,
) -> None:
    """Test whether two groups are further apart than seeds are.

    Are detours and baselines further apart than two detours, or two baselines, are?

    Example: cka contrast --group detour=runs/d1,runs/d2,runs/d3 --group baseline=runs/b1,runs/b2,runs/b3
    """
    from cka_tools.comparison import contrast

    groups = parse_groups(group)
    run_and_save(
        lambda progress: contrast(groups, corpus, paired=paired, settings=settings, progress=progress),
        f"cka-contrast-{'-vs-'.join(map(slug, groups))}",
        output,
    )


def parse_labels(given: Sequence[str]) -> dict[str, str]:
    """Labels from texts such as "A=detour".

    Raises:
        UserError: text of another form, or a model that is named twice.
    """
    labels: dict[str, str] = {}
    for text in given:
        name, equals, label = text.partition("=")
        if not equals:
            raise UserError(f"--label {text!r} is not a label: write it like A=detour")
        if name in labels:
            raise UserError(f"--label {name!r} is given twice: leave one out")
        labels[name] = label
    return labels


def parse_groups(given: Sequence[str]) -> dict[str, list[str]]:
    """Groups from texts such as "detour=runs/1,runs/2".

    Raises:
        UserError: text of another form, or a name that is given twice.
    """
    groups: dict[str, list[str]] = {}
    for text in given:
        name, equals, members = text.partition("=")
        if not equals or not name.strip() or not all(part.strip() for part in members.split(",")):
            raise UserError(f"--group {text!r} is not a group: write it like detour=runs/1/final,runs/2/final")
        if name.strip() in groups:
            raise UserError(f"--group {name.strip()!r} is given twice: put its checkpoints in one, with commas")
        groups[name.strip()] = [part.strip() for part in members.split(",")]
    return groups
