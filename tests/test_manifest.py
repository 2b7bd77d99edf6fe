import json
from pathlib import Path
from typing import Any

import pytest

from cka_tools.bundled import bundled_data
from cka_tools.errors import UserError
from cka_tools.formatting import NOISE_IN_WORDS
from cka_tools.forms import fault_in
from cka_tools.manifest import FORM, identical_until, noise_kind, read_manifest, trained_tokens

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


KEY = {"parent_weights_sha256": "p", "phase": PHASE, "phase_index": 1}
RECIPE = {"name": "r", "phases": [PHASE | {"objective": "clm"}, PHASE | {"name": "more"}]}


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({}, None),
        ({"key": KEY, "recipe": RECIPE, "final_loss": {"decay": 3.5}, "tokens": 5, "start": None}, None),
        ({"seed": "one"}, "seed is 'one', not a number of such a size"),
        ({"tokens": 1.5}, "tokens is '1.5', not a number of such a size"),
        ({"tokens": True}, "tokens is 'True', not a number of such a size"),
        ({"start": {}}, "start is '{}', not text"),
        ({"recipe": None}, "recipe is 'None', not an object"),
        ({"recipe": {"phases": [PHASE, {}]}}, "there is no recipe.phases[1].name"),
        ({"recipe": {"phases": [PHASE | {"objective": 3}]}}, "recipe.phases[0].objective is '3', not text"),
        ({"recipe": {"phases": [], "scale": 7}}, "recipe.scale is '7', not text"),
        ({"key": {"phase": PHASE, "phase_index": 0}}, "there is no key.parent_weights_sha256"),
        ({"final_loss": {"decay": "low"}}, "final_loss is \"{'decay': 'low'}\", not a number of such a size"),
    ],
)
def test_of_a_manifest_of_another_form_nothing_follows(change: dict[str, Any], fault: str | None) -> None:
    assert fault_in(B | change, FORM) == fault
    whole = B | {"key": KEY, "recipe": RECIPE, "weights_sha256": "w"}
    for pair in ((whole, whole | change), (whole | change, whole)):
        assert (identical_until(*pair) is None) == (fault is not None)


def test_manifests_of_all_bundled_models_are_of_the_form() -> None:
    read = [read_manifest(one) for one in (bundled_data() / "models").iterdir()]
    assert [fault_in(one, FORM) for one in read] == [None] * 7


def test_tokens_are_those_of_the_whole_run() -> None:
    counts = [trained_tokens(one) for one in ({"tokens": 5, "run_tokens": 9}, {"tokens": 5}, {}, None)]
    assert counts == [9, 5, None, None]
