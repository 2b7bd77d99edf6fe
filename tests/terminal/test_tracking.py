"""`--log`: what arrives where people track experiments; a package that is missing is one line before any pass."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cka_tools import Comparison, Trajectory
from cka_tools.terminal import tracking
from cka_tools.terminal.tracking import log_run, scalars

RESULTS = Path(__file__).parents[2] / "figures" / "results"


@pytest.fixture(scope="module")
def detour() -> Comparison:
    return Comparison.load(RESULTS / "detour")


@pytest.fixture
def run_dir(detour: Comparison, tmp_path: Path) -> Path:
    """A saved run with a figure and a report."""
    from PIL import Image

    folder = tmp_path / "one"
    folder.mkdir()
    Image.new("RGB", (8, 6), "red").save(folder / "figure.png")
    (folder / "report.html").write_text("<p>report</p>")
    return folder


def test_scalars_are_the_numbers_of_the_table(detour: Comparison) -> None:
    found = {(name, layer): value for name, layer, value in scalars(detour)}
    for entry in detour.layers:
        layer = entry["layer_a"]
        assert found["divergence", layer] == entry["divergence"]["value"]
        assert found["divergence_low", layer] == entry["divergence"]["ci_low"]
        assert found["ratio", layer] == entry["ratio"]["value"]
        assert found["effective_dim_b", layer] == entry["effective_dim_b"]
    assert not {name for name, _ in found} & {"layer_a", "n_documents", "layer"}


def test_runs_of_many_pairs_have_a_name_each() -> None:
    decay = Trajectory.load(RESULTS / "decay")
    found = [(name, layer) for name, layer, _ in scalars(decay)]
    assert len(found) == len(set(found))
    assert sum(name.endswith("/mean/divergence") for name, _ in found) == len(decay.record["pairs"])


def test_tensorboard_gets_scalars_by_layer_the_figure_and_the_report(detour: Comparison, run_dir: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert log_run(["tensorboard"], detour, run_dir, "p") == []
    events = EventAccumulator(str(run_dir / "tensorboard"))
    events.Reload()
    logged = {event.step: event.value for event in events.Scalars("divergence")}
    assert logged == pytest.approx({e["layer_a"]: e["divergence"]["value"] for e in detour.layers})
    assert (events.Images("figure")[0].width, events.Images("figure")[0].height) == (8, 6)
    (text,) = events.Tensors("run/text_summary")
    assert b"report.html" in text.tensor_proto.string_val[0]


class Called:
    """A stand-in that takes the documented arguments alone, and keeps what it was given."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []

    def keep(self, called: str, /, **given: Any) -> None:
        self.calls.append((called, given))

    def of(self, name: str) -> list[Any]:
        return [given for called, given in self.calls if called == name]


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Called:
    """wandb by its reference: init(…) gives a Run with define_metric, log, summary and finish."""
    kept = Called()

    class Run:
        def __init__(self) -> None:
            self.summary: dict[str, Any] = {}
            kept.summary = self.summary  # type: ignore[attr-defined]

        def define_metric(self, name: str, step_metric: str | None = None, summary: str | None = None) -> None:
            kept.keep("define_metric", name=name, step_metric=step_metric)

        def log(self, data: dict[str, Any], step: int | None = None, commit: bool | None = None) -> None:
            assert all(isinstance(name, str) for name in data)
            kept.keep("log", data=data, step=step)

        def finish(self, exit_code: int | None = None) -> None:
            kept.keep("finish")

    def init(*, project: str, name: str, job_type: str, config: dict[str, Any]) -> Run:
        kept.keep("init", project=project, name=name, job_type=job_type, config=config)
        return Run()

    module = SimpleNamespace(init=init, Image=lambda data: ("image", data), Html=lambda data: ("html", data))
    monkeypatch.setitem(sys.modules, "wandb", module)
    return kept


