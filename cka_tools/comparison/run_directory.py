"""A run on disk: written whole or not at all, read whatever version wrote it."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from cka_tools.comparison.record import (
    ABLATION,
    COMMANDS,
    COMPARISON,
    CONTRAST,
    FORMAT,
    HEALTH,
    INTERPOLATION,
    MATRIX,
    MEANS,
    TRAJECTORY,
    TRANSPLANT,
    JsonObject,
)
from cka_tools.errors import UserError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


SHARED = ("summary", "pairs", "provenance")
PARTS = {
    COMPARISON: (*SHARED, "layers", "matrix", "best_match"),
    TRAJECTORY: SHARED,
    MATRIX: (*SHARED, "linkage"),
    CONTRAST: (*SHARED, "layers"),
    ABLATION: (*SHARED, "axis"),
    TRANSPLANT: (*SHARED, "ends", "gap", "hybrids", "additivity"),
    INTERPOLATION: (*SHARED, "points", "barrier"),
    HEALTH: (*SHARED, "models", "differences"),
}
"""What the record of each kind must hold."""

RESULT, ARRAYS, FIGURE = "result.json", "arrays.safetensors", "figure"
FIGURE_SUFFIXES = ("pdf", "png")


def check_free(run_dir: Path, option: str = "--out") -> None:
    """Refuse an output directory that cannot become a new run, before any work is done.

    Args:
        option: by which it was named.

    Raises:
        UserError: it is a file, or holds files already.
    """
    if run_dir.exists() and not run_dir.is_dir():
        raise UserError(f"{option} {str(run_dir)!r} is a file: name a directory that does not exist yet")
    if run_dir.is_dir() and any(run_dir.iterdir()):
        held = "another run" if (run_dir / RESULT).exists() else "files already"
        raise UserError(f"{option} {str(run_dir)!r} holds {held}: name a directory that does not exist yet")
    parent = next(p for p in run_dir.absolute().parents if p.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise UserError(f"{option} {str(run_dir)!r}: {str(parent)!r} cannot be written to; name another place")


def write_run(
    run_dir: Path,
    record: JsonObject,
    arrays: dict[str, np.ndarray],
    table: pd.DataFrame,
    figure: Callable[[], Figure],
    *,
    table_name: str,
    into: bool = False,
) -> Path:
    """Write all files of a run under a temporary name, then rename; `result.json` last.

    Args:
        into: the directory may hold other files, which stay (checkpoints of an ablation).

    Raises:
        UserError: the directory is taken, or the disk is full or read-only.
    """
    if not into:
        check_free(run_dir)
    staging: Path | None = None
    try:
        run_dir.absolute().parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{run_dir.name}-", dir=run_dir.absolute().parent))
        staging.chmod(0o755)
        save_file({name: np.ascontiguousarray(a) for name, a in arrays.items()}, staging / ARRAYS)
        table.to_csv(staging / table_name, index=False)
        drawn = figure()
        for suffix in FIGURE_SUFFIXES:
            drawn.savefig(staging / f"{FIGURE}.{suffix}")
        text = json.dumps({"format": FORMAT, **record}, indent=1, ensure_ascii=False, allow_nan=False)
        (staging / RESULT).write_text(text + "\n", encoding="utf-8")
        for written in staging.iterdir():
            written.chmod(0o644)
        if into:
            run_dir.mkdir(exist_ok=True)
            for written in sorted(staging.iterdir(), key=lambda path: path.name == RESULT):
                written.replace(run_dir / written.name)
        else:
            if run_dir.is_dir():
                run_dir.rmdir()
            staging.rename(run_dir)
    except (OSError, SafetensorError) as error:
        raise UserError(_why_not_written(run_dir, error)) from error
    finally:
        if staging is not None and staging.exists():
            shutil.rmtree(staging, ignore_errors=True)
    return run_dir


def _why_not_written(run_dir: Path, error: Exception) -> str:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"no space left for {str(run_dir)!r}: nothing was kept; free some or name another --out"
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return f"{str(run_dir)!r} could not be written ({reason}): nothing was kept; name another --out"


def write_figure(figure: Figure, path: Path) -> None:
    """Write a figure under a temporary name, then rename.

    Raises:
        UserError: the place cannot be written to.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix[1:])
    write_whole(path, buffer.getvalue())


