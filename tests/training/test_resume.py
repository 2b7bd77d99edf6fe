import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
KINDS = (
    "inside a save",
    "inside the first save",
    "before the rename",
    "while an old checkpoint is removed",
    "inside the save of a phase's end",
    "at the phase border, checkpoints still there",
    "at the phase border",
    "inside a save of the second phase",
)
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the killed runs are forks")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All killed and restarted runs, described; made by one process."""
    done = subprocess.run(
        [sys.executable, str(HERE / "kill_runs.py"), str(tmp_path_factory.mktemp("kills")), "3"],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_killed_and_started_again_ends_with_the_same_weights(runs: dict[str, Any], kind: str) -> None:
    whole, resumed = runs["whole"], runs[kind]
    assert resumed["ended_by"] == 9
    for what in ("weights", "moments", "curve", "left", "notes"):
        assert resumed[what] == whole[what], what


def test_kills_at_random_moments_change_no_weight(runs: dict[str, Any]) -> None:
    random = {kind: run for kind, run in runs.items() if kind.startswith("after ")}
    assert len(random) == 3
    for kind, run in random.items():
        assert run["weights"] == runs["whole"]["weights"], kind


def test_a_resumed_run_goes_on_from_its_last_checkpoint(runs: dict[str, Any]) -> None:
    run = runs["inside a save"]
    # The third save, after step 6, was cut short: the checkpoint of step 4 is the last good one.
    assert run["before"][-1] == "detour 6"
    assert run["steps"][len(run["before"])] == "detour 5"
    assert runs["at the phase border"]["steps"] == runs["whole"]["steps"]
    again = runs["inside the first save"]
    assert again["steps"][len(again["before"])] == "detour 1"


def test_the_rows_of_the_loss_curve_are_means_over_several_steps(runs: dict[str, Any]) -> None:
    rows = [row for row in runs["whole"]["curve"] if row[0] == "detour"]
    assert [row[2] for row in rows] == ["3", "6", "9", "12"]


def test_a_finished_run_leaves_no_training_state_but_its_phases(runs: dict[str, Any]) -> None:
    assert runs["whole"]["left"] == ["a", "b", "steps"]
