"""The figure: what it holds is what the record holds, nothing overlaps, nothing is cut off."""

import io
import re
import zlib
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from synthetic_comparison import PAPER_CKA, make_comparison, with_diagonal

from cka_tools.comparison import Comparison
from cka_tools.plotting import comparison_figure
from cka_tools.plotting.layer_curves import thin
from cka_tools.plotting.style import break_lines, text_width

LONG = tuple(
    f"/data/experiments/2026-05/{run}/runs/base-english-10B/seed-1/checkpoints/step-3000"
    for run in ("causal-detour", "mlm-baseline")
)
NEGATIVE = [0.9, 0.8, 0.6, 0.4, 0.2, 0.1, 0.03, -0.01, -0.04, -0.06, 0.0, 0.01]

CASES: dict[str, Callable[[], Comparison]] = {
    "6 layers": lambda: make_comparison(6),
    "8 layers, rescaled": lambda: make_comparison(8, rescale=True),
    "22 layers as in the paper": lambda: with_diagonal(
        make_comparison(22, massive=range(15, 22), protocol="paper"), PAPER_CKA
    ),
    "28 layers, everything": lambda: make_comparison(
        28,
        names=LONG,
        corpus="/some/long/path/" * 5 + "abstracts.jsonl.gz",
        rescale=True,
        massive=[10, 11, 27],
        constant=[5],
    ),
    "12 against 22": lambda: make_comparison(12, 22),
    "28 against 6": lambda: make_comparison(28, 6),
    "100 layers": lambda: make_comparison(100, n=40, width=8),
    "few documents": lambda: make_comparison(6, n=12, constant=[2]),
    "all null": lambda: make_comparison(6, n=40, constant=range(6)),
    "one layer": lambda: make_comparison(8, layers=[5]),
    "some layers": lambda: make_comparison(24, layers=[0, 3, 8, 9, 10, 11, 23], early=[0, 3, 9]),
    "the same model": lambda: make_comparison(6, drift=0.0),
    "negative CKA": lambda: with_diagonal(make_comparison(12, n=60), NEGATIVE, 0.05),
    "with a control": lambda: make_comparison(8, control="demo:mlm-baseline-2", rescale=True, constant=[6]),
    "28 layers, a long control, everything": lambda: make_comparison(
        28,
        names=LONG,
        control="/data/experiments/2026-05/runs/" * 3 + "seed-2",
        rescale=True,
        massive=[10, 11],
        constant=[5],
        protocol="paper",
    ),
    "a control that is B": lambda: make_comparison(8, control="B itself", control_drift=0.0),
    "few documents, with a control": lambda: make_comparison(6, n=12, control="c"),
    "one layer, with a control": lambda: make_comparison(8, layers=[5], control="c"),
    "a name without a place to break": lambda: make_comparison(6, names=("x" * 300, "W" * 300)),
}


@pytest.fixture(scope="module", params=list(CASES))
def drawn(request: pytest.FixtureRequest) -> tuple[Comparison, Figure]:
    """Every case, and its figure."""
    comparison = CASES[request.param]()
    return comparison, figure_of(comparison)


def figure_of(comparison: Comparison) -> Figure:
    return comparison_figure(comparison.record, comparison.arrays)


def by_gid(ax: Axes, gid: str) -> list:
    return [artist for artist in ax.get_children() if artist.get_gid() == gid]


def curve(ax: Axes, gid: str) -> np.ndarray:
    (line,) = by_gid(ax, gid)
    return np.asarray(line.get_ydata(), dtype=float)


def shown_texts(figure: Figure) -> list[Text]:
    """Every text that is visible, tick labels within the limits only."""
    texts = list(figure.texts)
    for ax in figure.axes:
        texts += [ax.title, ax.xaxis.label, ax.yaxis.label]
        for axis in (ax.xaxis, ax.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in axis.get_major_ticks():
                if tick.label1.get_visible() and low <= tick.get_loc() <= high:
                    texts.append(tick.label1)
        if ax.get_legend() is not None:
            texts += ax.get_legend().get_texts()
    return [text for text in texts if text.get_visible() and text.get_text().strip()]


def test_no_two_texts_overlap_and_nothing_leaves_the_page(drawn: tuple[Comparison, Figure]) -> None:
    _, figure = drawn
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in shown_texts(figure)]
    width, height = figure.bbox.size
    for text, box in boxes:
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height, text  # noqa: PT018
    for (text, box), (other, second) in combinations(boxes, 2):
        assert not box.overlaps(second), (text, other)
    panels = [ax.get_window_extent(renderer) for ax in figure.axes]
    for ax in figure.axes:
        legend = ax.get_legend()
        if legend is not None:
            extent = legend.get_window_extent(renderer)
            assert extent.x1 <= width
            assert not any(extent.overlaps(panel) for panel in panels)
    assert not any(a.overlaps(b) for a, b in combinations(panels, 2))