def test_wandb_gets_scalars_over_the_layer_the_figure_and_the_report(
    wandb: Called, detour: Comparison, run_dir: Path
) -> None:
    assert log_run(["wandb"], detour, run_dir, "mine") == []
    (begun,) = wandb.of("init")
    assert (begun["project"], begun["name"], begun["job_type"]) == ("mine", "one", "comparison")
    assert begun["config"]["pooling"] == "mean"
    axes = {one["name"]: one["step_metric"] for one in wandb.of("define_metric")}
    assert axes["divergence"] == "layer"
    logged = {one["data"]["layer"]: one["data"]["divergence"] for one in wandb.of("log") if "layer" in one["data"]}
    assert logged == {e["layer_a"]: e["divergence"]["value"] for e in detour.layers}
    others = [one["data"] for one in wandb.of("log") if "layer" not in one["data"]]
    assert others == [{"figure": ("image", str(run_dir / "figure.png"))}, {"report": ("html", "<p>report</p>")}]
    assert wandb.calls[-1][0] == "finish"


@pytest.fixture
def trackio(monkeypatch: pytest.MonkeyPatch) -> Called:
    """trackio by its reference: init(project, name, config, embed, …), log(metrics, step), Image(value), finish()."""
    kept = Called()
    module = SimpleNamespace(
        init=lambda project, name=None, config=None, embed=True: kept.keep("init", project=project, config=config),
        log=lambda metrics, step=None: kept.keep("log", metrics=metrics, step=step),
        Image=lambda value, caption=None: ("image", value),
        finish=lambda: kept.keep("finish"),
    )
    monkeypatch.setitem(sys.modules, "trackio", module)
    return kept


def test_trackio_gets_scalars_by_layer_the_figure_and_the_report(
    trackio: Called, detour: Comparison, run_dir: Path
) -> None:
    assert log_run(["trackio"], detour, run_dir, "mine") == []
    assert trackio.of("init")[0]["config"]["report"] == str(run_dir / "report.html")
    logged = {one["step"]: one["metrics"]["divergence"] for one in trackio.of("log") if one["step"] is not None}
    assert logged == {e["layer_a"]: e["divergence"]["value"] for e in detour.layers}
    assert trackio.of("log")[-1]["metrics"] == {"figure": ("image", str(run_dir / "figure.png"))}
    assert trackio.calls[-1][0] == "finish"


def test_a_tracker_that_fails_costs_the_run_nothing(trackio: Called, detour: Comparison, run_dir: Path) -> None:
    def refuse(metrics: Any, step: Any = None) -> None:
        raise ConnectionError("no network\nat all")

    sys.modules["trackio"].log = refuse  # type: ignore[attr-defined]
    (told,) = log_run(["trackio"], detour, run_dir, "mine")
    assert told == "--log trackio failed (ConnectionError: no network at all); the run is saved"
    assert trackio.calls[-1][0] == "finish"


@pytest.mark.parametrize("name", ["wandb", "tensorboard", "trackio"])
def test_a_missing_package_is_one_line_before_any_pass(cka, monkeypatch, tmp_path, name) -> None:
    monkeypatch.setattr(tracking, "find_spec", lambda _: None)
    code, out, err = cka("compare", "demo:theta0", "demo:theta0", "--log", name, "--out", "run")
    assert (code, out) == (2, "")
    assert err == f"cka: --log {name} needs the package {name}: pip install 'cka-tools[{name}]'\n"
    assert not list(tmp_path.iterdir())


def test_an_unknown_tracker_is_one_line(cka) -> None:
    code, _, err = cka("compare", "demo:theta0", "demo:theta0", "--log", "mlflow")
    assert (code, err) == (2, "cka: --log 'mlflow' is not one of wandb, tensorboard, trackio\n")


def test_the_command_logs_what_it_saved(cka, tiny_model, monkeypatch, tmp_path) -> None:
    kept: list[Any] = []
    monkeypatch.setitem(tracking.TRACKERS, "trackio", lambda result, folder, project: kept.append((result, folder)))
    monkeypatch.setattr(tracking, "find_spec", lambda _: True)
    (tmp_path / "texts.txt").write_text("\n".join(f"w{i} w{i + 1} w{i + 2}" for i in range(30)))
    a, b = tiny_model("bert"), tiny_model("bert", seed=1)
    assert cka("compare", a, b, "--corpus", "texts.txt", "--log", "trackio", "--out", "run", "--quiet")[0] == 0
    ((result, folder),) = kept
    assert folder == Path("run")
    assert result.record["summary"]["n_documents"] == 30
