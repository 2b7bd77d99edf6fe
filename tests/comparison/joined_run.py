"""A comparison in a process of its own, slowed down, alone or with peers, so that it can be met at work."""

import json
import os
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cka_tools import compare
from cka_tools.extraction.activations import PooledForward
from cka_tools.processes import joined


def run(
    environment: dict[str, str],
    arguments: tuple[str, str, list[str]],
    options: dict[str, Any],
    folder: Path,
    name: str,
    seconds: float = 0.0,
    dies_after: int | None = None,
) -> None:
    """Compare; a line in `folder/log` for each forward pass, the result's arrays in `folder/NAME.npz`.

    Args:
        seconds: to sleep before each pass. dies_after: passes after which the process kills itself.
    """
    os.environ.update(environment)
    torch.set_num_threads(1)
    forward, passes = PooledForward.__call__, 0

    def slow(self: PooledForward, *args: Any, **kwargs: Any) -> Any:
        nonlocal passes
        with (folder / "log").open("a") as log:
            log.write(f"{name}\n")
        passes += 1
        if passes == dies_after:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(seconds)
        return forward(self, *args, **kwargs)

    PooledForward.__call__ = slow  # type: ignore[method-assign]
    with joined() as process:
        result = compare(*arguments, **options)
    save = folder / f"{name}.{process.rank}.npz"
    draw = result.record["provenance"]["corpus"]["draws"][0]
    shown = {name: result.record[name] for name in ("summary", "layers", "matrix")}
    np.savez(save, record=np.array(json.dumps(shown)), cache=np.array(draw["cache"]), **result.arrays)


def command(environment: dict[str, str], words: list[str], output: Path, dies_after: int | None = None) -> None:
    """`cka` with these words; what it prints goes to a file."""
    os.environ.update(environment)
    torch.set_num_threads(1)
    from cka_tools.terminal.app import main

    file = output.open("w", encoding="utf-8")
    for stream in (1, 2):
        os.dup2(file.fileno(), stream)
    if dies_after is not None:
        forward, passes = PooledForward.__call__, 0

        def dying(self: PooledForward, *args: Any, **kwargs: Any) -> Any:
            nonlocal passes
            passes += 1
            if passes == dies_after:
                os.kill(os.getpid(), signal.SIGKILL)
            return forward(self, *args, **kwargs)

        PooledForward.__call__ = dying  # type: ignore[method-assign]
    sys.argv = ["cka", *words]
    main()


def draw(environment: dict[str, str], corpus: str, documents: int, folder: Path, error: bool = False) -> None:
    """Draw documents; a line in `folder/reads` for each file that is opened, the draw in `folder/draw.RANK.json`."""
    os.environ.update(environment)
    from cka_tools.documents import draw_documents, text_files
    from cka_tools.errors import UserError

    read = text_files.read_lines

    def counted(path: Path, limit: int) -> Any:
        with (folder / "reads").open("a") as log:
            log.write(f"{path.name}\n")
        return read(path, limit)

    text_files.read_lines = counted
    with joined() as process:
        try:
            found: dict[str, Any] = asdict(draw_documents(corpus, documents))
        except UserError as problem:
            found = {"error": str(problem)}
        (folder / f"draw.{process.rank}.json").write_text(json.dumps(found))
