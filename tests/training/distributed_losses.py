"""Run under torchrun: trains 20 steps of each objective in each precision, and writes the losses as JSON."""

import dataclasses
import json
import os
import sys
from pathlib import Path

import torch
from tiny_start import PER_STEP, SETTINGS, write_start

from cka_tools.training.packing import PackedTokens
from cka_tools.training.recipe import Masking, Phase
from cka_tools.training.segment import train_phase

# Some hundred tokens a step and the demo's learning rate: rounding to bfloat16 is averaged over targets.
LENGTH = 48
STEP = LENGTH * PER_STEP
USED = dataclasses.replace(SETTINGS, peak_lr=1e-3)
# Name → sequences a process takes at once.
TWO_PROCESSES = {"two processes": None, "two processes, one sequence at once": 1}
CASES = [(objective, bf16) for objective in ("clm", "mlm") for bf16 in (False, True)]


def losses(start: Path, data: PackedTokens, root: Path, sequences_per_forward: int | None) -> list[list[float]]:
    """Return the losses of each case; in the first process only, where there are several."""
    curves = []
    for objective, bf16 in CASES:
        curve: list[float] = []
        masking = Masking(0.3) if objective == "mlm" else None
        out = train_phase(
            start,
            Phase("one", objective, 20 * STEP, "warmup-constant", masking, warmup_tokens=5 * STEP, frozen=(1,)),  # type: ignore
            data,
            seed=1,
            data_seed=1,
            first_sequence=0,
            out=root / f"{objective}-{bf16}",
            optimizer=USED,
            bf16=bf16,
            sequences_per_forward=sequences_per_forward,
            report=lambda done, curve=curve: curve.append(done.loss),  # type: ignore[misc]
        )
        assert (out / "training.json").is_file()
        curves.append(curve)
    return curves


if __name__ == "__main__":
    torch.set_num_threads(1)
    start, root = Path(sys.argv[1]), Path(sys.argv[2])
    # Every process packs for itself: the order is a pure function of texts and seed.
    data = write_start(root / f"copy-{os.environ['RANK']}", length=LENGTH)
    found = {name: losses(start, data, root / name, at_once) for name, at_once in TWO_PROCESSES.items()}
    if os.environ["RANK"] == "0":
        (root / "losses.json").write_text(json.dumps(found))
