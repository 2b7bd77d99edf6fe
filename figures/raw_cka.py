"""Raw CKA by layer, biased and debiased, of a pair and of its control.

    python figures/raw_cka.py [RUN] [--out PATH]

With no argument: the recorded comparison of the demo family on PubMed abstracts.
"""

from __future__ import annotations

from pathlib import Path

from figure_files import RESULTS, parser, write
from published_points import cka_by_depth

from cka_tools import Comparison
from cka_tools.plotting.raw_cka import raw_cka_figure


def main() -> None:
    made = parser(__doc__, __file__)
    made.add_argument(
        "run", nargs="?", type=Path, default=RESULTS / "detour", help="a run directory of `cka compare`"
    )
    options = made.parse_args()
    write(raw_cka_figure(Comparison.load(options.run), cka_by_depth()), options.out)


if __name__ == "__main__":
    main()
