"""`cka evaluate`."""

from __future__ import annotations

import sys
from dataclasses import MISSING, dataclass
from pathlib import Path

from cka_tools.evaluation.options import EvaluationOptions
from cka_tools.formatting import printable, slug
from cka_tools.settings import option
from cka_tools.terminal.options import Output, with_options
from cka_tools.terminal.output import (
    INTERRUPTED,
    NotDrawn,
    Terminal,
    document_progress,
    echo,
    print_saved,
    save_run,
    tell,
)

TABLE = ".table.lock"


@dataclass(frozen=True)
class EvaluationOutput(Output):
    """Where an evaluation goes."""

    out: Path | None = option(
        None, "Run directory; started again, it goes on.", shown="cka-evaluate-TASK", flag="--out -o"
    )


@with_options("evaluate")
def evaluate_command(
    *,
    models: tuple[str, ...] = option(
        (), "One or more: demo:NAME, a directory, org/name or org/name@revision.", argument=True
    ),
    task: tuple[str, ...] = option(
        MISSING, "sections or entities (bundled), NAME=FILE, a file with text, label and split, or a .toml; repeatable."
    ),
    options: EvaluationOptions,
    model_index: bool = option(False, "Print the table as the model-index of a model card, for each model."),
    output: EvaluationOutput,
) -> None:
    """Fine-tune models on tasks, over seeds: F1 with intervals.

    Of two models or more it says which differ clearly.

    Every model, task and seed is a run that is kept; a run that was stopped is made again from its beginning.
    The same command at the same time in another terminal takes a share of the runs.

    Example: cka evaluate demo:mlm-baseline demo:clm-detour --task sections --seeds 3 --epochs 2
    """
    from cka_tools.evaluation.run_evaluate import check_out, evaluate, make_plan
    from cka_tools.store.directory import locked

    out = output.out or Path(f"cka-evaluate-{slug('-'.join(one.partition('=')[0] for one in task))}")
    # All that does not fit is said before the directory is made.
    plan = make_plan(list(models), list(task), options)
    check_out(plan, out)
    told = None if output.quiet else lambda line: tell(f"finished {printable(line)}")
    try:
        with document_progress(Terminal(stderr=True), hidden=output.quiet) as progress:
            result = evaluate(plan, out=out, progress=progress, told=told)
        with locked(out / TABLE):
            _, problem = save_run(result, out)
    except KeyboardInterrupt:
        tell(f"cka: interrupted: the same command goes on with the runs that are not finished in {out}")
        sys.exit(INTERRUPTED)
    if model_index and not output.as_json:
        from cka_tools.comparison.model_index import model_index_yaml

        echo("\n".join(model_index_yaml(result)), end="")
    else:
        print_saved(result, out, output)
    if problem:
        raise NotDrawn(problem)
