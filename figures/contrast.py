"""Two groups of training runs: divergence between and within them by layer, with the layers that differ.

    python figures/contrast.py [RUN] [--out PATH]

With no argument: the recorded contrast of five detours and five baselines, each with its own seed and order.
"""

from __future__ import annotations

from pathlib import Path

from figure_files import RESULTS, parser, write

from cka_tools import Contrast


def main() -> None:
    made = parser(__doc__, __file__)
    made.add_argument("run", nargs="?", type=Path, default=RESULTS / "contrast", help="that `cka contrast` wrote")
    options = made.parse_args()
    write(Contrast.load(options.run).figure(), options.out)


if __name__ == "__main__":
    main()
