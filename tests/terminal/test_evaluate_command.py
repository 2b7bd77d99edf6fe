"""`cka evaluate`, and what is made of its runs, from end to end."""

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from huggingface_hub.repocard_data import model_index_to_eval_results
from safetensors.numpy import load_file

from cka_tools.models import LoadedModel

Run = Callable[..., tuple[int, str, str]]
FAST = ("--epochs", 1, "--batch-size", 8, "--lr", "5e-3", "--device", "cpu")


@pytest.fixture(scope="module")
def models(tiny_model: Callable[..., Path]) -> list[str]:
    return [str(tiny_model("modernbert", seed=seed, layers=2, head=True)) for seed in range(2)]


def write_task(path: Path) -> str:
    """A task of two classes: 40 texts of train, 36 of test, in which one half of the words says the class."""
    splits = ["train"] * 40 + ["test"] * 36
    rows = [
        {"split": split, "text": " ".join(f"w{60 * (at % 2) + (at * k) % 60}" for k in range(1, 9)),
         "label": "ab"[at % 2]}
        for at, split in enumerate(splits)
    ]  # fmt: skip
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return str(path)


@pytest.mark.slow
def test_evaluate(cka: Run, models: list[str], tmp_path: Path) -> None:
    first = write_task(tmp_path / "first.jsonl")
    spec = tmp_path / "named.toml"
    spec.write_text('title = "Named"\nmetric = "micro F1"\nhub = "org/named"\ndata = "first.jsonl"\nnote = "Beware."\n')
    tasks = ("--task", first, "--task", spec)
    code, out, err = cka("evaluate", *models, *tasks, "--seeds", 2, *FAST, "--out", "run")
    assert code == 0
    assert sum(line.startswith("finished ") for line in err.splitlines()) == 8
    assert max(map(len, out.splitlines())) <= 80
    record = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (record["format"], record["kind"], record["summary"]["seeds"]) == (2, "evaluation", [1, 2])
    assert [task["headline"] for task in record["summary"]["tasks"]] == ["macro_f1", "micro_f1"]
    assert "w7" not in "".join(path.read_text() for path in (tmp_path / "run").rglob("*.json"))  # none of its text
    value = record["scores"][0]["readouts"]["macro_f1"]["value"]
    assert f"{100 * value:.1f}" in out
    assert "no dev split: 4 texts of train, a tenth drawn with seed 0" in " ".join(out.split())
    assert "Beware." in out
    arrays = load_file(tmp_path / "run" / "arrays.safetensors")
    assert arrays["0.macro_f1"].shape == (2, 2)
    assert arrays["0.macro_f1"][0].mean() == pytest.approx(value)
    mean = next(one for one in record["scores"] if one["task"] is None)["readouts"]["mean"]["value"]
    assert mean == pytest.approx((value + arrays["1.micro_f1"][0].mean()) / 2)

    table = list(csv.DictReader((tmp_path / "run" / "evaluation.csv").open()))
    assert {row["model"] for row in table} == {*models, "majority", "bag of words"}
    code, again, _ = cka("show", tmp_path / "run")
    assert again.strip() in out
    assert cka("plot", tmp_path / "run", "--out", tmp_path / "figure.pdf")[0] == 0
    code, markdown, _ = cka("summary", tmp_path / "run", "--format", "markdown", "--label", "A", "--label", "B|b")
    assert [line.split(" | ")[0] for line in markdown.splitlines()[2:6]] == [
        "| A", r"| B\|b", "| majority", "| bag of words",
    ]  # fmt: skip
    code, latex, _ = cka("summary", tmp_path / "run", "--format", "latex")
    assert r"\begin{tabular}{lrrr}" in latex
    code, _, err = cka("summary", tmp_path / "run", tmp_path / "run")
    assert (code, "is a run of `cka evaluate`, whose table is of one run: name it alone\n" in err) == (2, True)

    # The hub reads the block; finished runs are found, not made again.
    code, index, err = cka("evaluate", *models, *tasks, "--seeds", 2, *FAST, "--out", "run", "--model-index")
    assert (code, "finished" in err) == (0, False)
    assert index == cka("summary", tmp_path / "run", "--format", "model-index")[1]
    block = index.split("\n\n")[0]
    name, results = model_index_to_eval_results(yaml.safe_load(block)["model-index"])
    assert name == Path(models[0]).name
    found = {(one.dataset_type, one.metric_name): one.metric_value for one in results}
    assert found["org/named", "micro F1, mean of 2 seeds"] == round(arrays["1.micro_f1"][0].mean(), 4)
    assert len(results) == 6


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--task", "nowhere"), "task 'nowhere' is not known"),
        (("--task", "sections", "--task", "sections"), "task 'sections' is given twice"),
        (("--task", "sections", "--seeds", "0"), "--seeds '0' does not fit: give a number of seeds from 1 to 1000"),
        (("--task", "sections", "--seeds", "1,1"), "--seeds '1,1' does not fit: give different whole numbers"),
        (("--task", "sections", "--seeds", "1,-2"), "--seeds '1,-2' does not fit"),
        (("--task", "sections", "--seeds", "1,5000000000"), "--seeds '1,5000000000' does not fit"),
        (("--task", "sections", "--seeds", "many"), "--seeds 'many' is not a list of whole numbers"),
        (("--task", "sections", "--seeds", ","), "--seeds ',' is not a list of whole numbers"),
        (("--task", "sections", "--epochs", 0), "--epochs 0 must be at least 1"),
        (("--task", "sections", "--lr", "-1"), "--lr '-1.0' does not fit: give a number above 0"),
        (("--task", "sections", "--lr", "nan"), "--lr 'nan' does not fit"),
        (("--task", "sections", "--weight-decay", "-0.1"), "--weight-decay '-0.1' does not fit"),
        (("--task", "sections", "--batch-size", 0), "--batch-size 0 must be at least 1"),
        (("--task", "sections", "--max-length", 65), "max-length 65 is above what model"),
        (("--task", "sections", "--max-length", 2), "max-length 2 leaves no token of text"),
        (("--task", "sections", "--out", "."), "holds something else than this evaluation"),
        (("demo:theta", "--task", "sections"), "unknown demo model 'demo:theta'"),
        ((), "Missing option '--task'"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_bad_input_is_one_line_before_any_forward_pass(
    cka: Run, models: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], words: str
) -> None:
    def forbidden(*given: object, **named: object) -> None:
        raise AssertionError("a forward pass")

    monkeypatch.setattr(LoadedModel, "run", forbidden)
    (tmp_path / "own.txt").write_text("mine")
    code, out, err = cka("evaluate", models[0], *arguments, "--device", "cpu")
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert words in err
    assert [path.name for path in tmp_path.iterdir()] == ["own.txt"]


@pytest.mark.parametrize(("package", "extra"), [("sklearn", "probe"), ("accelerate", "evaluate")])
def test_a_missing_extra_is_one_line(
    cka: Run, models: list[str], monkeypatch: pytest.MonkeyPatch, package: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    code, _, err = cka("evaluate", models[0], "--task", "sections")
    assert (code, f"pip install 'cka-tools[{extra}]'" in err, len(err.splitlines())) == (2, True, 1)


def test_no_model_is_one_line(cka: Run) -> None:
    code, _, err = cka("evaluate", "--task", "sections")
    assert (code, err) == (2, "cka: no model is given: name one or more\n")
