"""Names and numbers as a person reads them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cka_tools.errors import UserError
from cka_tools.formatting import (
    counted,
    early_to_rest_sentence,
    layer_list,
    layers_in_words,
    parse_bytes,
    percent,
    percent_interval,
    printable,
    short_names,
    shorten,
    telling_parts,
    times,
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


@pytest.mark.parametrize(
    ("names", "parts"),
    [
        (["runs/detour/final", "runs/baseline/final"], ["detour", "baseline"]),
        (["/x/a/seed-1/final", "/x/b/seed-2/final", "/x/b/seed-1/final"], ["a/seed-1", "b/seed-2", "b/seed-1"]),
        (["demo:clm-detour", "demo:mlm-baseline"], ["demo:clm-detour", "demo:mlm-baseline"]),
        (["org/name@one", "org/name@two"], ["name@one", "name@two"]),
        (["runs/final", "final"], ["runs/final", "final"]),
        (["runs/a/final", "runs/a/final"], ["runs/a/final", "runs/a/final"]),
        (["only/one"], ["only/one"]),
    ],
)
def test_of_paths_the_parts_that_tell_them_apart_are_shown(names: list[str], parts: list[str]) -> None:
    assert telling_parts(names) == parts


@given(st.lists(st.lists(st.sampled_from(["a", "b", "final"]), min_size=1, max_size=4).map("/".join), min_size=1))
def test_telling_parts_differ_where_names_do(names: list[str]) -> None:
    assert len(set(telling_parts(names))) == len(set(names))


def test_paths_that_end_alike_show_where_they_differ() -> None:
    a, b = (f"/data/{run}/seed-1/base-english/checkpoints/step-3000" for run in ("detour", "baseline"))
    assert short_names(a, b, 30) == ("…/detour/…/step-3000", "…/baseline/…/step-3000")


def test_control_characters_never_reach_a_terminal() -> None:
    assert printable("a\x1b[31mb\n c\u202e") == "a\N{REPLACEMENT CHARACTER}[31mb c\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize(
    ("fraction", "text"),
    [
        (0.1023, "10.2"), (1.0604, "106"), (0.09996, "10.0"), (0.0653, "6.53"), (-0.00432, "-0.432"),
        (0.000523, "0.0523"),
        (12.344, "1,234"), (0.000499, "< 0.05"), (-1e-9, "> -0.05"), (0.0, "0"), (-0.0, "0"), (None, "–"),
    ],
)  # fmt: skip
def test_percentages_have_three_significant_digits_and_none_of_noise(fraction: float | None, text: str) -> None:
    assert percent(fraction) == text


@given(st.floats(-1e6, 1e6))
def test_a_ratio_is_written_within_half_a_digit_and_never_as_a_zero_that_it_is_not(ratio: float) -> None:
    text = times(ratio)
    if text.startswith(("<", ">")):
        assert 0 < abs(ratio) < 0.05
        assert text == ("< 0.05" if ratio > 0 else "> -0.05")
    else:
        assert float(text.replace(",", "")) == pytest.approx(ratio, rel=0.00501, abs=0)


def test_an_interval_needs_both_ends() -> None:
    assert percent_interval({"ci_low": 0.091, "ci_high": 0.113}) == "9.10 to 11.3"
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


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (1.2, 3.0, "(1.20 to 3.00) times that of the other layers: they stand out."),
        (0.7, 0.9, "(0.700 to 0.900) times that of the other layers: the others stand out."),
        (0.9, 1.2, "(0.900 to 1.20) times that of the other layers: neither is shown to stand out."),
        (None, None, "times that of the other layers."),
    ],
)
def test_whether_early_layers_stand_out_is_read_off_the_interval(
    low: float | None, high: float | None, said: str
) -> None:
    found = {"value": 2.0, "ci_low": low, "ci_high": high}
    sentence = early_to_rest_sentence({"early_layers": [0, 1, 2], "early_to_rest": found})
    assert sentence == f"B / W of early layers 0–2 is 2.00 {said}"


def test_a_contrast_without_early_layers_says_nothing_of_them() -> None:
    assert early_to_rest_sentence({"early_layers": [], "early_to_rest": {"value": None, "reason": "no layers"}}) == ""
    assert early_to_rest_sentence({"early_layers": [0]}) == ""  # a run that was saved before there was one
