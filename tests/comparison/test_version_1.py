"""Runs that version 0.1 wrote are read, shown and drawn; their values are those of the file."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from cka_tools.comparison.readout_results import KINDS
from cka_tools.errors import UserError

RUNS = Path(__file__).with_name("version_1")
TABLES = {"comparison": "layers.csv", "trajectory": "trajectory.csv", "matrix": "pairs.csv", "ablation": "ablation.csv"}


def raw(kind):
    return json.loads((RUNS / kind / "result.json").read_text())


def written(kind):
    with (RUNS / kind / TABLES[kind]).open() as file:
        return list(csv.DictReader(file))


def assert_column(frame, name, expected):
    found = [None if value != value else value for value in frame[name].astype(object)]
    wanted = [None if value in ("", None) else float(value) for value in expected]
    assert [value is None for value in found] == [value is None for value in wanted]
    for one, two in zip(found, wanted, strict=True):
        if two is not None:
            assert one == pytest.approx(two, abs=1e-15)


def test_the_committed_runs_are_of_the_first_format_and_name_no_machine():
    for kind in TABLES:
        text = (RUNS / kind / "result.json").read_text()
        assert json.loads(text)["format"] == 1
        assert json.loads(text)["provenance"]["versions"]["cka-tools"] == "0.1.0"
        assert '"/' not in text
        assert " /" not in json.loads(text)["provenance"]["command"]


def test_a_comparison_has_its_old_values():
    old, result = raw("comparison"), KINDS["comparison"].load(RUNS / "comparison")
    assert result.names == ("demo:clm-detour", "demo:mlm-baseline")
    assert result.control is None
    assert result.summary == old["summary"]
    frame = result.to_frame()
    for column, name in (("cka", "cka_debiased"), ("cka_low", "ci_low"), ("cka_biased", "cka_biased")):
        assert_column(frame, column, [layer[name] for layer in old["layers"]])
    assert_column(frame, "divergence", [1 - layer["cka_debiased"] for layer in old["layers"]])
    assert_column(frame, "divergence_low", [1 - layer["ci_high"] for layer in old["layers"]])
    assert_column(frame, "divergence_high", [1 - layer["ci_low"] for layer in old["layers"]])
    np.testing.assert_array_equal(result.diagonal(), [layer["cka_debiased"] for layer in old["layers"]])
    assert result.matrix()[2, 2] == old["matrix"]["debiased"][2][2]


def test_a_trajectory_has_its_old_values():
    old, result = raw("trajectory"), KINDS["trajectory"].load(RUNS / "trajectory")
    assert result.reference == "demo:mlm-baseline"
    assert [one["name"] for one in result.checkpoints] == ["demo:clm-detour", "demo:theta0"]
    assert [one["x"] for one in result.checkpoints] == [one["x"] for one in old["checkpoints"]]
    assert result.control["mean_divergence"] == old["control"]["mean_divergence"]
    frame, rows = result.to_frame(), written("trajectory")
    assert list(frame.layer.astype(str)) == [row["layer"] for row in rows]
    assert list(frame.checkpoint) == [row["checkpoint"] for row in rows]
    for column, name in (
        ("divergence", "divergence"),
        ("divergence_low", "ci_low"),
        ("divergence_high", "ci_high"),
        ("divergence_biased", "divergence_biased"),
    ):
        assert_column(frame, column, [row[name] for row in rows])
    mean = old["checkpoints"][0]["mean_divergence"]["debiased"]
    assert list(result.divergence()[0]) == [mean["value"], mean["ci_low"], mean["ci_high"]]


def test_a_matrix_has_its_old_values():
    old, result = raw("matrix"), KINDS["matrix"].load(RUNS / "matrix")
    assert result.names == ["demo:mlm-baseline", "demo:clm-detour", "demo:mlm-baseline-2"]
    assert result.record["linkage"] == old["linkage"]
    frame, rows = result.to_frame(), written("matrix")
    assert list(frame.model_a) == [row["model_a"] for row in rows]
    for column, name in (("divergence", "divergence"), ("divergence_low", "ci_low"), ("divergence_high", "ci_high")):
        assert_column(frame, column, [row[name] for row in rows])
    for pair in old["pairs"]:
        value = pair["mean_divergence"]["debiased"]["value"]
        assert result.divergence()[pair["a"], pair["b"]] == value


def test_an_ablation_has_its_old_values():
    old, result = raw("ablation"), KINDS["ablation"].load(RUNS / "ablation")
    (cell,), (before,) = result.cells, old["cells"]
    assert cell["mean_divergence"]["debiased"] == before["mean_divergence"]
    assert cell["control"]["early_divergence"]["debiased"] == before["control_early_divergence"]
    assert cell["ratio"]["mean"] == before["mean_ratio"]
    assert [cell["ratio"]["smallest"], cell["ratio"]["largest"]] == before["ratio_range"]
    assert cell["mean_divergence"]["biased"]["value"] is None
    assert cell["mean_divergence"]["biased"]["reason"]
    frame, rows = result.to_frame(), written("ablation")
    assert list(frame.layer.astype(str)) == [row["layer"] for row in rows]
    for column, name in (
        ("divergence", "divergence"),
        ("divergence_low", "ci_low"),
        ("control_divergence", "control"),
        ("control_divergence_high", "control_ci_high"),
        ("ratio", "ratio"),
        ("ratio_low", "ratio_ci_low"),
    ):
        assert_column(frame, column, [row[name] for row in rows])
    assert set(frame.weights_control) == {before["weights"]["control"]}


def test_warnings_of_an_old_ablation_name_their_cells(tmp_path):
    shutil.copytree(RUNS / "ablation", tmp_path / "run")
    old = raw("ablation")
    old["summary"]["warnings"] = [{"code": "few-documents", "text": "length:1: few", "cells": ["length:1"]}]
    (tmp_path / "run" / "result.json").write_text(json.dumps(old))
    (warning,) = KINDS["ablation"].load(tmp_path / "run").warnings
    assert warning == {"code": "few-documents", "text": "length:1: few", "pairs": ["length:1"]}


@pytest.mark.parametrize("kind", TABLES)
def test_an_old_run_is_saved_in_todays_form_and_read_again(kind, tmp_path):
    result = KINDS[kind].load(RUNS / kind)
    result.save(tmp_path / "run")
    assert json.loads((tmp_path / "run" / "result.json").read_text())["format"] == 2
    again = KINDS[kind].load(tmp_path / "run")
    assert again.record == result.record
    assert again.to_frame().equals(result.to_frame())


@pytest.mark.parametrize(
    ("kind", "part"),
    [
        ("comparison", "layers"), ("comparison", "matrix"), ("comparison", "provenance"),
        ("trajectory", "checkpoints"), ("trajectory", "summary"), ("matrix", "linkage"), ("matrix", "pairs"),
        ("ablation", "cells"), ("ablation", "axis"), ("ablation", "provenance"),
    ],
)  # fmt: skip
def test_a_damaged_old_run_is_one_line(kind, part, tmp_path):
    shutil.copytree(RUNS / kind, tmp_path / "run")
    record = raw(kind)
    del record[part]
    (tmp_path / "run" / "result.json").write_text(json.dumps(record))
    # Without its matrix nothing tells that a record was a comparison.
    words = "is not a comparison's result" if part == "matrix" else "is damaged"
    with pytest.raises(UserError, match=words) as error:
        KINDS[kind].load(tmp_path / "run")
    assert "\n" not in str(error.value)
    assert str(tmp_path / "run") in str(error.value)
