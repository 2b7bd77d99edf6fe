"""Where a number comes from: everything needed to make it again."""

from __future__ import annotations

import platform
import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from cka_tools import __version__
from cka_tools.comparison.record import Reading
from cka_tools.extraction import ExtractionSettings
from cka_tools.models import LoadedModel

PACKAGES = ("torch", "transformers", "tokenizers", "numpy")


def provenance(
    a: LoadedModel,
    b: LoadedModel,
    control: LoadedModel | None,
    readings: Sequence[Reading],
    settings: ExtractionSettings,
    *,
    protocol: str | None,
    device: torch.device,
    rescale: bool,
) -> dict[str, Any]:
    """JSON-ready provenance of a comparison; all but `created`, `command` and `cache` can change a number."""
    roles = {"a": a, "b": b} | ({} if control is None else {"control": control})
    return {
        "models": {role: {"name": model.name, **model.provenance} for role, model in roles.items()},
        "corpus": {
            "spec": readings[0].draw.corpus,
            "source": readings[0].draw.source,
            "draws": [
                {
                    "seed": r.draw.seed,
                    "fingerprint": r.draw.fingerprint,
                    "counts": r.draw.counts,
                    "document_ids": r.document_ids,
                    **r.extraction.record(),
                }
                for r in readings
            ],
        },
        "settings": {
            "pooling": settings.pooling,
            "sites": settings.sites,
            "max_length": readings[0].extraction.tokens[0]["max_length"],
            "tokens_per_document": settings.tokens_per_document if settings.pooling == "token" else None,
            "dtype": str(a.dtype).removeprefix("torch."),
            "device": str(device),
            "seed": settings.seed,
            "protocol": protocol,
            "rescale": rescale,
        },
        **circumstances(),
    }


def circumstances(packages: Sequence[str] = PACKAGES) -> dict[str, Any]:
    """Versions, time and command of a run."""
    return {
        "versions": {
            "cka-tools": __version__,
            "python": platform.python_version(),
            **{name: version(name) for name in packages},
        },
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }
