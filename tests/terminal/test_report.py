"""The report in the terminal: its numbers, its widths, and that nothing given to it is read as markup."""

import io
import re

import pytest
from rich.console import Console
from rich.table import Table
from synthetic_comparison import PAPER_CKA, make_comparison, with_diagonal

from cka_tools.comparison import Comparison
from cka_tools.formatting import percent, three_digits
from cka_tools.terminal.comparison_report import layer_table, print_comparison, protocol_table, summary_sentence


def printed(comparison: Comparison, width: int = 120, **console: object) -> str:
    stream = io.StringIO()
    print_comparison(comparison, Console(file=stream, width=width, **console))  # type: ignore[arg-type]
    return stream.getvalue()


def heads(table: Table) -> list[str]:
    return [" ".join(str(column.header).split()) for column in table.columns]


def cells(table: Table, head: str) -> list[str]:
    return [str(cell).strip() for cell in table.columns[heads(table).index(head)].cells]


def test_every_layer_has_its_row_of_numbers() -> None:
    comparison = make_comparison(8, rescale=True)
    table = layer_table(comparison)
    last = {"early": comparison.summary["early_divergence"], "mean": comparison.summary["mean_divergence"]}
    entries = comparison.layers
    assert cells(table, "layer") == [*map(str, range(8)), "early 0–2", "mean"]
    debiased = [1 - e["cka_debiased"] for e in entries] + [m["debiased"]["value"] for m in last.values()]
    assert cells(table, "divergence debiased %") == list(map(percent, debiased))
    biased = [1 - e["cka_biased"] for e in entries] + [m["biased"]["value"] for m in last.values()]
    assert cells(table, "biased %") == list(map(percent, biased))
    intervals = [f"{percent(1 - e['ci_high'])} to {percent(1 - e['ci_low'])}" for e in entries]
    assert cells(table, "95 % interval")[:8] == intervals
    rescaled = [percent(1 - e["rescaled"]["cka_debiased"]) for e in entries]
    assert cells(table, "rescaled %")[:8] == rescaled
    for side in "ab":
        assert cells(table, f"eff. dim {side.upper()}")[:8] == [
            three_digits(e[f"effective_dim_{side}"]) for e in entries
        ]
        shares = [percent(e[f"top_feature_share_{side}"]) for e in entries]
        assert cells(table, f"top {side.upper()} %")[:8] == shares
    assert cells(table, "best in B")[:8] == [str(e["best_layer_b"]) for e in entries]


def test_early_rows_are_set_apart() -> None:
    table = layer_table(make_comparison(8, early=[0, 1, 5]))
    assert [at for at, row in enumerate(table.rows) if row.end_section] == [1, 4, 5, 7]
    assert "early 0–1, 5" in cells(table, "layer")


def test_a_comparison_without_early_layers_has_no_early_row() -> None:
    comparison = make_comparison(8, layers=[5])
    assert cells(layer_table(comparison), "layer") == ["5", "mean"]
    assert "early" not in summary_sentence(comparison)


def test_pairs_of_different_depths_are_both_named() -> None:
    assert cells(layer_table(make_comparison(4, 7)), "layer A/B")[:4] == ["0/0", "1/2", "2/4", "3/6"]


def test_a_massive_feature_is_marked_and_explained() -> None:
    comparison = make_comparison(8, massive=[7])
    assert cells(layer_table(comparison), "top A %")[7].endswith("!")
    assert "! one feature carries more than half of the variance" in printed(comparison)


def test_undefined_values_are_dashes_with_their_reason() -> None:
    comparison = make_comparison(6, constant=[2])
    table = layer_table(comparison)
    for head in ("divergence debiased %", "95 % interval", "biased %", "eff. dim A", "top B %", "best in B"):
        assert cells(table, head)[2] == "–"
    assert "Layer 2: no variance over these documents" in printed(comparison)


def test_a_reason_that_no_warning_gives_is_printed() -> None:
    comparison = make_comparison(6)
    for layer in (1, 2, 4):
        comparison.layers[layer].update(ci_low=None, ci_high=None, reason="the influence is not finite")
    assert "not given layers 1–2, 4: the influence is not finite" in printed(comparison)


