"""The paper's figures, by what they contain."""

import io
import sys
from itertools import pairwise

import ablation_curves
import freeze
import mechanism
import numpy as np
import pandas as pd
import pytest
import raw_cka
import scale_direction
from ablation_curves import ablation_curves_figure
from ablation_table import ablation_table
from freeze import freeze_figure
from losses import training_losses_figure
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from mechanism import mechanism_figure
from points import Reference, by_capacity
from raw_cka import raw_cka_figure
from scale_direction import scale_direction_figure
from start_loss import start_loss_figure
from synthetic_comparison import make_comparison

from cka_tools import Comparison
from cka_tools.errors import UserError
from cka_tools.plotting.style import FAINT, PAGE_WIDTH, plain_log_axis

TABLE = ablation_table()


def marked(figure: Figure, gid: str) -> list[tuple[float, float]]:
    """Points of all lines with this mark, over all panels."""
    return [
        (float(x), float(y))
        for ax in figure.axes
        for line in ax.lines
        if line.get_gid() == gid
        for x, y in zip(*line.get_data(), strict=True)
    ]


def nothing_is_clipped(figure: Figure) -> None:
    """Every text lies inside the page, and no two tick labels of an axis overlap."""
    figure.savefig(io.BytesIO(), format="png")
    renderer = FigureCanvasAgg(figure).get_renderer()
    page = figure.bbox
    for ax in figure.axes:
        labels = [label for label in ax.get_xticklabels() if label.get_text() and label.get_visible()]
        low, high = ax.get_xlim()
        boxes = [
            label.get_window_extent(renderer)
            for label, at in zip(labels, [label.get_position()[0] for label in labels], strict=True)
            if low <= at <= high
        ]
        boxes.sort(key=lambda box: box.x0)
        assert all(a.x1 <= b.x0 for a, b in pairwise(boxes))
        for text in (*boxes, ax.title.get_window_extent(renderer), ax.get_tightbbox(renderer)):
            assert text.x0 >= page.x0 - 1
            assert text.x1 <= page.x1 + 1
    for legend in figure.legends:
        box = legend.get_window_extent(renderer)
        assert box.x1 <= page.x1 + 1


def test_ablation_curves_hold_every_cell_seed_and_size() -> None:
    published = {"mean": [Reference(0.1, 57.1)], "early": [Reference(0.1, 18.4)]}
    figure = ablation_curves_figure(TABLE, published)
    assert figure.get_figwidth() == pytest.approx(PAGE_WIDTH)
    nothing_is_clipped(figure)
    rows = TABLE[TABLE["axis"].isin(["length", "decay"]) & TABLE["layer"].isin(["mean", "early"])]
    drawn = sorted(round(y, 6) for _, y in marked(figure, "divergence"))
    assert drawn == sorted(round(100 * d, 6) for d in rows["divergence"])
    ratios = rows[rows["layer"] == "mean"]["ratio"]
    assert sorted(round(y, 6) for _, y in marked(figure, "ratio")) == sorted(round(r, 6) for r in ratios)
    assert marked(figure, "published") == [(0.1, 57.1), (0.1, 18.4)]
    assert not marked(ablation_curves_figure(TABLE), "published")


def test_a_value_that_cannot_be_given_is_not_drawn() -> None:
    table = TABLE.copy()
    table.loc[table["seed"] == 2, ["ratio", "ratio_low", "ratio_high"]] = np.nan
    drawn = [y for _, y in marked(ablation_curves_figure(table), "ratio")]
    assert np.isfinite(drawn).sum() == len(drawn) / 2


def test_scale_and_direction_show_each_run_once_beside_the_published() -> None:
    names = [("Base", Reference(0, 56.5, 0.7)), ("Large", Reference(0, 67.2, 0.3))]
    figure = scale_direction_figure(TABLE, names)
    nothing_is_clipped(figure)
    # Two sizes, two directions, two seeds; mean and early.
    assert len(marked(figure, "divergence")) == 16
    assert len(marked(figure, "ratio")) == 8
    assert [y for _, y in marked(figure, "published")] == [56.5, 67.2]
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert labels == ["4x64\nencoder", "8x128\nencoder", "4x64\ndecoder", "8x128\ndecoder", "Base", "Large"]


def test_freeze_dots_stand_in_the_same_row_for_both_sizes() -> None:
    figure = freeze_figure(TABLE, [("none", 1.0), ("low", 0.17), ("middle", 0.83), ("decay", 0.83)])
    nothing_is_clipped(figure)
    assert [label.get_text().split("\n")[0] for label in figure.axes[0].get_yticklabels()] == [
        "nothing frozen",
        "low third",
        "middle third",
        "low third",
    ]
    rows = sorted(round(y) for _, y in marked(figure, "divergence"))
    assert rows == sorted([0, 1, 2, 3] * 8)
    assert [x for x, _ in marked(figure, "published")] == pytest.approx([100, 17, 83, 83])


