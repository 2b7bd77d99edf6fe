"""Which seed noise a control stands for: in the record, in the terminal's sentence and in the figure."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.text import Text
from rich.console import Console

from cka_tools import compare, trajectory
from cka_tools.formatting import NOISE_IN_WORDS, ratio_sentence
from cka_tools.manifest import MANIFEST
from cka_tools.terminal.output import print_result

MANIFESTS: dict[str, dict[str, Any] | None] = {
    "masks": {"data_sha256": "one", "seed": 2, "data_seed": 1},
    "order": {"data_sha256": "two", "seed": 2, "data_seed": 2},
    "unknown": None,
}
"""The control's; that of the model it is a control of says data "one", seed 1 and data seed 1."""


@pytest.fixture(scope="module")
def texts() -> list[str]:
    rng = np.random.default_rng(0)
    return [" ".join(f"w{w}" for w in rng.integers(0, 120, size=20)) for _ in range(30)]


@pytest.fixture(params=MANIFESTS)
def models(request: pytest.FixtureRequest, tiny_model, tmp_path: Path) -> tuple[str, list[Path]]:
    """The kind of noise, and A, B and B's control as folders with manifests."""
    made = [{"data_sha256": "one", "seed": 1}, {"data_sha256": "one", "seed": 1}, MANIFESTS[request.param]]
    folders = []
    for seed, manifest in enumerate(made):
        folder = tmp_path / f"model-{seed}"
        shutil.copytree(tiny_model("bert", seed=seed, layers=2), folder)
        if manifest is not None:
            (folder / MANIFEST).write_text(json.dumps(manifest))
        folders.append(folder)
    return request.param, folders


def printed(result: Any) -> str:
    out = io.StringIO()
    print_result(result, Console(width=200, file=out))
    return " ".join(out.getvalue().split())


def drawn(result: Any) -> str:
    return " ".join(" ".join(text.get_text() for text in result.figure().findobj(Text)).split())


def test_a_comparison_says_which_seed_noise_it_has(models, texts) -> None:
    kind, (a, b, control) = models
    result = compare(a, b, texts, control=control, max_length=32, device="cpu", cache=False)
    assert result.summary["noise"] == kind
    words = f"Seed noise is the divergence of B from its control ({kind}: {NOISE_IN_WORDS[kind]})."
    assert ratio_sentence(result.summary).endswith(words)
    assert words in printed(result)
    assert words in drawn(result)


def test_a_trajectory_says_which_seed_noise_it_has(models, texts) -> None:
    kind, (a, b, control) = models
    result = trajectory(b, a, texts, control=control, max_length=32, device="cpu", cache=False)
    assert result.summary["noise"] == kind
    words = f"Seed noise is the divergence of the reference from its control ({kind}: {NOISE_IN_WORDS[kind]})."
    assert words in printed(result)
    assert words in drawn(result)


def test_the_noise_of_models_in_memory_is_not_known(fresh_model, fresh_tokenizer, texts) -> None:
    a, b, control = ((fresh_model("bert", seed=seed, layers=2), fresh_tokenizer()) for seed in range(3))
    result = compare(a, b, texts, control=control, max_length=32, cache=False)
    assert result.summary["noise"] == "unknown"


def test_without_a_control_no_noise_is_named(tiny_model, texts) -> None:
    result = compare(*(tiny_model("bert", seed=seed, layers=2) for seed in (0, 1)), texts, max_length=32)
    assert "noise" not in result.summary
    assert "Seed noise" not in printed(result)
