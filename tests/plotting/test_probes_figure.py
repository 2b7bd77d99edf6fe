"""What two groups of runs differ by, in the figure of their probes: against scipy and plain loops."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from figure_files import RESULTS
from probes import APART, RECORDED, apart, probes_figure
from scipy.stats import ttest_ind

from cka_tools.statistics.paired import Reading


def test_the_difference_over_documents_over_seeds_and_by_relabelling() -> None:
    rng = np.random.default_rng(0)
    documents = rng.random((7, 2, 60)) + np.array([0.15] * 3 + [0.0] * 4)[:, None, None]  # runs, layers, documents
    runs = [[Reading.mean(layer) for layer in run] for run in documents]
    found = apart(runs[:3], runs[3:])
    means = documents.mean(2)
    sizes = []
    for chosen in combinations(range(7), 3):
        a, b = means[list(chosen)], means[[at for at in range(7) if at not in chosen]]
        sizes.append(np.abs(ttest_ind(a, b, equal_var=False).statistic))
    for layer, one in enumerate(found):
        test = ttest_ind(means[:3, layer], means[3:, layer], equal_var=False)
        interval = test.confidence_interval(0.95)
        assert (one["seeds_low"], one["seeds_high"]) == pytest.approx((interval.low, interval.high))
        difference = documents[:3, layer].mean(0) - documents[3:, layer].mean(0)
        assert one["value"] == pytest.approx(difference.mean())
        error = difference.std(ddof=1) / np.sqrt(60)
        assert (one["ci_high"] - one["ci_low"]) / 2 == pytest.approx(2.0 * error, rel=0.02)
        own = abs(test.statistic) - 1e-9
        assert one["p"] == pytest.approx(np.mean([size[layer] >= own for size in sizes]))
        assert one["p_any"] == pytest.approx(np.mean([size.max() >= own for size in sizes]))


def test_the_recorded_table_is_drawn_with_its_notes() -> None:
    assert RECORDED == RESULTS / "probe"
    table = pd.read_csv(RECORDED / "probes.csv", dtype={"layer": "Int64"})
    note = pd.read_csv(RECORDED / "notes.csv")["note"].iloc[0]
    figure = probes_figure(table, [note])
    assert note in " ".join(text.get_text().replace("\n", " ") for text in figure.texts)
    own = table[(table["task"] == "hoc") & (table["quantity"] == "micro_f1") & (table["group"] == APART)]
    bars = figure.axes[3].containers[0]
    assert np.allclose(bars.lines[0].get_ydata(), 100 * own["value"])
