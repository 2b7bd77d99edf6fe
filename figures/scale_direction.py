"""Divergence by size, and encoders beside decoders.

    python figures/scale_direction.py [RUN] [--out PATH]

With no argument: the recorded ablation of the demo family.
"""

from __future__ import annotations

from figure_files import ablation_argument, parser, read_table, write
from published_points import mean_divergences

from cka_tools.plotting.scale_direction import scale_direction_figure


def main() -> None:
    made = parser(__doc__, __file__)
    ablation_argument(made)
    options = made.parse_args()
    write(scale_direction_figure(read_table(options.run), mean_divergences()), options.out)


if __name__ == "__main__":
    main()
