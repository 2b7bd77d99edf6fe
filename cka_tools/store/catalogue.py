"""What lies in a store: listed, verified, removed."""

import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from cka_tools.errors import UserError, reason_of
from cka_tools.store.directory import entry_folder, lock_file, locked, partial_folder, run_folder
from cka_tools.store.entry import (
    FEATURES,
    JOURNAL,
    MANIFEST,
    VERIFIED,
    DamagedEntry,
    Manifest,
    remove_folder,
    verify_entry,
)

# What a removal that was interrupted leaves.
_DOOMED = ".removed-"
_KINDS = ("features", "partial", "runs")


State = Literal["complete", "damaged", "interrupted", "snapshot"]


@dataclass(frozen=True)
class StoredEntry:
    """One entry: `size` in bytes, `created` in UTC.

    `state` is `complete`, `damaged` (its manifest; `verify_entries` looks at the features too),
    `interrupted`, or `snapshot` (of a streamed run that has not finished). What only the manifest tells is
    None where there is none.
    """

    key: str
    state: State
    size: int
    created: str
    model: str | None = None
    documents: int | None = None
    layers: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def list_entries(cache: Path) -> list[StoredEntry]:
    """Entries of a store, oldest first; none where there is no store.

    Raises:
        UserError: the store cannot be read.
    """
    with _readable(cache):
        found = [_finished(folder) for folder in _folders(cache / "features")]
        found += [_entry(folder, "interrupted") for folder in _folders(cache / "partial")]
        found += [_entry(folder, "snapshot") for folder in _folders(cache / "runs")]
    return sorted(found, key=lambda entry: (entry.created, entry.key))


def verify_entries(cache: Path) -> dict[str, str]:
    """Read every byte of every finished entry. By key: what is wrong with it, or "" where nothing is.

    Interrupted entries and snapshots are verified when a run resumes from them.

    Raises:
        UserError: the store cannot be read.
    """
    found: dict[str, str] = {}
    with _readable(cache):
        for folder in sorted(_folders(cache / "features")):
            with suppress(FileNotFoundError):  # removed meanwhile
                try:
                    verify_entry(folder)
                    found[folder.name] = ""
                except DamagedEntry as error:
                    found[folder.name] = str(error)
    return found


def choose_entries(entries: Sequence[StoredEntry], keys: Sequence[str]) -> list[StoredEntry]:
    """Entries whose keys start as given.

    Raises:
        UserError: a key that fits none, or several.
    """
    chosen: dict[str, list[StoredEntry]] = {}
    for key in keys:
        fitting = [entry for entry in entries if key and entry.key.startswith(key)]
        names = {entry.key for entry in fitting}
        if not names:
            raise UserError(f"key {key!r} fits no entry of the cache: `cka cache list` shows them")
        if len(names) > 1:
            raise UserError(f"key {key!r} fits {len(names)} entries of the cache: give more of its letters")
        chosen[names.pop()] = fitting
    return [entry for fitting in chosen.values() for entry in fitting]


def remove_entries(cache: Path, entries: Sequence[StoredEntry]) -> None:
    """Remove entries, and what earlier removals left.

    Raises:
        UserError: one is being made, or cannot be removed.
    """
    for entry in entries:
        folder = _PLACES.get(entry.state, entry_folder)(cache, entry.key)
        try:
            with locked(lock_file(cache, entry.key), wait=False), suppress(FileNotFoundError):
                remove_folder(folder)
        except BlockingIOError:
            raise UserError(
                f"entry {entry.key[:12]} is being made by another process: wait for it, or stop it"
            ) from None
        except OSError as error:
            raise UserError(
                f"entry {entry.key[:12]} in {str(cache)!r} cannot be removed ({reason_of(error)}): change "
                "the rights there"
            ) from None
    for kind in _KINDS:
        for folder in (cache / kind).glob(f"{_DOOMED}*"):
            if _is_ours(folder, _REMOVED):
                shutil.rmtree(folder, ignore_errors=True)


_PLACES = {"interrupted": partial_folder, "snapshot": run_folder}


@contextmanager
def _readable(cache: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"cache {str(cache)!r} cannot be read ({reason_of(error)})") from None


_KEY = re.compile("[0-9a-f]{64}")
_REMOVED = re.compile(re.escape(_DOOMED) + r"[0-9a-f]{64}-\d+")
_FILE = re.compile(
    rf"\.?({'|'.join(map(re.escape, (FEATURES, MANIFEST, VERIFIED, JOURNAL)))}|rank-\d+-of-\d+\.safetensors)"
    r"(\.new|\.partial)?"
)


def _is_ours(folder: Path, name: re.Pattern[str] = _KEY) -> bool:
    """Whether a store made this: a folder, no link, named by a key, with no file in it that a store has not.

    A cache directory may be any folder, one with runs of the user's too.
    """
    return (
        name.fullmatch(folder.name) is not None
        and not folder.is_symlink()
        and folder.is_dir()
        and all(_FILE.fullmatch(path.name) and not path.is_symlink() for path in folder.iterdir())
    )


def foreign(cache: Path) -> list[Path]:
    """What lies where entries do and is not one: it is never removed.

    Raises:
        UserError: the store cannot be read.
    """
    with _readable(cache):
        places = [cache / kind for kind in _KINDS if (cache / kind).is_dir()]
        found = [path for place in places for path in sorted(place.iterdir())]
        return [path for path in found if not (_is_ours(path) or _is_ours(path, _REMOVED))]


def _folders(parent: Path) -> Iterator[Path]:
    if parent.is_dir():
        yield from filter(_is_ours, parent.iterdir())


def _finished(folder: Path) -> StoredEntry:
    try:
        manifest = Manifest.from_bytes((folder / MANIFEST).read_bytes())
    except (DamagedEntry, FileNotFoundError):
        return _entry(folder, "damaged")
    return replace(
        _entry(folder, "complete" if manifest.key.digest == folder.name else "damaged"),
        created=manifest.created,
        model=manifest.model,
        documents=manifest.layout.documents,
        layers=len(manifest.layout.layers),
    )


def _entry(folder: Path, state: State) -> StoredEntry:
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    created = datetime.fromtimestamp(folder.stat().st_mtime, UTC).isoformat(timespec="seconds")
    return StoredEntry(folder.name, state, size, created)
