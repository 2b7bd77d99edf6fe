"""Texts and models for comparisons that are streamed or shared."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """120 documents of known words."""
    rng = np.random.default_rng(0)
    return [" ".join(f"w{w}" for w in rng.integers(0, 120, size=rng.integers(5, 40))) for _ in range(120)]


@pytest.fixture(scope="module")
def pair(tiny_model: Callable[..., Path]) -> tuple[str, str]:
    """Two models of one family."""
    return str(tiny_model("bert", seed=0)), str(tiny_model("bert", seed=1))
