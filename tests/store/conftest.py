"""Models loaded once, and what went through them."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cka_tools.extraction.activations import PooledForward
from cka_tools.extraction.extract import Extraction
from cka_tools.models import load_model
from cka_tools.settings import Settings
from cka_tools.store.cached_extraction import extract_cached

SETTINGS = Settings(max_length=64, batch_tokens=256)


@pytest.fixture(scope="session")
def bert(tiny_model):
    return load_model(str(tiny_model("bert")))


@pytest.fixture(scope="session")
def other(tiny_model):
    return load_model(str(tiny_model("bert", seed=1)))


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Rows of each batch that went through a model."""
    calls: list[tuple[int, ...]] = []
    forward = PooledForward.__call__

    def counting(self: PooledForward, batch: Any, *args: Any, **options: Any) -> Any:
        calls.append(batch.rows)
        return forward(self, batch, *args, **options)

    monkeypatch.setattr(PooledForward, "__call__", counting)
    return calls


@pytest.fixture
def extract(tiny_documents) -> Callable[..., Extraction]:
    """`extract(model, …, cache=True, documents=…, layers=…, **settings)` → what each model gave, as one."""

    def run(*models: Any, cache: bool = True, documents: Any = None, **changes: Any) -> Extraction:
        settings = replace(SETTINGS, **changes)
        found = [extract_cached(one, documents or tiny_documents, settings, cache=cache) for one in models]
        joined = {
            name: [value for one in found for value in getattr(one, name)]
            for name in ("features", "tokens", "splits", "cache")
        }
        notes = list(dict.fromkeys(note for one in found for note in one.notes))
        return replace(found[0], notes=notes, **joined)

    return run


@pytest.fixture(scope="session")
def same_bits() -> Callable[[Extraction, Extraction], bool]:
    """Whether two extractions have the same features, bit for bit."""

    def equal(one: Extraction, two: Extraction) -> bool:
        return len(one.features) == len(two.features) and all(
            a.layers == b.layers
            and all(
                x.dtype == y.dtype and x.shape == y.shape and np.asarray(x).tobytes() == np.asarray(y).tobytes()
                for x, y in zip(a.features, b.features, strict=True)
            )
            for a, b in zip(one.features, two.features, strict=True)
        )

    return equal
