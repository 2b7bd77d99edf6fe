"""`cka probe`."""

from __future__ import annotations

from dataclasses import MISSING

from cka_tools.formatting import slug
from cka_tools.settings import Settings, option
from cka_tools.terminal.options import RunOutput, with_options
from cka_tools.terminal.output import run_and_save


@with_options("probe")
def probe_command(
    *,
    models: tuple[str, ...] = option(
        (), "One or more: demo:NAME, a directory, org/name or org/name@revision.", argument=True
    ),
    task: str = option(
        MISSING,
        "sections or entities (bundled), NAME=FILE of a known task, a file with text, label and split, or a .toml.",
    ),
    label_shuffle: bool = option(False, "Also fit every probe on shuffled labels: what true ones add."),
    settings: Settings,
    output: RunOutput,
) -> None:
    """Read a task's labels from every layer of frozen models.

    By logistic regression: F1 with intervals, beside floors.

    Example: cka probe demo:mlm-baseline demo:clm-detour --task sections
    """
    from cka_tools.probes import probe

    run_and_save(
        lambda progress: probe(list(models), task, label_shuffle=label_shuffle, settings=settings, progress=progress),
        f"cka-probe-{slug(task.partition('=')[0])}",
        output,
    )
