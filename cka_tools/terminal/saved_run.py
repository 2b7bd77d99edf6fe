"""A run directory of any kind, as `cka show` and `cka plot` need it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class SavedRun:
    """The record of a run, how it is printed and how it is drawn."""

    record: dict[str, Any]
    show: Callable[[Console], None]
    figure: Callable[[], Figure]


def open_run(run_dir: Path) -> SavedRun:
    """Read a run by the kind that its record names; without one it is read as a comparison.

    Raises:
        UserError: no run there, or one that is damaged or of a later format.
    """
    from cka_tools.ablation.result import KIND as ABLATION
    from cka_tools.comparison.run_directory import MATRIX, TRAJECTORY, run_kind

    readers = {ABLATION: _ablation, TRAJECTORY: _trajectory, MATRIX: _matrix}
    return readers.get(run_kind(run_dir) or "", _comparison)(run_dir)


def _comparison(run_dir: Path) -> SavedRun:
    from cka_tools.comparison import Comparison
    from cka_tools.terminal.report import print_comparison

    result = Comparison.load(run_dir)
    return SavedRun(result.record, lambda console: print_comparison(result, console), result.figure)


def _ablation(run_dir: Path) -> SavedRun:
    from cka_tools.ablation.result import read_ablation
    from cka_tools.terminal.ablation_report import print_ablation

    def figure() -> Figure:
        from cka_tools.plotting import ablation_figure

        return ablation_figure(record)

    record = read_ablation(run_dir)
    return SavedRun(record, lambda console: print_ablation(record, console), figure)


def _trajectory(run_dir: Path) -> SavedRun:
    from cka_tools.comparison import Trajectory
    from cka_tools.terminal.many_report import print_trajectory

    result = Trajectory.load(run_dir)
    return SavedRun(result.record, lambda console: print_trajectory(result, console), result.figure)


def _matrix(run_dir: Path) -> SavedRun:
    from cka_tools.comparison import ModelMatrix
    from cka_tools.terminal.many_report import print_matrix

    result = ModelMatrix.load(run_dir)
    return SavedRun(result.record, lambda console: print_matrix(result, console), result.figure)
