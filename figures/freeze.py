"""What is left of the mark when a third of the layers may not learn.

    python figures/freeze.py [RUN] [--out PATH]

With no argument: the recorded ablation of the demo family.
"""

from __future__ import annotations

from figure_files import ablation_argument, parser, read_table, write
from published_points import gains_kept

from cka_tools.plotting.freeze_dots import freeze_figure


def main() -> None:
    made = parser(__doc__, __file__)
    ablation_argument(made)
    options = made.parse_args()
    write(freeze_figure(read_table(options.run), gains_kept()), options.out)


if __name__ == "__main__":
    main()
