import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from distributed_losses import CASES, LENGTH, losses
from tiny_start import PER_STEP, write_start

HERE = Path(__file__).parent
Curves = list[list[float]]


@pytest.fixture(scope="module")
def curves(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Curves]:
    """The losses of 20 steps: in one process, in forward passes, in two processes, in both ways."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("distributed")
    data = write_start(root / "start", length=LENGTH)
    found = {
        "one": losses(root / "start", data, root / "one", None),
        "accumulation over two halves": losses(root / "start", data, root / "halves", -(-PER_STEP // 2)),
    }
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [str(HERE / "distributed_losses.py"), str(root / "start"), str(root)]
    done = subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 0, done.stderr
    found |= json.loads((root / "losses.json").read_text())
    manifest = json.loads((root / "two processes" / "clm-False" / "training.json").read_text())
    assert manifest["numerics"]["processes"] == 2
    return found


@pytest.mark.parametrize(
    "cut", ["accumulation over two halves", "two processes", "two processes, one sequence at once"]
)
@pytest.mark.parametrize("case", range(len(CASES)), ids=lambda i: f"{CASES[i][0]}-{'bf16' if CASES[i][1] else 'fp32'}")
def test_the_losses_do_not_depend_on_how_a_step_is_cut(curves: dict[str, Curves], cut: str, case: int) -> None:
    one, other = curves["one"][case], curves[cut][case]
    assert len(one) == 20
    assert max(one) - min(one) > 0.5
    assert other == pytest.approx(one, abs=1e-3 if CASES[case][1] else 1e-5)
