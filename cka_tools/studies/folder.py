"""A study's folder.

study.json            which study this is
runs/NAME/            a run directory of each analysis
report.html           what was found
earlier/NAME/         runs that a changed study has made anew
failed/NAME.txt       why an analysis failed
parts/                what is finished of analyses that take long, such as fine-tunings
cache/                features, where the study's settings have cache = false
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cka_tools.comparison.readout_results import KINDS
from cka_tools.comparison.results import RunResult
from cka_tools.comparison.run_directory import REPORT, resolved, run_kind, write_whole
from cka_tools.errors import UserError, reason_of
from cka_tools.store.directory import locked
from cka_tools.studies.study_file import Study

RECORD, RUNS, EARLIER, FAILED, PARTS, CACHE = "study.json", "runs", "earlier", "failed", "parts", "cache"
LOCK = ".study.lock"
IDENTITY = "study"
"""The key of a run's record that says of which study it is, and what it depends on."""


def default_folder(study: Study) -> Path:
    """Beside the study's file, named after it."""
    name = "study" if study.file is None else study.file.stem
    return study.folder / (f"cka-{name}" if name.startswith("study") else f"cka-study-{name}")


def check_folder(folder: Path, study: Study) -> None:
    """Refuse a folder that is not this study's, before anything is written.

    Raises:
        UserError: it holds another study, or something else.
    """
    place = resolved(folder)
    given = repr(str(folder))
    if not place.exists():
        if folder.is_symlink():
            raise UserError(f"--out {given} is a link that leads nowhere: remove it, or name another")
        return
    if not place.is_dir():
        raise UserError(f"--out {given} is a file: name a folder")
    file = place / RECORD
    if not file.exists():
        if any(path.name != LOCK for path in place.iterdir()):
            raise UserError(f"--out {given} holds files and is no study's folder: name one that does not exist yet")
        return
    there = _record(place)
    if IDENTITY not in there:
        raise UserError(f"{str(file)!r} cannot be read as a study's record: name another --out")
    if (other := there[IDENTITY]) != _name_of(study, place):
        raise UserError(f"--out {given} holds the study of {str(other)!r}, seen from there: name another")


@contextmanager
def held(folder: Path, study: Study) -> Iterator[Path]:
    """Make the folder this study's, and keep others out of it.

    Raises:
        UserError: as `check_folder`; another process is at it; it cannot be written.
    """
    place = resolved(folder)
    try:
        place.mkdir(parents=True, exist_ok=True)
        lock = locked(place / LOCK, wait=False)
        lock.__enter__()
    except BlockingIOError:
        raise UserError(f"{str(folder)!r}: this study is running in another process: wait for it, or stop it") from None
    except OSError as error:
        raise UserError(f"--out {str(folder)!r} cannot be written ({reason_of(error)}): name another") from error
    try:
        check_folder(folder, study)
        _write(place, {"format": 1, IDENTITY: _name_of(study, place), "title": study.title})
        yield folder
    finally:
        lock.__exit__(None, None, None)


def _record(place: Path) -> dict[str, Any]:
    try:
        found = json.loads((place / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _write(place: Path, facts: dict[str, Any]) -> None:
    """Put facts into the study's record, which keeps what else it holds."""
    record = _record(place)
    if record | facts != record:
        write_whole(place / RECORD, json.dumps(record | facts, indent=1) + "\n")


def is_reported(folder: Path, content: str) -> bool:
    """Whether the report there was made of this content, by its hash."""
    return (folder / REPORT).is_file() and _record(folder).get("report") == content


def note_report(folder: Path, content: str) -> None:
    """Keep of what the report was made."""
    _write(folder, {"report": content})


def _name_of(study: Study, place: Path) -> str | None:
    """The study's file, seen from its folder; both may move together."""
    return None if study.file is None else Path(os.path.relpath(study.file.resolve(), place)).as_posix()


def finished(folder: Path, identity: str) -> bool:
    """Whether a run directory holds this very run, undamaged."""
    kind = run_kind(folder)
    if kind not in KINDS:
        return False
    try:
        return (KINDS[kind].load(folder).record.get(IDENTITY) or {}).get("identity") == identity
    except (UserError, AttributeError):
        return False


def save(result: RunResult, folder: Path, name: str, identity: str) -> Path:
    """Save a run of the study; what was there before goes to the earlier ones.

    Raises:
        NotDrawn: saved, but for its table or figure. UserError: it cannot be written.
    """
    target = folder / RUNS / name
    result.record[IDENTITY] = {"name": name, "identity": identity}
    try:
        if target.exists() or target.is_symlink():
            earlier = folder / EARLIER
            earlier.mkdir(exist_ok=True)
            number = 1
            while (place := earlier / f"{name}-{number}").exists():
                number += 1
            target.rename(place)
    except OSError as error:
        raise UserError(f"{str(target)!r} cannot be put aside ({reason_of(error)}): see to its folder") from error
    return result.save(target)


def tell_failure(folder: Path, name: str, text: str | None) -> Path:
    """Write why a run failed; None takes back what an earlier try wrote."""
    file = folder / FAILED / f"{name}.txt"
    if text is None:
        file.unlink(missing_ok=True)
    else:
        file.parent.mkdir(exist_ok=True)
        write_whole(file, text)
    return file
