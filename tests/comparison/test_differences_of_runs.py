"""`cka diff` and `cka documents`: against subtraction by hand and runs without the documents named."""

import json

import numpy as np
import pytest

from cka_tools import Comparison, compare, compute_features
from cka_tools.comparison.influential import influential_documents
from cka_tools.comparison.run_difference import difference
from cka_tools.errors import UserError
from cka_tools.formatting import percent
from cka_tools.statistics.pair import compare_features

OPTIONS = {"max_length": 64, "permutations": 0}


@pytest.fixture(scope="module")
def runs(tiny_model, texts, tmp_path_factory):
    """Two models against a third, saved."""
    a, b, c = (str(tiny_model("bert", seed=seed)) for seed in range(3))
    folder = tmp_path_factory.mktemp("runs")
    return [compare(one, c, texts, **OPTIONS).save(folder / str(at)) for at, one in enumerate((a, b))]


def test_differences_are_those_of_the_divergences(runs):
    first, second = map(Comparison.load, runs)
    found = difference(first, second)
    by_row = {row["row"]: row for row in found.rows}
    for at, (one, other) in enumerate(zip(first.layers, second.layers, strict=True)):
        row = by_row[str(one["layer_a"])]
        d = one["divergence"]["value"] - other["divergence"]["value"]
        assert row["difference"]["value"] == pytest.approx(d, abs=1e-12)
        without = (second.arrays["leave_one_out"] - first.arrays["leave_one_out"])[at]
        error = np.sqrt((len(without) - 1) * without.var())
        half = (row["difference"]["ci_high"] - row["difference"]["ci_low"]) / 2
        assert 1.9 < half / error < 2.5
        assert row["together"]["ci_high"] - row["together"]["ci_low"] >= 2 * half - 1e-12
    means = [one.summary["mean_divergence"]["debiased"]["value"] for one in (first, second)]
    assert by_row["mean"]["difference"]["value"] == pytest.approx(means[0] - means[1], abs=1e-12)
    assert found.rows[-1]["row"] == "mean"
    assert list(found.to_frame()["row"]) == list(by_row)


def test_a_run_does_not_differ_from_itself(runs):
    run = Comparison.load(runs[0])
    for row in difference(run, run).rows:
        assert row["difference"]["value"] == row["difference"]["ci_low"] == row["difference"]["ci_high"] == 0
        assert row["p"] == 1


def test_early_less_late_is_paired(runs):
    run = Comparison.load(runs[0])
    (row,) = difference(run, parts="early-late").rows
    values = {early: [e["divergence"]["value"] for e in run.layers if e["early"] == early] for early in (True, False)}
    early, late = values[True], values[False]
    assert row["difference"]["value"] == pytest.approx(np.mean(early) - np.mean(late), abs=1e-12)
    assert row["difference"]["ci_low"] < row["difference"]["value"] < row["difference"]["ci_high"]
    both = difference(run, Comparison.load(runs[1]), parts="early-late").rows[0]
    assert both["second"] is not None


def test_runs_that_do_not_belong_together_are_refused(runs, tiny_model, texts):
    run = Comparison.load(runs[0])
    names = [str(tiny_model("bert", seed=seed)) for seed in (0, 2)]
    with pytest.raises(UserError, match="not over the same documents"):
        difference(run, compare(*names, texts, documents=80, **OPTIONS))
    with pytest.raises(UserError, match="other layers"):
        difference(run, compare(*names, texts, layers=(0, 1), **OPTIONS))
    with pytest.raises(UserError, match="no other to differ from"):
        difference(run)
    other = difference(run, compare(*names, texts, pooling="cls", **OPTIONS))
    assert other.notes == ["The runs differ in pooling, so a difference may come from that."]


def test_the_commands_print_and_give_json(runs, cka):
    code, out, _ = cka("diff", *runs)
    assert code == 0
    assert "for all layers together" in " ".join(out.split())
    code, out, _ = cka("diff", *runs, "--json")
    assert [row["row"] for row in json.loads(out)["rows"]] == [*map(str, range(6)), "early", "mean"]
    code, out, _ = cka("documents", runs[0], "--top", 3, "--json")
    assert len(json.loads(out)["documents"]) == 3
    assert cka("documents", runs[0], "--top", 4)[1].count("item:") == 4
    code, _, err = cka("documents", runs[0], "--top", 0)
    assert (code, "--top 0 must be at least 1" in err) == (2, True)
    assert cka("diff", *runs, runs[0])[0] == 2


def test_the_number_without_a_document_is_that_of_a_run_without_it(runs, tiny_model, texts):
    run = Comparison.load(runs[0])
    found = influential_documents(run, 3)
    assert [abs(one["moves"]) for one in found] == sorted((abs(one["moves"]) for one in found), reverse=True)
    a, c = compute_features([str(tiny_model("bert", seed=seed)) for seed in (0, 2)], texts, max_length=64)
    for one in found:
        rest = [at for at, name in enumerate(a.ids) if name != one["document"]]
        sides = [[layer[rest] for layer in side.layers.values()] for side in (a, c)]
        again = compare_features(*sides, [(i, i) for i in range(6)], [0, 1])
        assert one["without"] == pytest.approx(again.mean.debiased.value, abs=1e-9)
    assert sum(one["share"] for one in influential_documents(run)) == pytest.approx(1)


def test_few_documents_that_decide_are_told_with_the_number_without_them(tiny_model, texts):
    """Documents of one odd word among ordinary ones: they alone drive the spread."""
    a, c = (str(tiny_model("bert", seed=seed)) for seed in (0, 2))
    odd = [" ".join(["w7"] * 60), " ".join(["w9"] * 60)]
    for options in ({}, {"keep_features": 0}):
        found = compare(a, c, [*texts, *odd], **OPTIONS | options)
        told = [w for w in found.warnings if w["code"] == "few-documents-decide"]
        moved = influential_documents(found)
        half = np.searchsorted(np.cumsum(sorted((one["share"] for one in moved), reverse=True)), 0.5) + 1
        assert len(told) == (half < 0.05 * len(moved))
        if told:
            ids = [one["document"] for one in sorted(moved, key=lambda one: -one["share"])[:half]]
            left = [text for at, text in enumerate([*texts, *odd]) if f"item:{at}" not in ids]
            without = compare(a, c, left, **OPTIONS).summary["mean_divergence"]["debiased"]["value"]
            assert f"without them it is {percent(without)} %" in told[0]["text"]
    assert told