@pytest.mark.parametrize("draw", [ablation_curves_figure, scale_direction_figure, freeze_figure])
def test_an_ablation_without_the_axis_is_refused(draw) -> None:
    with pytest.raises(UserError, match="cka ablate"):
        draw(TABLE[TABLE["axis"] == "none"])


def test_losses_stand_beside_token_frequency() -> None:
    rows = [("detour", kind, "clm", t, 6 - t / 1e6) for kind in ("train", "held-out") for t in (0, 1e6, 2e6)]
    rows += [("baseline", "held-out", "mlm", 1e6, 4.0)]
    table = pd.DataFrame(rows, columns=["run", "kind", "objective", "tokens", "loss"])
    figure = training_losses_figure(table, unigram=6.8, margin=0.5)
    nothing_is_clipped(figure)
    assert marked(figure, "detour held-out") == [(0, 6), (1, 5), (2, 4)]
    assert marked(figure, "baseline held-out") == [(1, 4)]
    for ax in figure.axes:
        levels = {line.get_gid(): line.get_ydata()[0] for line in ax.lines if len(line.get_ydata())}
        assert (levels["unigram"], levels["margin"]) == (6.8, pytest.approx(6.3))


def test_the_loss_of_the_start_model_shows_where_it_is_annealed() -> None:
    rows = [("train", "pretraining", at * 30_000, 8 - at / 10) for at in range(1, 5)]
    rows += [("train", "annealing", 150_000, 7.0), ("held-out", "pretraining", 60_000, 7.9)]
    rows += [("held-out", "pretraining", 120_000, 7.8), ("held-out", "annealing", 150_000, 7.2)]
    figure = start_loss_figure(pd.DataFrame(rows, columns=["kind", "phase", "tokens", "loss"]))
    nothing_is_clipped(figure)
    assert marked(figure, "held-out") == [(0.06, 7.9), (0.12, 7.8), (0.15, 7.2)]
    assert {x for x, _ in marked(figure, "annealing")} == {0.12}
    # Bins of 60,000 tokens: 30k; 60k and 90k; 120k; the annealing's own.
    expected = [(0.03, 7.9), (0.075, 7.75), (0.12, 7.6), (0.15, 7.0)]
    assert marked(figure, "train") == [pytest.approx(one) for one in expected]


def test_sizes_are_ordered_by_capacity() -> None:
    assert by_capacity(["4x64", "22x768", "8x128", "4x64"]) == ["22x768", "8x128", "4x64"]


def test_pdf_fonts_are_embedded() -> None:
    file = io.BytesIO()
    freeze_figure(TABLE).savefig(file, format="pdf")
    content = file.getvalue()
    assert b"/FontFile2" in content
    assert b"/Type3" not in content


def pair_with_control() -> Comparison:
    comparison = make_comparison()
    record = comparison.record
    record["provenance"]["models"].append({"role": "control", "name": "other seed"})
    for at, layer in enumerate(record["layers"]):
        layer["control"] = {"value": 0.02, "ci_low": 0.015, "ci_high": 0.025}
        layer["ratio"] = {"value": 5.0 + at, "ci_low": 4.0 + at, "ci_high": 6.0 + at}
    arrays = comparison.arrays | {f"control.{name}": a for name, a in comparison.arrays.items()}
    return Comparison(record, arrays)


def test_the_mechanism_shows_pair_control_ratio_and_decay() -> None:
    comparison = pair_with_control()
    trajectory = pd.DataFrame(
        [
            {"role": role, "x": x, "layer": layer, "divergence": d}
            | {"divergence_low": 0.9 * d, "divergence_high": 1.1 * d}
            for role in ("checkpoint", "control")
            for layer, d in (("mean", 0.1), ("early", 0.2))
            for x in (2e6, 3e6)
        ]
    )
    region = Reference(0.0, 15.0, until=1.0)
    published = {"pair": [Reference(0.0, 14.0), Reference(1.0, 97.0), region], "mean": [Reference(0.5, 57.0)]}
    figure = mechanism_figure(comparison.record, trajectory, published)
    nothing_is_clipped(figure)
    layers = len(comparison.layers)
    assert len(marked(figure, "the pair")) == len(marked(figure, "seed noise")) == layers
    assert [y for _, y in marked(figure, "ratio")] == [5.0 + at for at in range(layers)]
    assert marked(figure, "along mean") == [(2.0, 10.0), (3.0, 10.0)]
    first, last = comparison.layers[0]["layer_a"], comparison.layers[-1]["layer_a"]
    assert marked(figure, "published") == [(first, 14.0), (last, 97.0), (2.5, 57.0)]
    (lines,) = [one for ax in figure.axes for one in ax.collections if one.get_gid() == "published mean"]
    assert lines.get_segments()[0].tolist() == [[first, 15.0], [last, 15.0]]  # type: ignore[attr-defined]


def test_the_mechanism_needs_a_control() -> None:
    with pytest.raises(UserError, match="--control"):
        mechanism_figure(make_comparison().record)


