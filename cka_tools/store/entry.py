"""A finished entry: features and a manifest, verified byte for byte before they are used."""

import json
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from cka_tools.extraction.features import ModelFeatures
from cka_tools.store.checksum import checksum
from cka_tools.store.directory import entry_folder
from cka_tools.store.key import EntryKey, canonical, make_key
from cka_tools.store.layout import Layout

FEATURES = "features.safetensors"
MANIFEST = "manifest.json"


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
            "layout": self.layout.record(),
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
            found = cls(
                key, Layout.of(content["layout"]), content["sha256"], content["model"], content["created"]
            )
            # Written again it must be the same bytes: the checksum alone would pass a space more.
            intact = content["key"] == key.digest and found.to_bytes() == data
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise DamagedEntry(f"{MANIFEST} cannot be read") from error
        if not intact:
            raise DamagedEntry(f"{MANIFEST} does not have its checksum")
        return found


def read_entry(cache: Path, key: EntryKey, layout: Layout) -> ModelFeatures | None:
    """Features of a key, mapped into memory, once every byte was verified; None where there is no entry.

    Raises:
        DamagedEntry: the entry is there, but not as it was written.
        OSError: it cannot be read.
    """
    folder = entry_folder(cache, key.digest)
    try:
        data = (folder / MANIFEST).read_bytes()
        mapped = map_features(folder / FEATURES)
    except FileNotFoundError as error:
        if folder.is_dir():
            raise DamagedEntry(f"{Path(error.filename).name} is missing") from None
        return None
    manifest = Manifest.from_bytes(data)
    if manifest.key != key or manifest.layout != layout:
        raise DamagedEntry(f"{MANIFEST} is of another entry")
    if len(mapped) != layout.size or bytes(mapped[: len(layout.header)]) != layout.header:
        raise DamagedEntry(f"{FEATURES} has another size or header")
    if checksum(mapped) != manifest.sha256:
        raise DamagedEntry(f"{FEATURES} does not have its checksum")
    return features_of(layout, mapped)


def features_of(layout: Layout, mapped: np.memmap) -> ModelFeatures:
    """Features of a mapped file."""
    return ModelFeatures(list(layout.layers), layout.views(mapped), on_disk=True, _file=mapped)


def map_features(path: Path) -> np.memmap:
    """The bytes of a file, mapped so that nothing done to them reaches it.

    Raises:
        DamagedEntry: the file is empty.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return map_file(file)


def map_file(file: Any) -> np.memmap:
    """As `map_features`, of an open file: that works even if it was removed meanwhile."""
    if os.fstat(file.fileno()).st_size == 0:
        raise DamagedEntry(f"{FEATURES} is empty")
    # Not mode "r": torch warns of arrays that cannot be written.
    return np.memmap(file, np.uint8, mode="c")


def publish(
    cache: Path, partial: Path, key: EntryKey, layout: Layout, model: str, mapped: np.memmap
) -> ModelFeatures:
    """Turn a folder whose feature file is complete (and mapped) into an entry, with one rename.

    Raises:
        OSError: the disk is full or cannot be written; no entry was made.
    """
    created = datetime.now(UTC).isoformat(timespec="seconds")
    manifest = Manifest(key, layout, checksum(mapped), model, created)
    with (partial / MANIFEST).open("wb") as file:
        file.write(manifest.to_bytes())
        file.flush()
        os.fsync(file.fileno())
    target = entry_folder(cache, key.digest)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial.rename(target)
    return features_of(layout, mapped)


def remove_folder(folder: Path) -> None:
    """Remove an entry or a partial one; a reader sees it whole or not at all.

    Raises:
        OSError: it cannot be removed.
    """
    doomed = folder.with_name(f".removed-{folder.name}-{os.getpid()}")
    folder.rename(doomed)
    with suppress(OSError):
        shutil.rmtree(doomed)
