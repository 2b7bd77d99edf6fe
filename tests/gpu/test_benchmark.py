"""The benchmark for a GPU runs on a CPU with toy shapes, and goes on where it stopped."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"
SPEED = ["kernels", "features-base-512", "features-large-8192", "training-base-8192"]


def run(out: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), "--out", str(out), "--device", "cpu", "--tiny", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.slow
def test_all_kinds_of_parts_run_on_a_cpu_and_run_once(tmp_path: Path) -> None:
    done = run(tmp_path, "--seconds", "30", "--parts", *SPEED)
    assert done.returncode == 1, done.stderr
    assert "no time was left for kernels, features-base-512" in done.stdout
    done = run(tmp_path, "--parts", *SPEED)
    assert done.returncode == 0, done.stderr
    parts = {name: json.loads((tmp_path / f"{name}.json").read_text())["rows"] for name in SPEED}
    assert {row["products"] for row in parts["kernels"]} == {"float64", "float32"}
    assert all(0 < row["CKA error"] < 1e-5 for row in parts["kernels"] if row["products"] == "float32")
    assert [(row["a batch's tokens"], row["batching"]) for row in parts["features-base-512"]] == [
        (budget, batching) for budget in (16_384, 65_536, 131_072) for batching in ("sorted", "packed")
    ]
    assert all(row["documents"] == 24 and row["tokens/s of a model"] > 0 for row in parts["features-large-8192"])
    assert parts["features-large-8192"][0]["bare TFLOP/s"] > 0
    assert len(parts["training-base-8192"]) == 6
    assert all(row["tokens/s"] > 0 and 4 < row["loss"] < 7 for row in parts["training-base-8192"])
    tables = (tmp_path / "figures.md").read_text()
    assert [line for line in tables.splitlines() if line.startswith("## ")] == [
        f"## {name}" for name in ("features-base-512", "kernels", "features-large-8192", "training-base-8192")
    ]
    again = run(tmp_path, "--parts", *SPEED)
    assert again.stdout.count("done before") == 4
