"""Which layers are paired, and which are early."""

import pytest

from cka_tools.comparison.layer_pairs import choose_layers, early_layers, pair_layers
from cka_tools.comparison.warnings import overlap_warning
from cka_tools.errors import UserError
from cka_tools.settings import parse_layers


@pytest.mark.parametrize(
    ("text", "layers"), [("0-7", tuple(range(8))), ("3", (3,)), ("0,3,8-10", (0, 3, 8, 9, 10)), ("2-4,3", (2, 3, 4))]
)
def test_layers_are_read_from_text(text, layers):
    assert parse_layers(text) == layers


@pytest.mark.parametrize("text", ["", "a", "7-0", "-1", "0-", "1,,2", "0–7"])
def test_text_that_is_no_list_of_layers_is_quoted(text):
    with pytest.raises(UserError) as error:
        parse_layers(text)
    assert repr(text) in str(error.value)


def test_equal_depths_pair_index_by_index():
    assert pair_layers(22, 22) == [(i, i) for i in range(22)]


def test_unequal_depths_pair_by_relative_depth():
    pairs = pair_layers(22, 28)
    assert pairs[0] == (0, 0)
    assert pairs[-1] == (21, 27)
    assert pairs[7] == (7, 9)  # floor(7 · 27/21 + ½)
    assert pair_layers(28, 22) == [(j, i) for i, j in pairs]
    assert pair_layers(1, 6) == [(0, 0)]


def test_chosen_layers_of_unequal_depths_take_their_partners():
    assert choose_layers(6, 12, (0, 5)) == [(0, 0), (5, 11)]
    assert choose_layers(12, 6, (0, 5)) == [(0, 0), (11, 5)]


@pytest.mark.parametrize(("depth", "early"), [(22, 8), (28, 10), (8, 3), (6, 2), (1, 1)])
def test_early_is_the_first_third_rounded_up(depth, early):
    assert early_layers(depth, None) == tuple(range(early))


@pytest.mark.parametrize("call", [lambda: choose_layers(6, 6, (6,)), lambda: early_layers(6, (0, 9))])
def test_layers_out_of_range_name_what_there_is(call):
    with pytest.raises(UserError, match="0 to 5"):
        call()


def test_draws_that_overlap_are_named():
    assert overlap_warning([["a", "b", "c", "d"], ["d", "e", "f", "g"]]) is None
    found = overlap_warning([["a", "b", "c", "d"], ["c", "d", "e", "f"]])
    assert found is not None
    assert found["code"] == "overlapping-draws"
    assert "50 %" in found["text"]
