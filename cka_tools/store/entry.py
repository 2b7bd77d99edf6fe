"""A finished entry: a safetensors file of one tensor a layer, a manifest, and the mark of a verified file.

A hit reads the manifest and compares size and header; the features themselves are hashed once, when they were
not written here (see `mark_of`), and by `verify_entry`.
"""

import hashlib
import json
import mmap
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cka_tools.extraction.features import Layout, ModelFeatures
from cka_tools.store.directory import entry_folder

_CHUNK = 8 * 1024**2
# Hashing leaves the interpreter free; beyond a few threads the disk is what one waits for.
_THREADS = min(4, os.cpu_count() or 1)


def checksum(mapped: np.memmap) -> str:
    """sha256, hex, over the sha256 of each 8 MiB of a mapped file of bytes. It does not stay in memory."""
    root = hashlib.sha256()
    with ThreadPoolExecutor(_THREADS) as pool:
        for digest in pool.map(partial(_digest, mapped), range(0, len(mapped), _CHUNK)):
            root.update(digest)
    return root.hexdigest()


def _digest(mapped: np.memmap, start: int) -> bytes:
    chunk = mapped[start : start + _CHUNK]
    digest = hashlib.sha256(chunk.data).digest()
    if isinstance(mapped.base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        mapped.base.madvise(mmap.MADV_DONTNEED, start, len(chunk))
    return digest


FEATURES = "features.safetensors"
JOURNAL = "journal"
MANIFEST = "manifest.json"
VERIFIED = "verified"
"""Holds the mark of the feature file that was written, or verified, in this place."""


@dataclass(frozen=True)
class EntryKey:
    """`digest` is sha256, hex, of the canonical JSON of `content`."""

    digest: str
    content: dict[str, Any]


def make_key(content: dict[str, Any]) -> EntryKey:
    """The key of some content."""
    return EntryKey(hashlib.sha256(canonical(content)).hexdigest(), content)


def canonical(value: Any) -> bytes:
    """Canonical JSON: sorted names, no spaces, ASCII.

    Raises:
        TypeError: a value that JSON does not have.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


class DamagedEntry(Exception):  # noqa: N818 - a condition that is repaired, not a fault
    """An entry that is not, byte for byte, what was written."""


@dataclass(frozen=True)
class Manifest:
    """What an entry holds. `model` and `created` are for the reader; nothing depends on them.

    `sha256` is the checksum of the feature file (see `checksum`).
    """

    key: EntryKey
    layout: Layout
    sha256: str
    model: str
    created: str

    def to_bytes(self) -> bytes:
        """The file's content: canonical JSON with a checksum of its own."""
        content: dict[str, Any] = {
            "key": self.key.digest,
            "content": self.key.content,
            "layout": asdict(self.layout),
            "sha256": self.sha256,
            "model": self.model,
            "created": self.created,
        }
        return canonical(content | {"manifest_sha256": make_key(content).digest})

    @classmethod
    def from_bytes(cls, data: bytes) -> "Manifest":
        """The manifest of a file's content.

        Raises:
            DamagedEntry: any byte is not as it was written.
        """
        try:
            content = json.loads(data)
            key = make_key(content["content"])
            layout = content["layout"]
            layout = Layout(**layout | {name: tuple(layout[name]) for name in ("layers", "widths")})
            found = cls(key, layout, content["sha256"], content["model"], content["created"])
            # Written again it must be the same bytes: the checksum alone would pass a space more.
            intact = content["key"] == key.digest and found.to_bytes() == data
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise DamagedEntry(f"{MANIFEST} cannot be read") from error
        if not intact:
            raise DamagedEntry(f"{MANIFEST} does not have its checksum")
        return found


def read_entry(cache: Path, key: EntryKey, layout: Layout | None = None) -> ModelFeatures | None:
    """Features of a key, mapped into memory; None where there is no entry.

    Every byte of the manifest is verified, and size and header of the features. The features themselves are
    verified where the file does not have its mark: it was copied here, or written to.

    Raises:
        DamagedEntry: the entry is there, but not as it was written.
        OSError: it cannot be read.
    """
    folder = entry_folder(cache, key.digest)
    opened = _open_entry(folder)
    if opened is None:
        return None
    manifest, mapped = opened
    # A model whose weights were not loaded does not tell its widths: the layout is then the manifest's.
    layout = layout or manifest.layout
    if manifest.key != key or manifest.layout != layout:
        raise DamagedEntry(f"{MANIFEST} is of another entry")
    if not _is_marked(folder):
        _verify(folder, manifest, mapped)
    return layout.features(mapped)


def verify_entry(folder: Path) -> None:
    """Verify every byte of an entry, and mark its file as verified.

    Raises:
        DamagedEntry: a byte is not as it was written.
        FileNotFoundError: there is no such entry.
        OSError: it cannot be read.
    """
    opened = _open_entry(folder)
    if opened is None:
        raise FileNotFoundError(folder)
    _verify(folder, *opened)


def mark_of(file: Path) -> str:
    """What tells a file from its copies and from what was written to it later: inode, times and size.

    A disk that loses bits by itself does not change it.

    Raises:
        OSError: the file cannot be found.
    """
    found = file.stat()
    return f"{found.st_ino} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_size}"


def _is_marked(folder: Path) -> bool:
    try:
        return (folder / VERIFIED).read_text(encoding="ascii") == mark_of(folder / FEATURES)
    except (OSError, UnicodeDecodeError):
        return False


def _verify(folder: Path, manifest: Manifest, mapped: np.memmap) -> None:
    mark = mark_of(folder / FEATURES)  # before it is read: what is written meanwhile changes it
    if checksum(mapped) != manifest.sha256:
        raise DamagedEntry(f"{FEATURES} does not have its checksum")
    with suppress(OSError):  # a store that cannot be written is verified each time
        (folder / VERIFIED).write_text(mark, encoding="ascii")


def _open_entry(folder: Path) -> tuple[Manifest, np.memmap] | None:
    try:
        data = (folder / MANIFEST).read_bytes()
        mapped = map_features(folder / FEATURES)
    except FileNotFoundError as error:
        if folder.is_dir():
            raise DamagedEntry(f"{Path(error.filename).name} is missing") from None
        return None
    manifest = Manifest.from_bytes(data)
    if manifest.key.digest != folder.name:
        raise DamagedEntry(f"{MANIFEST} is of another entry")
    if not manifest.layout.fits(mapped):
        raise DamagedEntry(f"{FEATURES} has another size or header")
    return manifest, mapped


def map_features(file: Any) -> np.memmap:
    """The bytes of a file, mapped so that nothing done to them reaches it; an open one may be removed meanwhile.

    Raises:
        DamagedEntry: the file is empty.
        OSError: it cannot be read.
    """
    try:
        # Not mode "r": torch warns of arrays that cannot be written.
        return np.memmap(file, np.uint8, mode="c")
    except ValueError:
        raise DamagedEntry(f"{FEATURES} is empty") from None


def publish(cache: Path, folder: Path, key: EntryKey, layout: Layout, model: str, mapped: np.memmap) -> None:
    """Turn a folder whose feature file is complete (and mapped) into an entry, with one rename.

    Raises:
        OSError: the disk is full or cannot be written; no entry was made.
    """
    created = datetime.now(UTC).isoformat(timespec="seconds")
    manifest = Manifest(key, layout, checksum(mapped), model, created)
    with (folder / MANIFEST).open("wb") as file:
        file.write(manifest.to_bytes())
        file.flush()
        os.fsync(file.fileno())
    (folder / VERIFIED).write_text(mark_of(folder / FEATURES), encoding="ascii")
    target = entry_folder(cache, key.digest)
    target.parent.mkdir(parents=True, exist_ok=True)
    folder.rename(target)


def remove_folder(folder: Path) -> None:
    """Remove an entry or a partial one; a reader sees it whole or not at all.

    Raises:
        OSError: it cannot be removed.
    """
    doomed = folder.with_name(f".removed-{folder.name}-{os.getpid()}")
    folder.rename(doomed)
    with suppress(OSError):
        shutil.rmtree(doomed)
