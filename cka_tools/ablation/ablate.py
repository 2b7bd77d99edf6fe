"""An ablation from its plan, or from checkpoints, to its record."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cka_tools.ablation.measure import Comparer, Trained, Trio, measure
from cka_tools.ablation.plan import Plan
from cka_tools.ablation.result import build_record
from cka_tools.ablation.run import segment_folder
from cka_tools.ablation.tree import Use
from cka_tools.models.hash import hash_json
from cka_tools.training.checkpoint import read_manifest


def compare_plan(plan: Plan, out: Path, comparer: Comparer) -> dict[str, Any]:
    """Compare what `train_tree` has trained in `out`, and return the record.

    Raises:
        UserError: what a comparison refuses.
    """
    notes = list(plan.notes)
    if comparer.draw.corpus == plan.corpus.spec:
        notes.append(f"the models are compared on the corpus they were trained on, {plan.corpus.spec!r}")
    notes += _other_data(plan, out)
    training = plan.identity | {"corpus": plan.corpus.spec, "preset": plan.settings.preset}
    cells = [measure(trio, comparer) for trio in plan_trios(plan, out)]
    return build_record(plan.settings.axis, cells, comparer.draw, training, notes)


def run_checkpoints(
    axis: str, trios: Sequence[Trio], comparer: Comparer, notes: Sequence[str]
) -> dict[str, Any]:
    """Compare checkpoints that are there, and return the record."""
    folders = dict.fromkeys(
        str(one.folder) for t in trios for one in (t.detour, t.baseline, t.control) if one is not None
    )
    cells = [measure(trio, comparer) for trio in trios]
    return build_record(axis, cells, comparer.draw, {"checkpoints": list(folders)}, notes)


def plan_trios(plan: Plan, out: Path) -> list[Trio]:
    """Return each cell's checkpoints, as seen with each seed."""

    def trained(use: Use) -> Trained:
        leaf = plan.tree.leaf(use)
        recipe = hash_json(plan.budget.recipe(use.branch).to_dict())
        return Trained(segment_folder(out, leaf.key), use.run_seed, plan.budget.tokens(use.branch), recipe)

    trios = []
    uses = plan.tree.uses
    for detour, baseline, control in zip(uses[::3], uses[1::3], uses[2::3], strict=True):
        cell = detour.cell
        trios.append(
            Trio(
                cell.axis,
                cell.name,
                cell.position,
                cell.size,
                detour.seed,
                cell.causal,
                trained(detour),
                trained(baseline),
                trained(control),
            )
        )
    return trios


def _other_data(plan: Plan, out: Path) -> list[str]:
    """Say where the start models of a direction's two sides were not trained on the same data."""
    if not any(cell.axis == "direction" for cell in plan.cells):
        return []
    notes = []
    for (name, size), start in plan.starts.items():
        if name != "decoder" or ("encoder", size) not in plan.starts:
            continue
        data = []
        for one in (start, plan.starts["encoder", size]):
            folder = one.folder
            if folder is None:
                segment = plan.tree.children(None, (one.name, size))[0]
                folder = segment_folder(out, segment.key)
            data.append((read_manifest(folder) or {}).get("data_sha256"))
        if None in data or data[0] != data[1]:
            notes.append(
                f"the start models of direction at {size} were not, or not by their manifests, trained "
                f"on the same packed data; for both on one, give --start {size} and --start-corpus"
            )
    return notes
