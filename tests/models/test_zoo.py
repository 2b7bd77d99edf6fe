"""Every architecture gives what a plain loop over single documents gives, or says in one line why not."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from transformers import FSMTConfig, FSMTModel
from zoo import BEGIN, PAGE, ZOO, Animal, largest_errors, make

from cka_tools.errors import UserError
from cka_tools.models import load_model

WORKING = [animal for animal in ZOO if animal.result != "refused"]
REFUSED = [animal for animal in ZOO if animal.result == "refused"]


def label(animal: Animal) -> str:
    return animal.label


@pytest.mark.slow
@pytest.mark.parametrize("animal", WORKING, ids=label)
def test_features_are_those_of_one_document_at_a_time(animal: Animal, fresh_tokenizer: Callable[..., Any]) -> None:
    found = dict[str, float]()
    for what, error in largest_errors(animal, fresh_tokenizer()):
        found[what] = max(error, found.get(what, 0.0))
    # Each pooling of each site, and a tokenizer that pads on the left.
    assert len(found) == 1 + 4 * (3 if len(animal.branches) == 3 else 1)
    assert {what: error for what, error in found.items() if not error < 1e-6} == {}


@pytest.mark.parametrize("animal", REFUSED, ids=label)
def test_what_cannot_be_hooked_is_refused_in_one_line(animal: Animal, fresh_tokenizer: Callable[..., Any]) -> None:
    with pytest.raises(UserError) as caught:
        load_model((make(animal), fresh_tokenizer()))
    message = str(caught.value)
    assert "\n" not in message
    assert re.search(animal.says, message)
    assert re.search(r": (give|take) ", message)


def test_the_table_in_the_docs_lists_them_all() -> None:
    rows = PAGE.read_text().split(BEGIN)[1].splitlines()[2:]
    cells = [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows if row.startswith("|")]
    words = {"works": "works", "unpadded": "works without padding", "refused": "refused"}
    assert [(name, result) for name, result, _, _ in cells] == [(one.label, words[one.result]) for one in ZOO]
    assert all(float(error) < 1e-6 for _, result, _, error in cells if result != "refused")


def test_an_encoder_that_is_not_a_model_of_its_own_is_refused(fresh_tokenizer: Callable[..., Any]) -> None:
    sizes = {"encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16,
             "encoder_attention_heads": 2, "decoder_attention_heads": 2, "d_model": 16}  # fmt: skip
    config = FSMTConfig(langs=["en", "de"], src_vocab_size=125, tgt_vocab_size=125, **sizes)
    with pytest.raises(
        UserError, match=r"FSMTEncoder is not a model of its own, so it cannot be hooked: give an "
    ) as e:
        load_model((FSMTModel(config), fresh_tokenizer()), stack="encoder")
    assert "\n" not in str(e.value)
