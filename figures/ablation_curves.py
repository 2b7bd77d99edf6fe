"""Divergence against the length of the detour and of the decay.

    python figures/ablation_curves.py [RUN] [--out PATH]

With no argument: the recorded ablation of the demo family.
"""

from __future__ import annotations

from figure_files import ablation_argument, parser, read_table, write
from published_points import along_the_decay

from cka_tools.plotting.ablation_curves import ablation_curves_figure


def main() -> None:
    made = parser(__doc__, __file__)
    ablation_argument(made)
    options = made.parse_args()
    write(ablation_curves_figure(read_table(options.run), along_the_decay()), options.out)


if __name__ == "__main__":
    main()
