"""An extraction in a process of its own, slowed down so that it can be met at work."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cka_tools.extraction.activations import PooledForward
from cka_tools.models import load_model
from cka_tools.settings import Settings
from cka_tools.store.cached_extraction import extract_cached

SETTINGS = Settings(max_length=64, batch_tokens=64)


def extract_slowly(
    model: str, documents: list[Any], log: Path, result: Path, seconds: float, pooling: str = "mean"
) -> None:
    """Extract through the store; a line in `log` for each forward pass, features and state in `result`."""
    torch.set_num_threads(1)
    forward = PooledForward.__call__

    def slow(self: PooledForward, batch: Any, *args: Any, **options: Any) -> Any:
        with log.open("a", encoding="utf-8") as file:
            file.write(f"{batch.rows}\n")
        time.sleep(seconds)
        return forward(self, batch, *args, **options)

    PooledForward.__call__ = slow  # type: ignore[method-assign]
    extraction = extract_cached(load_model(model), documents, replace(SETTINGS, pooling=pooling))
    arrays = {str(layer): values for layer, values in enumerate(extraction.features[0].features)}
    np.savez(result, state=np.array(extraction.cache[0]), **arrays)
