"""`cka transplant`, `cka interpolate`, `cka health` and `cka fill`."""

from __future__ import annotations

import json
from dataclasses import MISSING
from pathlib import Path

from cka_tools.formatting import slug
from cka_tools.settings import Settings, option
from cka_tools.terminal.compare_commands import CORPUS
from cka_tools.terminal.options import Output, RunOutput, with_options
from cka_tools.terminal.output import emit, run_and_save

MODEL = "demo:NAME, a directory, org/name or org/name@revision."


def _names(text: str, name: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _groups(text: str, name: str) -> object:
    from cka_tools.interventions.plan import parse_groups_of_layers

    return parse_groups_of_layers(text, name)


def _parts(text: str, name: str) -> object:
    from cka_tools.interventions.plan import parse_parts

    return parse_parts(text, name)


@with_options("transplant")
def transplant_command(
    base: str = option(MISSING, f"The model that is changed: {MODEL}", argument=True),
    donor: str = option(MISSING, "The model whose parts are put into it.", argument=True),
    *,
    layers: str | None = option(
        None, "Groups of layers to graft, as 0-7,8-14,15-21.", shown="thirds, then all", parse=_groups
    ),
    parts: str | None = option(
        None,
        "Of these layers: all, attention, mlp, norms; and embeddings, final-norm, head. With + together.",
        shown="all,attention,mlp",
        parse=_parts,
    ),
    readout: str | None = option(
        None, "What is read of every hybrid, as mlm,divergence.", shown="mlm, or clm for decoders", parse=_names
    ),
    control: str | None = option(
        None, "The base trained with another seed, as donor: what any mismatch costs, by the same gap."
    ),
    reverse: bool = option(False, "Also graft the base's parts into the donor."),
    save: Path | None = option(None, "Directory to make of the one graft that is asked for, with a card."),
    corpus: str = CORPUS,
    settings: Settings,
    output: RunOutput,
) -> None:
    """Graft parts of one model into another, read what moves.

    How much of the difference of two models moves with each part.

    Example: cka transplant demo:mlm-baseline demo:clm-detour --control demo:mlm-baseline-2 --documents 60
    """
    from cka_tools.interventions import transplant
    from cka_tools.interventions.plan import THIRDS

    run_and_save(
        lambda progress: transplant(
            base, donor, corpus,
            layers=layers or THIRDS, parts=parts or ("all", "attention", "mlp"), readout=readout,
            control=control, reverse=reverse, save=save, settings=settings, progress=progress,
        ),
        f"cka-transplant-{slug(donor)}-into-{slug(base)}",
        output,
    )  # fmt: skip


@with_options("interpolate")
def interpolate_command(
    model_a: str = option(MISSING, f"One end: {MODEL}", argument=True),
    model_b: str = option(MISSING, "The other end.", argument=True),
    *,
    points: int = option(11, "Points along the line, both ends among them."),
    readout: str | None = option(
        None,
        "What is read at every point, as mlm,divergence.",
        shown="mlm (clm for decoders) and divergence",
        parse=_names,
    ),
    corpus: str = CORPUS,
    settings: Settings,
    output: RunOutput,
) -> None:
    """Read models on the line between two: is there a barrier?

    Example: cka interpolate demo:mlm-baseline demo:clm-detour --points 5 --documents 60
    """
    from cka_tools.interventions import interpolate

    run_and_save(
        lambda progress: interpolate(
            model_a, model_b, corpus, points=points, readout=readout, settings=settings, progress=progress
        ),
        f"cka-interpolate-{slug(model_a)}-to-{slug(model_b)}",
        output,
    )  # fmt: skip


@with_options("health")
def health_command(
    *,
    models: tuple[str, ...] = option((), f"One or more: {MODEL}", argument=True),
    readout: str | None = option(None, "mlm or clm.", shown="what the models' heads are made for"),
    corpus: str = CORPUS,
    settings: Settings,
    output: RunOutput,
) -> None:
    """Language-model loss and accuracy of checkpoints.

    On the same documents, with paired intervals.

    Example: cka health demo:theta0 demo:mlm-baseline demo:clm-detour --documents 200
    """
    from cka_tools.interventions import health

    run_and_save(
        lambda progress: health(list(models), corpus, readout=readout, settings=settings, progress=progress),
        "cka-health",
        output,
    )


@with_options("fill")
def fill_command(
    *,
    models: tuple[str, ...] = option((), f"One or more masked language models: {MODEL}", argument=True),
    text: str = option(MISSING, "A text with [MASK] where a word is missing."),
    top: int = option(5, "Tokens to show of each model."),
    device: str = option("auto", "auto, cpu, cuda, cuda:N or mps."),
    trust_remote_code: bool = option(False, "Run code that comes with a model. Read it first."),
    output: Output,
) -> None:
    """Show what models put where a text says [MASK], side by side.

    Example: cka fill demo:mlm-baseline demo:clm-detour --text "The patient was diagnosed with [MASK]."
    """
    from cka_tools.models import LoadOptions
    from cka_tools.readouts.fill import fill
    from cka_tools.terminal.readout_report import print_filled

    options = LoadOptions(device=device, trust_remote_code=trust_remote_code)
    found = fill(list(models), text, top=top, options=options)
    data = {
        "text": text,
        "filled": [
            {"model": one.model, "mask": one.mask,
             "tokens": [{"token": token, "probability": share} for token, share in one.tokens]}
            for one in found
        ],
    }  # fmt: skip
    emit(lambda console: print_filled(text, found, console), json.dumps(data, ensure_ascii=False), output)
