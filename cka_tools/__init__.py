"""How far two checkpoints have drifted apart, layer by layer, and whether that number can be believed."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cka_tools.comparison import (
        Comparison,
        Contrast,
        ModelMatrix,
        Trajectory,
        compare,
        contrast,
        difference,
        matrix,
        trajectory,
    )
    from cka_tools.compute import compute_features
    from cka_tools.evaluation.run_evaluate import evaluate
    from cka_tools.interventions import health, interpolate, transplant
    from cka_tools.models import graft
    from cka_tools.probes import needle, probe
    from cka_tools.readouts.fill import fill
    from cka_tools.report import write_report
    from cka_tools.settings import Settings
    from cka_tools.statistics import LinearCKA, cka
    from cka_tools.studies import study

__version__ = "0.2.0"

__all__ = [
    "Comparison",
    "Contrast",
    "LinearCKA",
    "ModelMatrix",
    "Settings",
    "Trajectory",
    "__version__",
    "cka",
    "compare",
    "compute_features",
    "contrast",
    "difference",
    "evaluate",
    "fill",
    "graft",
    "health",
    "interpolate",
    "matrix",
    "needle",
    "probe",
    "study",
    "trajectory",
    "transplant",
    "write_report",
]

_HOME = {
    "Comparison": "comparison",
    "Contrast": "comparison",
    "LinearCKA": "statistics",
    "ModelMatrix": "comparison",
    "Settings": "settings",
    "Trajectory": "comparison",
    "cka": "statistics",
    "compare": "comparison",
    "compute_features": "compute",
    "contrast": "comparison",
    "difference": "comparison",
    "evaluate": "evaluation.run_evaluate",
    "fill": "readouts.fill",
    "graft": "models",
    "health": "interventions",
    "interpolate": "interventions",
    "matrix": "comparison",
    "needle": "probes",
    "probe": "probes",
    "study": "studies",
    "trajectory": "comparison",
    "transplant": "interventions",
    "write_report": "report",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for and no more: torch and transformers take seconds, `cka --help` should not."""
    if name not in _HOME:
        raise AttributeError(f"module 'cka_tools' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"cka_tools.{_HOME[name]}"), name)
