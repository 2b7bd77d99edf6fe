"""The record and arrays of a run → its figure."""

from cka_tools.plotting.ablation_page import ablation_figure
from cka_tools.plotting.comparison_page import comparison_figure
from cka_tools.plotting.contrast_page import contrast_figure
from cka_tools.plotting.evaluation_page import evaluation_figure
from cka_tools.plotting.matrix_page import matrix_figure
from cka_tools.plotting.needle_page import needle_figure
from cka_tools.plotting.probe_page import probe_figure
from cka_tools.plotting.readout_pages import health_figure, interpolation_figure, transplant_figure
from cka_tools.plotting.trajectory_page import trajectory_figure

__all__ = [
    "ablation_figure",
    "comparison_figure",
    "contrast_figure",
    "evaluation_figure",
    "health_figure",
    "interpolation_figure",
    "matrix_figure",
    "needle_figure",
    "probe_figure",
    "trajectory_figure",
    "transplant_figure",
]
