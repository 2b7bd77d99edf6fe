"""One graft as a directory that transformers loads, with a card that says what it is."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cka_tools.comparison.run_directory import check_free
from cka_tools.errors import UserError, reason_of
from cka_tools.formatting import counted, printable
from cka_tools.interventions.plan import Graft
from cka_tools.models import GraftSource, LoadOptions, SpecSource, head_of
from cka_tools.models.load import quiet_transformers

CARD = """---
library_name: transformers
tags: [cka-tools, graft]
---

# {title}

This checkpoint was not trained. It was made by copying parameters: it is the base below with parts of the donor
in the place of its own. Use it to study the two, not as a model.

| | |
|---|---|
| base | {base}, weights SHA-256 `{base_sha256}` |
| donor | {donor}, weights SHA-256 `{donor_sha256}` |
| taken from the donor | {taken} |

Everything else, the tokenizer too, is the base's. Made by cka-tools (`cka transplant --save`).
"""


def check_target(folder: Path, grafts: Sequence[Graft]) -> None:
    """Check what can be checked before any pass.

    Raises:
        UserError: several grafts, or a directory that is taken.
    """
    if len(grafts) != 1:
        raise UserError(
            f"--save {str(folder)!r} writes one model, and {counted(len(grafts), 'graft')} are asked for: name one, "
            "such as --layers 0-7 --parts mlp"
        )
    check_free(folder, "--save")


def save_graft(source: GraftSource, folder: Path, options: LoadOptions) -> None:
    """Write a graft in the number format of its base, under a temporary name, then rename.

    Raises:
        UserError: the directory is taken or cannot be written.
    """
    check_free(folder, "--save")
    kept = options.with_head(_has_head(source, options))
    loaded = source.load(replace(kept, dtype=_stored(source, kept)))
    facts = {
        "title": f"{printable(source.base.name)} with parts of {printable(source.donor.name)}",
        "base": printable(source.base.name),
        "donor": printable(source.donor.name),
        "taken": source.taken,
        **{f"{role}_sha256": (one.fingerprint() or {}).get("weights_sha256", "in memory")
           for role, one in (("base", source.base), ("donor", source.donor))},
    }  # fmt: skip
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=_parent(folder)))
    try:
        staging.chmod(0o755)
        with quiet_transformers():
            loaded.root.save_pretrained(staging, safe_serialization=True)
            loaded.tokenizer.save_pretrained(staging)
        (staging / "README.md").write_text(CARD.format(**facts), encoding="utf-8")
        for written in staging.iterdir():
            written.chmod(0o644)
        if folder.is_dir():
            folder.rmdir()
        staging.rename(folder)
    except OSError as error:
        raise UserError(
            f"--save {str(folder)!r} could not be written ({reason_of(error)}): name another place"
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _parent(folder: Path) -> Path:
    parent = folder.absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    return parent


def _has_head(source: GraftSource, options: LoadOptions) -> bool:
    try:
        head_of(source, options)
    except UserError:
        return False
    return True


def _stored(source: GraftSource, options: LoadOptions) -> Any:
    """The number format that the base's config.json names: the copies are then bit for bit those of the files."""
    if not isinstance(source.base, SpecSource):
        return options.dtype
    written = source.base.open(trust_remote_code=options.trust_remote_code).written
    return str(written.get("dtype") or written.get("torch_dtype") or "float32")
