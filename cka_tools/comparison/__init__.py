"""Two models over one corpus → a comparison that can be saved, read and plotted."""

from cka_tools.comparison.comparison import Comparison
from cka_tools.comparison.run_comparison import compare

__all__ = ["Comparison", "compare"]
