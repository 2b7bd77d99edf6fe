"""Divergence by layer, effective dimension and the layer × layer heatmap of one comparison.

    python figures/divergence.py [RUN] [--out figures/divergence]

With no argument: the bundled detour against the bundled baseline, over 500 documents of the bundled corpus.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cka_tools import Comparison, compare
from cka_tools.plotting import comparison_figure
from cka_tools.terminal.compare_command import DEMO_PAIR


def main() -> None:
    """Write the figure as PDF and PNG."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("run", nargs="?", type=Path, help="a run directory that `cka compare` wrote")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(""))
    options = parser.parse_args()
    result = Comparison.load(options.run) if options.run else compare(*DEMO_PAIR)
    figure = comparison_figure(result)
    for suffix in (".pdf", ".png"):
        figure.savefig(options.out.with_suffix(suffix))


if __name__ == "__main__":
    main()
