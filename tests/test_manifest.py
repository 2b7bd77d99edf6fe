import json
from pathlib import Path
from typing import Any

import pytest

from cka_tools.bundled import bundled_data
from cka_tools.errors import UserError
from cka_tools.formatting import NOISE_IN_WORDS
from cka_tools.manifest import noise_kind, read_manifest, trained_tokens

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


PHASE = {"name": "decay", "objective": "mlm", "tokens": 10}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": "one"}, "seed is 'one', not a number"),
        ({"tokens": 1.5}, "tokens is '1.5', not a number"),
        ({"tokens": True}, "tokens is 'True', not a number"),
        ({"start": {}}, "start is '{}', not text"),
        ({"recipe": None}, "recipe is 'None', not an object"),
        ({"recipe": {"phases": [PHASE, {}]}}, r"there is no recipe.phases\[1\].name"),
        ({"recipe": {"phases": [PHASE | {"objective": 3}]}}, r"recipe.phases\[0\].objective is '3', not text"),
        ({"recipe": {"phases": [], "scale": 7}}, "recipe.scale is '7', not text"),
        ({"key": {"phase": PHASE, "phase_index": 0}}, "there is no key.parent_weights_sha256"),
        ({"final_loss": {"decay": "low"}}, "final_loss"),
    ],
)
def test_a_manifest_of_another_form_is_refused_in_one_line(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    (tmp_path / "training.json").write_text(json.dumps(B | change))
    with pytest.raises(UserError, match=words) as caught:
        read_manifest(tmp_path)
    assert "move it away" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_manifests_of_all_bundled_models_are_of_the_form() -> None:
    models = sorted((bundled_data() / "models").iterdir())
    assert len([read_manifest(one) for one in models]) == 7


def test_tokens_are_those_of_the_whole_run() -> None:
    counts = [trained_tokens(one) for one in ({"tokens": 5, "run_tokens": 9}, {"tokens": 5}, {}, None)]
    assert counts == [9, 5, None, None]
