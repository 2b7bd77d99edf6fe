"""`cka trajectory` and `cka matrix` from end to end."""

import csv
import json
import shutil
from pathlib import Path

import pytest

from cka_tools import ModelMatrix, Trajectory
from cka_tools.formatting import percent


@pytest.fixture(scope="module")
def models(tiny_model) -> list[Path]:
    return [tiny_model("modernbert", seed=seed, layers=3) for seed in range(4)]


@pytest.fixture(scope="module")
def gpt(tiny_model) -> Path:
    """A model of another tokenizer."""
    return tiny_model("gpt2", layers=3)


@pytest.fixture(scope="module")
def run(models, tmp_path_factory) -> Path:
    """A training run's folder: three checkpoints with manifests."""
    folder = tmp_path_factory.mktemp("training") / "run"
    for model, place, tokens in (
        (models[1], "1-detour-checkpoints/tokens-000000001000", 1000),
        (models[2], "1-detour", 2000),
        (models[3], "final", 2500),
    ):
        shutil.copytree(model, folder / place)
        (folder / place / "training.json").write_text(json.dumps({"run_tokens": tokens, "seed": 1}))
    return folder


def test_a_training_runs_folder_is_followed_by_its_tokens(cka, models, run, corpus, tmp_path):
    code, out, err = cka("trajectory", models[0], run, "--control", models[3], "--corpus", corpus, "--out", "along")
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    assert "x is tokens of the run, by the manifests" in " ".join(out.split())
    record = json.loads((tmp_path / "along" / "result.json").read_text())
    assert [one["x"] for one in record["pairs"] if one["role"] == "checkpoint"] == [1000, 2000, 2500]
    assert record["kind"] == "trajectory"
    means = [one["mean_divergence"]["debiased"] for one in record["pairs"][:3]]
    for mean in means:
        assert percent(mean["value"]) in out
        assert mean["ci_low"] < mean["value"] < mean["ci_high"]
    with (tmp_path / "along" / "trajectory.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["layer"] for row in rows[:5]] == ["0", "1", "2", "early", "mean"]
    assert len(rows) == 4 * 5
    assert float(rows[4]["divergence"]) == pytest.approx(means[0]["value"], abs=1e-12)
    assert {row["role"] for row in rows} == {"checkpoint", "control"}


def test_matrix_prints_every_pair(cka, models, corpus, tmp_path):
    code, out, err = cka("matrix", *models[:3], "--corpus", corpus, "--out", "all")
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    result = ModelMatrix.load(tmp_path / "all")
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert f"{a + 1} and {b + 1}" in out
        assert percent(result.divergence()[a, b]) in out
    assert "the diagonal is 0 by definition" in out


@pytest.mark.parametrize(("command", "kind"), [("trajectory", Trajectory), ("matrix", ModelMatrix)])
def test_show_and_plot_know_the_run(cka, models, corpus, tmp_path, command, kind):
    code, out, _ = cka(command, *models[:3], "--corpus", corpus, "--out", "run")
    printed = out.splitlines()[:-1]
    assert code == 0
    code, out, _ = cka("show", "run")
    assert (code, out.splitlines()) == (0, printed)
    record = json.loads(cka("show", "run", "--json")[1])
    assert record == kind.load("run").record
    before = (tmp_path / "run" / "figure.png").read_bytes()
    assert cka("plot", "run", "--quiet") == (0, "", "")
    assert (tmp_path / "run" / "figure.png").read_bytes() == before
    assert cka("plot", "run", "--out", "f.svg")[0] == 0
    assert (tmp_path / "f.svg").read_text().startswith("<?xml")
    # Quiet and JSON.
    assert cka(command, *models[:2], "--corpus", corpus, "--quiet", "--out", "q") == (0, "", "")
    assert json.loads(cka(command, *models[:2], "--corpus", corpus, "--json", "--out", "j")[1])["kind"] == command


def test_flags_reach_the_reading(cka, models, corpus):
    flags = ["--documents", 35, "--pooling", "last", "--sites", "mlp", "--layers", "0,2", "--early", 2]
    more = ["--seed", 7, "--batch-tokens", 99, "--max-length", 32, "--x", "4,2", "--json", "--no-cache"]
    code, out, err = cka("trajectory", *models[:3], "--corpus", corpus, *flags, *more)
    assert code == 0, err
    record = json.loads(out)
    settings = record["provenance"]["settings"]
    assert (settings["pooling"], settings["sites"], settings["max_length"], settings["seed"]) == (
        "last", "mlp", 32, 7,
    )  # fmt: skip
    assert record["summary"]["n_documents"] == 35
    assert [one["x"] for one in record["pairs"]] == [2, 4]
    assert record["pairs"][0]["name"] == str(models[2])
    assert [layer["layer_a"] for layer in record["pairs"][0]["layers"]] == [0, 2]
    assert record["summary"]["early_layers"] == [2]
    draw = record["provenance"]["corpus"]["draws"][0]
    assert (draw["plan"]["limit"], draw["cache"]) == (99, ["off"] * 3)


def test_what_does_not_fit_is_one_line(cka, models, run, gpt, corpus, tmp_path):
    (tmp_path / "empty").mkdir()
    cases = [
        (["trajectory", models[0]], "no checkpoint"),
        (["trajectory", models[0], "empty"], "holds no model and no checkpoints"),
        (["trajectory", models[0], *models[1:3], "--x", "1,2,3"], "3 numbers for 2 checkpoints"),
        (["trajectory", models[0], run, "--x", "1,2"], "2 numbers for 3 checkpoints"),
        (["trajectory", models[0], *models[1:3], "--x", "1,1"], "x 1 is given to both"),
        (["trajectory", models[0], *models[1:3], "--x", "1,b"], "'1,b' is not a list of numbers"),
        (["trajectory", models[0], run / "final", run], "both have 2,500 tokens"),
        (["trajectory", models[0], models[1], "--control", models[0]], "is the reference itself"),
        (["trajectory", models[0], gpt, "--pooling", "token"], "different tokenizers"),
        (["matrix"], "give two or more"),
        (["matrix", models[0]], "give two or more"),
        (["matrix", *models[:2], "--layers", "9"], "layers [9] do not exist"),
        (["show", "empty"], "is not a run"),
    ]
    for arguments, message in cases:
        corpora = [] if arguments[0] == "show" else ["--corpus", corpus]
        code, out, err = cka(*arguments, *corpora)
        assert (code, out) == (2, ""), arguments
        assert len(err.splitlines()) == 1
        assert message in err
    assert {path.name for path in tmp_path.iterdir()} == {"empty"}


def test_the_same_model_twice_is_allowed_and_said(cka, models, corpus):
    code, out, _ = cka("matrix", models[0], models[1], models[0], "--corpus", corpus)
    assert code == 0
    assert "given more than once" in " ".join(out.split())


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("kind", ["comparison", "trajectory", "matrix", "ablation"])
def test_runs_of_version_0_1_are_shown_and_drawn(cka, tmp_path, monkeypatch, kind, width):
    monkeypatch.setenv("COLUMNS", str(width))
    shutil.copytree(Path(__file__).parents[1] / "comparison" / "version_1" / kind, tmp_path / "run")
    old = json.loads((tmp_path / "run" / "result.json").read_text())
    code, out, err = cka("show", "run")
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= width
    first = {"trajectory": "checkpoints", "matrix": "pairs", "ablation": "cells"}.get(kind)
    mean = (old["summary"] if first is None else old[first][0])["mean_divergence"]
    assert percent(mean.get("debiased", mean)["value"]) in out
    assert cka("plot", "run", "--quiet") == (0, "", "")
    assert (tmp_path / "run" / "figure.png").read_bytes().startswith(b"\x89PNG")
