"""Comparison → figure."""

from cka_tools.plotting.comparison_page import comparison_figure

__all__ = ["comparison_figure"]
