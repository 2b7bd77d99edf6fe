"""A corpus for commands that compare."""

import json
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """40 documents of 20 known words each."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("corpus") / "words.jsonl"
    texts = [" ".join(f"w{w}" for w in rng.integers(0, 120, size=20)) for _ in range(40)]
    path.write_text("\n".join(json.dumps({"id": str(i), "text": text}) for i, text in enumerate(texts)))
    return path
