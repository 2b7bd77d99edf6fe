"""Models over one corpus → a comparison, trajectory, matrix or contrast: saved, read and plotted."""

from typing import TYPE_CHECKING, Any

from cka_tools.comparison.results import Comparison, Contrast, ModelMatrix, RunResult, Trajectory

if TYPE_CHECKING:
    from cka_tools.comparison.run_comparison import compare
    from cka_tools.comparison.run_contrast import contrast
    from cka_tools.comparison.run_difference import difference
    from cka_tools.comparison.run_matrix import matrix
    from cka_tools.comparison.run_trajectory import trajectory

__all__ = [
    "Comparison",
    "Contrast",
    "ModelMatrix",
    "RunResult",
    "Trajectory",
    "compare",
    "contrast",
    "difference",
    "matrix",
    "trajectory",
]

_HOME = {
    "compare": "run_comparison",
    "contrast": "run_contrast",
    "difference": "run_difference",
    "matrix": "run_matrix",
    "trajectory": "run_trajectory",
}


def __getattr__(name: str) -> Any:
    """Import what runs models when it is asked for: a saved run is read without transformers."""
    if name not in _HOME:
        raise AttributeError(f"module 'cka_tools.comparison' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"cka_tools.comparison.{_HOME[name]}"), name)
