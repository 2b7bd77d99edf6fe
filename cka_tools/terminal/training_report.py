"""A training run as it is read in a terminal: its recipe, how far it came, its losses."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from rich.console import Console

from cka_tools.errors import UserError, one_line
from cka_tools.formatting import counted, printable, three_decimals
from cka_tools.forms import fault_in
from cka_tools.manifest import FORM, HELD_OUT, LOSSES, MANIFEST, RECIPE, RUN, read_manifest
from cka_tools.terminal.output import say
from cka_tools.terminal.tables import Column, print_table

ROWS = 12
"""Of a table of losses: evenly apart, the first and the last among them."""

Data = dict[str, Any]


def is_training(folder: Path) -> bool:
    """Whether a directory is a training run, or a checkpoint of one."""
    return any((folder / name).is_file() for name in (RUN, MANIFEST))


def training_data(folder: Path) -> Data:
    """What a training run, or one of its checkpoints, says of itself, as JSON data.

    Raises:
        UserError: its files cannot be read.
    """
    manifest = read_manifest(folder) if (folder / MANIFEST).is_file() else None
    run = manifest if manifest is not None else _read(folder / RUN)
    if fault := fault_in(run, FORM | {"recipe": RECIPE}, whole=RUN):
        raise UserError(f"{str(folder)!r} is not a whole training run ({fault}): train it again")
    try:
        phases = [{name: phase[name] for name in ("name", "objective", "tokens")} for phase in run["recipe"]["phases"]]
        losses = _losses(folder)
        for phase in phases:
            own = [row for row in losses if row["phase"] == phase["name"]]
            phase |= {"first_loss": own[0]["loss"], "last_loss": own[-1]["loss"]} if own else {}
        done = losses[-1]["tokens"] if losses else 0
        wanted = sum(phase["tokens"] for phase in phases)
        start = run.get("start") or next((m["start"] for m in _manifests(folder) if m.get("start")), None)
        corpus = run.get("corpus") or next((m["corpus"] for m in _manifests(folder) if m.get("corpus")), None)
        return {
            "recipe": run["recipe"].get("name"),
            "scale": run["recipe"].get("scale"),
            "start": start,
            "corpus": corpus,
            "seed": run.get("seed"),
            "data_seed": run.get("data_seed"),
            "phases": phases,
            "tokens": wanted,
            "tokens_done": done,
            "finished": manifest is None and done >= wanted,
            "checkpoint": manifest is not None,
            "losses": losses,
            "held_out": _table(folder / HELD_OUT, checkpoint=str, phase=str, objective=str, tokens=int, loss=float),
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise UserError(f"{str(folder)!r} is not a whole training run ({reason}): train it again") from error


def _read(path: Path) -> Data:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{str(path)!r} cannot be read: train it again") from error


def _manifests(folder: Path) -> list[Data]:
    return [read_manifest(path.parent) or {} for path in sorted(folder.glob(f"*/{MANIFEST}"))]


def _losses(folder: Path) -> list[Data]:
    """The loss curve; of a run that is not finished, of its phases and of the newest checkpoint on the way."""
    found = _table(folder / LOSSES, **COLUMNS)
    if found:
        return found
    rows: dict[int, Data] = {}
    for path in sorted([*folder.glob(f"*/{LOSSES}"), *folder.glob(f"*-checkpoints/*/{LOSSES}")]):
        rows |= {row["tokens"]: row for row in _table(path, **COLUMNS)}
    return [rows[tokens] for tokens in sorted(rows)]


COLUMNS: dict[str, Any] = {
    "phase": str,
    "step": int,
    "tokens": int,
    "learning_rate": float,
    "loss": float,
    "tokens_per_second": float,
}


def _table(path: Path, **kinds: Any) -> list[Data]:
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [row | {name: kind(row[name]) for name, kind in kinds.items()} for row in csv.DictReader(file)]


def print_training(data: Data, folder: Path, console: Console) -> None:
    """Print a run's settings, its losses thinned out, held-out losses, and how far it is."""
    scale = f", {printable(data['scale'])} scale" if data["scale"] else ""
    say(console, f"Training by {printable(str(data['recipe']))}{scale}", style="bold")
    given = {"start": data["start"], "corpus": data["corpus"], "seed": data["seed"], "data seed": data["data_seed"]}
    say(console, ", ".join(f"{name} {printable(str(v))}" for name, v in given.items() if v is not None), style="dim")
    phases = data["phases"]
    left: Any = "left"
    columns = [
        Column("phase", [printable(phase["name"]) for phase in phases], justify=left),
        Column("objective", [printable(phase["objective"].upper()) for phase in phases], justify=left),
        Column("tokens", [f"{phase['tokens']:,}" for phase in phases]),
        Column("first loss", [three_decimals(phase.get("first_loss")) for phase in phases]),
        Column("last loss", [three_decimals(phase.get("last_loss")) for phase in phases]),
    ]
    print_table(console, columns, "--json")
    shown = _thinned(data["losses"])
    if shown:
        columns = [
            Column("tokens", [f"{row['tokens']:,}" for row in shown]),
            Column("step", [f"{row['step']:,}" for row in shown], 4),
            Column("phase", [printable(row["phase"]) for row in shown], justify=left),
            Column("training loss", [three_decimals(row["loss"]) for row in shown]),
            Column("learning rate", [f"{row['learning_rate']:.2e}" for row in shown], 3),
            Column("tokens/s", [f"{row['tokens_per_second']:,.0f}" for row in shown], 2),
        ]
        print_table(console, columns, LOSSES)
    held = data["held_out"]
    if held:
        places = list(dict.fromkeys((row["checkpoint"], row["phase"], row["tokens"]) for row in held))
        by_place = {(row["checkpoint"], row["objective"]): row["loss"] for row in held}
        columns = [
            Column("held out, tokens", [f"{tokens:,}" for *_, tokens in places]),
            Column("phase", [printable(phase) for _, phase, _ in places], justify=left),
        ]
        for objective in dict.fromkeys(row["objective"] for row in held):
            cells = [three_decimals(by_place.get((checkpoint, objective))) for checkpoint, *_ in places]
            columns.append(Column(f"{printable(objective.upper())} loss", cells))
        print_table(console, columns, HELD_OUT)
    say(console, _stand(data, folder), style="bold")


def _thinned(rows: list[Data]) -> list[Data]:
    last = len(rows) - 1
    return [rows[at] for at in sorted({round(i * last / (ROWS - 1)) for i in range(ROWS)})] if rows else []


def _stand(data: Data, folder: Path) -> str:
    tokens = f"{data['tokens_done']:,} of {data['tokens']:,} tokens"
    what = f"{tokens} in {counted(len(data['phases']), 'phase')}; losses in nats a target"
    if data["checkpoint"]:
        return f"A checkpoint at {what}."
    if data["finished"]:
        return f"Finished: {what}. The model is in {printable(str(folder / 'final'))}."
    return f"Not finished: {what}. The same `cka train` command goes on from there."
