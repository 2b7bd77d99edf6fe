"""An ablation in a terminal: the tree of what is trained with its cost, and the table of what was found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text
from rich.tree import Tree as Drawing

from cka_tools.formatting import (
    NOTHING,
    counted,
    duration,
    in_unit,
    interval_in_unit,
    noise_sentence,
    percent,
    printable,
    times,
    times_interval,
)
from cka_tools.terminal.output import say, say_remarks
from cka_tools.terminal.tables import ALWAYS, Column, divergence_columns, print_table

if TYPE_CHECKING:
    from cka_tools.ablation.plan import Plan
    from cka_tools.ablation.train import Speeds
    from cka_tools.ablation.tree import Segment
    from cka_tools.comparison.results import Ablation


CELLS_SHOWN = 3


def in_millions(tokens: int) -> str:
    """Tokens as a reader takes them in: "850", "12.3k", "2.50M", "10.0B"."""
    for unit, letter in ((1_000_000_000, "B"), (1_000_000, "M"), (1_000, "k")):
        if tokens >= unit:
            return f"{tokens / unit:.3g}{letter}"
    return str(tokens)


def plan_data(plan: Plan, speeds: Speeds, done: Mapping[tuple[str, str], int]) -> dict[str, Any]:
    """The plan as JSON data: segments, costs in tokens, seconds expected."""
    from cka_tools.ablation.train import seconds

    tree = plan.tree
    shared = tree.shared_tokens()
    costs = {
        "shared": shared,
        "unshared": tree.unshared_tokens(),
        "left": {place: tokens - done.get(place, 0) for place, tokens in shared.items()},
    }
    by_size = {own: sum(count for (size, _), count in shared.items() if size == own) for own, _ in shared}
    return {
        "axis": plan.settings.axis,
        "n": plan.budget.n * plan.budget.step,
        "cells": [str(cell) for cell in plan.cells],
        "seeds": list(plan.settings.seeds),
        "noise": plan.settings.noise,
        "tokens": {name: sum(tokens.values()) for name, tokens in costs.items()} | {"by_size": by_size},
        "tokens_per_second": {f"{size} {objective}": round(v, 1) for (size, objective), v in speeds.items()},
        "seconds": {name: seconds(tokens, speeds) for name, tokens in costs.items()},
        "segments": [
            {
                "key": segment.key,
                "parent": segment.parent,
                "start": segment.start[0],
                "size": segment.start[1],
                "seed": segment.seed,
                "data_seed": segment.data_seed,
                "phase": segment.phase.to_dict(),
                "tokens": segment.tokens,
                "cells": [f"{cell} {role}" for cell, roles in _roles_of(plan, segment).items() for role in roles],
            }
            for segment in tree.segments.values()
        ],
        "notes": plan.notes,
    }


def print_plan(plan: Plan, data: dict[str, Any], console: Console) -> None:
    """Print the tree, its cost with and without sharing, and the time expected."""
    tree = plan.tree
    title = f"cka ablate {plan.settings.axis}: n = {data['n']:,} tokens, {counted(len(plan.cells), 'cell')}, "
    title += f"seeds {', '.join(map(str, plan.settings.seeds))}"
    drawing = Drawing(Text(title, style="bold"))
    for key, start in plan.starts.items():
        where = f"random weights, {start.size}" if start.folder is None else printable(start.given)
        branch = drawing.add(Text(f"{start.name} {start.size}: {where}"))
        for segment in tree.children(None, key):
            _grow(branch, plan, segment)
    console.print(drawing, highlight=False)
    tokens, time = data["tokens"], data["seconds"]
    rates = ", ".join(f"{name} {rate:,.0f}" for name, rate in data["tokens_per_second"].items())

    def cost(name: str) -> str:
        known = time[name] is not None
        return f"{tokens[name]:,} tokens" + (f", about {duration(time[name])}" if known else "")

    segments = counted(len(tree.segments), "segment")
    lines = [f"shared     {cost('shared')} in {segments}", f"unshared   {cost('unshared')}"]
    if tokens["left"] != tokens["shared"]:
        lines.append(f"left       {cost('left')}")
    if len(tokens["by_size"]) > 1:
        lines.append("by size    " + ", ".join(f"{s} {in_millions(t)}" for s, t in tokens["by_size"].items()))
    lines.append(f"tokens/s   {rates}")
    for line in lines:
        console.print(Text(line), highlight=False, soft_wrap=True)
    for note in plan.notes:
        console.print(Text.assemble(("note ", "bold"), printable(note)), highlight=False, soft_wrap=True)


def _grow(branch: Drawing, plan: Plan, segment: Segment) -> None:
    phase = segment.phase
    masking = "" if phase.masking is None else f" {100 * phase.masking.rate:g} %"
    step = plan.budget.step
    at = segment.first_step * step
    stretch = f"{in_millions(at)} to {in_millions(at + segment.tokens)}" if at else in_millions(segment.tokens)
    words = f"{phase.name} {phase.objective.upper()}{masking}, {stretch}, seed {segment.seed}"
    if segment.data_seed != segment.seed:
        words += f" on the order of seed {segment.data_seed}"
    if phase.frozen:
        words += f", frozen {phase.frozen[0]}-{phase.frozen[-1]}"
    text = Text(words)
    by_role: dict[str, list[str]] = {}
    for cell, roles in _roles_of(plan, segment).items():
        by_role.setdefault(" and ".join(sorted(roles)), []).append(cell)
    for together, names in by_role.items():
        beyond = f" and {len(names) - CELLS_SHOWN} more" if len(names) > CELLS_SHOWN else ""
        text.append(f"  → {together} of {', '.join(names[:CELLS_SHOWN])}{beyond}", style="dim")
    below = branch.add(text)
    for child in plan.tree.children(segment.key):
        _grow(below, plan, child)


def _roles_of(plan: Plan, segment: Segment) -> dict[str, list[str]]:
    """The cells whose runs end in a segment, each with the roles that it has there."""
    roles: dict[str, list[str]] = {}
    for use in plan.tree.uses:
        if plan.tree.leaf(use).key == segment.key:
            own = roles.setdefault(f"{use.cell.axis}:{use.cell.name}", [])
            own += [] if use.role in own else [use.role]
    return roles


def print_ablation(result: Ablation, console: Console) -> None:
    """Print an ablation's cells, remarks, and one sentence; nothing given is read as markup."""
    found, record = result.cells, result.record
    axes = [printable(cell["axis"]) for cell in found]
    first = [at for at, axis in enumerate(axes) if at == 0 or axes[at - 1] != axis]
    ratios = [cell["ratio"]["mean"] for cell in found]
    noise = [cell["control"]["mean_divergence"]["debiased"] for cell in found]
    columns = [
        Column("Axis", [axis if at in first else "" for at, axis in enumerate(axes)], justify="left"),
        Column("Cell", [printable(cell["cell"]) for cell in found], justify="left"),
        Column("Size", [printable(cell["size"]) for cell in found], justify="left"),
        Column("Seed", [str(cell["seed"]) for cell in found]),
        *divergence_columns(found),
        Column("noise %", [percent(entry["value"]) for entry in noise], 6),
        Column("of", [cell["noise"] or NOTHING for cell in found], 1, "left"),
        Column("ratio", [times(ratio["value"]) for ratio in ratios]),
        Column("ratio\ninterval", [times_interval(ratio) or NOTHING for ratio in ratios], 7),
    ]
    print_table(console, columns, result.table, ends=[at - 1 for at in first[1:]])
    summary = record["summary"]
    for readout in summary.get("readouts", ()):
        _print_readout(readout, found, columns[:4], result.table, console, [at - 1 for at in first[1:]])
    reasons = [c["ratio"]["mean"]["reason"] for c in found if c["ratio"]["mean"].get("reason")]
    for reason in dict.fromkeys(reasons):
        text = f"in {counted(reasons.count(reason), 'cell')}: {printable(reason)}"
        say(console, ("no ratio or interval ", "bold"), text)
    say_remarks(console, summary, "comparison")
    sentence = f"{counted(len(found), 'comparison')} over "
    sentence += f"{counted(summary['n_documents'], 'document')}, debiased"
    kinds = [cell["noise"] for cell in found if cell["noise"]]
    told = f" {noise_sentence('the baseline', kinds)}" if kinds else ""
    say(console, f"{sentence}.{told}", style="bold")