def test_curves_are_the_records_values(drawn: tuple[Comparison, Figure]) -> None:
    comparison, figure = drawn
    divergence, dimension = figure.axes[:2]
    expected = 100 * (1 - comparison.diagonal("debiased"))
    np.testing.assert_array_equal(curve(divergence, "debiased, 95 % interval"), expected)
    np.testing.assert_array_equal(curve(divergence, "biased"), 100 * (1 - comparison.diagonal("biased")))
    for side in "ab":
        record = [
            np.nan if e[f"effective_dim_{side}"] is None else e[f"effective_dim_{side}"] for e in comparison.layers
        ]
        np.testing.assert_array_equal(curve(dimension, f"model {side.upper()}"), record)
    assert dimension.get_yscale() == "log"
    assert dimension.get_shared_x_axes().joined(dimension, divergence)


def test_every_value_and_interval_lies_inside_the_axes(drawn: tuple[Comparison, Figure]) -> None:
    comparison, figure = drawn
    low, high = figure.axes[0].get_ylim()
    for entry in comparison.layers:
        for row in (entry, entry.get("rescaled", {})):
            for key in ("cka_debiased", "cka_biased", "ci_low", "ci_high"):
                if row.get(key) is not None:
                    assert low < 100 * (1 - row[key]) < high
    bottom, top = figure.axes[1].get_ylim()
    for line in figure.axes[1].get_lines():
        values = np.asarray(line.get_ydata(), dtype=float)
        assert np.all((values > bottom) & (values < top) | np.isnan(values))


def test_heatmap_has_a_cell_for_every_pair(drawn: tuple[Comparison, Figure]) -> None:
    comparison, figure = drawn
    matrix = comparison.matrix("debiased")
    (mesh,) = by_gid(figure.axes[2], "cka")
    cells = np.ma.filled(mesh.get_array(), np.nan).reshape(matrix.shape)
    np.testing.assert_array_equal(cells, matrix)
    low, high = mesh.get_clim()
    assert low <= np.nanmin(matrix, initial=1)
    assert high >= max(1, np.nanmax(matrix, initial=1))
    assert low <= 0 or np.nanmin(matrix) >= 0.5
    (paired,) = by_gid(figure.axes[2], "paired")
    assert len(paired.get_xdata()) == len(comparison.layers)
    (best,) = by_gid(figure.axes[2], "best")
    for column, row in zip(best.get_xdata(), best.get_ydata(), strict=True):
        assert matrix[row, column] == np.nanmax(matrix[row])


def test_paired_cells_of_a_rectangle_hold_the_diagonal() -> None:
    comparison = make_comparison(12, 22)
    (paired,) = by_gid(figure_of(comparison).axes[2], "paired")
    found = comparison.matrix("debiased")[paired.get_ydata(), paired.get_xdata()]
    np.testing.assert_array_equal(found, comparison.diagonal("debiased"))


def test_axes_of_chosen_layers_carry_the_models_own_indices() -> None:
    figure = figure_of(make_comparison(24, layers=[3, 8, 23]))
    assert list(figure.axes[0].get_lines()[0].get_xdata()) == [3, 8, 23]
    for axis in (figure.axes[2].xaxis, figure.axes[2].yaxis):
        assert [label.get_text() for label in axis.get_ticklabels()] == ["3", "8", "23"]


@pytest.mark.parametrize(
    ("layers", "early", "spans"),
    [(None, None, [(-0.6, 2.5)]), (None, [2, 3, 7], [(1.5, 3.5), (6.5, 7.6)]), ([0, 4, 6], [0, 4], [(-0.6, 5.0)])],
)
def test_early_band_covers_the_early_layers_and_no_other(
    layers: list[int] | None, early: list[int] | None, spans: list[tuple[float, float]]
) -> None:
    figure = figure_of(make_comparison(8, layers=layers, early=early))
    for ax in figure.axes[:2]:
        found = [(band.get_x(), band.get_x() + band.get_width()) for band in by_gid(ax, "early")]
        np.testing.assert_allclose(found, spans)
    assert any(t.get_text().startswith("early ") for t in figure.axes[0].get_legend().get_texts())


