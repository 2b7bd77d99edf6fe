"""The figures of a trajectory, a matrix and an ablation, by what they contain; hostile names in all four."""

import copy
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ablation_table import ablation_record
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from synthetic_comparison import make_comparison

from cka_tools import Trajectory
from cka_tools.formatting import NOISE_IN_WORDS
from cka_tools.plotting import ablation_figure, comparison_figure, matrix_figure, trajectory_figure
from cka_tools.plotting.ablation_page import SHARES

RESULTS = Path(__file__).parents[2] / "figures" / "results"
HOSTILE = (r"$\frac{", "a_$x^$[bold]", "100 % $}$", "\x1b[31m\n$$", "$")


def artists(figure: Figure, gid: str) -> list[Any]:
    return figure.findobj(lambda artist: artist.get_gid() == gid)


def texts(figure: Figure) -> str:
    return "\n".join(artist.get_text() for artist in figure.findobj(Text))  # type: ignore[attr-defined]


@pytest.fixture
def decay() -> Trajectory:
    """A trajectory with a control, as it was saved."""
    return copy.deepcopy(Trajectory.load(RESULTS / "decay"))


def matrix_run(names: list[str]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Models along a line: each one joins the cluster before it, the last one as far off as 0.4."""
    places = np.array([0.0, 0.1, 0.3, 0.7])[: len(names)]
    distances = np.abs(places[:, None] - places)
    merges = [
        {"a": 0, "b": 1, "height": 0.1, "size": 2},
        {"a": 2, "b": 4, "height": 0.25, "size": 3},
        {"a": 3, "b": 5, "height": (0.4 + 0.6 + 0.7) / 3, "size": 4},
    ]
    provenance = json.loads((RESULTS / "detour" / "result.json").read_text())["provenance"]
    record = {
        "provenance": provenance | {"models": [{"role": "model", "name": name} for name in names]},
        "linkage": {"order": [3, 2, 0, 1], "merges": merges},
        "summary": {
            "n_documents": 500,
            "warnings": [{"code": "few-documents", "text": "too few", "pairs": ["0-1", "0-2"]}],
            "notes": [],
            "diagonal": "0 by definition",
        },
    }
    return record, {"mean.debiased": distances}


def test_a_trajectory_shows_its_values_its_intervals_and_the_noise(decay: Trajectory) -> None:
    figure = trajectory_figure(decay.record, decay.arrays)
    for name in ("mean", "early"):
        value, low, high = 100 * decay.divergence(name).T
        (line,) = artists(figure, name)
        np.testing.assert_allclose(line.get_xdata(), decay.arrays["x"])
        np.testing.assert_allclose(line.get_ydata(), value)
        (bars,) = artists(figure, f"{name} interval")
        np.testing.assert_allclose([s[:, 1] for s in bars.get_segments()], np.stack([low, high], axis=1))
        assert decay.control is not None
        control = decay.control[f"{name}_divergence"]["debiased"]
        (noise,) = artists(figure, f"{name} noise")
        assert noise.get_ydata()[0] == pytest.approx(100 * control["value"])
        (floor,) = artists(figure, f"{name} floor")
        assert [floor.get_y(), floor.get_y() + floor.get_height()] == pytest.approx(
            [100 * control["ci_low"], 100 * control["ci_high"]]
        )
    (mesh,) = artists(figure, "layers")
    np.testing.assert_allclose(mesh.get_array(), 100 * decay.arrays["divergence.debiased"].T)
    assert figure.axes[0].get_xlabel() == decay.summary["x"]["label"]


def test_a_noise_floor_that_begins_at_0_keeps_its_bound(decay: Trajectory) -> None:
    assert decay.control is not None
    decay.control["mean_divergence"]["debiased"].update(value=0.02, ci_low=0.0, ci_high=0.05)
    (floor,) = artists(trajectory_figure(decay.record, decay.arrays), "mean floor")
    assert [floor.get_y(), floor.get_height()] == pytest.approx([0, 5])


def test_a_matrix_shows_its_values_in_the_order_of_its_tree() -> None:
    record, arrays = matrix_run(["a", "b", "c", "d"])
    figure = matrix_figure(record, arrays)
    (mesh,) = artists(figure, "divergence")
    expected = [[0, 40, 70, 60], [40, 0, 30, 20], [70, 30, 0, 10], [60, 20, 10, 0]]
    np.testing.assert_allclose(np.asarray(mesh.get_array()).reshape(4, 4), expected, atol=1e-9)
    written = sorted(text.get_text() for text in artists(figure, "value"))
    assert written == sorted(f"{value}.0" for row in expected for value in row if value)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["d  4", "c  3", "a  1", "b  2"]
    merges = artists(figure, "merge")
    assert [max(line.get_xdata()) for line in merges] == pytest.approx([10, 25, 170 / 3])
    # Rows of the heatmap: d 0, c 1, a 2, b 3; a cluster is level with the middle of its two.
    assert [sorted(set(line.get_ydata())) for line in merges] == [[2, 3], [1, 2.5], [0, 1.75]]
    assert "0 by definition" in texts(figure)
    assert "[few-documents] in 2 pairs, such as too few" in texts(figure)


def test_a_matrix_with_an_undefined_value_has_a_hatched_cell_no_tree_and_a_reason() -> None:
    record, arrays = matrix_run(["a", "b", "c", "d"])
    arrays["mean.debiased"][0, 1] = arrays["mean.debiased"][1, 0] = np.nan
    record["linkage"] = {"order": [0, 1, 2, 3], "merges": [], "reason": "a mean divergence is undefined"}
    figure = matrix_figure(record, arrays)
    assert not artists(figure, "merge")
    (mesh,) = artists(figure, "divergence")
    assert np.ma.getmaskarray(mesh.get_array()).sum() == 2
    assert figure.axes[0].patch.get_hatch()
    assert len(artists(figure, "value")) == 10
    assert "No dendrogram: a mean divergence is undefined." in texts(figure)
    assert "undefined" in [text.get_text() for text in figure.axes[0].get_legend().get_texts()]


def test_a_merge_below_0_is_drawn_where_it_is() -> None:
    record, arrays = matrix_run(["a", "b", "c", "d"])
    record["linkage"]["merges"][0]["height"] = -0.02
    figure = matrix_figure(record, arrays)
    line = artists(figure, "merge")[0]
    assert min(line.get_xdata()) == pytest.approx(-2)
    assert figure.axes[1].get_xlim()[0] < -2


def test_an_ablation_shows_every_cell_seed_and_interval() -> None:
    record = ablation_record()
    figure = ablation_figure(record)
    axes = list(dict.fromkeys(cell["axis"] for cell in record["pairs"]))
    assert len(figure.axes) == 3 * len(axes)
    for what, scale in (("mean_divergence", 100), ("early_divergence", 100), ("mean_ratio", 1)):
        entries = [cell["ratio"]["mean"] if scale == 1 else cell[what]["debiased"] for cell in record["pairs"]]
        drawn = sorted(line.get_ydata()[0] for line in artists(figure, what))
        assert drawn == pytest.approx(sorted(scale * entry["value"] for entry in entries))
        bars = artists(figure, f"{what} interval")
        found = sorted(tuple(bar.get_segments()[0][:, 1]) for bar in bars)
        expected = sorted((scale * entry["ci_low"], scale * entry["ci_high"]) for entry in entries)
        np.testing.assert_allclose(found, expected)


def test_shares_are_written_as_in_the_papers_figure() -> None:
    record = ablation_record()
    figure = ablation_figure(record)
    axes = list(dict.fromkeys(cell["axis"] for cell in record["pairs"]))
    for axis, label in SHARES.items():
        ax = figure.axes[3 * axes.index(axis)]
        places = sorted({cell["position"] for cell in record["pairs"] if cell["axis"] == axis})
        assert ax.get_xlabel() == label
        assert "%" in label
        assert [tick.get_text() for tick in ax.get_xticklabels()] == [f"{100 * place:g}" for place in places]


def control_bands(record: dict[str, Any]) -> list[tuple[float, float]]:
    return sorted({(b.get_y(), b.get_y() + b.get_height()) for b in artists(ablation_figure(record), "control")})


def one_cell(**control: float | None) -> dict[str, Any]:
    """An ablation of one cell, whose control's mean is this entry."""
    record = ablation_record()
    record["pairs"] = record["pairs"][:1]
    nothing = {"value": None, "ci_low": None, "ci_high": None}
    record["pairs"][0]["control"] = {
        "mean_divergence": {"debiased": control},
        "early_divergence": {"debiased": nothing},
    }
    return record


@pytest.mark.parametrize(
    ("ends", "band"), [((0.0, 0.06), (0, 6)), ((-0.02, 0.0), (-2, 0)), ((None, None), (2, 2)), ((0.01, 0.03), (1, 3))]
)
def test_a_band_of_seed_noise_reaches_both_bounds_also_where_one_is_0(ends, band) -> None:
    value = 0.02 if None in ends else sum(ends) / 2
    (found,) = control_bands(one_cell(value=value, ci_low=ends[0], ci_high=ends[1]))
    assert found == pytest.approx(band)


def test_a_control_that_cannot_be_given_has_no_band() -> None:
    assert control_bands(one_cell(value=None, ci_low=None, ci_high=None)) == []


def test_a_ratio_that_cannot_be_given_is_not_drawn_and_its_reason_is_noted() -> None:
    record = ablation_record()
    for cell in record["pairs"][:2]:
        cell["ratio"]["mean"] = {"value": None, "ci_low": None, "ci_high": None, "reason": "not clear of 0"}
    figure = ablation_figure(record)
    assert len(artists(figure, "mean_ratio")) == len(record["pairs"]) - 2
    assert "No ratio in 2 comparisons: not clear of 0." in texts(figure)


def test_the_points_of_many_seeds_stay_beside_their_own_cell() -> None:
    record = ablation_record()
    first = record["pairs"][0]
    others = [cell for cell in record["pairs"] if all(cell[k] == first[k] for k in ("axis", "size", "seed"))]
    record["pairs"] = [cell | {"seed": seed} for cell in others for seed in range(10)]
    figure = ablation_figure(record)
    places = np.array([line.get_xdata()[0] for line in artists(figure, "mean_divergence")])
    assert len(places) == 10 * len(others)
    assert np.abs(places - places.round()).max() < 0.5


def test_a_size_is_told_by_its_marker_up_to_five_sizes() -> None:
    record = ablation_record()
    cell = record["pairs"][0]
    record["pairs"] = [cell | {"size": f"{depth}x64"} for depth in range(1, 6)]
    lines = artists(ablation_figure(record), "mean_divergence")
    assert len({line.get_marker() for line in lines}) == len({line.get_color() for line in lines}) == 5


@pytest.mark.parametrize("part", ["mean_divergence", "ratio"])
def test_a_bound_that_is_exactly_0_is_drawn_to_0(part: str) -> None:
    record = ablation_record()
    record["pairs"] = record["pairs"][:1]
    (cell,) = record["pairs"]
    cell[part]["mean" if part == "ratio" else "debiased"]["ci_low"] = 0.0
    figure = ablation_figure(record)
    figure.draw(FigureCanvasAgg(figure).get_renderer())
    (bar,) = artists(figure, "mean_ratio interval" if part == "ratio" else f"{part} interval")
    assert bar.get_segments()[0][0, 1] == 0
    if part == "ratio":  # its axis is logarithmic: the bar leaves it below, and the axis stays readable
        assert 0.1 < bar.axes.get_ylim()[0] < 1
    else:
        assert -1 < bar.axes.get_ylim()[0] <= 0


@pytest.mark.parametrize("kind", ["masks", "order", "unknown"])
def test_the_figure_of_an_ablation_says_which_seed_noise_it_has(kind: str) -> None:
    record = ablation_record()
    record["pairs"] = [cell | {"noise": kind} for cell in record["pairs"][:1]]
    shown = " ".join(texts(ablation_figure(record)).split())
    assert f"Seed noise is the divergence of the baseline from its control ({kind}: " in shown
    assert NOISE_IN_WORDS[kind] in shown


def hostile_comparison() -> Figure:
    comparison = make_comparison(6, names=HOSTILE[:2], corpus=HOSTILE[2], control=HOSTILE[3])
    comparison.summary["warnings"].append({"code": "x", "text": " ".join(HOSTILE), "layers": []})
    return comparison_figure(comparison.record, comparison.arrays)


def hostile_trajectory() -> Figure:
    run = copy.deepcopy(Trajectory.load(RESULTS / "decay"))
    run.record["provenance"]["models"][0]["name"] = " ".join(HOSTILE)
    run.record["summary"]["x"]["label"] = HOSTILE[0] + "$"
    run.record["summary"]["notes"] = list(HOSTILE)
    return trajectory_figure(run.record, run.arrays)


def hostile_matrix() -> Figure:
    record, arrays = matrix_run(list(HOSTILE[:4]))
    record["linkage"]["reason"] = " ".join(HOSTILE)
    return matrix_figure(record, arrays)


def hostile_ablation() -> Figure:
    record = ablation_record()
    for cell, name in zip(record["pairs"], HOSTILE * 20, strict=False):
        cell |= {"size": name, "cell": f"{name} {HOSTILE[1]}", "axis": HOSTILE[2]}
    record["summary"]["notes"] = list(HOSTILE)
    return ablation_figure(record)


@pytest.mark.parametrize(
    "draw", [hostile_comparison, hostile_trajectory, hostile_matrix, hostile_ablation], ids=lambda f: f.__name__
)
def test_names_are_drawn_literally_and_never_read_as_mathematics(draw: Callable[[], Figure]) -> None:
    figure = draw()
    figure.draw(FigureCanvasAgg(figure).get_renderer())
    for suffix in ("png", "pdf", "svg"):
        figure.savefig(io.BytesIO(), format=suffix, dpi=40)
    assert not any(text.get_parse_math() for text in figure.findobj(Text))  # type: ignore[attr-defined]
    assert HOSTILE[1] in texts(figure)
    assert "\x1b" not in texts(figure)
