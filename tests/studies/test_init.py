"""`cka study init`: a file from directories."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cka_tools.studies.analyses import ANALYSES
from cka_tools.studies.study_file import read_study

Cka = Callable[..., tuple[int, str, str]]


def manifest(*objectives: str, **facts: Any) -> dict[str, Any]:
    return {"recipe": {"name": "own", "phases": [{"objective": one} for one in objectives]}, "start": "x", **facts}


@pytest.fixture
def models(tmp_path: Path, tiny_model: Callable[..., Path]) -> Path:
    """A folder of models with manifests, and a training run."""
    data = {"data_sha256": "d", "data_seed": 1}
    found = {
        "first": manifest("mlm", start=None),
        "run/1-detour": manifest("clm"),
        "run/final": manifest("clm", "mlm", seed=1, **data),
        "b": manifest("mlm", "mlm", seed=7, **data),
        "a": manifest("mlm", "mlm", seed=1, **data),
        "who": None,
    }
    for name, content in found.items():
        shutil.copytree(tiny_model("bert", layers=2), tmp_path / "m" / name)
        if content is not None:
            (tmp_path / "m" / name / "training.json").write_text(json.dumps(content))
    return tmp_path / "m"


def test_roles_come_from_manifests_and_the_file_is_a_study(cka: Cka, models: Path, tmp_path: Path) -> None:
    given = ["m/b", "m/run", "m/first", "m/a", "m/who"]
    (tmp_path / "studies").mkdir()
    code, out, err = cka("study", "init", *given, "--out", "studies/s.toml", "--json")
    assert code == 0, err
    roles = {one["model"]: one["role"] for one in json.loads(out)["models"]}
    # Of two baselines the one with the detour's seed is its baseline.
    assert roles == {"m/b": "control", "m/run": "detour", "m/first": "start", "m/a": "baseline", "m/who": "unknown"}
    study = read_study(tmp_path / "studies" / "s.toml")
    assert {role: [one.given for one in some] for role, some in study.models.items()} == {
        "start": ["../m/first"],
        "detour": ["../m/run"],
        "baseline": ["../m/a"],
        "control": ["../m/b"],
    }
    assert [Path(one.name).name for one in study.models["detour"][0].checkpoints] == ["1-detour", "final"]
    text = (tmp_path / "studies" / "s.toml").read_text()
    assert '"../m/who"' in text
    assert "of other masks" in text
    # What was written is never written over.
    code, _, err = cka("study", "init", "m/a", "--out", "studies/s.toml")
    assert (code, "is there already" in err) == (2, True)
    assert (tmp_path / "studies" / "s.toml").read_text() == text
    # Every line that is commented out can be put in.
    lines = [line.removeprefix("# ") for line in text.splitlines() if line.startswith(("# [analyses", "# task"))]
    known = [line for line in lines if "contrast" not in line]
    (tmp_path / "studies" / "all.toml").write_text(text + "\n".join(known))
    assert [one.kind for one in read_study(tmp_path / "studies" / "all.toml").entries] == [
        one for one in ANALYSES if one != "contrast"
    ]


def test_the_demo_asks_for_every_analysis(cka: Cka, tmp_path: Path) -> None:
    code, out, err = cka("study", "init", "--demo")
    assert code == 0, err
    assert max(map(len, out.splitlines())) <= 80
    study = read_study(tmp_path / "study.toml")
    assert [entry.kind for entry in study.entries] == list(ANALYSES)
    assert sum(map(len, study.models.values())) == 7


def test_what_does_not_fit_is_one_line(cka: Cka, models: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "odd\udcff").mkdir()
    shutil.copytree(models / "who", tmp_path / "odd\udcff", dirs_exist_ok=True)
    (models / "a" / "training.json").write_text("{")
    cases = [
        ([], "no model is given"),
        (["m/b", "m/b"], "given twice"),
        (["m/nothing/there"], "'m/nothing/there'"),
        (["empty"], "holds no model"),
        (["m/a"], "cannot be read"),
        (["odd\udcff"], "is not UTF-8"),
        (["--demo", "m/b"], "leave 'm/b' or --demo out"),
        (["m/b", "--out", "no/folder.toml"], "there is no folder 'no'"),
        (["m/b", "--out", "m"], "is there already"),
    ]
    for arguments, message in cases:
        code, out, err = cka("study", "init", *arguments)
        assert (code, out) == (2, ""), arguments
        assert message in err
        assert len(err.splitlines()) == 1
    assert not list(tmp_path.glob("*.toml"))


def test_a_manifest_of_any_content_is_no_fault(cka: Cka, models: Path, tmp_path: Path) -> None:
    odd = ({"recipe": 3}, {"recipe": {"phases": [3]}}, {"recipe": {"phases": "x"}}, {"seed": []})
    for at, content in enumerate(odd):
        (models / "who" / "training.json").write_text(json.dumps(content))
        code, _, err = cka("study", "init", "m/who", "--out", f"{at}.toml")
        assert code == 0, err