def _print_readout(
    readout: dict[str, Any],
    cells: Sequence[dict[str, Any]],
    names: Sequence[Column],
    file: str,
    console: Console,
    ends: Sequence[int],
) -> None:
    """Print what a readout's first quantity says of every cell, and of differences from the baseline."""
    quantity, *others = readout["quantities"]
    told = [cell["readouts"][f"{readout['name']}.{quantity['name']}"] for cell in cells]
    unit = quantity["unit"]
    columns = [*names]
    for head, of, keep in (
        ("detour", "detour", (ALWAYS, 3)), ("baseline", "baseline", (6, 2)),
        ("less the\nbaseline", "difference", (ALWAYS, ALWAYS)), ("noise", "noise", (5, 4)),
    ):  # fmt: skip
        entries = [one[of] for one in told]
        columns.append(Column(head, [in_unit(entry["value"], unit) for entry in entries], keep[0]))
        columns.append(Column("interval", [interval_in_unit(entry, unit) for entry in entries], keep[1]))
    rest = f"; {', '.join(one['title'] for one in others)} in {file}" if others else ""
    what = f"{quantity['title']}{'' if unit == 'nats' else ' in %'}, difference from the baseline paired"
    say(console, (f"{printable(readout['title'])} ", "bold"), f"{what}; noise: the control less the baseline{rest}")
    print_table(console, columns, file, ends=ends)
