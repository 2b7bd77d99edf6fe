"""What may be chosen of a figure, one panel alone, panels on axes of one's own."""

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from synthetic_comparison import make_comparison, with_diagonal

from cka_tools.comparison import Comparison
from cka_tools.comparison.results import RunResult
from cka_tools.comparison.run_directory import write_figure
from cka_tools.errors import UserError
from cka_tools.figure_choices import Choices, drawn_with, parse_range
from cka_tools.plotting.heatmap import draw_mesh


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return make_comparison(8, control="another seed", rescale=True)


def drawn(result: RunResult, **choices: object) -> Figure:
    with drawn_with(Choices(**choices)):  # type: ignore[arg-type]
        return result.figure()


def by_gid(figure: Figure, gid: str) -> list:
    return figure.findobj(lambda artist: artist.get_gid() == gid)


def texts(figure: Figure) -> str:
    return " ".join(text.get_text() for text in figure.findobj(Text))


@pytest.mark.parametrize(
    ("low", "ends"),
    [
        (-0.3, (-0.3, 1)), (0.2, (0, 1)), (0.55, (0.5, 1)), (0.83, (0.8, 1)), (0.93, (0.92, 1)), (0.985, (0.98, 1)),
        (1.0, (0.99, 1)),
    ],
)  # fmt: skip
def test_colours_narrow_where_all_values_lie_close_to_1(low: float, ends: tuple[float, float]) -> None:
    ax = Figure().subplots()
    mesh = draw_mesh(ax, np.array([[low, 1.0], [1.0, np.nan]]), "m", narrow=True)
    assert mesh.get_clim() == pytest.approx(ends)
    assert draw_mesh(ax, np.array([[0.9]]), "m").get_clim() == (0, 1)


def test_a_narrowed_range_is_said_at_the_colour_bar() -> None:
    near = make_comparison(6)
    near.arrays["matrix.debiased"] = np.linspace(0.85, 1, 36).reshape(6, 6)
    assert "colours from 0.85 to 1" in texts(drawn(near))
    assert "CKA, debiased" in texts(drawn(near, range=(0, 1)))
    assert "colours from" not in texts(drawn(near, range=(0, 1)))
    assert "colours from 0.9 to 0.95" in texts(drawn(near, what="heatmap", range=(0.9, 0.95)))


def test_choices_hold_on_the_page_and_leave_no_trace(comparison: Comparison) -> None:
    figure = drawn(comparison, cmap="viridis", title="One title", biased=False, range=(0.25, 0.75))
    (mesh,) = by_gid(figure, "cka")
    assert (mesh.cmap.name, mesh.get_clim()) == ("viridis", (0.25, 0.75))
    assert "One title" in texts(figure)
    assert not by_gid(figure, "biased")
    (mesh,) = by_gid(after := comparison.figure(), "cka")
    assert mesh.cmap.name == "cividis"
    assert by_gid(after, "biased")
    assert "demo:clm-detour" in texts(after)


@pytest.mark.parametrize("size", ["single", "double"])
@pytest.mark.parametrize("what", ["layers", "heatmap", "dimension"])
@pytest.mark.parametrize("font", [7.0, 11.0])
def test_a_panel_alone_holds_its_values_and_nothing_overlaps(
    comparison: Comparison, what: str, size: str, font: float
) -> None:
    figure = drawn(comparison, what=what, size=size, font=font)
    assert figure.get_figwidth() == {"single": 3.5, "double": 7.2}[size]
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    (legend,) = figure.legends
    for ax in figure.axes:
        box = ax.get_tightbbox(renderer)
        assert box is not None
        assert not box.overlaps(legend.get_window_extent(renderer))
        assert figure.bbox.expanded(1.01, 1.01).contains(box.x0, box.y0)
        assert figure.bbox.expanded(1.01, 1.01).contains(box.x1, box.y1)
    if what == "layers":
        (line,) = by_gid(figure, "debiased, 95 % interval")
        np.testing.assert_allclose(line.get_ydata(), [100 * e["divergence"]["value"] for e in comparison.layers])
    assert all(label.get_size() == font - 0.5 * font / 7 for label in figure.axes[0].get_xticklabels())


def test_annotations_are_the_values_and_readable_on_any_colour(comparison: Comparison) -> None:
    for cmap in ("cividis", "gray"):
        figure = drawn(comparison, what="heatmap", annotate=True, cmap=cmap)
        found = {tuple(map(round, t.get_position())): t for t in by_gid(figure, "value")}
        matrix = comparison.arrays["matrix.debiased"]
        (mesh,) = by_gid(figure, "cka")
        for (column, row), text in found.items():
            assert float(text.get_text()) == pytest.approx(matrix[row, column], abs=0.00501)
            red, green, blue, _ = mesh.to_rgba(np.array([matrix[row, column]]))[0]
            light = 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2
            own = 1.0 if text.get_color() == "white" else 0.0
            assert (max(light, own) + 0.05) / (min(light, own) + 0.05) >= 4.5
        assert len(found) == matrix.size
    assert not by_gid(drawn(comparison, what="heatmap"), "value")