def write_whole(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, then rename.

    Raises:
        UserError: the place cannot be written to.
    """
    staging = path.with_name(f".{path.name}.partial")
    try:
        staging.write_bytes(content)
        staging.replace(path)
    except OSError as error:
        staging.unlink(missing_ok=True)
        raise UserError(f"--out {str(path)!r} could not be written ({error.strerror}): name another place") from error


def run_kind(run_dir: Path) -> str | None:
    """What a run directory holds: COMPARISON, or a kind its record names; None where it cannot be read."""
    try:
        record = json.loads((run_dir / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return _kind(record)


def _kind(record: Any) -> str | None:
    if not isinstance(record, dict):
        return None
    kind = record.get("kind", COMPARISON if "matrix" in record else None)
    return kind if isinstance(kind, str) else None


def read_run(run_dir: Path, kind: str = COMPARISON) -> tuple[JsonObject, dict[str, np.ndarray]]:
    """The record and arrays of a run; a record of version 0.1 is brought to today's form.

    Raises:
        UserError: no run of this kind there, or one that is damaged or of a later format.
    """
    path = run_dir / RESULT
    command = f"`cka {COMMANDS[kind]}`"
    if not path.is_file():
        raise UserError(f"{str(run_dir)!r} is not a run: it holds no {RESULT}; name a directory that {command} wrote")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{str(run_dir)!r} is damaged ({error}): make the run again") from error
    if _kind(record) != kind:
        raise UserError(f"{str(path)!r} is not a {kind}'s result: name a directory that {command} wrote")
    written = record.pop("format", 0)
    if not isinstance(written, int) or written > FORMAT:
        raise UserError(f"{str(run_dir)!r} was written by a later version of cka-tools: upgrade to read it")
    try:
        if written < FORMAT:
            record = upgrade(record, kind)
        if lost := [part for part in PARTS[kind] if part not in record]:
            raise UserError(f"{str(run_dir)!r} is damaged (no {', '.join(lost)}): make the run again")
        old_ablation = kind == ABLATION and not (run_dir / ARRAYS).is_file()
        return record, {} if old_ablation else load_file(run_dir / ARRAYS)
    except (OSError, SafetensorError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise UserError(f"{str(run_dir)!r} is damaged ({error}): make the run again") from error


NOT_KEPT = {"value": None, "ci_low": None, "ci_high": None, "reason": "version 0.1 did not keep it"}


def upgrade(record: JsonObject, kind: str) -> JsonObject:
    """Bring a record of format 1 to format 2.

    Raises:
        KeyError, TypeError: a record that lacks what its kind has.
    """
    return {COMPARISON: _comparison, TRAJECTORY: _trajectory, MATRIX: _matrix, ABLATION: _ablation}[kind](record)


def _cka_of(layer: JsonObject) -> JsonObject:
    """Debiased CKA of a comparison's layer, as today's record holds an interval."""
    reason = {"reason": layer["reason"]} if layer.get("reason") else {}
    return {"value": layer["cka_debiased"], "ci_low": layer["ci_low"], "ci_high": layer["ci_high"]} | reason


def _minus(value: float | None) -> float | None:
    return None if value is None else 1 - value


def _complement(entry: JsonObject) -> JsonObject:
    """1 − an interval, whose ends change places."""
    ends = {"ci_low": _minus(entry["ci_high"]), "ci_high": _minus(entry["ci_low"])}
    reason = {"reason": entry["reason"]} if entry.get("reason") else {}
    return {"value": _minus(entry["value"]), **ends, **reason}


def _with_cka(layer: JsonObject) -> JsonObject:
    """A layer of a trajectory, matrix or ablation, which kept divergences alone."""
    cka = _complement(layer["divergence"])
    known = {"layer_a": layer["layer"], "layer_b": layer["layer"]} if "layer" in layer else {}
    return (
        {"top_feature_a": None, "top_feature_b": None, "divergence_biased": None}
        | {name: value for name, value in layer.items() if name != "layer"}
        | known
        | {
            "cka_debiased": cka["value"],
            "cka_biased": _minus(layer.get("divergence_biased")),
            "ci_low": cka["ci_low"],
            "ci_high": cka["ci_high"],
            "measures": {"cka": cka},
        }
    )


def _comparison(record: JsonObject) -> JsonObject:
    summary = record["summary"]
    for layer in record["layers"]:
        cka = _cka_of(layer)
        layer["divergence"] = _complement(cka)
        layer["divergence_biased"] = _minus(layer["cka_biased"])
        layer["measures"] = {"cka": cka}
    models = record["provenance"]["models"]
    record["provenance"]["models"] = [{"role": role, **model} for role, model in models.items()]
    pair = {"a": 0, "b": 1, "role": "pair", **{f"{n}_divergence": summary[f"{n}_divergence"] for n in MEANS}}
    if "control" in summary:
        pair["control"] = {f"{n}_divergence": summary["control"][f"{n}_divergence"] for n in MEANS}
        pair["ratio"] = summary["ratio"]
    return {"kind": COMPARISON, **record, "pairs": [pair | {"layers": record["layers"]}]}


def _pair(entry: JsonObject, a: int, b: int, role: str) -> JsonObject:
    layers = [_with_cka(layer) for layer in entry["layers"]]
    return {"a": a, "b": b, "role": role, **entry, "layers": layers}


def _trajectory(record: JsonObject) -> JsonObject:
    models = record["provenance"]["models"]
    checkpoints, control = record.pop("checkpoints"), record.pop("control")
    found = [("reference", models["reference"]), *(("checkpoint", one) for one in models["checkpoints"])]
    found += [("control", models["control"])] if models["control"] else []
    record["provenance"]["models"] = [{"role": role, **model} for role, model in found]
    pairs = [_pair(one, at + 1, 0, "checkpoint") for at, one in enumerate(checkpoints)]
    pairs += [_pair(control, len(pairs) + 1, 0, "control")] if control else []
    return record | {"pairs": pairs}


def _matrix(record: JsonObject) -> JsonObject:
    models = record["provenance"]["models"]
    record["provenance"]["models"] = [{"role": "model", **model} for model in models]
    pairs = [_pair(pair, pair["a"], pair["b"], "pair") for pair in record["pairs"]]
    return record | {"pairs": pairs}


def _ablation(record: JsonObject) -> JsonObject:
    cells: list[JsonObject] = []
    models: list[JsonObject] = []
    places: dict[str, int] = {}

    def place(weights: str | None, role: str) -> int | None:
        if weights is None:
            return None
        if weights not in places:
            places[weights] = len(models)
            models.append({"role": role, "name": weights[:12], "weights_sha256": weights})
        return places[weights]

    for cell in record.pop("cells"):
        known = {
            name: value
            for name, value in cell.items()
            if name not in ("layers", "ratio_range") and not name.endswith(("_divergence", "_ratio"))
        }
        known |= {"noise": "unknown" if cell["weights"]["control"] else None, "data_seed": cell["seed"]}
        both, control = (
            {f"{n}_divergence": {"debiased": cell[f"{of}{n}_divergence"], "biased": dict(NOT_KEPT)} for n in MEANS}
            for of in ("", "control_")
        )
        smallest, largest = cell["ratio_range"] or (None, None)
        ratio = {"mean": cell["mean_ratio"], "early": cell["early_ratio"], "smallest": smallest, "largest": largest}
        cells.append(
            known
            | both
            | {
                "role": "cell",
                "a": place(cell["weights"]["detour"], "detour"),
                "b": place(cell["weights"]["baseline"], "baseline"),
                "control": control,
                "ratio": ratio,
                "layers": [_with_cka(layer) for layer in cell["layers"]],
            }
        )
    for warning in record["summary"]["warnings"]:
        warning["pairs"] = warning.pop("cells")
    origin = record["provenance"]
    origin["models"] = models
    corpus = origin["corpus"]
    draw = {name: value for name, value in corpus.items() if name not in ("spec", "source")}
    origin["corpus"] = {"spec": corpus["spec"], "source": corpus["source"], "draws": [draw]}
    return record | {"pairs": cells}
