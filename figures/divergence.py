"""Divergence by layer, effective dimension and the layer × layer heatmap of one comparison.

    python figures/divergence.py [RUN] [--out PATH]

With no argument: the bundled detour, baseline and control, over 500 documents of the bundled corpus.
"""

from __future__ import annotations

from pathlib import Path

from figure_files import parser, write

from cka_tools import Comparison, compare
from cka_tools.terminal.compare_commands import DEMO_CONTROL, DEMO_PAIR


def main() -> None:
    made = parser(__doc__, __file__)
    made.add_argument("run", nargs="?", type=Path, help="a run directory that `cka compare` wrote")
    options = made.parse_args()
    result = Comparison.load(options.run) if options.run else compare(*DEMO_PAIR, control=DEMO_CONTROL)
    write(result.figure(), options.out)


if __name__ == "__main__":
    main()
