"""The result of an ablation: made of trios of checkpoints, written to a run directory, read back."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from cka_tools.errors import UserError

KIND: Final = "ablation"
FORMAT: Final = 1
RESULT, TABLE, FIGURE = "result.json", "ablation.csv", "figure"
PACKAGES: Final = ("torch", "transformers", "tokenizers", "accelerate", "numpy")

JsonObject = dict[str, Any]


def build_record(
    axis: str, cells: list[JsonObject], draw: Any, training: JsonObject, notes: Sequence[str]
) -> JsonObject:
    """Return what `result.json` holds.

    Args:
        cells: what `measure` gave.
        draw: the `DocumentDraw` that all were compared on.
        training: where the checkpoints come from.
    """
    from cka_tools.comparison.provenance import circumstances

    warned: dict[str, JsonObject] = {}
    for cell in cells:
        for warning in cell["warnings"]:
            place = f"{cell['axis']}:{cell['cell']}@{cell['size']} seed {cell['seed']}"
            entry = warned.setdefault(warning["code"], {"code": warning["code"], "cells": []})
            entry["cells"].append(place)
            entry.setdefault("text", f"{place}: {warning['text']}")
    return {
        "kind": KIND,
        "axis": axis,
        "summary": {
            "axis": axis,
            "n_documents": cells[0]["n_documents"] if cells else 0,
            "warnings": list(warned.values()),
            "notes": [*notes, *draw.notes],
        },
        "cells": cells,
        "provenance": {
            "training": training,
            "corpus": {
                "spec": draw.corpus,
                "source": draw.source,
                "seed": draw.seed,
                "fingerprint": draw.fingerprint,
                "counts": draw.counts,
                "document_ids": [document.id for document in draw.documents],
            },
            **circumstances(PACKAGES),
        },
    }


def write_ablation(out: Path, record: JsonObject) -> Path:
    """Write table, figure and, last, `result.json`; each file whole or not at all.

    Raises:
        UserError: the directory cannot be written.
    """
    from cka_tools.ablation.table import to_csv
    from cka_tools.plotting.ablation_page import ablation_figure

    figure = ablation_figure(record)
    text = json.dumps({"format": FORMAT, **record}, indent=1, ensure_ascii=False, allow_nan=False)
    files = {TABLE: to_csv(record["cells"]).encode()}
    for suffix in ("pdf", "png"):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=suffix)
        files[f"{FIGURE}.{suffix}"] = buffer.getvalue()
    files[RESULT] = f"{text}\n".encode()
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            staging = out / f".{name}.partial"
            staging.write_bytes(content)
            staging.replace(out / name)
    except OSError as error:
        raise UserError(f"--out {str(out)!r} cannot be written ({error.strerror})") from error
    return out


def read_ablation(run_dir: Path) -> JsonObject:
    """Return the record of an ablation.

    Raises:
        UserError: none there, damaged, or of a later format.
    """
    try:
        record: JsonObject = json.loads((run_dir / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{str(run_dir)!r} holds no finished ablation ({error}): run it again") from error
    if record.pop("format", 0) > FORMAT:
        raise UserError(f"{str(run_dir)!r} was written by a later version of cka-tools: upgrade to read it")
    return record
