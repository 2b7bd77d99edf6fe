"""The figure of a comparison: one page, everything a reader needs in order to judge it."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cka_tools.comparison.comparison import Comparison
from cka_tools.comparison.seed_noise import ratio_refusals, ratio_sentence
from cka_tools.formatting import percent, percent_interval, printable, settings_in_words, short_names, shorten
from cka_tools.plotting.heatmap import draw_heatmap, draw_scale
from cka_tools.plotting.layer_curves import (
    draw_control,
    draw_divergence,
    draw_early_band,
    draw_effective_dimension,
    draw_ratio,
    layer_axis,
)
from cka_tools.plotting.style import (
    PAGE_WIDTH,
    TEXT,
    TINY,
    TITLE,
    StyledFigure,
    break_lines,
    figure_style,
    lines_height,
)

# Inches. Every panel has its place; the page grows with the lines of its title and of its warnings.
MARGIN = 0.12
LEFT, CURVES_WIDTH = 0.58, 3.02
HEAT_LEFT, HEAT_SIDE = 4.22, 2.80
DIVERGENCE, DIMENSION, BETWEEN = 1.75, 1.15, 0.30
RATIO = 1.15
ABOVE, BELOW = 0.46, 0.42
LEGEND_COLUMNS, LEGEND_LINES, LEGEND_LINE = 3, 2, 0.13  # lines of a legend that ABOVE holds, height of more
SCALE_HEIGHT, HEAT_LABELS = 0.09, 0.37
NARROWEST = 0.35  # of the heatmap's side: its shorter side where depths differ
NAME_LETTERS, CORPUS_LETTERS = 44, 48


def comparison_figure(comparison: Comparison) -> Figure:
    """Divergence by layer, effective dimension under it, the layer × layer heatmap beside it.

    Nothing of matplotlib's global state is used or changed. The same comparison gives the same file.
    """
    with figure_style():
        return _draw(comparison)


def _draw(comparison: Comparison) -> Figure:
    width = PAGE_WIDTH - 2 * MARGIN
    settings = " · ".join(settings_in_words(comparison.record, CORPUS_LETTERS))
    blocks = [
        (_title(comparison, width), TITLE, {"weight": "bold"}),
        (break_lines(settings, width, TEXT), TEXT, {}),
    ]
    footnotes = [line for note in _footnotes(comparison) for line in break_lines(note, width, TINY)]
    head = sum(lines_height(lines, size) for lines, size, _ in blocks)
    foot = lines_height(footnotes, TINY) + (0.08 if footnotes else 0.0)
    with_control = comparison.control is not None
    stack = DIVERGENCE + BETWEEN + DIMENSION + (BETWEEN + RATIO if with_control else 0.0)
    above = ABOVE + LEGEND_LINE * max(0, _legend_lines(comparison) - LEGEND_LINES)
    height = MARGIN + head + 0.08 + above + stack + BELOW + foot + MARGIN
    figure = StyledFigure(figsize=(PAGE_WIDTH, height))

    def write(x: float, y: float, text: str, size: float, **look: Any) -> None:
        figure.text(x / PAGE_WIDTH, y / height, text, size=size, va="top", parse_math=False, **look)

    def place(x: float, y: float, w: float, h: float, **kwargs: Any) -> Axes:
        return figure.add_axes((x / PAGE_WIDTH, y / height, w / PAGE_WIDTH, h / height), **kwargs)

    top = height - MARGIN
    for lines, size, look in blocks:
        for line in lines:
            write(MARGIN, top, line, size, **look)
            top -= lines_height([line], size)
    floor = MARGIN + foot + BELOW
    ceiling = floor + stack
    write(LEFT, ceiling + above - 0.03, _numbers(comparison.summary), TEXT)
    partial = "reason" in comparison.record["matrix"]
    heat = "the paired layers" if partial else "every layer of A with every layer of B"
    write(HEAT_LEFT, ceiling + above - 0.03, f"Debiased CKA of {heat}", TEXT)
    _curves(comparison, place(LEFT, ceiling - DIVERGENCE, CURVES_WIDTH, DIVERGENCE), place, floor)
    _heat(comparison, place, ceiling)
    if with_control:
        below = floor + DIMENSION + BETWEEN
        _ratio(comparison, place(LEFT, below, CURVES_WIDTH, RATIO, sharex=figure.axes[0]))
    for at, line in enumerate(footnotes):
        write(MARGIN, MARGIN + lines_height(footnotes[at:], TINY), line, TINY, gid="footnote")
    return figure


def _curves(comparison: Comparison, upper: Axes, place: Any, floor: float) -> None:
    entries, summary = comparison.layers, comparison.summary
    layers = [entry["layer_a"] for entry in entries]
    lower = place(LEFT, floor, CURVES_WIDTH, DIMENSION, sharex=upper)
    band = draw_early_band(upper, layers, summary["early_layers"])
    draw_early_band(lower, layers, summary["early_layers"])
    handles = draw_divergence(upper, entries, summary["mean_divergence"]["debiased"]["value"])
    if comparison.control is not None:
        handles += draw_control(upper, entries)
    upper.legend(handles=[*handles, *band], loc="lower left", bbox_to_anchor=(0, 1), ncols=LEGEND_COLUMNS)
    lower.legend(
        handles=draw_effective_dimension(lower, entries), loc="lower left", bbox_to_anchor=(0, 1), ncols=3
    )
    layer_axis(upper, layers)
    upper.tick_params(labelbottom=False)
    same = all(entry["layer_a"] == entry["layer_b"] for entry in entries)
    lower.set_xlabel("layer" if same else "layer of A, each with its pair in B")
    for ax in (upper, lower):
        ax.yaxis.set_label_coords(-0.38 / CURVES_WIDTH, 0.5)


def _legend_lines(comparison: Comparison) -> int:
    """Lines of the legend over the curves, which has an entry for everything that can be there."""
    summary = comparison.summary
    shown = [
        True,  # debiased
        True,  # biased
        "rescaled" in summary,
        summary["mean_divergence"]["debiased"]["value"] is not None,
        any(entry["cka_debiased"] is None for entry in comparison.layers),
        comparison.control is not None,
        bool(summary["early_layers"]),
    ]
    return -(-sum(shown) // LEGEND_COLUMNS)


def _ratio(comparison: Comparison, ax: Axes) -> None:
    entries, summary = comparison.layers, comparison.summary
    layers = [entry["layer_a"] for entry in entries]
    draw_early_band(ax, layers, summary["early_layers"])
    handles = draw_ratio(ax, entries, summary["ratio"]["mean"]["value"])
    ax.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
    ax.tick_params(labelbottom=False)
    ax.yaxis.set_label_coords(-0.38 / CURVES_WIDTH, 0.5)


def _heat(comparison: Comparison, place: Any, ceiling: float) -> None:
    matrix = comparison.matrix("debiased")
    rows, columns = matrix.shape
    scale = HEAT_SIDE / max(rows, columns)
    tall = max(rows * scale, NARROWEST * HEAT_SIDE)
    wide = max(columns * scale, NARROWEST * HEAT_SIDE)
    bottom = ceiling - tall
    pairs = [(entry["layer_a"], entry["layer_b"]) for entry in comparison.layers]
    matches = comparison.record["best_match"]
    ax = place(HEAT_LEFT, bottom, wide, tall)
    mesh, handles = draw_heatmap(
        ax,
        matrix,
        comparison.record["matrix"]["layers_a"],
        comparison.record["matrix"]["layers_b"],
        pairs,
        [(match["layer_a"], match["layer_b"]) for match in matches if match["layer_b"] is not None],
        cell=72 * min(tall / rows, wide / columns),
        absent="not computed" if "reason" in comparison.record["matrix"] else "undefined",
    )
    ax.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
    under = bottom - HEAT_LABELS - SCALE_HEIGHT
    draw_scale(place(HEAT_LEFT, under, max(wide, 0.6 * HEAT_SIDE), SCALE_HEIGHT), mesh)


def _title(comparison: Comparison, width: float) -> list[str]:
    a, b = short_names(*comparison.names, NAME_LETTERS)
    whole = break_lines(f"{a} (A) against {b} (B)", width, TITLE, "bold")
    if len(whole) == 1:
        return whole
    halves = (f"{a} (A)", f"against {b} (B)")
    return [line for half in halves for line in break_lines(half, width, TITLE, "bold")]


def _numbers(summary: dict[str, Any]) -> str:
    shown = []
    for name in ("mean", "early"):
        entry = summary[f"{name}_divergence"]["debiased"]
        interval = percent_interval(entry)
        value = "undefined" if entry["value"] is None else f"{percent(entry['value'])} %"
        shown.append(f"{name} {value}" + (f" ({interval})" if interval else ""))
    return f"debiased: {', '.join(shown)}"


def _footnotes(comparison: Comparison) -> list[str]:
    notes = []
    if comparison.control is not None:
        control = shorten(comparison.control, NAME_LETTERS)
        said = ratio_sentence(comparison.summary)
        notes.append(f"Seed noise is the divergence of {control} from B. {said}")
        notes += [f"No ratio {line}." for line in ratio_refusals(comparison.layers)]
    protocol = comparison.summary.get("protocol")
    if protocol:
        spreads = []
        for name in ("mean", "early"):
            over = protocol[f"{name}_divergence"]["biased"]
            known = over["mean"] is not None
            spreads.append(
                f"{name} {percent(over['mean'])} % ± {percent(over['std'])}" if known else f"{name} undefined"
            )
        notes.append(
            f"Protocol {protocol['name']} (biased, seeds {', '.join(map(str, protocol['seeds']))}): "
            f"{', '.join(spreads)} over {len(protocol['seeds'])} draws."
        )
    notes += [f"[{warning['code']}] {warning['text']}" for warning in comparison.warnings]
    return [printable(note) for note in notes]
