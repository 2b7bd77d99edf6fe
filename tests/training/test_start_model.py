"""Start models: a damaged config is found before anything is planned or trained; other shapes of one."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_start import write_start
from transformers import ModernBertConfig

from cka_tools.errors import UserError
from cka_tools.training.start_model import find_start, load_start, read_config, shaped_config


@pytest.fixture
def edited(tmp_path: Path) -> Callable[..., str]:
    """`edited(**changes)` → a start model whose config.json has these changes; None takes an entry away."""

    def edit(**changes: Any) -> str:
        write_start(tmp_path / "start")
        file = tmp_path / "start" / "config.json"
        config = json.loads(file.read_text()) | changes
        file.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
        return str(file.parent)

    return edit


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hidden_activation": "nope"}, "cannot be made as its config.json says: there is no 'nope'"),
        ({"num_attention_heads": 0}, "cannot be made as its config.json says"),
        ({"num_attention_heads": "two"}, "cannot be made as its config.json says"),
        ({"num_hidden_layers": 2}, "must be equal to the number of `layer_types`"),
        ({"rope_parameters": 3}, "cannot be made as its config.json says"),
        ({"pad_token_id": 10**9}, "cannot be made as its config.json says"),
        ({"vocab_size": 10**6}, r"decoder.bias of \[\d+\], not the \[1000000\] of its config.json"),
        ({"intermediate_size": 64}, "of its config.json: correct that"),
        ({"model_type": {}}, "cannot be made as its config.json says"),
        ({"architectures": 1.5}, "architectures in config.json is '1.5'"),
    ],
)
def test_a_config_that_does_not_fit_is_refused_before_weights_are_read(
    changes: dict[str, Any], words: str, edited: Callable[..., str]
) -> None:
    with pytest.raises(UserError, match=words) as caught:
        find_start(edited(**changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dropout", [-1, 1, 7.5])
def test_dropout_beyond_a_share_is_refused(dropout: float, edited: Callable[..., str]) -> None:
    folder = Path(edited(attention_dropout=dropout))
    with pytest.raises(UserError, match=rf"attention dropout of {dropout}, not a share"):
        load_start(folder, attention="sdpa")


def test_another_shape_of_a_config_that_names_no_kinds_of_layers(edited: Callable[..., str]) -> None:
    """As files of ModernBERT had them first: which layers are local follows from `global_attn_every_n_layers`."""
    named = read_config(find_start(edited()))
    bare = read_config(find_start(edited(layer_types=None, global_attn_every_n_layers=2)))
    assert "layer_types" not in bare
    assert named["layer_types"] == ["full_attention", "sliding_attention", "sliding_attention"]
    assert shaped_config(named, 5, 64)["layer_types"] == [*named["layer_types"], *named["layer_types"][:2]]
    expected = ModernBertConfig(num_hidden_layers=5, global_attn_every_n_layers=2).layer_types
    assert shaped_config(bare, 5, 64)["layer_types"] == expected
