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
import pandas as pd
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from cka_tools.comparison.record import ABLATION, COMMANDS, COMPARISON, CONTRAST, FORMAT, MATRIX, TRAJECTORY, JsonObject
from cka_tools.comparison.version_1 import upgrade
from cka_tools.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHARED = ("summary", "pairs", "provenance")
PARTS = {
    COMPARISON: (*SHARED, "layers", "matrix", "best_match"),
    TRAJECTORY: SHARED,
    MATRIX: (*SHARED, "linkage"),
    CONTRAST: (*SHARED, "layers"),
    ABLATION: (*SHARED, "axis"),
}
"""What the record of each kind must hold."""

RESULT, ARRAYS, FIGURE = "result.json", "arrays.safetensors", "figure"
FIGURE_SUFFIXES = ("pdf", "png")


def check_free(run_dir: Path) -> None:
    """Refuse an output directory that cannot become a new run, before any work is done.

    Raises:
        UserError: it is a file, or holds files already.
    """
    if run_dir.exists() and not run_dir.is_dir():
        raise UserError(f"--out {str(run_dir)!r} is a file: name a directory that does not exist yet")
    if run_dir.is_dir() and any(run_dir.iterdir()):
        held = "another run" if (run_dir / RESULT).exists() else "files already"
        raise UserError(f"--out {str(run_dir)!r} holds {held}: name a directory that does not exist yet")
    parent = next(p for p in run_dir.absolute().parents if p.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise UserError(f"--out {str(run_dir)!r}: {str(parent)!r} cannot be written to; name another place")


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
