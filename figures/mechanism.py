"""Divergence by layer against seed noise, and along the decay.

    python figures/mechanism.py [RUN] [--trajectory RUN] [--out PATH]

With no argument: the recorded comparison and decay of the demo family on PubMed abstracts.
"""

from __future__ import annotations

from pathlib import Path

from figure_files import RESULTS, parser, write
from published_points import mechanism_values

from cka_tools import Comparison, Trajectory
from cka_tools.plotting.mechanism import mechanism_figure


def main() -> None:
    made = parser(__doc__, __file__)
    made.add_argument("run", nargs="?", type=Path, help="a run directory of `cka compare --control`")
    made.add_argument("--trajectory", type=Path, help="a run directory of `cka trajectory`")
    options = made.parse_args()
    along = options.trajectory or (None if options.run else RESULTS / "decay")
    figure = mechanism_figure(
        Comparison.load(options.run or RESULTS / "detour"),
        None if along is None else Trajectory.load(along).to_frame(),
        mechanism_values(),
    )
    write(figure, options.out)


if __name__ == "__main__":
    main()
