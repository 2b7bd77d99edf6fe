"""Names and numbers as a person reads them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cka_tools.errors import UserError
from cka_tools.formatting import (
    counted,
    layer_list,
    layers_in_words,
    parse_bytes,
    percent,
    percent_interval,
    printable,
    short_names,
    shorten,
)


@given(st.text(), st.integers(8, 60))
def test_a_shortened_name_keeps_to_its_limit_and_to_one_line(text: str, limit: int) -> None:
    short = shorten(text, limit)
    assert len(short) <= limit
    assert short == "" or short.isprintable()


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126)), st.data(), st.integers(12, 60))
def test_names_that_differ_stay_different(a: str, data: st.DataObject, limit: int) -> None:
    at = data.draw(st.integers(0, len(a)))
    b = a[:at] + "~x" + a[at:]
    short = short_names(a * 3, b * 3, limit)
    assert max(map(len, short)) <= limit
    assert a == b or short[0] != short[1]


def test_a_path_keeps_its_last_parts() -> None:
    assert shorten("/data/runs/detour/checkpoint-1000", 26) == "…/detour/checkpoint-1000"
    assert shorten("org/name@revision", 40) == "org/name@revision"


def test_paths_that_end_alike_show_where_they_differ() -> None:
    a, b = (f"/data/{run}/seed-1/base-english/checkpoints/step-3000" for run in ("detour", "baseline"))
    assert short_names(a, b, 30) == ("…/detour/…/step-3000", "…/baseline/…/step-3000")


def test_control_characters_never_reach_a_terminal() -> None:
    assert printable("a\x1b[31mb\n c\u202e") == "a\N{REPLACEMENT CHARACTER}[31mb c\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize(
    ("fraction", "text"), [(0.1023, "10.2"), (1.0604, "106.0"), (-1e-9, "0.0"), (-0.004, "-0.4"), (None, "–")]
)
def test_percentages_have_one_decimal(fraction: float | None, text: str) -> None:
    assert percent(fraction) == text


def test_an_interval_needs_both_ends() -> None:
    assert percent_interval({"ci_low": 0.091, "ci_high": 0.113}) == "9.1 to 11.3"
    assert percent_interval({"ci_low": None, "ci_high": None}) is None


def test_counts_agree_with_their_nouns() -> None:
    assert [counted(n, "document") for n in (0, 1, 1500)] == ["0 documents", "1 document", "1,500 documents"]


def test_layers_are_written_as_a_reader_writes_them() -> None:
    assert layer_list([8, 0, 1, 2, 5, 7]) == "0–2, 5, 7–8"
    assert [layers_in_words(layers) for layers in ([4], [4, 5])] == ["layer 4", "layers 4–5"]


def test_sizes_are_read_and_anything_else_is_quoted() -> None:
    assert [parse_bytes(size, "--limit") for size in ("1.5KiB", " 2 MiB", 7, "0")] == [1536, 2 << 20, 7, 0]
    for text in ("8 GB", "-1", "", "GiB"):
        with pytest.raises(UserError, match=r"--limit .* is not a valid size") as error:
            parse_bytes(text, "--limit")
        assert repr(text) in str(error.value)
