"""Task specs: what is read, and what is refused in one line."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cka_tools.errors import UserError
from cka_tools.tasks import read_task

Rows = list[dict[str, Any]]


def rows(train: int = 12, test: int = 10) -> Rows:
    """Two classes in turn, no text twice."""
    sizes = {"train": train, "test": test}
    return [
        {"split": split, "text": f"{split} {at}", "label": "ab"[at % 2]}
        for split, n in sizes.items()
        for at in range(n)
    ]


def write(path: Path, found: Rows) -> str:
    path.write_text("\n".join(json.dumps(row) for row in found), encoding="utf-8")
    return str(path)


def test_a_file_a_named_task_and_a_description_are_one(tmp_path: Path) -> None:
    file = write(tmp_path / "own.jsonl", rows())
    alone = read_task(file)
    assert (alone.name, alone.kind, alone.classes) == ("own", "label", ("a", "b"))
    assert [len(part) for part in (alone.train, alone.dev, alone.test)] == [12, 0, 10]
    assert (alone.train[1].text, alone.train[1].labels) == ("train 1", ("b",))
    named = read_task(f"gad={file}")
    assert (named.name, named.fingerprint) == ("gad", alone.fingerprint)
    assert named.record()["licence"] == "CC BY 4.0"
    others = [{"body": row["text"], "class": row["label"]} for row in rows()]
    write(tmp_path / "one.jsonl", others[:12])
    write(tmp_path / "two.jsonl", others[12:])
    described = 'train = "one.jsonl"\ntest = "two.jsonl"\ntext = "body"\nlabel = "class"\ntitle = "Mine"\n'
    (tmp_path / "mine.toml").write_text(described)
    found = read_task(str(tmp_path / "mine.toml"))
    assert (found.name, found.fingerprint, found.facts["title"]) == ("mine", alone.fingerprint, "Mine")


def test_several_classes_a_text_and_none(tmp_path: Path) -> None:
    found = [{**row, "labels": ["a", "b"][: at % 3]} for at, row in enumerate(rows())]
    for row in found:
        del row["label"]
    task = read_task(write(tmp_path / "several.jsonl", found))
    assert task.kind == "labels"
    assert [one.labels for one in task.train[:3]] == [(), ("a",), ("a", "b")]


def test_texts_in_train_and_test_are_counted_and_said(tmp_path: Path) -> None:
    found = rows()
    found[12]["text"] = found[13]["text"] = "train 3"
    assert read_task(write(tmp_path / "t.jsonl", found)).notes == (
        "2 of 10 texts in test are in train too: all were kept.",
    )


def changed(at: int, **values: Any) -> Rows:
    found = rows()
    found[at] |= values
    return found


def without(name: str) -> Rows:
    return [{key: value for key, value in row.items() if key != name} for row in rows()]


BAD: dict[str, tuple[Rows, str]] = {
    "few in train": (rows(train=9), "train has 9 examples, at least 10 are needed"),
    "few in test": (rows(test=3), "test has 3 examples, at least 10 are needed"),
    "missing in train": (changed(14, label="c"), "the class 'c' is missing in train"),
    "one class": ([row | {"label": "a"} for row in rows()], "fewer than two classes have two examples in train"),
    "empty class": (changed(3, label=" "), "label ' ' has an empty class"),
    "null class": (changed(3, label=None), "label 'None' has an empty class"),
    "empty text": (changed(3, text="  "), "its text is empty"),
    "a list": (changed(3, label=["a"]), "label \"['a']\" is not one class"),
    "no label": (without("label"), "no column 'label' or 'labels' among 'split'"),
    "no split": (without("split"), "no column 'split', which says train, dev or test"),
    "other split": (changed(3, split="tset"), "split 'tset' is not one of train, dev, test"),
    "split is a list": (changed(3, split=["train"]), "split \"['train']\" is not one of train, dev, test"),
    "not a number": (changed(3, label=float("nan")), "label 'nan' has an empty class"),
    "half a pair": (changed(3, text="a \ud800 b"), "has half a surrogate pair, which is not text"),
    "no text": (without("text"), "no column 'text'; it has 'split', 'label'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_rows_are_one_line(case: str, tmp_path: Path) -> None:
    found, said = BAD[case]
    with pytest.raises(UserError) as error:
        read_task(write(tmp_path / "t.jsonl", found))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("described", "said"),
    [
        ('data = "t.jsonl"\nclasses = ["a", "b", "c"]', "the class 'c' is empty, no example has it"),
        ('data = "t.jsonl"\nclasses = ["a"]', "the class 'b' is not among its classes"),
        ('data = "t.jsonl"\nlables = "x"', "'lables' is not known: did you mean 'label"),
        ('data = "t.jsonl"\ntrain = "t.jsonl"', "give either data with a split column, or train and test"),
        ('data = "t.jsonl"\nkind = "tag"', "kind 'tag' is not one of label, labels, tags"),
        ('data = "t.jsonl"\nkind = "labels"\nlabels = "label"', "is not a list of classes"),
        ('data = "t.jsonl"\nclasses = 3', "classes '3' is not a list of names"),
        ('data = "t.jsonl"\nclasses = "ab"', "classes 'ab' is not a list of names"),
        ('data = "t.jsonl"\n[classes]\na = 1', "is not a list of names"),
        ('data = "t.jsonl"\nclasses = ["a", "b", "a"]', "names one twice"),
        ('data = ""', "data '' is not text: write it in quotes"),
        ('data = "t.jsonl"\ntext = ["text"]', "text \"['text']\" is not text"),
        ('data = "t.jsonl"\nmetric = "AUC"', "metric 'AUC' is not one of F1, micro F1, accuracy"),
        ('data = "t.jsonl"\nmetric = "entity F1"', "metric 'entity F1' is not one of F1, micro F1, accuracy"),
        ("data = ", "cannot be read"),
    ],
)
def test_bad_descriptions_are_one_line(described: str, said: str, tmp_path: Path) -> None:
    write(tmp_path / "t.jsonl", rows())
    (tmp_path / "t.toml").write_text(described)
    with pytest.raises(UserError) as error:
        read_task(str(tmp_path / "t.toml"))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("", "is empty"),
        ("section", "did you mean 'sections'?"),
        ("nothing-like-it", "choose among sections, entities, gad, hoc, chemprot"),
        ("hoc", "(on the hub bigbio/hallmarks_of_cancer has sentences, whose"),
        ("hoc=", "names no file: write it like hoc=FILE"),
        ("hoc=none.jsonl", "no such file"),
        ("none.toml", "cannot be read"),
    ],
)
def test_bad_specs_are_one_line(spec: str, said: str) -> None:
    with pytest.raises(UserError, match=None) as error:
        read_task(spec)
    assert said in str(error.value)


def test_the_tasks_that_ship_are_what_their_script_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    data = Path(__file__).parents[2] / "data"
    monkeypatch.syspath_prepend(str(data))
    import make_task

    for name in ("sections", "entities"):
        assert gzip.decompress((data / "tasks" / f"{name}.jsonl.gz").read_bytes()) == make_task.task_bytes(name)
    task = read_task("sections")
    assert (len(task.train), len(task.dev), len(task.test), len(task.classes)) == (480, 120, 240, 4)
    assert task.notes == ()
    task = read_task("entities")
    assert (task.kind, task.classes, len(task.train), len(task.test)) == ("tags", ("Disease", "Drug", "Gene"), 360, 180)
    assert task.notes == ()


READ = """
import json, sys
from cka_tools.tasks import read_task
task = read_task(sys.argv[1])
print(json.dumps([task.kind, task.classes, [(one.text, one.labels) for one in (*task.train, *task.test)]]))
"""


def test_splits_of_a_hub_data_set_are_read_with_their_labels(tmp_path: Path) -> None:
    project = Path(__file__).resolve().parents[2]
    folder = tmp_path / "hub" / "org" / "labelled"
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        found = [{"abstract": f"{split} {at}", "topics": ["a", "b"][: at % 3], "more": at} for at in range(12)]
        write(folder / f"{split}.jsonl", found)
    described = (
        'train = "hf:org/labelled::train"\ntest = "hf:org/labelled::test"\ntext = "abstract"\nlabels = "topics"\n'
    )
    (tmp_path / "task.toml").write_text(described)
    stand_in = project / "tests" / "documents" / "hub_stand_in.py"
    command = [sys.executable, str(stand_in), str(tmp_path / "hub"), sys.executable, "-c", READ]
    local = {"HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", "HF_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [*command, str(tmp_path / "task.toml")],
        env={**os.environ, "PYTHONPATH": str(project), **local},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    kind, classes, examples = json.loads(done.stdout.splitlines()[-1])
    assert (kind, classes, len(examples)) == ("labels", ["a", "b"], 24)
    assert examples[2] == ["train 2", ["a", "b"]]
    assert examples[12] == ["test 0", []]
