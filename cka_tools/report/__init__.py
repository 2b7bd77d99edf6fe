"""Saved runs → one HTML file that needs nothing else."""

from cka_tools.report.write import write_report

__all__ = ["write_report"]
