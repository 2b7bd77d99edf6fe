"""Two models over one corpus → a comparison that can be saved, read and plotted."""

from cka_tools.comparison.compare import compare
from cka_tools.comparison.comparison import Comparison

__all__ = ["Comparison", "compare"]
