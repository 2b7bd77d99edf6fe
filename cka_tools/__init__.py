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
        matrix,
        trajectory,
    )
    from cka_tools.statistics import LinearCKA, cka

__version__ = "0.1.0"

__all__ = [
    "Comparison",
    "Contrast",
    "LinearCKA",
    "ModelMatrix",
    "Trajectory",
    "__version__",
    "cka",
    "compare",
    "contrast",
    "matrix",
    "trajectory",
]

_HOME = {
    "Comparison": "cka_tools.comparison",
    "Contrast": "cka_tools.comparison",
    "LinearCKA": "cka_tools.statistics",
    "ModelMatrix": "cka_tools.comparison",
    "Trajectory": "cka_tools.comparison",
    "cka": "cka_tools.statistics",
    "compare": "cka_tools.comparison",
    "contrast": "cka_tools.comparison",
    "matrix": "cka_tools.comparison",
    "trajectory": "cka_tools.comparison",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for and no more: torch and transformers take seconds, `cka --help` should not."""
    if name not in _HOME:
        raise AttributeError(f"module 'cka_tools' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)
