import json
from pathlib import Path

import pytest

from cka_tools.errors import UserError
from cka_tools.manifest import NOISE_IN_WORDS, noise_kind, read_manifest, trained_tokens

B = {"data_sha256": "x", "seed": 1, "data_seed": 1}


@pytest.mark.parametrize(
    ("control", "kind"),
    [
        (B | {"seed": 2}, "masks"),
        ({"data_sha256": "y", "seed": 2, "data_seed": 2}, "order"),
        ({"data_sha256": "y", "seed": 1, "data_seed": 2}, "order"),
        ({"data_sha256": "y", "seed": 2, "data_seed": 1}, "unknown"),  # other texts, or more of them
        (B, "unknown"),
        ({"seed": 2, "data_seed": 1}, "unknown"),
        ({}, "unknown"),
        (None, "unknown"),
    ],
)
def test_the_kind_of_noise_is_what_a_control_differs_in(control: dict | None, kind: str) -> None:
    assert noise_kind(B, control) == noise_kind(control, B) == kind
    assert kind in NOISE_IN_WORDS


def test_one_seed_of_an_old_manifest_was_both(tmp_path: Path) -> None:
    assert read_manifest(tmp_path) is None
    for written, data_seed in (({"seed": 3}, 3), ({"seed": 3, "data_seed": 4}, 4)):
        (tmp_path / "training.json").write_text(json.dumps(written))
        assert read_manifest(tmp_path) == {"seed": 3, "data_seed": data_seed}


@pytest.mark.parametrize("content", ["{", "[1]"])
def test_a_manifest_that_cannot_be_read_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "training.json").write_text(content)
    with pytest.raises(UserError, match="remove its directory"):
        read_manifest(tmp_path)


def test_tokens_are_those_of_the_whole_run() -> None:
    counts = [trained_tokens(one) for one in ({"tokens": 5, "run_tokens": 9}, {"tokens": 5}, {}, None)]
    assert counts == [9, 5, None, None]
