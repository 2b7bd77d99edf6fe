"""A run on disk: written whole or not at all, read whatever version wrote it."""

from __future__ import annotations

import errno
import io
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from cka_tools.comparison.record import (
    ABLATION,
    COMMANDS,
    COMPARISON,
    FORMAT,
    MATRIX,
    MEANS,
    TRAJECTORY,
    JsonObject,
    csv_bytes,
)
from cka_tools.comparison.schema import find_fault
from cka_tools.errors import UserError, one_line, reason_of
from cka_tools.formatting import quoted
from cka_tools.store.directory import locked

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


RESULT, ARRAYS, FIGURE = "result.json", "arrays.safetensors", "figure"
FIGURE_SUFFIXES = ("pdf", "png")
REPORT = "report.html"
"""Of one run or several, where no other name is given."""


class Taken(UserError):  # noqa: N818 - a condition that the command line goes around
    """An output directory that holds something."""


class NotDrawn(UserError):  # noqa: N818 - what is lacking, not a fault of what was given
    """A run that was saved, but for its table or figure."""

    exit_code = 1


def check_free(run_dir: Path, option: str = "--out") -> None:
    """Refuse an output directory that cannot become a new run, before any work is done.

    Args:
        option: by which it was named.

    Raises:
        Taken: it holds files already. UserError: it is a file, too long a name, or in a place where nothing
            can be written.
    """
    place = resolved(run_dir, option)
    if place.exists() and not place.is_dir():
        raise UserError(f"{option} {str(run_dir)!r} is a file: name a directory that does not exist yet")
    if place == Path.cwd():
        raise UserError(f"{option} {str(run_dir)!r} is the folder that you are in: name a directory of its own")
    if place.is_dir() and any(place.iterdir()):
        held = "another run" if (place / RESULT).exists() else "files already"
        raise Taken(f"{option} {str(run_dir)!r} holds {held}: name a directory that does not exist yet")
    parent = next(p for p in place.parents if p.exists())
    try:  # a right to write says little: of a full disk, a quota, or the system's own folders nothing
        Path(tempfile.mkdtemp(prefix=".cka-probe-", dir=parent)).rmdir()
    except OSError as error:
        reason = f"{str(parent)!r} cannot be written to ({reason_of(error)})"
        raise UserError(f"{option} {str(run_dir)!r}: {reason}; name another place") from error


def resolved(path: Path, option: str = "--out") -> Path:
    """Where a path leads, through links and `~`.

    Raises:
        UserError: nowhere: links in a circle, no such home, or a name that is too long.
    """
    try:
        place = path.expanduser().resolve()
        if max(len(os.fsencode(part)) for part in place.parts) > NAME_BYTES or len(os.fsencode(place)) > PATH_BYTES:
            raise OSError(errno.ENAMETOOLONG, "the name is too long")
        place.exists()
    except (OSError, RuntimeError, ValueError) as error:
        reason = reason_of(error) if isinstance(error, OSError) else one_line(error)
        raise UserError(f"{option} {quoted(path, 400)} cannot be used ({reason}): name another place") from error
    return place


NAME_BYTES, PATH_BYTES = 255, 4000
"""The longest names of files that common systems have, with room for the files of a run."""

STAGING = ".cka-run-"


def write_run(
    run_dir: Path,
    record: JsonObject,
    arrays: dict[str, np.ndarray],
    table: Callable[[], pd.DataFrame],
    figure: Callable[[], Figure],
    *,
    table_name: str,
    into: bool = False,
) -> Path:
    """Write all files of a run under a temporary name, then rename.

    Results come first: where the table or a picture cannot be made, the run is saved without it.

    Args:
        into: the directory may hold other files, which stay (checkpoints of an ablation).

    Returns:
        the directory.

    Raises:
        Taken: the directory holds something already. NotDrawn: saved, but for what the message says.
        UserError: the disk is full or read-only.
    """
    if not into:
        check_free(run_dir)
    lacking: dict[str, str] = {}
    place = resolved(run_dir)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with _staging(place.parent) as staging:
            save_file({name: np.ascontiguousarray(a) for name, a in arrays.items()}, staging / ARRAYS)
            text = json.dumps({"format": FORMAT, **record}, indent=1, ensure_ascii=False, allow_nan=False)
            # Of a name that is not UTF-8 half a surrogate pair is left: JSON escapes it in the same way.
            (staging / RESULT).write_bytes((text + "\n").encode("utf-8", "backslashreplace"))
            _add(staging, "table", lambda: csv_bytes(table()), (table_name,), lacking)
            _add(staging, "figure", figure, [f"{FIGURE}.{suffix}" for suffix in FIGURE_SUFFIXES], lacking)
            for written in staging.iterdir():
                written.chmod(0o644)
            if into:
                place.mkdir(exist_ok=True)
                for written in sorted(staging.iterdir(), key=lambda path: path.name == RESULT):
                    written.replace(place / written.name)
            else:
                _rename(staging, place, run_dir)
    except (OSError, SafetensorError) as error:
        raise UserError(_why_not_written(run_dir, error)) from error
    if lacking:
        what, why = " and ".join(lacking), "; ".join(dict.fromkeys(lacking.values()))
        redraw = f": `cka plot {run_dir}` draws it" if "figure" in lacking else ""
        raise NotDrawn(f"the run was saved in {str(run_dir)!r} without its {what} ({why}){redraw}")
    return run_dir


