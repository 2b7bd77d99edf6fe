"""`--log`: what a run found, where its user tracks experiments. Off unless asked for, and never in the way."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cka_tools.comparison.run_directory import FIGURE, REPORT
from cka_tools.errors import UserError, one_line
from cka_tools.formatting import printable, quoted

if TYPE_CHECKING:
    from cka_tools.comparison.results import RunResult

EVENTS = "tensorboard"
"""In the run's directory."""

IDENTITIES = ("layer", "layer_a", "layer_b", "early", "n_documents", "tokens", "position", "seed", "data_seed",
              "control_seed", "control_data_seed", "best_layer_b", "top_feature_a", "top_feature_b")  # fmt: skip
"""Numbers of a table that say what a row is of."""

Scalar = tuple[str, int | None, float]
"""A name, its layer (None where it is not of one), and the value."""


def check_trackers(names: Sequence[str]) -> None:
    """Refuse what cannot be logged to, before anything runs.

    Raises:
        UserError: a name that is not known, or whose package is not installed.
    """
    for name in names:
        if name not in TRACKERS:
            raise UserError(f"--log {quoted(name)} is not one of {', '.join(TRACKERS)}")
        if find_spec(name) is None:
            raise UserError(f"--log {name} needs the package {name}: pip install 'cka-tools[{name}]'")


def log_run(names: Sequence[str], result: RunResult, run_dir: Path, project: str) -> list[str]:
    """Log a saved run; returns a line for each tracker that failed, which costs the run nothing."""
    problems = []
    for name in names:
        try:
            TRACKERS[name](result, run_dir, project)
        except Exception as error:
            problems.append(f"--log {name} failed ({type(error).__name__}: {one_line(error)}); the run is saved")
    return problems


def scalars(result: RunResult) -> Iterator[Scalar]:
    """Every number of a run's table that can be given, named after what tells its row from the others."""
    frame = result.to_frame()
    texts = [
        name
        for name in map(str, frame.select_dtypes(exclude=["number", "bool"]))
        if name != "layer" and not name.endswith("reason") and "sha256" not in name and not name.startswith("weights")
    ]
    told = [name for name in texts if frame[name].nunique() > 1]
    numbers = [name for name in frame.select_dtypes(include="number") if name not in IDENTITIES]
    told += [name for name in ("x", "seed") if name in frame and frame[name].nunique() > 1]
    for row in frame.to_dict("records"):
        where = [printable(str(row[name])).replace("/", "_") for name in told if row[name] == row[name]]
        layer = row.get("layer")
        step = int(str(layer)) if str(layer).isdigit() else None
        if layer is not None and step is None:
            where.append(str(layer).replace("/", "_"))
        for name in numbers:
            value = row[name]
            if name not in told and isinstance(value, int | float) and math.isfinite(value):
                yield "/".join([*where, str(name)]), step, float(value)


def _by_layer(result: RunResult) -> tuple[dict[int, dict[str, float]], dict[str, float]]:
    """Scalars of each layer, ascending, and those of none."""
    layers: dict[int, dict[str, float]] = {}
    others: dict[str, float] = {}
    for name, layer, value in scalars(result):
        (others if layer is None else layers.setdefault(layer, {}))[name] = value
    return dict(sorted(layers.items())), others


def _config(result: RunResult) -> dict[str, Any]:
    origin = result.record["provenance"]
    models = {f"{at} {model['role']}": printable(model["name"]) for at, model in enumerate(origin["models"])}
    return {"kind": result.kind, "models": models, "corpus": str(origin["corpus"]["spec"]), **origin["settings"]}


def _files(run_dir: Path) -> tuple[Path | None, Path | None]:
    """The figure and the report, where they are there."""
    figure, report = run_dir / f"{FIGURE}.png", run_dir / REPORT
    return figure if figure.is_file() else None, report if report.is_file() else None


def _tensorboard(result: RunResult, run_dir: Path, project: str) -> None:
    import numpy as np
    from PIL import Image
    from torch.utils.tensorboard import SummaryWriter

    figure, report = _files(run_dir)
    writer = SummaryWriter(log_dir=str(run_dir / EVENTS))
    try:
        for name, layer, value in scalars(result):
            writer.add_scalar(name, value, layer or 0)
        if figure is not None:
            with Image.open(figure) as image:
                writer.add_image(FIGURE, np.asarray(image.convert("RGB")), dataformats="HWC")
        writer.add_text("run", f"{result.kind} in {printable(str(run_dir))}" + (f"; {report}" if report else ""))
    finally:
        writer.close()


def _wandb(result: RunResult, run_dir: Path, project: str) -> None:
    import wandb

    figure, report = _files(run_dir)
    layers, others = _by_layer(result)
    run = wandb.init(project=project, name=run_dir.name, job_type=result.kind, config=_config(result))
    try:
        run.define_metric("layer")
        for name in dict.fromkeys(name for values in layers.values() for name in values):
            run.define_metric(name, step_metric="layer")
        for layer, values in layers.items():
            run.log({"layer": layer, **values})
        run.summary.update(others)
        if figure is not None:
            run.log({FIGURE: wandb.Image(str(figure))})
        if report is not None:
            run.log({"report": wandb.Html(report.read_text(encoding="utf-8"))})
            run.summary["report"] = str(report)
    finally:
        run.finish()


def _trackio(result: RunResult, run_dir: Path, project: str) -> None:
    import trackio

    figure, report = _files(run_dir)
    layers, others = _by_layer(result)
    config = _config(result) | ({} if report is None else {"report": str(report)})
    trackio.init(project=project, name=run_dir.name, config=config, embed=False)
    try:
        for layer, values in layers.items():
            trackio.log(values, step=layer)
        last = dict(others) | ({} if figure is None else {FIGURE: trackio.Image(str(figure))})
        if last:
            trackio.log(last)
    finally:
        trackio.finish()


TRACKERS: Final[dict[str, Callable[[Any, Path, str], None]]] = {
    "wandb": _wandb,
    "tensorboard": _tensorboard,
    "trackio": _trackio,
}