def test_intervals_are_drawn_and_absent_where_there_are_none() -> None:
    comparison = make_comparison(6, rescale=True)
    gid = "debiased, 95 % interval: bars"
    (bars,) = by_gid(figure_of(comparison).axes[0], gid)
    ends = [sorted(segment[:, 1]) for segment in bars.get_segments()]
    expected = [[100 * (1 - e["ci_high"]), 100 * (1 - e["ci_low"])] for e in comparison.layers]
    np.testing.assert_allclose(ends, expected)
    (none,) = by_gid(figure_of(make_comparison(6, n=12)).axes[0], gid)
    assert not any(np.isfinite(segment).any() for segment in none.get_segments() if segment.ndim == 2)


def test_rescaled_is_a_third_curve_only_where_it_was_computed() -> None:
    comparison = make_comparison(6, rescale=True)
    expected = [100 * (1 - e["rescaled"]["cka_debiased"]) for e in comparison.layers]
    np.testing.assert_array_equal(curve(figure_of(comparison).axes[0], "rescaled"), expected)
    assert not by_gid(figure_of(make_comparison(6)).axes[0], "rescaled")


def test_curves_differ_in_marker_and_line_style_not_in_colour_alone() -> None:
    divergence, dimension = figure_of(make_comparison(6, rescale=True)).axes[:2]
    gids = ("debiased, 95 % interval", "biased", "rescaled")
    for ax, names in ((divergence, gids), (dimension, ("model A", "model B"))):
        lines = [by_gid(ax, name)[0] for name in names]
        assert len({line.get_marker() for line in lines}) == len(lines)
        assert len({str(line._unscaled_dash_pattern) for line in lines}) == len(lines)


def test_massive_features_are_marked() -> None:
    comparison = make_comparison(8, massive=[4, 6])
    (marks,) = by_gid(figure_of(comparison).axes[1], "massive")
    assert sorted(set(marks.get_xdata())) == [4, 6]
    assert not by_gid(figure_of(make_comparison(8)).axes[1], "massive")


def test_undefined_layers_are_hatched_and_named() -> None:
    divergence, _, heat = figure_of(make_comparison(6, constant=[2])).axes[:3]
    (void,) = by_gid(divergence, "undefined")
    assert (void.get_x(), void.get_width()) == (1.5, 1.0)
    assert void.get_hatch()
    assert heat.patch.get_hatch()
    for ax in (divergence, heat):
        assert "undefined" in [text.get_text() for text in ax.get_legend().get_texts()]


def test_footnotes_carry_every_warning_and_the_protocol() -> None:
    comparison = make_comparison(8, massive=[7], constant=[2], protocol="paper")
    lines = [text.get_text() for text in figure_of(comparison).texts if text.get_gid() == "footnote"]
    whole = " ".join(lines)
    assert {w["code"] for w in comparison.warnings} >= {"massive-feature", "no-variance"}
    for warning in comparison.warnings:
        assert f"[{warning['code']}] {warning['text']}" in whole
    assert "seeds 42, 43, 44" in whole


def test_title_names_models_corpus_and_settings() -> None:
    figure = figure_of(make_comparison(6, names=("org/a", "org/b"), corpus="hf:x/y", n=80))
    head = " ".join(text.get_text() for text in figure.texts)
    for part in ("org/a (A)", "org/b (B)", "hf:x/y", "80 documents", "mean pooling", "residual", "float32"):
        assert part in head


def test_names_are_drawn_literally() -> None:
    names = ("$x_1$ and a_b^c", r"\frac{1} 100% $\alpha$")
    figure = figure_of(make_comparison(6, names=names, corpus="$oops{"))
    head = [text for text in figure.texts if names[0] in text.get_text() or "$oops{" in text.get_text()]
    assert len(head) == 2
    assert not any(text.get_parse_math() for text in figure.texts)
    figure.savefig(io.BytesIO(), format="png", dpi=40)


def test_names_in_another_script_raise_no_warning(recwarn: pytest.WarningsRecorder) -> None:
    figure = figure_of(make_comparison(6, names=("模型/甲", "نموذج")))
    figure.savefig(io.BytesIO(), format="png", dpi=40)
    assert not recwarn.list


def test_long_names_stay_different() -> None:
    head = figure_of(make_comparison(6, names=LONG)).texts[0].get_text()  # type: ignore[arg-type]
    assert "causal-detour" in head
    assert "mlm-baseline" in head


@pytest.mark.parametrize("suffix", ["pdf", "png", "svg"])
def test_the_same_comparison_gives_the_same_bytes(suffix: str, tmp_path: Path) -> None:
    comparison = make_comparison(6, rescale=True)
    files = [tmp_path / f"{name}.{suffix}" for name in "ab"]
    for file in files:
        figure_of(comparison).savefig(file)
    assert files[0].read_bytes() == files[1].read_bytes()