def test_a_users_matplotlibrc_is_respected_in_what_is_drawn_for_them(
    comparison: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "matplotlibrc").write_text("lines.linewidth: 4\nfont.size: 10\nsavefig.dpi: 50\n")
    before = dict(mpl.rcParams)
    monkeypatch.chdir(tmp_path)
    for choices in ({}, {"style": tmp_path / "matplotlibrc"}):
        (line,) = by_gid(drawn(comparison, what="layers", **choices), "debiased, 95 % interval")
        assert line.get_linewidth() == 4
    figure = drawn(comparison, what="layers")
    assert figure.axes[0].xaxis.label.get_size() == pytest.approx(10)
    # A saved run's own figure is the same anywhere.
    (line,) = by_gid(comparison.figure(), "debiased, 95 % interval")
    assert line.get_linewidth() == pytest.approx(1.1)
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize(("text", "ends"), [("auto", None), ("0:1", (0.0, 1.0)), (" -0.5:0.25 ", (-0.5, 0.25))])
def test_ranges(text: str, ends: tuple[float, float] | None) -> None:
    assert parse_range(text) == ends


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("figure.dpi: -5\n", "nothing can be drawn with --style '.*': correct it .dpi must be positive"),
        ("lines.widht: 4\n", "--style '.*' cannot be read as matplotlib's: Bad key lines.widht"),
        ('{"text": "a"}\n', "--style '.*' cannot be read as matplotlib's: Bad key"),
    ],
)
def test_a_style_that_does_not_fit_is_told_in_one_line(
    tmp_path: Path, comparison: Comparison, caplog: pytest.LogCaptureFixture, text: str, message: str
) -> None:
    (tmp_path / "style").write_text(text)
    choices = Choices(what="layers", style=tmp_path / "style")
    with pytest.raises(UserError, match=message) as error, drawn_with(choices):
        write_figure(comparison.figure(), tmp_path / "a.png")
    assert "\n" not in str(error.value)
    assert not caplog.text


def test_a_title_that_no_figure_holds_is_refused() -> None:
    assert Choices(title="x" * 200).title == "x" * 200
    with pytest.raises(UserError, match=r"--title 'x+…x+' is too long: give at most 200 letters"):
        Choices(title="x" * 201)


@pytest.mark.parametrize(
    "text", ["", "1", "1:0", "0:0", "a:b", "0:1:2", "nan:1", "0:inf", "0-1", "-1e308:1e308", "0:1e-20"]
)
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="does not fit: write it like 0:1"):
        parse_range(text)


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"cmap": "viridsi"}, "--cmap 'viridsi' is not known: did you mean 'viridis'?"),
        ({"font": 1.0, "what": "layers"}, "--font 1 must be from 4 to 24 points"),
        ({"font": 9.0}, "--font 9.0 does not fit the page"),
        ({"size": "single"}, "--size single does not fit the page"),
        ({"what": "sheet"}, "--what 'sheet' is not one of page, layers, heatmap, dimension"),
    ],
)
def test_choices_that_do_not_fit_are_named(choices: dict, words: str) -> None:
    with pytest.raises(UserError) as error:
        Choices(**choices)
    assert words in str(error.value)


def test_a_style_file_that_cannot_be_read_is_one_line(comparison: Comparison, tmp_path: Path) -> None:
    (tmp_path / "bad").write_text("lines.linewidth: wide\n")
    for name in ("bad", "none"):
        with pytest.raises(UserError, match="cannot be read as matplotlib's"):
            drawn(comparison, style=tmp_path / name)


def test_colours_that_grey_would_lose_are_told() -> None:
    assert Choices(cmap="jet").notes
    assert not Choices(cmap="viridis").notes
    assert not Choices(cmap="gray_r").notes


def test_two_results_share_axes_with_looks_of_their_own(comparison: Comparison) -> None:
    other = with_diagonal(make_comparison(6), [0.3] * 6)
    ax: Axes = Figure().subplots()
    assert comparison.plot.layers(ax=ax) is ax
    other.plot.layers(ax=ax, label="other", biased=True)
    one, two = by_gid(ax.figure, "cka-tools: layers")
    np.testing.assert_allclose(one.get_ydata(), [100 * e["divergence"]["value"] for e in comparison.layers])
    np.testing.assert_allclose(two.get_ydata(), [70] * 6)
    for look in ("color", "marker", "linestyle"):
        assert getattr(one, f"get_{look}")() != getattr(two, f"get_{look}")() or look == "linestyle"
    _, labels = ax.get_legend_handles_labels()
    assert labels == ["demo:clm-detour against demo:mlm-baseline", "other", "other, biased"]
    low, high = ax.get_ylim()
    assert low < 0
    assert high > 72  # with the interval of the second
    for _ in range(3):
        other.plot.layers(ax=ax)
    with pytest.raises(UserError, match="hold 5 results already"):
        other.plot.layers(ax=ax)


def test_panels_on_ones_own_axes_leave_the_users_settings_alone(comparison: Comparison) -> None:
    figure = Figure(figsize=(8, 3))
    left, right = figure.subplots(1, 2)
    comparison.plot.dimension(ax=left, label="x")
    comparison.plot.heatmap(ax=right, range=(0, 1), annotate=True)
    lines = by_gid(figure, "cka-tools: dimension") + by_gid(figure, "cka-tools: dimension of B")
    for line, side in zip(lines, "ab", strict=True):
        np.testing.assert_allclose(line.get_ydata(), [e[f"effective_dim_{side}"] for e in comparison.layers])
    assert len(by_gid(figure, "value")) == 64
    assert left.xaxis.label.get_size() == mpl.rcParams["font.size"]
    assert len(figure.axes) == 3  # with the colour bar
    comparison.plot.heatmap(ax=(bare := Figure().subplots()), colorbar=False)
    assert len(bare.figure.axes) == 1
    assert comparison.plot.layers().figure.get_figwidth() == 3.5
