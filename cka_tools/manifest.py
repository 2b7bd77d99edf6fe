"""The manifest `training.json` beside a checkpoint that was trained here: what was trained, on what, how far.

Read by everything that meets a checkpoint; written by training alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from cka_tools.errors import UserError
from cka_tools.forms import NUMBER, TEXT, WHOLE, fault_in

MANIFEST = "training.json"
RUN, FINAL = "run.json", "final"
"""Of a training run's directory: what makes the run, and its model."""

LOSSES, HELD_OUT = "loss.csv", "held_out.csv"

NoiseKind = Literal["masks", "order", "unknown"]

PHASE = {"name": str, "objective": str, "tokens": int}
RECIPE = {"phases": [PHASE], "name?": TEXT, "scale?": TEXT}
FORM = {
    "recipe?": RECIPE, "phase?": PHASE, "start?": TEXT, "corpus?": TEXT, "model?": TEXT, "segment?": TEXT,
    "key?": ({"parent_weights_sha256": str, "phase": {"name": str}, "phase_index": int}, None),
    "data_sha256?": TEXT, "weights_sha256?": TEXT, "weights_dtype?": str, "optimizer_sha256?": TEXT,
    "state_sha256?": TEXT, "seed?": WHOLE, "data_seed?": WHOLE, "tokens?": WHOLE, "run_tokens?": WHOLE,
    "next_sequence?": WHOLE, "final_loss?": (NUMBER, {"*": NUMBER}), "notes?": [str],
}  # fmt: skip
"""What is read of a manifest that `cka train` wrote, as `forms` has it."""


def read_manifest(folder: Path | None) -> dict[str, Any] | None:
    """Return the manifest of a directory, None where it has none or a model has no directory.

    `seed` fixes masks and dropout, `data_seed` the order of the documents. Where a manifest has no
    `data_seed`, one number fixed both: it is filled in.

    Raises:
        UserError: it cannot be read. What it holds may still be anything: other programs write such files too.
    """
    if folder is None:
        return None
    file = folder / MANIFEST
    if not file.is_file():
        return None
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise UserError(f"manifest {str(file)!r} cannot be read: remove its directory") from error
    if not isinstance(manifest, dict):
        raise UserError(f"manifest {str(file)!r} holds no JSON object: remove its directory")
    if "seed" in manifest:
        manifest.setdefault("data_seed", manifest["seed"])
    return manifest


def trained_tokens(manifest: Mapping[str, Any] | None) -> int | None:
    """Return the tokens of the whole run up to a checkpoint, its start model's not counted; None if unknown.

    `tokens` of a manifest that also has `run_tokens` are those of its phase.
    """
    count = (manifest or {}).get("run_tokens", (manifest or {}).get("tokens"))
    return count if isinstance(count, int) and not isinstance(count, bool) else None


def noise_kind(manifest_b: Mapping[str, Any] | None, manifest_control: Mapping[str, Any] | None) -> NoiseKind:
    """Return in what a control differs from the checkpoint B that it is a control of.

    Args:
        manifest_b, manifest_control: as `read_manifest` gives them; None where a checkpoint has none.

    Returns:
        "masks": the same data in the same order, another seed. "order": data of another seed. "unknown":
        a manifest is lacking or says too little, nothing differs, or the data differ in more than their order
        (one data seed, other data).
    """
    b, control = manifest_b or {}, manifest_control or {}
    facts = [one.get(name) for one in (b, control) for name in ("data_sha256", "seed", "data_seed")]
    if None in facts:
        return "unknown"
    if b["data_sha256"] == control["data_sha256"]:
        return "masks" if b["seed"] != control["seed"] else "unknown"
    return "order" if b["data_seed"] != control["data_seed"] else "unknown"


def identical_until(one: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> str | None:
    """Return until when two checkpoints are the same run, to the bit, by their manifests.

    The key of a phase names the weights that it began with. Where a manifest has none: two runs on the same
    data in the same order are one while their phases are equal and either draw nothing from the seed (causal
    language modelling masks no token) or have the same seed.

    Args:
        one, other: as `read_manifest` gives them; None where a checkpoint has none.

    Returns:
        Words that complete "the same run until …"; None where the manifests show no such thing, or are not of `FORM`.
    """
    one, other = one or {}, other or {}
    if any(fault_in(side, FORM) for side in (one, other)):
        return None
    key, other_key = one.get("key"), other.get("key")
    if key and other_key:
        parent, other_parent = key["parent_weights_sha256"], other_key["parent_weights_sha256"]
        if key == other_key or one.get("weights_sha256") == other_parent or other.get("weights_sha256") == parent:
            return THE_EARLIER
        trained = min(key["phase_index"], other_key["phase_index"]) > 0
        return f"the phase {key['phase']['name']!r}" if trained and parent == other_parent else None
    if not one.get("recipe") or any(one.get(name) != other.get(name) for name in ("data_sha256", "start")):
        return None
    recipe, other_recipe = ({**manifest.get("recipe", {})} for manifest in (one, other))
    phases, other_phases = recipe.pop("phases"), other_recipe.pop("phases", [])
    recipe["name"] = other_recipe.get("name")
    if recipe != other_recipe:
        return None
    for at, (phase, twin) in enumerate(zip(phases, other_phases, strict=False)):
        same = phase | {"name": twin["name"]} == twin
        if not same or (phase["objective"] != "clm" and one.get("seed") != other.get("seed")):
            return f"the phase {phase['name']!r}" if at else None
    return THE_EARLIER


THE_EARLIER = "the end of the earlier one"
