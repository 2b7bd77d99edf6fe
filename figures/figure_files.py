"""What the figure scripts share: where the recorded results lie, and how a figure is written."""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from cka_tools.errors import UserError

RESULTS = Path(__file__).parent / "results"
TABLE = "ablation.csv"


def parser(doc: str | None, script: str) -> argparse.ArgumentParser:
    """A parser with `--out`, the figure's path without its ending."""
    made = argparse.ArgumentParser(description=(doc or "").split("\n\n", maxsplit=1)[0])
    made.add_argument("--no-published", action="store_true", help="leave out the published values")
    made.add_argument("--out", type=Path, default=Path(script).with_suffix(""), help="path without an ending")
    return made


def ablation_argument(made: argparse.ArgumentParser) -> None:
    """Add the argument of the figures that are drawn from an ablation."""
    made.add_argument(
        "run",
        nargs="?",
        type=Path,
        default=RESULTS,
        help="a run directory of `cka ablate`; the recorded ablation of the demo family if left out",
    )


def read_table(run: Path) -> pd.DataFrame:
    """Read an ablation's table.

    Raises:
        UserError: there is none.
    """
    file = run / TABLE
    if not file.is_file():
        raise UserError(f"{str(run)!r} holds no {TABLE}: name a run directory of `cka ablate`")
    return pd.read_csv(file, dtype={"layer": str})


def write(figure: Figure, out: Path) -> None:
    """Write a figure as PDF and PNG."""
    for suffix in (".pdf", ".png"):
        figure.savefig(out.with_suffix(suffix))
