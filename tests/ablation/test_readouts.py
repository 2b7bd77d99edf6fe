"""Readouts of an ablation's checkpoints, beside what `probe` and `health` say of the same ones."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cka_tools import evaluate, health, probe
from cka_tools.ablation.measure import Trained, Trio, compare_trios
from cka_tools.comparison.results import Ablation
from cka_tools.errors import UserError
from cka_tools.formatting import percent_interval
from cka_tools.settings import Settings
from cka_tools.terminal.output import Terminal, print_result

SETTINGS = Settings(device="cpu", cache=False)


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory, halves: Callable[[], list[dict[str, Any]]]) -> str:
    path = tmp_path_factory.mktemp("task") / "halves.jsonl"
    path.write_text("\n".join(map(json.dumps, halves())))
    return str(path)


@pytest.fixture(scope="module")
def folders(tiny_model: Callable[..., Path]) -> list[Path]:
    return [tiny_model("modernbert", seed=seed, layers=3, head=True) for seed in range(3)]


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return [" ".join(f"w{(i * j) % 120}" for j in range(1, 30)) for i in range(40)]


def trios(folders: list[Path], causal: bool = False) -> list[Trio]:
    """One cell with a control, one without."""
    detour, baseline, control = (Trained(folder, seed, 1, 100, None) for seed, folder in enumerate(folders))
    place = ("length", "1", 1.0, "3x32", 1, causal, detour, baseline)
    return [Trio(*place, control, "masks"), Trio("length", "0.5", 0.5, "3x32", 1, causal, baseline, detour, None, None)]


@pytest.fixture(scope="module")
def found(folders: list[Path], texts: list[str], task: str) -> Ablation:
    return compare_trios("length", trios(folders), texts, SETTINGS, readout=[f"probe:{task}", "mlm"])


def test_a_cell_is_what_the_probe_says_of_its_checkpoints(found: Ablation, folders: list[Path], task: str) -> None:
    by_hand = probe(folders, task, settings=SETTINGS)
    last = [model["layers"][-1]["readouts"] for model in by_hand.models]
    with_control, without = found.cells
    for name in ("macro_f1", "micro_f1", "accuracy"):
        entry = with_control["readouts"][f"probe:halves.{name}"]
        assert [entry[role] for role in ("detour", "baseline", "control")] == [one[name] for one in last]
        (apart,) = [one for one in by_hand.record["differences"] if (one["a"], one["b"]) == (1, 0)]
        other = without["readouts"][f"probe:halves.{name}"]
        assert other["difference"] == apart["layers"][-1]["readouts"][name]
        assert entry["difference"]["value"] == pytest.approx(-other["difference"]["value"])
        assert other["control"]["value"] is None
        assert other["noise"]["reason"] == "no baseline of another seed"
        noise = next(one for one in by_hand.record["differences"] if (one["a"], one["b"]) == (2, 1))
        assert entry["noise"] == noise["layers"][-1]["readouts"][name]


def test_language_models_are_read_too(found: Ablation, folders: list[Path], texts: list[str]) -> None:
    by_hand = health(folders, texts, readout="mlm", settings=SETTINGS)
    for role, model in zip(("detour", "baseline", "control"), by_hand.models, strict=True):
        assert found.cells[0]["readouts"]["mlm.loss"][role] == model["readouts"]["mlm.loss"]


def test_the_columns_are_in_table_and_csv_and_a_run_comes_back(found: Ablation, tmp_path: Path) -> None:
    out = io.StringIO()
    print_result(found, Terminal(file=out, width=80))
    assert max(map(len, out.getvalue().splitlines())) <= 80
    entry = found.cells[0]["readouts"]["probe:halves.macro_f1"]["difference"]
    assert str(percent_interval(entry)) in out.getvalue()
    assert "halves probe" in out.getvalue()
    frame = found.to_frame()
    own = frame[frame["cell"] == "1"]
    assert set(own["probe:halves.macro_f1.difference"]) == {entry["value"]}
    assert set(own["mlm.loss.noise_low"]) == {found.cells[0]["readouts"]["mlm.loss"]["noise"]["ci_low"]}
    again = Ablation.load(found.save(tmp_path / "run"))
    assert again.record == found.record
    path = tmp_path / "run" / "result.json"
    broken = json.loads(path.read_text())
    del broken["pairs"][1]["readouts"]["mlm.loss"]
    path.write_text(json.dumps(broken))
    with pytest.raises(UserError, match=r"mlm\.loss"):
        Ablation.load(tmp_path / "run")


def test_without_a_readout_nothing_changes(found: Ablation, folders: list[Path], texts: list[str]) -> None:
    plain = compare_trios("length", trios(folders), texts, SETTINGS)
    assert "readouts" not in plain.summary
    for one, other in zip(plain.cells, found.cells, strict=True):
        assert one == {name: value for name, value in other.items() if name != "readouts"}


def test_layers_of_the_comparison_are_not_those_of_a_readout(
    found: Ablation, folders: list[Path], texts: list[str], task: str
) -> None:
    settings = Settings(device="cpu", cache=False, layers=(0,))
    few = compare_trios("length", trios(folders)[:1], texts, settings, readout=[f"probe:{task}"])
    assert few.cells[0]["readouts"]["probe:halves.accuracy"] == found.cells[0]["readouts"]["probe:halves.accuracy"]


@pytest.mark.parametrize(
    ("readout", "changes", "said"),
    [
        (["probes:x"], {}, "readout 'probes:x' is not known: did you mean 'probe'"),
        (["probe:none"], {}, "task 'none' is not known"),
        (["evaluate:none"], {}, "task 'none' is not known"),
        (["evaluate:"], {}, "write it like evaluate:TASK"),
        (["evaluate"], {}, "write it like evaluate:TASK"),
        (["divergence"], {}, "is what an ablation compares anyway"),
        (["clm"], {}, "readout 'clm' needs a causal-LM head"),
        (["probe:sections"], {"pooling": "token"}, "pooling 'token' gives a text several rows"),
    ],
)
def test_what_does_not_fit_is_refused_before_a_pass(
    folders: list[Path], texts: list[str], monkeypatch: pytest.MonkeyPatch, readout: list[str], changes: dict[str, Any],
    said: str,
) -> None:  # fmt: skip
    monkeypatch.setattr("cka_tools.models.model.LoadedModel.run", lambda *_, **__: pytest.fail("a model ran"))
    with pytest.raises(UserError) as error:
        compare_trios("length", trios(folders), texts, Settings(device="cpu", cache=False, **changes), readout=readout)
    assert said in str(error.value)


def test_causal_views_are_probed_and_their_heads_are_not_read(folders: list[Path], texts: list[str], task: str) -> None:
    found = compare_trios("direction", trios(folders, causal=True)[:1], texts, SETTINGS, readout=[f"probe:{task}"])
    assert found.cells[0]["readouts"]["probe:halves.accuracy"]["detour"]["value"] > 0
    with pytest.raises(UserError, match="is seen causally, where its head cannot be read"):
        compare_trios("direction", trios(folders, causal=True), texts, SETTINGS, readout=["mlm"])


@pytest.mark.slow
def test_fine_tuning_is_read_as_evaluate_does_it(
    folders: list[Path], texts: list[str], task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cka_tools.evaluation.options.paper.FINE_TUNING_EPOCHS", 1)
    found = compare_trios(
        "length", trios(folders), texts, SETTINGS, readout=[f"evaluate:{task}"], parts=tmp_path / "parts"
    )
    by_hand = evaluate(folders, [task], seeds=[1], device="cpu")
    (summary,) = found.summary["readouts"]
    assert (summary["name"], summary["title"]) == ("evaluate:halves", "halves, fine-tuned")
    assert summary["quantities"][0]["name"] == "macro_f1"
    cell = found.cells[0]["readouts"]["evaluate:halves.macro_f1"]
    scores = [one["readouts"]["macro_f1"]["value"] for one in by_hand.record["scores"]]
    assert [cell[role]["value"] for role in ("detour", "baseline", "control")] == pytest.approx(scores, abs=1e-12)
    assert cell["difference"]["value"] == pytest.approx(scores[0] - scores[1])
    assert cell["difference"]["ci_low"] is not None  # paired, over texts of test
    assert cell["noise"]["value"] == pytest.approx(scores[2] - scores[1])
    assert any("one seed (1) of fine-tuning" in note for note in found.summary["notes"])
    Ablation.load(found.save(tmp_path / "run"))
    # What is finished is found again.
    monkeypatch.setattr("cka_tools.evaluation.run_evaluate.fine_tune", lambda *_, **__: pytest.fail("it trains"))
    again = compare_trios(
        "length", trios(folders), texts, SETTINGS, readout=[f"evaluate:{task}"], parts=tmp_path / "parts"
    )
    assert again.cells == found.cells


def test_causal_views_are_not_fine_tuned(folders: list[Path], texts: list[str], task: str) -> None:
    with pytest.raises(UserError, match="is seen causally"):
        compare_trios("direction", trios(folders, causal=True), texts, SETTINGS, readout=[f"evaluate:{task}"])