def test_pdf_embeds_truetype_fonts_and_has_one_page(tmp_path: Path) -> None:
    figure_of(make_comparison(6)).savefig(tmp_path / "figure.pdf")
    data = (tmp_path / "figure.pdf").read_bytes()
    streams = re.findall(rb"stream\r?\n(.*?)\r?\nendstream", data, re.DOTALL)
    whole = data + b"".join(zlib.decompress(s) for s in streams if s[:1] == b"x")
    assert b"/FontFile2" in whole
    assert b"/CIDFontType2" in whole
    assert b"/Subtype /Type3" not in whole
    assert len(re.findall(rb"/Type /Page\b", whole)) == 1
    assert b"CreationDate" not in whole


def test_matplotlibs_global_state_is_neither_used_nor_changed() -> None:
    comparison = make_comparison(6)
    reference = io.BytesIO()
    figure_of(comparison).savefig(reference, format="png")
    with mpl.rc_context({"font.size": 30, "axes.grid": True, "savefig.bbox": "tight", "axes.facecolor": "red"}):
        before = dict(mpl.rcParams)
        other = io.BytesIO()
        figure_of(comparison).savefig(other, format="png")
        assert dict(mpl.rcParams) == before
    assert other.getvalue() == reference.getvalue()


def test_figures_are_made_without_pyplot() -> None:
    import subprocess
    import sys

    code = "import sys, cka_tools.plotting; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0


@pytest.mark.parametrize("count", [1, 6, 14, 22, 28, 48, 100])
def test_ticks_are_thinned_to_a_number_that_fits(count: int) -> None:
    chosen = thin(range(count))
    assert chosen[0] == 0
    assert len(chosen) <= 14
    assert len(chosen) >= min(count, 7)


def test_lines_fit_their_width_and_lose_nothing() -> None:
    text = "a few words and one " + "word" * 40 + " of many letters"
    lines = break_lines(text, 1.5, 7)
    assert all(text_width(line, 7) <= 1.5 for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")


def test_a_control_is_drawn_beside_the_pair_with_its_band_and_the_ratio_below() -> None:
    comparison = make_comparison(8, control="org/b-2")
    figure = figure_of(comparison)
    divergence, ratio = figure.axes[0], next(ax for ax in figure.axes if by_gid(ax, "ratio"))
    np.testing.assert_array_equal(
        curve(divergence, "control"), [100 * e["control"]["value"] for e in comparison.layers]
    )
    (band,) = by_gid(divergence, "control: band")
    edges = band.get_paths()[0].vertices[:, 1]
    for entry in comparison.layers:
        for end in ("ci_low", "ci_high"):
            assert np.isclose(edges, 100 * entry["control"][end]).any()
    np.testing.assert_array_equal(curve(ratio, "ratio"), [e["ratio"]["value"] for e in comparison.layers])
    (bars,) = by_gid(ratio, "ratio: bars")
    for entry, segment in zip(comparison.layers, bars.get_segments(), strict=True):
        np.testing.assert_allclose(segment[:, 1], [entry["ratio"]["ci_low"], entry["ratio"]["ci_high"]])
    assert list(curve(ratio, "one")) == [1, 1]
    low, high = ratio.get_ylim()
    assert low < 1
    assert all(low < e["ratio"]["ci_low"] and e["ratio"]["ci_high"] < high for e in comparison.layers)
    feet = " ".join(text.get_text() for text in figure.texts if text.get_gid() == "footnote")
    assert "org/b-2" in feet
    assert "times the seed noise" in feet
    assert not by_gid(ratio, "no ratio")


def test_layers_without_a_ratio_are_hatched_and_their_reason_is_in_the_notes() -> None:
    comparison = make_comparison(6, control="c", constant=[2])
    figure = figure_of(comparison)
    ratio = next(ax for ax in figure.axes if by_gid(ax, "ratio"))
    (void,) = by_gid(ratio, "no ratio")
    assert (void.get_x(), void.get_width()) == (1.5, 1.0)
    feet = " ".join(text.get_text() for text in figure.texts if text.get_gid() == "footnote")
    assert "No ratio in layer 2: no variance" in feet
    assert "none: see note" in [text.get_text() for text in ratio.get_legend().get_texts()]


def test_a_figure_without_a_control_has_no_trace_of_one() -> None:
    figure = figure_of(make_comparison(6))
    assert len(figure.axes) == 4
    assert not any(by_gid(ax, gid) for ax in figure.axes for gid in ("control", "ratio", "no ratio"))