def _add(staging: Path, what: str, make: Callable[[], Any], names: Sequence[str], lacking: dict[str, str]) -> None:
    """Write a table or a figure; whatever stops it, the results are kept without it."""
    try:
        made = make()
        for name in names:
            if isinstance(made, bytes):
                (staging / name).write_bytes(made)
            else:
                made.savefig(staging / name)
    except Exception as error:
        for name in names:
            (staging / name).unlink(missing_ok=True)
        lacking[what] = reason_of(error) if isinstance(error, OSError) else f"{type(error).__name__}: {one_line(error)}"


def _rename(staging: Path, place: Path, run_dir: Path) -> None:
    try:
        if place.is_dir():
            place.rmdir()
        staging.rename(place)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise Taken(f"--out {str(run_dir)!r} was taken meanwhile: name another") from error
        raise


@contextmanager
def _staging(parent: Path) -> Iterator[Path]:
    """A folder to write to, beside its later place, with what killed runs have left there removed.

    A lock says which of them are still being written.
    """
    for lock in parent.glob(f"{STAGING}*.lock"):
        with suppress(OSError, NotImplementedError), locked(lock, wait=False):
            if not (left := lock.with_suffix("")).is_symlink():
                shutil.rmtree(left, ignore_errors=True)
    staging = parent / f"{STAGING}{secrets.token_hex(4)}"
    with ExitStack() as held:
        with suppress(OSError, NotImplementedError):  # a file system without locks
            held.enter_context(locked(staging.with_name(f"{staging.name}.lock"), wait=False))
        held.callback(shutil.rmtree, staging, ignore_errors=True)
        staging.mkdir()
        yield staging


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


def write_whole(path: Path, content: bytes | str) -> None:
    """Write a file under a temporary name, then rename; through a link, and to a device as it stands.

    Raises:
        UserError: the place cannot be written to.
    """
    content = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    place = resolved(path)
    staging = None
    try:
        if place.exists() and not place.is_file():
            place.write_bytes(content)
            return
        # A name of its own length: one of 255 bytes leaves no room for more.
        staging = place.with_name(f".cka-{sha256(os.fsencode(place.name)).hexdigest()[:12]}.partial")
        staging.write_bytes(content)
        staging.replace(place)
    except OSError as error:
        if staging is not None:
            with suppress(OSError):  # where a file stands in the way of a folder, there is nothing
                staging.unlink()
        raise UserError(f"--out {str(path)!r} could not be written ({reason_of(error)}): name another place") from error


def run_kind(run_dir: Path) -> str | None:
    """What a run directory holds: COMPARISON, or a kind its record names; None where it cannot be read."""
    try:
        return _kind(_read_json(run_dir / RESULT))
    except (OSError, ValueError, RecursionError):
        return None


def _read_json(path: Path) -> Any:
    """JSON as the standard has it.

    Raises:
        OSError, ValueError, RecursionError: it cannot be read, or is not that.
    """

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


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
    path, name = run_dir / RESULT, quoted(run_dir, 400)
    command = f"`cka {COMMANDS[kind]}`"
    try:
        if not path.is_file():
            raise UserError(f"{name} is not a run: it holds no {RESULT}; name a directory that {command} wrote")
        record = _read_json(path)
    except UserError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        reason = reason_of(error) if isinstance(error, OSError) else one_line(error)
        raise UserError(f"{name} is damaged ({reason}): make the run again") from error
    if (found := _kind(record)) != kind:
        if found not in (*COMMANDS, None):
            raise UserError(f"{name} is a run of the kind {quoted(found)}, which is not known: upgrade to read it")
        raise UserError(f"{quoted(path, 400)} is not a {kind}'s result: name a directory that {command} wrote")
    written = record.pop("format", 0)
    if isinstance(written, bool) or not isinstance(written, int) or not 0 <= written <= FORMAT:
        raise UserError(f"{name} has the format {quoted(written)}, not 1 to {FORMAT}: upgrade to read a later one")
    try:
        if written < FORMAT:
            record = upgrade(record, kind)
        old_ablation = kind == ABLATION and not (run_dir / ARRAYS).is_file()
        arrays = {} if old_ablation else load_file(run_dir / ARRAYS)
        fault = find_fault(record, arrays, kind)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else one_line(error)
        raise UserError(f"{name} is damaged ({reason}): make the run again") from error
    if fault:
        raise UserError(f"{name} is damaged ({fault}): make the run again")
    return record, arrays


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
