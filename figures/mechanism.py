"""Divergence by layer against seed noise, and along the decay.

    python figures/mechanism.py [RUN] [--trajectory RUN] [--out PATH]

With no argument: the recorded comparison and decay of the demo family on PubMed abstracts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from figure_files import RESULTS, parser, write
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from points import (
    PUBLISHED,
    PUBLISHED_TWIN,
    Reference,
    at_layers,
    draw_keys,
    draw_published,
    log_axis,
    mechanism_values,
    panel_room,
    published_key,
    with_ends,
)

from cka_tools import Comparison, Trajectory
from cka_tools.errors import UserError
from cka_tools.formatting import model_names
from cka_tools.plotting.layer_curves import draw_early_band, layer_axis, numbers
from cka_tools.plotting.style import (
    DARK,
    FIRST,
    HOLLOW,
    LOOKS,
    PAGE_WIDTH,
    SECOND,
    Look,
    StyledFigure,
    figure_style,
    panel_letters,
)

CURVES: dict[str, Look] = {"mean": LOOKS[3], "early": LOOKS[2] | HOLLOW}
NAMES = {"mean": "along the decay: all layers", "early": "early layers"}
OF: dict[str, Look] = {"pair": PUBLISHED, "control": PUBLISHED_TWIN, "mean": PUBLISHED, "early": PUBLISHED_TWIN}


def mechanism_figure(
    record: dict[str, Any],
    trajectory: pd.DataFrame | None = None,
    published: Mapping[str, Sequence[Reference]] | None = None,
) -> Figure:
    """Draw a pair against its control by layer, their ratio, and divergence along the decay.

    Args:
        record: of a comparison with a control.
        trajectory: a trajectory's table (`role`, `x`, `layer`, `divergence` with `…_low`, `…_high`) from the
            decay's start to its end; x in tokens.
        published: in percent of CKA divergence, "pair" and "control" by relative depth (0 to 1), "ratio" by
            relative depth, "mean" and "early" by the share of the decay that is done.

    Raises:
        UserError: a comparison without a control.
    """
    if not model_names(record, "control"):
        raise UserError("the comparison has no control: run `cka compare A B --control B2`")
    known = published or {}
    entries = record["layers"]
    layers = [entry["layer_a"] for entry in entries]
    with figure_style():
        figure = StyledFigure(figsize=(PAGE_WIDTH, 2.5 + panel_room(bool(known))))
        panels = figure.subplots(1, 2 + (trajectory is not None))
        early = record["summary"]["early_layers"]
        band: list[Patch] = []
        for ax in panels[:2]:
            band = draw_early_band(ax, layers, early)
        keys = _by_layer(panels[0], entries, layers, known)
        _ratio(panels[1], entries, layers, known)
        for ax in panels[:2]:
            layer_axis(ax, layers)
            ax.set_xlabel("layer")
        panels[0].set_title("divergence by layer (%, log)")
        panels[1].set_title("multiple of seed noise (log)")
        if trajectory is not None:
            keys += _along(panels[2], trajectory, known)
            panels[2].set_title("along the decay: divergence (%, log)")
        keys += band
        shown = [published_key(), published_key("its control, its early layers", PUBLISHED_TWIN)] if known else []
        top = draw_keys(figure, keys, shown)
        panel_letters(list(panels), 8)
        figure.subplots_adjust(left=0.055, right=0.99, bottom=0.15, top=top, wspace=0.2)
        return figure


def _by_layer(
    ax: Axes, entries: Sequence[dict[str, Any]], layers: Sequence[int], known: Mapping[str, Sequence[Reference]]
) -> list[Line2D | Patch]:
    controls = [entry["control"] for entry in entries]
    drawn = (
        ("the pair", [1 - numbers(entries, key) for key in ("cka_debiased", "ci_high", "ci_low")], FIRST),
        ("seed noise", [numbers(controls, key) for key in ("value", "ci_low", "ci_high")], SECOND),
    )
    keys: list[Line2D | Patch] = []
    for label, (value, low, high), look in drawn:
        ax.vlines(layers, 100 * low, 100 * high, color=look["color"], linewidth=0.9, gid=f"{label} interval")
        keys += ax.plot(layers, 100 * value, label=label, gid=label, **look)
    for name in ("pair", "control"):
        draw_published(ax, at_layers(known.get(name, ()), layers), **OF[name])
    log_axis(ax, percent=True)
    return keys


def _ratio(
    ax: Axes, entries: Sequence[dict[str, Any]], layers: Sequence[int], known: Mapping[str, Sequence[Reference]]
) -> None:
    ratios = [entry["ratio"] for entry in entries]
    value, low, high = (numbers(ratios, key) for key in ("value", "ci_low", "ci_high"))
    ax.vlines(layers, low, high, color=DARK, linewidth=0.9, gid="ratio interval")
    ax.plot(layers, value, gid="ratio", **FIRST)
    draw_published(ax, at_layers(known.get("ratio", ()), layers))
    log_axis(ax, percent=False)


def _along(ax: Axes, table: pd.DataFrame, known: Mapping[str, Sequence[Reference]]) -> list[Line2D | Patch]:
    keys: list[Line2D | Patch] = []
    table = table[table["role"] == "checkpoint"]
    start, end = float(table["x"].min()), float(table["x"].max())
    for name, look in CURVES.items():
        rows = table[table["layer"].astype(str) == name].sort_values("x")
        x, (value, low, high) = rows["x"].to_numpy(dtype=float), with_ends(rows, "divergence")
        ax.fill_between(x / 1e6, 100 * low, 100 * high, color=look["color"], alpha=0.18, linewidth=0)
        keys += ax.plot(x / 1e6, 100 * value, label=NAMES[name], gid=f"along {name}", **look)
        published = known.get(name, ())
        places = [Reference((start + (end - start) * one.x) / 1e6, one.y) for one in published]
        draw_published(ax, places, **OF[name])
    ax.set_xlabel("tokens (millions)")
    log_axis(ax, percent=True)
    return keys


def main() -> None:
    made = parser(__doc__, __file__)
    made.add_argument("run", nargs="?", type=Path, help="a run directory of `cka compare --control`")
    made.add_argument("--trajectory", type=Path, help="a run directory of `cka trajectory`")
    options = made.parse_args()
    along = options.trajectory or (None if options.run else RESULTS / "decay")
    figure = mechanism_figure(
        Comparison.load(options.run or RESULTS / "detour").record,
        None if along is None else Trajectory.load(along).to_frame(),
        None if options.no_published else mechanism_values(),
    )
    write(figure, options.out)


if __name__ == "__main__":
    main()
