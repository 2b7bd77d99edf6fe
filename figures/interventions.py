"""What parts of the detour do: transplants with control and reverse, straight lines between checkpoints, health.

    python figures/interventions.py [--corpus C] [--documents N] [--decay RUN] [--results DIR] [--out DIR]

Draws `transplant` and `lines`, and with `--decay`, the run of a training whose checkpoints are kept, `health`. Runs
that are recorded in `--results` are drawn as they are, the others are made and recorded there. With no argument:
the bundled family on 500 documents of the bundled corpus.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from figure_files import RESULTS, parser, write
from matplotlib.figure import Figure

from cka_tools import interpolate, trajectory, transplant
from cka_tools.comparison.readout_results import Interpolation, Transplant
from cka_tools.comparison.results import RunResult, Trajectory
from cka_tools.formatting import shorten
from cka_tools.plotting.layer_curves import draw_intervals, numbers
from cka_tools.plotting.style import DASHED, HOLLOW, LOOKS, PAGE_WIDTH, StyledFigure, figure_style, panel_letters

LETTERS = 24
COURSE = 9
"""Points from which on a line through them is drawn: fewer are no course."""


def recorded(folder: Path, kind: type[RunResult], make: Callable[[], RunResult]) -> Any:
    """A run from where it is recorded, or made and recorded there."""
    if not (folder / "result.json").is_file():
        make().save(folder)
    return kind.load(folder)


def lines_figure(runs: Sequence[Interpolation], quantity: str = "mlm.loss") -> Figure:
    """Draw, along the straight line between two checkpoints, the loss, its excess, and the divergence from the first.

    Args:
        runs: one a pair of checkpoints. quantity: of which readout.
    """
    panels = (
        ("loss (nats)", 1.0, lambda point: point["readouts"][quantity]["value"]),
        ("excess over the line (nats)", 1.0, lambda point: point["readouts"][quantity]["excess"]),
        ("divergence from the first (%)", 100.0, lambda point: point["divergence"]["a"]),
    )
    with figure_style():
        figure = StyledFigure(figsize=(PAGE_WIDTH, 2.75))
        columns = figure.subplots(1, len(panels), squeeze=False)[0]
        handles: list[Any] = []
        for number, run in enumerate(runs):
            look = LOOKS[number % len(LOOKS)] | (HOLLOW if number else {})
            x = np.array([point["alpha"] for point in run.points])
            label = " to ".join(shorten(name, LETTERS) for name in run.summary["names"])
            for ax, (title, scale, of) in zip(columns, panels, strict=True):
                entries = [of(point) for point in run.points]
                value, low, high = (scale * numbers(entries, end) for end in ("value", "ci_low", "ci_high"))
                if len(x) < COURSE:
                    look = look | {"linestyle": "none", "zorder": 3}
                    draw_intervals(ax, x, low, high, look, label)
                else:
                    ax.fill_between(x, low, high, color=look["color"], alpha=0.15, linewidth=0)
                (line,) = ax.plot(x, value, label=label, gid=f"{label} {title}", **look)
                ax.set_title(title)
            handles.append(line)
        columns[1].axhline(0, **DASHED)
        for ax in columns:
            ax.set_xlabel("share of the second checkpoint")
            ax.grid(axis="y")
        figure.legend(handles=handles, loc="upper left", ncols=2, bbox_to_anchor=(0.02, 0.995))
        panel_letters(list(columns), 8)
        rows = -(-len(handles) // 2)
        height = figure.get_figheight()
        top = 1 - (0.2 + 0.14 * rows) / height
        figure.subplots_adjust(left=0.065, right=0.985, bottom=0.42 / height, top=top, wspace=0.24)
        return figure


def main() -> None:
    made = parser(__doc__, __file__)
    made.set_defaults(out=Path(__file__).parent)
    made.add_argument("--base", default="demo:mlm-baseline")
    made.add_argument("--donor", default="demo:clm-detour")
    made.add_argument("--control", default="demo:mlm-baseline-2")
    made.add_argument("--start", default="demo:theta0")
    made.add_argument("--decay", help="a training run's folder, whose kept checkpoints health is read along")
    made.add_argument("--corpus", default="sample")
    made.add_argument("--documents", type=int, default=500)
    made.add_argument("--points", type=int, default=11)
    made.add_argument("--results", type=Path, default=RESULTS)
    options = made.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    base, donor, control, start = options.base, options.donor, options.control, options.start
    shared: dict[str, Any] = {"corpus": options.corpus, "documents": options.documents}

    def transplanted() -> RunResult:
        return transplant(base, donor, control=control, reverse=True, readout=["mlm", "divergence"], **shared)

    def line(a: str, b: str) -> Interpolation:
        name = f"line-{a.split(':')[-1]}-{b.split(':')[-1]}".replace("/", "-")
        folder = options.results / name
        return recorded(folder, Interpolation, lambda: interpolate(a, b, points=options.points, **shared))

    write(recorded(options.results / "transplant", Transplant, transplanted).figure(), options.out / "transplant")
    pairs = ((base, donor), (base, control), (start, base), (start, donor))
    write(lines_figure([line(*pair) for pair in pairs]), options.out / "lines")
    if options.decay:

        def along() -> RunResult:
            return trajectory(base, options.decay, control=control, health=True, **shared)

        write(recorded(options.results / "health", Trajectory, along).figure(), options.out / "health")


if __name__ == "__main__":
    main()
