"""`cka probe` and `probe:T` of tasks of tags, from end to end."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cka_tools import probe, transplant
from cka_tools.comparison.readout_results import KINDS, Probe
from cka_tools.compute import open_run
from cka_tools.extraction.words import word_features, word_rows
from cka_tools.settings import FINAL_NORM, Settings
from cka_tools.tasks import classifier, read_task, tagger

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def models(tiny_model: Callable[..., Path]) -> list[str]:
    return [str(tiny_model("modernbert", seed=seed, layers=2, head=True)) for seed in range(2)]


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A word below w30 is of an entity, which goes on while words are."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("task") / "small.jsonl"
    rows = []
    for split, size in {"train": 60, "test": 30}.items():
        for _ in range(size):
            words = rng.integers(0, 120, int(rng.integers(3, 12))).tolist()
            inside = [word < 30 for word in words]
            tags = [
                "O" if not own else "I-A" if before else "B-A"
                for own, before in zip(inside, [False, *inside], strict=False)
            ]
            rows.append({"split": split, "tokens": [f"w{word}" for word in words], "tags": tags})
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


@pytest.fixture(scope="module")
def found(models: list[str], task: str) -> Probe:
    return probe(models, task, device="cpu")


def test_probe(cka: Run, models: list[str], task: str, found: Probe, tmp_path: Path) -> None:
    code, out, err = cka("probe", *models, "--task", f"ncbi_disease={task}", "--label-shuffle", "--out", "run")
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    said = " ".join(out.split())
    assert "60 train, 30 test, 1 type of entity" in said
    assert "macro F1 of entities in % of logistic regression on each layer; 95 % intervals over 30 test sen" in said
    assert "Texts of NCBI Disease, its test set too, are part of the demo family's training corpus" in said
    record = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (record["summary"]["task"]["kind"], record["summary"]["task"]["classes"]) == ("tags", ["A"])
    assert record["provenance"]["settings"]["pooling"] == "first-piece"
    assert "seqeval" in record["provenance"]["versions"]
    assert any("training corpus" in note for note in record["summary"]["notes"])
    assert "w7" not in (tmp_path / "run" / "result.json").read_text()  # none of its text
    for entry, own in zip(record["models"], found.models, strict=True):
        for layer, wanted in zip(entry["layers"], own["layers"], strict=True):
            assert layer["readouts"] == wanted["readouts"]
            assert layer["selectivity"]["micro_f1"]["value"] == pytest.approx(
                layer["readouts"]["micro_f1"]["value"] - layer["shuffled"]["micro_f1"]["value"]
            )
    assert record["floors"][0]["readouts"]["micro_f1"]["value"] == 0.0
    assert KINDS["probe"].load(tmp_path / "run").record == {k: v for k, v in record.items() if k != "format"}
    assert cka("show", tmp_path / "run")[1].strip() in out
    drawn = KINDS["probe"].load(tmp_path / "run").figure()
    captions = " ".join(" ".join(text.get_text().split()) for text in drawn.texts)
    assert "training corpus" in captions
    assert "first piece" in captions


def test_each_layer_is_a_probe_of_its_words(found: Probe, models: list[str], task: str) -> None:
    read = read_task(task)
    texts = classifier.texts_of(read)
    run = open_run(models, texts, Settings(documents=len(texts), device="cpu"))
    documents, prepared = run.draws[0].documents, run.prepared[0]
    for at, entry in enumerate(found.models):
        own = replace(prepared, tables=prepared.tables[:1])
        words = word_rows(run.outlines[at], own, documents, tagger.words_of(read))
        features = word_features(run.load(at), own, documents, words, run.settings)
        for layer in entry["layers"]:
            wanted = tagger.probe(features.features[layer["layer"]], words.rows, read, 42)
            assert layer["strength"] == wanted.strength
            assert {name: one["value"] for name, one in layer["readouts"].items()} == {
                name: one.value for name, one in wanted.readings.items()
            }
    lengths = np.array([len(one.words) for one in read.test])
    accuracy = (found.arrays["accuracy"] * lengths).sum(-1) / lengths.sum()
    for entry, own in zip(found.models, accuracy, strict=True):
        assert [layer["readouts"]["accuracy"]["value"] for layer in entry["layers"]] == pytest.approx(own.tolist())


def test_copies_and_chosen_layers(found: Probe, models: list[str], task: str) -> None:
    one = probe([models[1], models[1]], task, layers=(1,), device="cpu")
    assert one.models[0]["layers"] == one.models[1]["layers"] == found.models[1]["layers"][1:]
    assert one.record["differences"][0]["chosen"]["readouts"]["macro_f1"]["value"] == 0.0


def test_words_beyond_the_limit_are_missed_and_counted(models: list[str], task: str) -> None:
    whole = probe(models[:1], task, device="cpu")
    assert not any("read as O" in note for note in whole.summary["notes"])
    cut = probe(models[:1], task, max_length=5, device="cpu")
    read = read_task(task)
    lost = sum(max(0, len(one.words) - 3) for one in (*read.train, *read.test))  # two special tokens
    total = sum(map(len, tagger.words_of(read)))
    wanted = f"{lost:,} beyond the 5 tokens that sentences are cut to of {total:,} words are read as O"
    assert any(wanted in note for note in cut.summary["notes"])
    reached = sum(tag.startswith("B-") for one in read.test for tag in one.labels[:3])
    held = sum(tag.startswith("B-") for one in read.test for tag in one.labels)
    best = 2 * reached / (reached + held)
    assert max(layer["readouts"]["micro_f1"]["value"] for layer in cut.models[0]["layers"]) <= best < 1


def test_as_a_readout_it_is_the_last_layer(models: list[str], task: str) -> None:
    texts = [f"w{at} w{at + 1} w{at + 2}" for at in range(20)]
    moved = transplant(*models, texts, layers=[[0, 1]], parts=["all"], readout=[f"probe:{task}"], device="cpu")
    read = read_task(task)
    prepared = [{"id": f"{at}", "text": " ".join(words)} for at, words in enumerate(tagger.words_of(read))]
    for end, model in zip(moved.record["ends"], models, strict=False):
        run = open_run([model], prepared, Settings(documents=len(prepared), device="cpu"))
        words = word_rows(run.outlines[0], run.prepared[0], run.draws[0].documents, tagger.words_of(read))
        states = word_features(run.load(0), run.prepared[0], run.draws[0].documents, words, run.settings, [FINAL_NORM])
        wanted = tagger.probe(states.features[0], words.rows, read, 42).readings["micro_f1"].value
        assert end["readouts"]["probe:small.micro_f1"]["value"] == pytest.approx(wanted, abs=0.05)
    assert any("fitted on 60 sentences of train and read on 30 of test" in note for note in moved.summary["notes"])


BAD: dict[str, tuple[list[Any], str]] = {
    "pooling": (["--pooling", "cls"], "pooling 'cls': tags are read from the first piece of each word: leave pooling"),
    "layers": (["--layers", "9"], "layers 9"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_before_a_model_runs(
    cka: Run, models: list[str], task: str, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    def run(*given: Any, **more: Any) -> None:
        raise AssertionError("a model ran")

    monkeypatch.setattr("cka_tools.models.model.LoadedModel.run", run)
    more, said = BAD[case]
    code, out, err = cka("probe", models[0], "--task", task, *more)
    assert (code, out) == (2, "")
    assert said in err
    assert len(err.strip().splitlines()) == 1


def test_without_seqeval_it_says_what_to_install(cka: Run, models: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "seqeval", None)
    code, _, err = cka("probe", models[0], "--task", "entities")
    assert (code, "pip install 'cka-tools[probe]'" in err) == (2, True)
