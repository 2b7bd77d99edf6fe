"""Tasks of known words that tiny models can read: of each kind one."""

import json
from collections.abc import Callable

import numpy as np
import pytest

Tasks = Callable[[str], str]


@pytest.fixture(scope="session")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Tasks:
    """`tasks(kind)` → a file of 40 texts of train, 16 of dev and 36 of test; of "no-dev" none of dev."""
    folder = tmp_path_factory.mktemp("tasks")

    def make(kind: str) -> str:
        path = folder / f"{kind}.jsonl"
        rng = np.random.default_rng(0)
        rows = []
        for split, size in {"train": 40, "dev": 0 if kind == "no-dev" else 16, "test": 36}.items():
            for at in range(size):
                drawn = rng.integers(0, 60, 10) + 60 * (rng.random(10) < 0.15 + 0.7 * (at % 2))
                words = [f"w{number}" for number in drawn]
                row: dict[str, object] = {"split": split}
                if kind == "tags":
                    row |= {"tokens": words, "tags": ["B-High" if w > 90 else "B-Low" if w < 9 else "O" for w in drawn]}
                elif kind == "labels":
                    row |= {
                        "text": " ".join(words),
                        "labels": [f"{'low' if w < 60 else 'high'}" for w in set(drawn[:1])],
                    }
                    row["labels"] = [*row["labels"], *(["odd"] if at % 2 else [])]  # type: ignore[misc]
                else:
                    row |= {"text": " ".join(words), "label": f"half {at % 2}"}
                rows.append(row)
        path.write_text("\n".join(map(json.dumps, rows)))
        return str(path)

    return make
