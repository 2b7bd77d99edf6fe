"""Run as a program: kills a run of two phases in many ways, starts it again, prints what came of it.

Everything is imported once; each run is a fork of this process, so that a kill costs no new start.
"""

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tiny_start import DECAY, DETOUR, SETTINGS, STEP, write_start

from cka_tools.training import checkpoint, loop, segment
from cka_tools.training.packing import PackedTokens

Kill = Callable[[], None]


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def at_call(owner: Any, name: str, number: int, spoil: Callable[..., None]) -> Kill:
    """Run `spoil` instead of the `number`-th call of `owner.name`, then die."""

    def arm() -> None:
        whole, calls = getattr(owner, name), iter(range(1, 10**6))

        def call(*given: Any, **named: Any) -> Any:
            if next(calls) == number:
                spoil(*given, **named)
                die()
            return whole(*given, **named)

        setattr(owner, name, call)

    return arm


def half_a_file(tensors: dict[str, torch.Tensor], file: Path) -> None:
    file.write_bytes(b"\0" * 1000)


def half_removed(folder: Path, **_: Any) -> None:
    for place in sorted(folder.glob("tokens-*"))[:-1]:
        (place / "model.safetensors").unlink()
        (place / "training.json").unlink()


def nothing(*_: Any, **__: Any) -> None:
    return None


KILLS: dict[str, Kill] = {
    # A save writes one optimizer file; a checkpoint every 2 of 12 steps makes 5, then comes the phase's end.
    "inside a save": at_call(checkpoint, "save_file", 3, half_a_file),
    "inside the first save": at_call(checkpoint, "save_file", 1, half_a_file),
    "before the rename": at_call(checkpoint, "write_losses", 4, nothing),
    "while an old checkpoint is removed": at_call(segment, "_clear", 4, half_removed),
    "inside the save of a phase's end": at_call(checkpoint, "save_file", 6, half_a_file),
    "at the phase border, checkpoints still there": at_call(segment, "_clear", 6, nothing),
    "at the phase border": at_call(segment, "check_start", 2, nothing),
    "inside a save of the second phase": at_call(checkpoint, "save_file", 8, half_a_file),
}


def run(start: Path, data: PackedTokens, root: Path, arm: Kill | None) -> None:
    """Train both phases; `steps` gets a line a step."""
    root.mkdir(exist_ok=True)
    if arm is not None:
        arm()
    with (root / "steps").open("a", buffering=1) as steps:
        for index, (phase, parent, first) in enumerate(((DETOUR, start, 0), (DECAY, root / "a", 60))):
            segment.train_phase(
                parent,
                phase,
                data,
                seed=3,
                data_seed=1,
                first_sequence=first,
                out=root / "ab"[index],
                optimizer=SETTINGS,
                bf16=True,
                phase_index=index,
                checkpoint_tokens=2 * STEP,
                report=lambda done: steps.write(f"{done.phase} {done.step}\n"),
            )


def forked(work: Callable[[], None], kill_after: float | None = None) -> int:
    """Run in a child; return the signal that ended it, or 0."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    assert not os.WIFEXITED(status) or os.WEXITSTATUS(status) == 0, "a run failed"
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def main(root: Path, random_kills: int) -> None:
    torch.set_num_threads(1)
    loop.LOSS_ROWS = 4  # three steps a row, two a checkpoint: some are cut in the middle of a row
    start = root / "start"
    data = write_start(start, dropout=0.1)
    began = time.perf_counter()
    forked(lambda: run(start, data, root / "whole", None))
    duration = time.perf_counter() - began
    found = {"whole": described(root / "whole")}
    for kind, arm in KILLS.items():
        out = root / kind.replace(" ", "-")
        ended_by = forked(lambda out=out, arm=arm: run(start, data, out, arm))
        before = (out / "steps").read_text().splitlines()
        forked(lambda out=out: run(start, data, out, None))
        found[kind] = described(out) | {"ended_by": ended_by, "before": before}
    for i in range(random_kills):
        out = root / f"random-{i}"
        after = random.uniform(0, duration)
        forked(lambda out=out: run(start, data, out, None), kill_after=after)
        forked(lambda out=out: run(start, data, out, None))
        found[f"after {after:.3f} s, run {i}"] = described(out)
    print(json.dumps(found))


def described(out: Path) -> dict[str, Any]:
    manifests = [json.loads((out / name / "training.json").read_text()) for name in "ab"]
    return {
        "weights": [manifest["weights_sha256"] for manifest in manifests],
        "moments": manifests[1]["key"]["parent_optimizer_sha256"],
        "curve": [row.split(",")[:-1] for name in "ab" for row in (out / name / "loss.csv").read_text().splitlines()],
        "steps": (out / "steps").read_text().splitlines(),
        "left": sorted(path.name for path in out.iterdir()),
        "notes": [note for manifest in manifests for note in manifest["notes"]],
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