def test_raw_cka_shows_both_estimators_of_pair_and_control() -> None:
    comparison = pair_with_control()
    figure = raw_cka_figure(comparison.record, comparison.arrays, {"pair": [Reference(0.5, 0.3)]})
    nothing_is_clipped(figure)
    for name in ("pair", "control"):
        for estimator in ("biased", "debiased"):
            assert len(marked(figure, f"{name} {estimator}")) == len(comparison.layers)
    drawn = [y for _, y in marked(figure, "pair debiased")]
    assert drawn == pytest.approx(comparison.diagonal("debiased").tolist())
    alone = make_comparison()
    assert len(raw_cka_figure(alone.record, alone.arrays).axes) == 1


@pytest.mark.parametrize(
    ("low", "high"), [(0.9, 1.1), (1.2, 1.9), (0.4, 70.0), (1e-7, 90.0), (1e-300, 1e3), (3.0, 3.0001)]
)
def test_a_log_axis_has_ticks_whatever_it_spans(low: float, high: float) -> None:
    ax = Figure().subplots()
    plain_log_axis(ax, (1.0, 2.0, 5.0), 9)
    ax.set_ylim(low, high)
    ticks = [tick for tick in ax.yaxis.get_majorticklocs() if low <= tick <= high]
    assert 2 <= len(ticks) <= 9


def test_a_layer_near_0_leaves_the_others_room_and_is_marked() -> None:
    comparison = pair_with_control()
    for layer, value in ((0, 1e-12), (1, -1e-4)):
        comparison.layers[layer]["control"].update(value=value, ci_low=value, ci_high=value)
    figure = mechanism_figure(comparison.record)
    (low, high), ticks = figure.axes[0].get_ylim(), figure.axes[0].yaxis.get_majorticklocs()
    assert low == 0.05
    assert sum(low <= tick <= high for tick in ticks) >= 4
    assert marked(figure, "below") == [(0, 0.05), (1, 0.05)]
    assert not marked(mechanism_figure(pair_with_control().record), "below")


def test_panels_have_letters_and_log_axes_are_named() -> None:
    comparison = pair_with_control()
    published = {"pair": [Reference(0.5, 30.0)]}
    figures = [
        ablation_curves_figure(TABLE, {"mean": [Reference(0.1, 57.1)], "early": []}),
        scale_direction_figure(TABLE, [("Base", Reference(0, 56.5, 0.7))]),
        freeze_figure(TABLE, [("none", 1.0)]),
        mechanism_figure(comparison.record, published=published),
        raw_cka_figure(comparison.record, comparison.arrays, published),
    ]
    for figure in figures:
        letters = [text.get_text() for ax in figure.axes for text in ax.texts if text.get_gid() == "letter"]
        assert letters == list("abcdef"[: len(figure.axes)])
        for ax in figure.axes:
            assert ("log" in ax.get_title(loc="left")) == (ax.get_yscale() == "log")
            assert ("log" in ax.get_xlabel()) == (ax.get_xscale() == "log")
        (known,) = [t for legend in figure.legends for t in legend.get_texts() if t.get_text().startswith("published")]
        assert "Touchent and de la Clergerie 2026" in known.get_text()
        lines = [line for ax in figure.axes for line in ax.lines if line.get_gid() == "published"]
        assert {line.get_color() for line in lines if len(line.get_xdata())} == {FAINT}
        labels = [t.get_text() for legend in figure.legends for t in legend.get_texts()]
        assert len(labels) == len(set(labels))


def test_values_that_are_few_have_no_line_through_them() -> None:
    rows = [("detour", "held-out", "clm", t, 6 - t / 1e6) for t in (0, 1e6, 2e6)]
    losses = training_losses_figure(pd.DataFrame(rows, columns=["run", "kind", "objective", "tokens", "loss"]), 6.8)
    for figure, gids in (
        (losses, {"detour held-out"}),
        (ablation_curves_figure(TABLE), {"divergence", "ratio", "mean of seeds"}),
    ):
        found = [line for ax in figure.axes for line in ax.lines if line.get_gid() in gids]
        assert found
        assert {line.get_linestyle() for line in found} == {"None"}


def test_both_estimators_are_seen_where_they_agree() -> None:
    comparison = pair_with_control()
    figure = raw_cka_figure(comparison.record, comparison.arrays)
    places = {e: [x for x, _ in marked(figure, f"pair {e}")] for e in ("biased", "debiased")}
    assert all(abs(a - b) > 0.2 for a, b in zip(places["biased"], places["debiased"], strict=True))


@pytest.mark.parametrize("script", [ablation_curves, freeze, mechanism, raw_cka, scale_direction])
def test_published_values_can_be_left_out(script, monkeypatch, tmp_path) -> None:
    drawn = []
    monkeypatch.setattr(script, "write", lambda figure, out: drawn.append(figure))
    for options in ([], ["--no-published"]):
        monkeypatch.setattr(sys, "argv", ["script", *options, "--out", str(tmp_path / "x")])
        script.main()
    assert [bool(marked(figure, "published")) for figure in drawn] == [True, False]
