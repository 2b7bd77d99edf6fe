"""A card, and medium-sized models for it.

`CKA_TOOLS_TEST_DEVICE=cpu` runs what does not need CUDA itself on the CPU, to try the tests.
"""

import os
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch

DEVICE = os.environ.get("CKA_TOOLS_TEST_DEVICE", "cuda")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what needs a card where there is none."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu") and (DEVICE == "cuda" or item.get_closest_marker("cuda_only")):
            item.add_marker(pytest.mark.skip(reason="no CUDA device: torch.cuda.is_available() is False"))


@pytest.fixture
def device() -> torch.device:
    """The device under test."""
    return torch.device(DEVICE)


@pytest.fixture(scope="session")
def texts() -> list[str]:
    """80 documents of 3 to 60 known words, no two alike."""
    draw = random.Random(7)
    return [" ".join(f"w{draw.randrange(120)}" for _ in range(draw.randint(3, 60))) for _ in range(80)]


@pytest.fixture
def in_memory(
    fresh_model: Callable[..., Any], fresh_tokenizer: Callable[..., Any], device: torch.device
) -> Callable[..., Any]:
    """`in_memory(seed=0, dtype=torch.float32, **config)` → a ModernBERT on the device, and its tokenizer."""

    def make(seed: int = 0, dtype: torch.dtype = torch.float32, **config: Any) -> Any:
        return fresh_model("modernbert", seed=seed, **config).to(device, dtype), fresh_tokenizer()

    return make
