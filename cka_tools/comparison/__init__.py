"""Two models over one corpus → a comparison that can be saved, read and plotted."""

from typing import TYPE_CHECKING, Any

from cka_tools.comparison.comparison import Comparison

if TYPE_CHECKING:
    from cka_tools.comparison.run_comparison import compare

__all__ = ["Comparison", "compare"]


def __getattr__(name: str) -> Any:
    """Import `compare` when it is asked for: a saved run is read without transformers."""
    if name != "compare":
        raise AttributeError(f"module 'cka_tools.comparison' has no attribute {name!r}")
    from cka_tools.comparison.run_comparison import compare

    return compare
