"""The figure and the sentence of a contrast, by what they contain."""

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from cka_tools.formatting import contrast_sentence, significant_layers
from cka_tools.plotting import contrast_figure
from cka_tools.statistics.contrast import contrast_groups, pair_positions

PARTS = ("between", "within", "difference", "ratio")


def entry(found):
    values = {}
    for part in PARTS:
        one = getattr(found, part)
        values[part] = {"value": one.value, "ci_low": one.ci_low, "ci_high": one.ci_high}
        if one.reason:
            values[part]["reason"] = one.reason
    return values | {"p": found.p, "p_single": found.p_single, "seed_share": found.seed_share}


def record(size, marks, names=("detour", "baseline"), undefined=None):
    """Groups that are `marks` apart in each layer, beside a distance of 1 within them."""
    rng = np.random.default_rng(0)
    pairs = pair_positions(2 * size)
    apart = np.array([(i < size) != (j < size) for i, j in pairs])
    values = 0.01 * (1 + np.multiply.outer(apart, marks)) * rng.uniform(0.8, 1.2, size=(len(pairs), len(marks)))
    if undefined is not None:
        values[0, undefined] = np.nan
    noise = 0.002 * rng.normal(size=(1, 1, 100))
    left = values[:, :, None] + (noise - noise.mean()) / 99
    test = contrast_groups(values, left, (size, size), [0], 100)
    over = "documents" if test.no_seeds else "documents and training seeds"
    return {
        "summary": {
            "n_documents": 100,
            "interval": {"level": 0.95, "over": over} | ({"reason": test.no_seeds} if test.no_seeds else {}),
            "early_layers": [0],
            "groups": [{"name": name, "members": size, "noise": ["order"]} for name in names],
            "test": {"relabelings": test.relabelings, "exact": test.exact, "smallest_p": test.smallest_p},
            "mean": entry(test.mean),
            "early": entry(test.early),
            "warnings": [{"code": "orders-differ", "text": "C holds the order too.", "layers": []}],
            "notes": [],
        },
        "layers": [{"layer": at, "early": at == 0, **entry(one)} for at, one in enumerate(test.layers)],
        "provenance": {
            "corpus": {"spec": "sample"},
            "settings": {"max_length": 512, "pooling": "mean", "sites": "residual", "dtype": "float32"},
        },
    }


def artists(figure, gid):
    return figure.findobj(lambda artist: artist.get_gid() == gid)


def texts(figure):
    return " ".join(" ".join(artist.get_text() for artist in figure.findobj(Text)).split())


def test_significant_layers_are_starred_and_no_others():
    found = record(5, [9.0, 9.0, 0.0, 9.0])
    assert significant_layers(found) == [0, 1, 3]
    figure = contrast_figure(found)
    (stars,) = artists(figure, "significant")
    assert stars.get_xdata().tolist() == [0, 1, 3]
    (between,) = artists(figure, "between")
    wanted = [100 * layer["between"]["value"] for layer in found["layers"]]
    assert between.get_ydata().tolist() == pytest.approx(wanted)
    axes = between.axes
    assert axes.get_ylim()[1] > max(stars.get_ydata()) > max(wanted)
    assert contrast_sentence(found)[:40] in texts(figure)
    assert "Stars: layers in which the groups differ" in texts(figure)
    assert "[orders-differ] C holds the order too." in texts(figure)


def test_nothing_is_written_over_the_pages_edges():
    figure = contrast_figure(record(5, [9.0] * 22, names=("a_$x^$[bold]" * 9, "100 % $}$")))
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    page = figure.bbox
    for text in figure.findobj(Text):
        if text.get_text() and text.get_visible():
            box = text.get_window_extent(canvas.get_renderer())
            assert page.x0 <= box.x0 + 1
            assert box.x1 <= page.x1 + 1


def test_an_undefined_layer_and_small_groups_are_drawn():
    figure = contrast_figure(record(2, [5.0, 5.0, 5.0], undefined=1))
    assert not artists(figure, "significant")
    assert "Stars" not in texts(figure)
    assert "undefined" in texts(figure)
    assert "a group of 2 says nothing of training seeds" in texts(figure)
    assert "No ratio in layer 1" in texts(figure)


def test_the_sentence_claims_no_more_than_was_found():
    shown = contrast_sentence(record(5, [9.0, 9.0]))
    assert "p = 0.0079, the least that 5 and 5 checkpoints can give" in shown
    assert "in layers 0–1 at 5 % for all layers together" in shown
    assert "does not say that what they are named after is the cause" in shown
    equal = contrast_sentence(record(5, [0.0, 0.0]))
    assert "no difference is shown, which does not show that the groups are alike" in equal
    small = contrast_sentence(record(3, [9.0, 9.0]))
    assert "3 and 3 checkpoints cannot give less than 0.1" in small
    assert "nothing is shown either way" in small
