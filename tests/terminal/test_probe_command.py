"""`cka probe` and `probe:T` as a readout, from end to end."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from cka_tools import compute_features, interpolate, probe, transplant
from cka_tools.comparison.readout_results import KINDS, Probe
from cka_tools.errors import UserError
from cka_tools.extraction import extract
from cka_tools.formatting import percent, tokens_in_words
from cka_tools.tasks import classifier, read_task

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def models(tiny_model: Callable[..., Path]) -> list[str]:
    return [str(tiny_model("modernbert", seed=seed, head=True)) for seed in range(2)]


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory, halves: Callable[[], list[dict[str, Any]]]) -> str:
    path = tmp_path_factory.mktemp("task") / "halves.jsonl"
    rows = halves()
    rows[70]["text"] = rows[0]["text"]
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def test_probe(cka: Run, models: list[str], task: str, tmp_path: Path) -> None:
    code, out, err = cka("probe", *models, "--task", task, "--label-shuffle", "--out", "run")
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    record = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (record["format"], record["kind"], record["summary"]["n_documents"]) == (2, "probe", 40)
    assert "1 of 40 texts in test is in train too: all were kept." in " ".join(out.split())
    assert record["provenance"]["corpus"]["spec"] == "task halves"
    assert "scikit-learn" in record["provenance"]["versions"]
    assert "w7" not in (tmp_path / "run" / "result.json").read_text()  # none of its text
    first = record["models"][0]
    assert percent(first["layers"][0]["readouts"]["macro_f1"]["value"]) in out
    best = max(first["layers"], key=lambda one: one["cv_macro_f1"])
    assert first["chosen_layer"] == best["layer"]
    for layer in first["layers"]:
        for name, value in layer["readouts"].items():
            assert layer["selectivity"][name]["value"] == pytest.approx(
                value["value"] - layer["shuffled"][name]["value"]
            )
    rows = list(csv.DictReader((tmp_path / "run" / "probe.csv").open()))
    assert len(rows) == 3 * (2 + 2 * 6)
    assert [row["model"] for row in rows[:6:3]] == ["majority", "bag of words"]
    assert load_file(tmp_path / "run" / "arrays.safetensors")["accuracy"].shape == (2, 6, 40)
    code, again, _ = cka("show", tmp_path / "run")
    assert again.strip() in out
    code, data, _ = cka("show", tmp_path / "run", "--json")
    assert json.loads(data) == KINDS["probe"].load(tmp_path / "run").record
    assert cka("plot", tmp_path / "run", "--out", tmp_path / "figure.pdf")[0] == 0
    assert (tmp_path / "figure.pdf").read_bytes().startswith(b"%PDF")
    code, _, err = cka("summary", tmp_path / "run")
    assert (code, "is a run of `cka probe`" in err) == (2, True)


def test_texts_that_are_cut_are_counted_among_all_that_were_read(models: list[str], task: str) -> None:
    found = probe(models[:1], task, device="cpu", layers=(0,), max_length=5)
    read = read_task(task)
    texts = {one.text for one in (*read.train, *read.test)}
    cut = sum(len(text.split()) + 2 > 5 for text in texts)  # a word is a token, two are special
    assert cut > 0
    said = f"{models[0]}: {cut} of {len(texts)} texts were cut to 5 tokens; the bag of words reads them whole."
    assert said in found.summary["notes"]
    assert f"{percent(cut / len(texts))} % of documents cut" in tokens_in_words(found.record)


@pytest.fixture(scope="module")
def found(models: list[str], task: str) -> Probe:
    return probe(models, task, device="cpu")


def test_each_layer_is_a_probe_of_its_features(found: Probe, models: list[str], task: str) -> None:
    texts = classifier.texts_of(read_task(task))
    for entry, own in zip(
        found.models, compute_features(models, texts, documents=len(texts), device="cpu"), strict=True
    ):
        of = classifier.labelled(read_task(task), own.ids)
        for layer in entry["layers"]:
            wanted = classifier.probe(own.layers[layer["layer"]], of, 42)
            assert layer["strength"] == wanted.strength
            for name, reading in wanted.readings.items():
                assert layer["readouts"][name]["value"] == reading.value
    accuracy = [layer["readouts"]["accuracy"]["value"] for layer in found.models[0]["layers"]]
    assert found.arrays["accuracy"][0].mean(1).tolist() == pytest.approx(accuracy)


def test_differences_are_paired_over_the_same_documents(found: Probe) -> None:
    (apart,) = found.record["differences"]
    assert (apart["a"], apart["b"]) == (1, 0)
    hits = found.arrays["accuracy"]
    for layer in apart["layers"]:
        values = hits[1, layer["layer_a"]] - hits[0, layer["layer_b"]]
        entry = layer["readouts"]["accuracy"]
        assert entry["value"] == pytest.approx(values.mean())
        error = values.std(ddof=1) / np.sqrt(len(values))
        half = (entry["ci_high"] - entry["ci_low"]) / 2
        assert 1.9 * error <= half <= 2.6 * error  # a t quantile of few degrees at most


def test_one_pass_a_model_and_none_for_what_is_stored(
    models: list[str], task: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    forward = extract._ModelRun._run
    monkeypatch.setattr(
        extract._ModelRun, "_run", lambda self, r, **more: rows.append(len(r)) or forward(self, r, **more)
    )
    one = probe([*models, models[0]], task, device="cpu")
    assert sum(rows) == 2 * 99
    assert one.models[0]["layers"] == one.models[2]["layers"]
    again = probe(models, task, device="cpu")
    assert sum(rows) == 2 * 99
    assert again.models == one.models[:2]


def test_as_a_readout_it_is_the_last_layer(found: Probe, models: list[str], task: str) -> None:
    texts = [f"w{at} w{at + 1} w{at + 2}" for at in range(40)]
    moved = transplant(
        *models, texts, layers=[[0, 1, 2], [3, 4, 5]], parts=["all"], readout=[f"probe:{task}"], device="cpu"
    )
    for end, own in zip(moved.record["ends"], found.models, strict=True):
        last = own["layers"][-1]["readouts"]
        assert end["readouts"]["probe:halves.macro_f1"]["value"] == pytest.approx(last["macro_f1"]["value"], abs=0.03)
    assert len(moved.hybrids) == 3
    assert moved.figure().axes
    assert any("fitted on 60 texts of train and read on 40 of test" in note for note in moved.summary["notes"])
    told: list[tuple[int, int, int]] = []  # the task has more texts than the corpus: its own are what is waited for
    line = interpolate(
        *models, texts, points=3, readout=[f"probe:{task}"], device="cpu", progress=lambda *now: told.append(now)
    )
    assert {total for _, _, total in told} == {told[-1][0]}
    assert told[-1][0] > 3 * len(texts)
    with pytest.raises(UserError, match="two readouts have the name 'probe:halves': rename a file"):
        transplant(
            *models,
            texts,
            readout=[f"probe:{task}", f"probe:{Path(task).parent}/../{Path(task).parent.name}/halves.jsonl"],
        )
    ends = [line.points[at]["readouts"]["probe:halves.accuracy"]["value"] for at in (0, -1)]
    assert ends == [end["readouts"]["probe:halves.accuracy"] for end in moved.record["ends"]]


def test_layers_of_models_of_other_depths_are_matched(tiny_model: Callable[..., Path], task: str) -> None:
    models = [str(tiny_model("bert", layers=layers)) for layers in (6, 3)]
    apart = probe(models, task, layers=(0, 2), device="cpu")
    (difference,) = apart.record["differences"]
    assert [(one["layer_a"], one["layer_b"]) for one in difference["layers"]] == [(0, 0), (2, 5)]
    assert [[layer["layer"] for layer in model["layers"]] for model in apart.models] == [[0, 5], [0, 2]]
    assert apart.figure().axes


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["probe", 0, "--task", "section"], "did you mean 'sections'?"),
        (["probe", "--task", "sections"], "no model is given"),
        (["probe", 0, "--task", "sections", "--pooling", "token"], "pooling 'token' gives a text several rows"),
        (["probe", 0, "--task", "sections", "--layers", "9"], "layers 9"),
        (["probe", 0], "--task"),
        (["transplant", 0, 1, "--readout", "probe"], "readout 'probe' does not fit: write it like probe:NAME"),
        (["transplant", 0, 1, "--readout", "probe:nothing.jsonl"], "task 'nothing.jsonl' is not known"),
        (["transplant", 0, 1, "--readout", "probe:sections,probe:gad"], "task 'gad' does not ship with its data"),
        (["health", 0, "--readout", "probe:sections"], "is not of a language model"),
    ],
)
def test_bad_input_is_one_line_before_a_model_runs(
    cka: Run, models: list[str], monkeypatch: pytest.MonkeyPatch, arguments: list[Any], said: str
) -> None:
    def run(*given: Any, **more: Any) -> None:
        raise AssertionError("a model ran")

    monkeypatch.setattr("cka_tools.models.model.LoadedModel.run", run)
    code, out, err = cka(*[models[one] if isinstance(one, int) else one for one in arguments])
    assert (code, out) == (2, "")
    assert said in err
    assert len(err.strip().splitlines()) == 1


def test_a_run_that_does_not_hold_together_is_refused(found: Probe, tmp_path: Path) -> None:
    found.save(tmp_path / "run")
    path = tmp_path / "run" / "result.json"
    whole = json.loads(path.read_text())
    for change, said in (
        (lambda r: r["models"][0].update(chosen_layer=99), "chosen layer is not among its layers"),
        (lambda r: r["models"].pop(), "models are not those of provenance.models"),
        (lambda r: r["models"][0]["layers"][0]["readouts"].pop("macro_f1"), "macro_f1"),
        (lambda r: r["differences"][0].update(a=7), "a difference is of a model that is not there"),
        (lambda r: r["summary"].update(n_documents=3), "array 'accuracy'"),
    ):
        broken = json.loads(json.dumps(whole))
        change(broken)
        path.write_text(json.dumps(broken))
        with pytest.raises(UserError, match="is damaged") as error:
            Probe.load(tmp_path / "run")
        assert said in str(error.value)


def test_without_scikit_learn_it_says_what_to_install(
    cka: Run, models: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "sklearn", None)
    code, _, err = cka("probe", models[0], "--task", "sections")
    assert (code, "pip install 'cka-tools[probe]'" in err) == (2, True)
