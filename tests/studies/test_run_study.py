"""A study from its file to its folder: each run once, from one pass a model and corpus."""

import json
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from cka_tools import compare, matrix
from cka_tools.comparison.readout_results import KINDS
from cka_tools.errors import UserError
from cka_tools.processes import Process
from cka_tools.store import cached_extraction
from cka_tools.store.catalogue import list_entries
from cka_tools.studies import analyses, run_study, study
from cka_tools.studies.folder import held
from cka_tools.studies.run_study import prepare_study
from cka_tools.studies.study_file import read_study

Cka = Callable[..., tuple[int, str, str]]
ROLES = ("start", "detour", "baseline", "control")


class Blank:
    """In the place of a figure."""

    def savefig(self, file: Path) -> None:
        file.write_text("", encoding="utf-8")


@pytest.fixture
def place(tmp_path: Path, tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with four models of two layers, one a role, and two corpora; an empty cache elsewhere."""
    for seed, role in enumerate(ROLES):
        (tmp_path / role).symlink_to(tiny_model("bert", seed=seed, layers=2, head=True))
    rng = np.random.default_rng(0)
    for name in ("words", "others"):
        texts = [" ".join(f"w{w}" for w in rng.integers(0, 120, size=20)) for _ in range(24)]
        lines = [json.dumps({"id": str(at), "text": text}) for at, text in enumerate(texts)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    monkeypatch.setenv("CKA_TOOLS_CACHE", str(tmp_path / "cache"))
    # Figures and what a report holds are tested where they are made.
    for kind in KINDS.values():
        monkeypatch.setattr(kind, "figure", lambda result: Blank())
    monkeypatch.setattr(run_study, "write_report", lambda runs, out, title: out.write_text(repr(runs)) and out)
    return tmp_path


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Passes that make features, by the model's name."""
    found: Counter[str] = Counter()
    run_share = cached_extraction.run_share

    def counted(forwards: Any, *others: Any) -> Any:
        found.update(one.model.name for one in forwards)
        return run_share(forwards, *others)

    monkeypatch.setattr(cached_extraction, "run_share", counted)
    return found


def write(place: Path, text: str, name: str = "study.toml") -> Path:
    (place / name).write_text("\n".join([f"models.{role} = './{role}'" for role in ROLES]) + "\n" + text)
    return place / name


TWO = """
corpora = ['words.jsonl', 'others.jsonl']
settings.documents = 20
[analyses.compare]
[analyses.matrix]
"""


def test_one_pass_a_model_and_corpus_serves_all_analyses(
    cka: Cka, place: Path, passes: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(place, TWO)
    code, out, err = cka("study", file, "--dry-run", "--json")
    assert code == 0, err
    planned = json.loads(out)
    assert sum(one["passes"] for one in planned["passes"] if one["runs"]) == 4 * 2
    assert sum(not one["runs"] for one in planned["passes"]) == 3 * 2
    assert planned["cost"]["seconds"] > 0
    assert planned["cost"]["tokens"] == 4 * 2 * 20 * 22  # 20 words and the two special tokens
    assert not (place / "cka-study").exists()
    assert passes == {}

    # Somewhere else: the file's folder counts.
    (place / "elsewhere").mkdir()
    monkeypatch.chdir(place / "elsewhere")
    code, out, err = cka("study", "../study.toml")
    assert code == 0, err
    assert max(map(len, out.splitlines())) <= 80
    names = ["compare-words", "compare-others", "matrix-words", "matrix-others"]
    assert [line[:12].strip() for line in out.splitlines()[:4]] == ["done"] * 4
    assert [line[12:42].strip() for line in out.splitlines()[:4]] == names
    assert passes == {f"../{role}": 2 for role in ROLES}
    assert "report.html" in out.splitlines()[4]

    # The numbers are those of the commands themselves.
    folder = place / "cka-study"
    run = study(file)
    alone = compare(
        place / "detour", place / "baseline", place / "words.jsonl", control=place / "control", documents=20
    )
    np.testing.assert_array_equal(run.load("compare-words").arrays["matrix.debiased"], alone.arrays["matrix.debiased"])
    every = matrix([place / role for role in ROLES], place / "others.jsonl", documents=20)
    np.testing.assert_array_equal(run.load("matrix-others").arrays["mean.debiased"], every.arrays["mean.debiased"])

    # Nothing is done again, the report neither.
    assert [one.state for one in run.outcomes] == ["from before"] * 4
    written = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    passes.clear()
    code, out, _ = cka("study", file, "--json")
    assert (code, [one["state"] for one in json.loads(out)["runs"]]) == (0, ["from before"] * 4)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} == written
    assert passes == {}

    # Another corpus is another pass a model, and changes what depends on it alone.
    text = (place / "others.jsonl").read_text()
    (place / "others.jsonl").write_text(text.replace("w1", "w2"))
    code, out, _ = cka("study", file)
    assert [line[:12].strip() for line in out.splitlines()[:4]] == ["from before", "done"] * 2
    assert set(passes.values()) == {1}
    assert sorted(path.name for path in (folder / "earlier").iterdir()) == ["compare-others-1", "matrix-others-1"]
    np.testing.assert_array_equal(
        study(file).load("compare-words").arrays["matrix.debiased"], alone.arrays["matrix.debiased"]
    )


def test_an_analysis_of_its_own_settings_needs_its_own_passes(cka: Cka, place: Path, passes: Counter[str]) -> None:
    more = "[analyses.branch]\nanalysis = 'compare'\nsites = 'attention'\ndetour = 'start'\ncontrol = []\n"
    file = write(place, "corpora = 'words.jsonl'\n[analyses.compare]\n" + more)
    planned = json.loads(cka("study", file, "--dry-run", "--json")[1])
    runs = Counter(one["run"] for one in planned["passes"] if one["runs"])
    assert runs == {"compare": 3, "branch": 2}
    assert cka("study", file)[0] == 0
    assert sum(passes.values()) == 5
    # A changed option of one.
    write(place, "corpora = 'words.jsonl'\n[analyses.compare]\n" + more.replace("[]", "'control'"))
    passes.clear()
    assert [one.state for one in study(file).outcomes] == ["from before", "done"]
    assert passes == {str(place / "control"): 1}


def test_every_analysis_states_what_it_does_by_default(cka: Cka, place: Path) -> None:
    file = write(place, "corpora = 'words.jsonl'\n")
    code, out, err = cka("study", file, "--dry-run")
    assert code == 0, err
    assert max(map(len, out.splitlines())) <= 80
    said = " ".join(out.split())
    for kind in ("compare", "matrix", "transplant", "interpolate", "health"):
        assert f"runs {kind}: " in said
        assert f"default {kind}: " in said
    assert "left out contrast: needs 2 models or more a group" in said
    assert "4 of language-model readings" in said
    assert "no [analyses] are named" in said
    # Where nothing fits, the first reason is the line.
    file = write(place, "corpora = 'words.jsonl'\nsettings.documents = 999\n")
    code, _, err = cka("study", file)
    assert (code, "no analysis fits by default; compare: " in err, "999" in err) == (2, True, True), err
    file = write(place, "settings.device = 'warp'\n")
    code, _, err = cka("study", file)
    assert (code, f"{file}, line 5: device 'warp'" in err) == (2, True), err


def test_a_failing_analysis_does_not_stop_the_others(cka: Cka, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(place, "corpora = 'words.jsonl'\n[analyses.compare]\n[analyses.health]\n[analyses.matrix]\n")
    health = analyses.ANALYSES["health"]

    class Broken(analyses.Analysis):
        def run(self, call: Any, **others: Any) -> Any:
            if others["progress"] is not None:  # the check passes
                raise ZeroDivisionError("two\nlines")
            return health.run(call, **others)

    broken = Broken(**{name: getattr(health, name) for name in health.__dataclass_fields__})
    monkeypatch.setattr(analyses, "ANALYSES", analyses.ANALYSES)
    monkeypatch.setitem(analyses.ANALYSES, "health", broken)
    code, out, err = cka("study", file)
    assert code == 1
    # A long path is wrapped, so a line may also begin within one.
    states = [word for line in out.splitlines() if (word := line[:12].strip()) in ("done", "failed", "from before")]
    assert states == ["done", "failed", "done"]
    assert "ZeroDivisionError: two lines" in " ".join(out.split())
    assert err == "cka: 1 run of 3 failed: health\n"
    assert "Traceback" in (place / "cka-study/failed/health.txt").read_text()
    monkeypatch.setitem(analyses.ANALYSES, "health", health)
    code, out, err = cka("study", file)
    assert (code, err) == (0, "")
    states = [word for line in out.splitlines() if (word := line[:12].strip()) in ("done", "failed", "from before")]
    assert states == ["from before", "done", "from before"]
    assert not (place / "cka-study/failed/health.txt").exists()


def test_input_that_does_not_fit_is_told_before_anything_runs(
    cka: Cka, place: Path, passes: Counter[str], tiny_model: Callable[..., Path]
) -> None:
    (place / "deep").symlink_to(tiny_model("bert", seed=8, layers=3))
    (place / "empty").mkdir()
    cka("--version")  # what was said while models were made
    base = "corpora = 'words.jsonl'\n"
    cases = [
        (base + "[analyses.compare]\n[analyses.matrix]\nlayers = '9'\n", "line 7: matrix: layers [9] do not exist"),
        (base + "[settings]\ndocuments = 999\n[analyses.compare]", "line 8: compare: ", "999 documents"),
        (base + "[analyses.health]\nreadout = 'mml'", "line 6: health: readout 'mml' is not known"),
        (base + "[analyses.probe]\ntask = 'none.csv'", "line 6: probe: task 'none.csv'"),
        (base + "[analyses.transplant]\nlayers = '7-9'", "line 6: transplant: layers"),
    ]
    for text, *messages in cases:
        file = write(place, text)
        for dry in ([], ["--dry-run"]):
            code, out, err = cka("study", file, *dry)
            assert (code, out) == (2, ""), text
            assert len(err.splitlines()) == 1
            for message in messages:
                assert message in err
    # Models that open, and do not fit one another.
    write(place, base + "[analyses.compare]")
    file.write_text(file.read_text().replace("./control", "./deep"))
    code, _, err = cka("study", file)
    assert code == 2
    assert "line 6: compare: control " in err
    for name in ("empty", "missing"):
        file.write_text(f"models.detour = './{name}'")
        code, _, err = cka("study", file)
        assert (code, err.startswith(f"cka: {file}, line 1: ")) == (2, True), err
    assert passes == {}
    assert not (place / "cka-study").exists()


def test_folders_that_are_not_this_studys_are_refused(cka: Cka, place: Path) -> None:
    text = "corpora = 'words.jsonl'\nanalyses = ['compare']\n"
    file = write(place, text)
    (place / "mine").mkdir()
    (place / "mine" / "notes.txt").write_text("kept")
    (place / "nowhere").symlink_to(place / "gone" / "further")
    (place / "target").mkdir()
    (place / "link").symlink_to(place / "target")
    for out, message in [("mine", "holds files"), ("words.jsonl", "is a file"), ("nowhere", "leads nowhere")]:
        code, _, err = cka("study", file, "--out", out)
        assert (code, message in err) == (2, True), err
    assert cka("study", file, "--out", "link")[0] == 0
    assert (place / "target" / "runs" / "compare" / "result.json").is_file()
    other = write(place, text, "other.toml")
    code, _, err = cka("study", other, "--out", "target")
    assert code == 2
    assert "holds the study of '../study.toml'" in err
    # Both may move together.
    (place / "moved").mkdir()
    for name in (*ROLES, "words.jsonl", "study.toml", "target"):
        (place / name).rename(place / "moved" / name)
    code, out, err = cka("study", "moved/study.toml", "--out", "moved/target")
    assert (code, out[:11]) == (0, "from before"), err
    with held(place / "moved" / "target", read_study(place / "moved" / "study.toml")):
        code, _, err = cka("study", "moved/study.toml", "--out", "moved/target")
    assert (code, "is running in another process" in err) == (2, True), err


def test_without_a_cache_features_lie_in_the_studys_folder(cka: Cka, place: Path, passes: Counter[str]) -> None:
    file = write(place, TWO.replace("documents = 20", "cache = false"))
    assert "off: features are kept in" in " ".join(cka("study", file, "--dry-run")[1].split())
    assert cka("study", file)[0] == 0
    assert sum(passes.values()) == 4 * 2
    assert not (place / "cache").exists()
    assert len(list_entries(place / "cka-study" / "cache")) == 8


def test_a_training_runs_folder_is_its_last_model_and_its_checkpoints(
    place: Path, tiny_model: Callable[..., Path]
) -> None:
    for seed, (name, tokens) in enumerate((("1-detour", 2000), ("final", 2500)), 5):
        shutil.copytree(tiny_model("bert", seed=seed, layers=2, head=True), place / "run" / name)
        (place / "run" / name / "training.json").write_text(json.dumps({"run_tokens": tokens, "seed": 1}))
    file = write(place, "corpora = 'words.jsonl'\nanalyses = ['compare', 'trajectory']\n")
    file.write_text(file.read_text().replace("./detour", "./run"))
    run = study(file)
    assert run.load("compare").names[0] == str(place / "run" / "final")
    assert [one["x"] for one in run.load("trajectory").checkpoints] == [2000, 2500]
    # A manifest is an input as well.
    (place / "run" / "1-detour" / "training.json").write_text(json.dumps({"run_tokens": 1000, "seed": 1}))
    again = study(file)
    assert [one.state for one in again.outcomes] == ["from before", "done"]
    assert [one["x"] for one in again.load("trajectory").checkpoints] == [1000, 2500]


KILLED = """
import os, signal, sys
from cka_tools.studies import run_study
from cka_tools.comparison.results import Comparison
from types import SimpleNamespace
run_study.write_report = lambda runs, out, title: out
Comparison.figure = lambda result: SimpleNamespace(savefig=lambda file: file.write_text(""))
done = []
def told(outcome):
    done.append(outcome)
    print(outcome.name, flush=True)
def progress(at):
    if done and at.share > 0.5:
        os.kill(os.getpid(), signal.SIGKILL)
run_study.study(sys.argv[1], told=told, progress=progress)
"""


@pytest.mark.slow
def test_after_a_kill_the_same_command_goes_on(cka: Cka, place: Path, passes: Counter[str]) -> None:
    file = write(place, TWO)
    killed = subprocess.run([sys.executable, "-c", KILLED, str(file)], capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    before = killed.stdout.split()
    assert before == ["compare-words"]
    code, out, err = cka("study", file)
    assert code == 0, err
    assert [line[:12].strip() for line in out.splitlines()[:4]] == ["from before", "done", "done", "done"]
    # Of the first corpus the start alone is left; of the second what the killed one did not finish.
    assert 2 <= sum(passes.values()) <= 5
    clean = study(file, place / "clean")
    for one in clean.outcomes:
        again = study(file).load(one.name).arrays
        for name, array in clean.load(one.name).arrays.items():
            np.testing.assert_array_equal(again[name], array)


def test_a_damaged_run_is_made_again_and_kept_aside(place: Path) -> None:
    file = write(place, "corpora = 'words.jsonl'\nanalyses = ['compare']\n")
    run = study(file)
    assert run.outcomes[0].folder is not None
    (run.outcomes[0].folder / "result.json").write_text("{")
    assert [one.state for one in study(file).outcomes] == ["done"]
    assert (run.folder / "earlier" / "compare-1" / "result.json").read_text() == "{"


def test_a_report_that_cannot_be_written_is_told(cka: Cka, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(runs: Any, out: Path, title: str | None) -> Path:
        raise UserError("no room")

    monkeypatch.setattr(run_study, "write_report", refuse)
    file = write(place, "corpora = 'words.jsonl'\nanalyses = ['compare']\n")
    code, out, err = cka("study", file)
    assert (code, out[:4], err) == (1, "done", "cka: no report was written: no room\n")


def test_several_processes_are_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cka_tools.processes._this", Process(1, 2))
    with pytest.raises(UserError, match="in one process"):
        prepare_study(write(place, TWO))


def test_the_dictionary_of_python_is_the_file(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    given = {
        "models": {"detour": [Path("detour")], "baseline": "./baseline"},
        "corpora": {"w": "words.jsonl"},
        "settings": {"documents": 20},
        "analyses": {"compare": {"layers": [1]}},
    }
    stands = []
    run = study(MappingProxyType(given), "folder", progress=stands.append)
    assert [layer["layer_a"] for layer in run.load("compare").layers] == [1]
    shares = [one.share for one in stands]
    assert shares == sorted(shares)
    assert 0 <= shares[0] < shares[-1] <= 1
    with pytest.raises(UserError, match="no run of the study is called 'x'"):
        run.load("x")
    assert run.folder == Path("folder")


EVALUATE = """
settings.device = 'cpu'
[analyses.evaluate]
tasks = ['task.jsonl']
models = ['detour', 'baseline']
seeds = 2
epochs = 3
lr = 1e-3
"""


def write_task(place: Path) -> None:
    """40 texts of train, 8 of dev and 20 of test, in which one half of the words says the class."""
    splits = ["train"] * 40 + ["dev"] * 8 + ["test"] * 20
    rows = [
        {"split": split, "label": "ab"[at % 2],
         "text": " ".join(f"w{60 * (at % 2) + (at * k) % 60}" for k in range(1, 3 + at % 7))}
        for at, split in enumerate(splits)
    ]  # fmt: skip
    (place / "task.jsonl").write_text("\n".join(map(json.dumps, rows)))


def test_fine_tuning_is_planned_without_training(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cka_tools.evaluation.run_evaluate.fine_tune", lambda *_, **__: pytest.fail("it trains"))
    write_task(place)
    prepared = prepare_study(write(place, EVALUATE))
    assert [job.entry.kind for job in prepared.jobs] == ["evaluate"]
    tokens = sum(2 + 2 + at % 7 for at in range(40))  # a word is one, and a text has two more
    for one in prepared.costs.passes:
        assert one.kind == "trained"
        # Of 40 texts: both seeds go through them 3 times, forwards and, at twice that, backwards; 8 and 20 are read.
        assert one.passes * 40 == pytest.approx(2 * (3 * 3 * 40 + 3 * 8 + 20))
        assert one.tokens == tokens
    assert sorted(one.source.name.split("/")[-1] for one in prepared.costs.passes) == ["baseline", "detour"]
    assert not prepared.folder.exists()
    with pytest.raises(UserError, match=r"study\.toml, line 7: evaluate: task .*none\.jsonl"):
        prepare_study(write(place, EVALUATE.replace("task.jsonl", "none.jsonl")))
    with pytest.raises(UserError, match=r"line 7: evaluate: --lr '?0(\.0)?'? does not fit"):
        prepare_study(write(place, EVALUATE.replace("1e-3", "0")))


@pytest.mark.slow
def test_fine_tuning_goes_on_with_what_is_finished(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cka_tools.evaluation import run_evaluate

    write_task(place)
    file, train = write(place, EVALUATE.replace("epochs = 3", "epochs = 1")), run_evaluate.fine_tune
    by_hand = run_evaluate.evaluate(
        [place / "detour", place / "baseline"], [str(place / "task.jsonl")], seeds=2, epochs=1, lr=1e-3, device="cpu"
    )
    made: list[int] = []
    most = 3

    def counted(*given: Any, **named: Any) -> Any:
        if len(made) == most:
            raise KeyboardInterrupt
        made.append(given[6])
        return train(*given, **named)

    monkeypatch.setattr(run_evaluate, "fine_tune", counted)
    with pytest.raises(KeyboardInterrupt):
        study(file)
    assert made == [1, 1, 2]
    made.clear()
    run = study(file)
    assert [one.state for one in run.outcomes] == ["done"]
    assert made == [2]  # the last one of two models with two seeds
    assert run.load("evaluate").record["scores"] == by_hand.record["scores"]
    assert [one.state for one in study(file).outcomes] == ["from before"]
    made.clear()
    file.write_text(file.read_text().replace("seeds = 2", "seeds = [1, 3]"))
    assert [one.state for one in study(file).outcomes] == ["done"]
    assert made == [3, 3]
