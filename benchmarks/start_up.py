"""Seconds from the command line to the end of commands that compute little or nothing, and what they import.

    python benchmarks/start_up.py [--repeats 5] [--out FILE] [--commands show layers …]

Each command runs in a process of its own, in turn with the others, after one run of each that warms the files
(and, for the demo, fills an activation store of its own: `cka demo` here finds its features there). `python -c pass`
is the floor. Beside seconds of the clock and of the processor stand the modules that are loaded at the end,
which other programs do not disturb: `tests/terminal/test_start_up.py` counts those.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd

RESULTS = Path(__file__).resolve().parents[1] / "figures" / "results"
PACKAGES = ("numpy", "torch", "transformers", "datasets", "accelerate", "scipy", "pandas", "matplotlib")

COMMANDS = {
    "--version": ["--version"],
    "--help": ["--help"],
    "show": ["show", str(RESULTS / "detour")],
    "summary": ["summary", str(RESULTS / "detour")],
    "cache list": ["cache", "list"],
    "recipe show": ["recipe", "show", "clm-detour"],
    "plot": ["plot", str(RESULTS / "detour"), "--out", "{folder}/figure.png"],
    "layers": ["layers", "demo:theta0"],
    "demo": ["demo", "--out", "{folder}/demo-{run}"],
}

CODE = """
import json, os, resource, sys
from cka_tools.terminal.app import main
sys.argv[0] = "cka"
code = 0
try:
    main()
except SystemExit as left:
    code = left.code or 0
used = resource.getrusage(resource.RUSAGE_SELF)
found = {"code": code, "modules": sorted(sys.modules), "cpu": used.ru_utime + used.ru_stime}
with open(os.environ["CKA_START_UP"], "w", encoding="utf-8") as file:
    json.dump(found, file)
"""


def run(words: list[str], folder: Path, number: int) -> dict[str, Any]:
    """One run of a command: seconds of the clock and of the processor, and its modules.

    Raises:
        RuntimeError: the command failed.
    """
    told = folder / "told.json"
    filled = [word.format(folder=folder, run=number) for word in words]
    environment = os.environ | {
        "CKA_START_UP": str(told), "CKA_TOOLS_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1"
    }  # fmt: skip
    begun = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", CODE, *filled], capture_output=True, text=True, env=environment)
    seconds = time.perf_counter() - begun
    found: dict[str, Any] = json.loads(told.read_text(encoding="utf-8")) if done.returncode == 0 else {"code": 1}
    if found["code"]:
        raise RuntimeError(f"cka {' '.join(filled)} failed: {done.stderr[-500:]}")
    return found | {"seconds": seconds}


def bare() -> float:
    """Seconds of an interpreter that does nothing."""
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    return time.perf_counter() - begun


def main() -> None:
    """Print the table and write it as CSV."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--commands", nargs="+", choices=list(COMMANDS), default=list(COMMANDS), metavar="COMMAND")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in options.commands}
    floor = []
    with tempfile.TemporaryDirectory() as place:
        for number in range(options.repeats + 1):
            floor.append(bare())
            for name, found in runs.items():
                found.append(run(COMMANDS[name], Path(place), number))
    rows = [{"command": "python -c pass", "median s": statistics.median(floor[1:]), "min s": min(floor[1:])}]
    for name, (_, *warm) in runs.items():
        tops = {module.partition(".")[0] for module in warm[0]["modules"]}
        rows.append(
            {
                "command": f"cka {name}",
                "median s": statistics.median(one["seconds"] for one in warm),
                "min s": min(one["seconds"] for one in warm),
                "processor s": statistics.median(one["cpu"] for one in warm),
                "modules": len(warm[0]["modules"]),
                "of them": " ".join(package for package in PACKAGES if package in tops),
            }
        )
    table = pd.DataFrame(rows)
    print(table.to_string(index=False, na_rep="", float_format=lambda value: f"{value:.2f}"))
    if options.out is not None:
        table.to_csv(options.out, index=False, float_format="%.4g")


if __name__ == "__main__":
    main()
