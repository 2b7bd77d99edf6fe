"""Raw CKA by layer, biased and debiased, of a pair and of its control.

    python figures/raw_cka.py [RUN] [--out PATH]

With no argument: the recorded comparison of the demo family on PubMed abstracts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from figure_files import RESULTS, parser, write
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from points import Reference, at_layers, cka_by_depth, draw_keys, draw_published, panel_room, published_key

from cka_tools import Comparison
from cka_tools.formatting import model_names
from cka_tools.plotting.layer_curves import BIASED, DEBIASED, layer_axis, numbers
from cka_tools.plotting.style import DARK, INK, PAGE_WIDTH, Look, StyledFigure, figure_style, panel_letters

ASIDE = {"debiased": -0.12, "biased": 0.12}
"""Of a layer: where they agree both are seen."""

PREFIXES = {"pair": "", "control": "control."}
LOOKS: dict[str, Look] = {"debiased": DEBIASED | {"zorder": 4}, "biased": BIASED | {"zorder": 3}}


def raw_cka_figure(
    record: dict[str, Any], arrays: Mapping[str, np.ndarray], published: Mapping[str, Sequence[Reference]] | None = None
) -> Figure:
    """Draw CKA of the paired layers, and beside it that of the control where there is one.

    Args:
        record, arrays: of a comparison with or without a control.
        published: CKA (0 to 1) of "pair" and "control" by relative depth.
    """
    entries = record["layers"]
    layers = [entry["layer_a"] for entry in entries]
    panels = {"pair": "the pair: CKA by layer"}
    if model_names(record, "control"):
        panels["control"] = "the control (two seeds): CKA by layer"
    with figure_style():
        figure = StyledFigure(figsize=(PAGE_WIDTH, 2.4 + panel_room(bool(published))))
        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for ax, (name, title) in zip(axes, panels.items(), strict=True):
            for estimator, look in LOOKS.items():
                ax.plot(
                    np.array(layers) + ASIDE[estimator],
                    _values(record, arrays[f"{PREFIXES[name]}matrix.{estimator}"], name),
                    gid=f"{name} {estimator}",
                    **look,
                )
            low, high = _ends(entries, name)
            ax.vlines(
                np.array(layers) + ASIDE["debiased"], low, high, color=DARK, linewidth=0.9, gid=f"{name} interval"
            )
            draw_published(ax, at_layers((published or {}).get(name, ()), layers))
            layer_axis(ax, layers)
            ax.set_title(title)
            ax.set_xlabel("layer")
            ax.grid(axis="y")
        if published:  # whose values reach down to 0
            axes[0].set_ylim(min(0.0, axes[0].get_ylim()[0]), 1.05)
        keys = [Line2D([], [], label=name, **look) for name, look in LOOKS.items()]
        keys.append(Line2D([], [], color=INK, linewidth=0.9, label="95 % interval of the debiased, over documents"))
        top = draw_keys(figure, keys, [published_key()] if published else [])
        panel_letters(list(axes), 8)
        figure.subplots_adjust(left=0.055, right=0.99, bottom=0.155, top=top, wspace=0.08)
        return figure


def _values(record: dict[str, Any], matrix: np.ndarray, name: str) -> np.ndarray:
    rows = {layer: at for at, layer in enumerate(record["matrix"]["layers_a"])}
    columns = {layer: at for at, layer in enumerate(record["matrix"]["layers_b"])}
    if name == "control":  # it is of B's depth, and each of its layers is compared with the same layer of B
        rows, key = columns, "layer_b"
    else:
        key = "layer_a"
    return np.array([matrix[rows[entry[key]], columns[entry["layer_b"]]] for entry in record["layers"]])


def _ends(entries: Sequence[dict[str, Any]], name: str) -> tuple[np.ndarray, np.ndarray]:
    if name == "pair":
        return numbers(entries, "ci_low"), numbers(entries, "ci_high")
    controls = [entry["control"] for entry in entries]
    return 1 - numbers(controls, "ci_high"), 1 - numbers(controls, "ci_low")


def main() -> None:
    made = parser(__doc__, __file__)
    made.add_argument("run", nargs="?", type=Path, default=RESULTS / "detour", help="a run directory of `cka compare`")
    options = made.parse_args()
    comparison = Comparison.load(options.run)
    known = None if options.no_published else cka_by_depth()
    write(raw_cka_figure(comparison.record, comparison.arrays, known), options.out)


if __name__ == "__main__":
    main()
