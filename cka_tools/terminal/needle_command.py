"""`cka needle`."""

from __future__ import annotations

from typing import Literal

from cka_tools.errors import UserError
from cka_tools.formatting import quoted, slug
from cka_tools.settings import Settings, option
from cka_tools.terminal.compare_commands import CORPUS
from cka_tools.terminal.options import RunOutput, with_options
from cka_tools.terminal.output import run_and_save


def _names(text: str, name: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(","))


def _lengths(text: str, name: str) -> tuple[int, ...]:
    """Lengths from text such as "512,1024".

    Raises:
        UserError: something else.
    """
    parts = [part.strip().replace("_", "") for part in text.split(",")]
    if wrong := [part for part in parts if not (part.isascii() and part.isdigit() and len(part) < 16)]:
        raise UserError(f"length {quoted(wrong[0])} is not a number of tokens: give whole numbers such as 512,1024")
    return tuple(map(int, parts))


@with_options("needle")
def needle_command(
    *,
    models: tuple[str, ...] = option(
        (), "One or more: demo:NAME, a directory, org/name or org/name@revision.", argument=True
    ),
    corpus: str = CORPUS,
    lengths: tuple[int, ...] | None = option(
        None, "Tokens of query and document, as 512,1024.", shown="512 to 8192, up to the models' own", parse=_lengths
    ),
    positions: tuple[str, ...] = option(
        ("start", "middle", "end"), "Thirds of the document that the fact is put in.", shown="start,middle,end",
        parse=_names,
    ),
    templates: tuple[str, ...] | None = option(
        None, "Kinds of fact, as drug,allergy.", shown="all eight", parse=_names
    ),
    examples: int = option(2000, "In test; rounded up so that lengths, positions and answers are equally many."),
    training: int = option(1050, "Examples that probes are fitted on."),
    pooling: Literal["cls", "mean", "last"] = option("cls", "Whose row is read; last is for decoders."),
    label_shuffle: bool = option(False, "Also fit every probe on shuffled labels: what true ones add."),
    settings: Settings,
    output: RunOutput,
) -> None:  # fmt: skip
    """Probe frozen encoders for one fact in a long document.

    Accuracy by length of the document and position of the fact.

    Example: cka needle demo:mlm-baseline demo:clm-detour --lengths 256,512 --corpus abstracts.jsonl.gz
    """
    from cka_tools.probes import needle

    run_and_save(
        lambda progress: needle(
            list(models),
            corpus,
            lengths=lengths,
            positions=positions,
            templates=templates,
            examples=examples,
            training=training,
            pooling=pooling,
            label_shuffle=label_shuffle,
            settings=settings,
            progress=progress,
        ),
        f"cka-needle-{'-vs-'.join(map(slug, models[:2])) or 'model'}",
        output,
    )
