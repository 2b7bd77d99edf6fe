"""Training on a card: the losses of the CPU, in every attention, and a run that was stopped goes on."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from cka_tools.training.attention import ANYWHERE, IMPLEMENTATIONS
from cka_tools.training.segment import train_phase

pytestmark = pytest.mark.gpu

#: Largest difference of a step's loss in nats, of losses of about 5.7.
BOUNDS = {False: 1e-3, True: 3e-2}


@pytest.fixture(scope="module")
def tiny() -> ModuleType:
    """The tiny start model of the tests of training."""
    spec = importlib.util.spec_from_file_location(
        "tiny_start", Path(__file__).parents[1] / "training" / "tiny_start.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault("tiny_start", module)
    spec.loader.exec_module(module)
    return module


class Stopped(Exception):  # noqa: N818 - what a user does
    """Ends a run from within."""


def losses(
    tiny: ModuleType, out: Path, *, device: str, stop_after: int | None = None, **options: object
) -> list[float]:
    """The losses of the steps of one phase that ran; `out` and its checkpoints lie under one folder."""
    start = out.parent / "start"
    data = tiny.write_start(start)
    curve: list[float] = []

    def report(done: object) -> None:
        curve.append(done.loss)  # type: ignore[attr-defined]
        if len(curve) == stop_after:
            raise Stopped

    given = {"bf16": False, "attention": "sdpa", "phase": tiny.DETOUR} | options
    phase = given.pop("phase")
    train_phase(
        start, phase, data, seed=1, data_seed=1, first_sequence=0, out=out, optimizer=tiny.SETTINGS,
        report=report, note=lambda text: None, device="cpu" if device == "cpu" else "auto", **given,
    )  # fmt: skip
    return curve


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("attention", IMPLEMENTATIONS)
@pytest.mark.parametrize("name", ["DETOUR", "DECAY"])
def test_losses_are_those_of_the_cpu(
    name: str, attention: str, bf16: bool, tiny: ModuleType, device: torch.device, tmp_path: Path
) -> None:
    if device.type == "cpu" and attention not in ANYWHERE:
        pytest.skip(f"{attention} attention has no backward pass on a CPU")
    phase = getattr(tiny, name)
    for place in ("expected", "found"):
        (tmp_path / place).mkdir()
    expected = losses(tiny, tmp_path / "expected" / "out", device="cpu", phase=phase)
    found = losses(
        tiny, tmp_path / "found" / "out", device=device.type, attention=attention, bf16=bf16, phase=phase
    )  # fmt: skip
    np.testing.assert_allclose(found, expected, atol=BOUNDS[bf16])


def test_a_stopped_run_goes_on(tiny: ModuleType, device: torch.device, tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    whole = losses(tiny, tmp_path / "whole" / "out", device=device.type)
    every = {"checkpoint_tokens": 4 * tiny.STEP}
    with pytest.raises(Stopped):
        losses(tiny, tmp_path / "parts" / "out", device=device.type, stop_after=6, **every)
    rest = losses(tiny, tmp_path / "parts" / "out", device=device.type, **every)
    assert len(rest) == len(whole) - 4
    np.testing.assert_allclose(rest, whole[4:], atol=BOUNDS[False])