def test_the_sentence_holds_means_intervals_documents_and_warnings() -> None:
    comparison = with_diagonal(make_comparison(22, n=120), PAPER_CKA)
    comparison.summary["warnings"][:] = comparison.warnings[:1]
    assert summary_sentence(comparison) == (
        "Mean divergence 62.1 % (95 % interval 60.1 to 64.1), early layers 0–7 15.0 % (13.0 to 17.0), "
        "debiased, over 120 documents; 1 warning."
    )


def test_the_sentence_says_when_there_is_no_interval_or_no_value() -> None:
    assert "(no interval)" in summary_sentence(make_comparison(6, n=12))
    undefined = summary_sentence(make_comparison(6, constant=range(6)))
    assert undefined.startswith("Mean divergence undefined (no layer with variance to average over)")


def test_a_comparison_without_warnings_says_so() -> None:
    comparison = make_comparison(6, drift=0.0)
    assert summary_sentence(comparison).endswith("over 80 documents; no warnings.")


def test_the_sentence_comes_last() -> None:
    comparison = make_comparison(6, massive=[5])
    assert printed(comparison, 300).rstrip().splitlines()[-1] == summary_sentence(comparison)


def test_warnings_and_notes_are_printed_in_full() -> None:
    comparison = make_comparison(8, massive=[7], notes=["asked for 500 documents, the corpus holds 80"])
    text = printed(comparison, 400)
    assert "note asked for 500 documents, the corpus holds 80" in text
    for warning in comparison.warnings:
        assert f"warning [{warning['code']}] {warning['text']}" in text


def test_the_protocol_stands_beside_our_interval() -> None:
    comparison = make_comparison(6, protocol="paper")
    protocol, mean = comparison.summary["protocol"], comparison.summary["mean_divergence"]["biased"]
    table = protocol_table(comparison)
    assert cells(table, "divergence %")[0] == "mean, biased"
    spread = protocol["mean_divergence"]["biased"]
    assert cells(table, "3 draws, mean ± std")[0] == f"{percent(spread['mean'])} ± {percent(spread['std'])}"
    assert cells(table, "95 % interval")[0] == f"{percent(mean['ci_low'])} to {percent(mean['ci_high'])}"
    text = printed(comparison, 120)
    assert "seeds 42, 43, 44" in text
    assert protocol["source"] in text
    assert "Protocol" not in printed(make_comparison(6))


HOSTILE = ("[red]x[/red]", "[/] [link=file:///x]y\x1b[31m$x_1$")


@pytest.mark.parametrize("terminal", [False, True])
def test_what_is_given_is_printed_literally(terminal: bool) -> None:
    comparison = make_comparison(6, names=HOSTILE, corpus="[bold]c[/bold]", notes=["[blink]n[/blink]"])
    text = printed(comparison, 120, force_terminal=terminal)
    for literal in ("[red]x[/red]", "[link=file:///x]y", "[bold]c[/bold]", "[blink]n[/blink]"):
        assert literal in text
    assert "y\x1b[31m" not in text


def test_a_pipe_gets_no_colour_codes() -> None:
    assert "\x1b" not in printed(make_comparison(8, massive=[7]))
    assert "\x1b" in printed(make_comparison(8, massive=[7]), force_terminal=True)


LONG = ("/data/" + "long-directory/" * 8 + "a", "b" * 200)


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("rescale", [False, True])
def test_no_line_is_wider_than_the_terminal(width: int, rescale: bool) -> None:
    comparison = make_comparison(
        28, 30, names=LONG, corpus="c" * 150, rescale=rescale, massive=[20], constant=[3], protocol="paper"
    )
    assert max(map(len, printed(comparison, width).splitlines())) <= width


def test_at_80_columns_the_essential_columns_stay_and_those_left_out_are_named() -> None:
    comparison = make_comparison(28, rescale=True, massive=[20])
    table = layer_table(comparison, 80)
    essential = ["layer", "divergence debiased %", "95 % interval", "biased %", "rescaled %"]
    assert [head for head in heads(table) if head in essential] == essential
    for head in ("eff. dim A", "eff. dim B"):
        assert head not in heads(table)
        assert head in str(table.caption)
        assert head in heads(layer_table(comparison, 120))
    rows = [line for line in printed(comparison, 80).splitlines() if re.match(r"^ ?\d+ ", line)]
    assert len(rows) == 28


def test_at_80_columns_the_ratio_keeps_its_interval() -> None:
    head = "95 % interval of ratio"
    assert head in heads(layer_table(make_comparison(28, control="c", rescale=True), 80))
