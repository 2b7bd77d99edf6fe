"""A comparison as it is read in a terminal: settings, table by layer, what to be wary of, one sentence."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cka_tools.comparison import Comparison
from cka_tools.comparison.verdict import verdict
from cka_tools.formatting import (
    MASSIVE_SHARE,
    NOTHING,
    counted,
    layer_list,
    layers_in_words,
    level_in_words,
    p_value,
    percent,
    percent_interval,
    printable,
    ratio_refusals,
    ratio_sentence,
    three_decimals,
    three_digits,
    times,
    times_interval,
)
from cka_tools.terminal.output import say, say_remarks, say_settings
from cka_tools.terminal.tables import WIDE, Column, fitted_table

MASSIVE_STYLE, MASSIVE_MARK = "yellow", "!"


def layer_table(comparison: Comparison, width: int = WIDE) -> Table:
    """One row a layer pair, percentages; the early rows first and apart, the means last.

    Columns that do not fit `width` are left out, the least needed first; the caption names them.
    """
    early = [entry["early"] for entry in comparison.layers]
    ends = [at for at, now in enumerate(early) if at + 1 == len(early) or early[at + 1] != now]
    bold = [at for at, now in enumerate(early) if now]
    return fitted_table(_columns(comparison), width, comparison.table, ends=ends, bold=bold)


def _columns(comparison: Comparison) -> list[Column]:
    entries, summary = comparison.layers, comparison.summary
    same = all(entry["layer_a"] == entry["layer_b"] or entry.get("place") for entry in entries)
    layers = [e.get("place") or (f"{e['layer_a']}" if same else f"{e['layer_a']}/{e['layer_b']}") for e in entries]
    early = layer_list(summary["early_layers"])
    last = {"early": f"early {early}", "mean": "mean"} if early else {"mean": "mean"}
    means = [summary[f"{name}_divergence"] for name in last]
    debiased = [e["divergence"] for e in entries]
    values = [d["value"] for d in debiased] + [m["debiased"]["value"] for m in means]
    intervals = [percent_interval(d) or NOTHING for d in debiased]
    intervals += [percent_interval(m["debiased"]) or NOTHING for m in means]
    biased = [e["divergence_biased"] for e in entries] + [m["biased"]["value"] for m in means]
    columns = [
        Column("layer" if same else "layer\nA/B", [*layers, *last.values()], justify="left", remark=_norm(comparison)),
        Column("divergence\ndebiased %", _percents(values)),
        Column(f"{level_in_words(summary)} interval", intervals),
        Column("biased %", _percents(biased)),
    ]
    if "rescaled" in summary:
        rescaled = [None if (cka := e["rescaled"]["cka_debiased"]) is None else 1 - cka for e in entries]
        rescaled += [summary["rescaled"][f"{n}_divergence"]["debiased"]["value"] for n in last]
        columns.append(Column("rescaled %", _percents(rescaled), 4))
    if "control" in summary:
        noise = [e["control"]["value"] for e in entries]
        noise += [summary["control"][f"{name}_divergence"]["debiased"]["value"] for name in last]
        ratios = [e["ratio"] for e in entries] + [summary["ratio"][name] for name in last]
        columns += [
            Column("seed\nnoise %", _percents(noise)),
            Column("ratio\nto it", [times(ratio["value"]) for ratio in ratios]),
            Column(
                f"{level_in_words(summary)} interval\nof ratio", [times_interval(ratio) or NOTHING for ratio in ratios]
            ),
        ]
    blank = [""] * len(last)
    for name in entries[0]["measures"] if entries else ():
        if name != "cka":
            columns.append(Column(name, [three_decimals(e["measures"][name]["value"]) for e in entries] + blank, 8))
    for side in "ab":
        dimensions = [three_digits(e[f"effective_dim_{side}"]) for e in entries]
        columns.append(Column(f"eff.\ndim {side.upper()}", dimensions + blank, 1))
    for side in "ab":
        given = [e[f"top_feature_share_{side}"] for e in entries]
        heavy = any(share is not None and share > MASSIVE_SHARE for share in given)
        remark = f"{MASSIVE_MARK} one feature carries more than half of the variance." if heavy else ""
        columns.append(Column(f"top\n{side.upper()} %", [*map(_share, given), *blank], 3, remark=remark))
    best = [NOTHING if e["best_layer_b"] is None else str(e["best_layer_b"]) for e in entries]
    if any(e["best_layer_b"] is not None for e in entries):
        over = summary.get("best_over")
        remark = f"Best in B: among {layers_in_words(over)} of B." if over else ""
        columns.append(Column("best\nin B", best + blank, 2, remark=remark))
    return columns


def _norm(comparison: Comparison) -> str:
    """Where the last layer is, if a model has a final norm after it and that is no row of its own."""
    origin = comparison.record["provenance"]
    models, settings = origin["models"], origin["settings"]
    ends = {side: models[at]["layers"] - 1 for at, side in enumerate("ab") if models[at].get("final_norm")}
    shown = any(e[f"layer_{side}"] == end for e in comparison.layers for side, end in ends.items())
    if settings["sites"] != "residual" or settings.get("final_norm") or not shown:
        return ""
    return "The last layer is before the final norm, hidden_states[-1] after it (--final-norm adds it)."


def _percents(values: Iterable[float | None]) -> list[str]:
    return [percent(value) for value in values]


def _share(share: float | None) -> Text:
    """Top-feature share; one that decides the layer has a mark."""
    if share is None:
        return Text(NOTHING)
    heavy = share > MASSIVE_SHARE
    return Text(percent(share) + (MASSIVE_MARK if heavy else " "), style=MASSIVE_STYLE if heavy else "")


def summary_sentence(comparison: Comparison) -> str:
    """Mean and early divergence, debiased, with intervals; documents; how many warnings."""
    summary = comparison.summary
    level = f"{level_in_words(summary)} interval "
    early = summary["early_layers"]
    parts = [f"Mean divergence {_stated(summary['mean_divergence']['debiased'], level)}"]
    if early:
        parts.append(f"early {layers_in_words(early)} {_stated(summary['early_divergence']['debiased'], '')}")
    parts.append(f"debiased, over {counted(summary['n_documents'], 'document')}")
    warnings = len(comparison.warnings)
    return f"{', '.join(parts)}; {counted(warnings, 'warning') if warnings else 'no warnings'}."


def _stated(entry: dict[str, Any], level: str) -> str:
    if entry["value"] is None:
        return f"undefined ({printable(entry['reason'])})" if entry.get("reason") else "undefined"
    interval = percent_interval(entry)
    return f"{percent(entry['value'])} % ({f'{level}{interval}' if interval else 'no interval'})"


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Print names, table, protocol, remarks, and the sentence last; nothing given is read as markup."""
    names = Table.grid(padding=(0, 2, 0, 0))
    names.add_column(no_wrap=True)
    names.add_column(overflow="fold")
    for role, model in zip(("A", "B", "control"), comparison.record["provenance"]["models"], strict=False):
        label = f"{printable(str(model['label']))}: " if model.get("label") else ""
        names.add_row(Text(role, style="bold"), Text(f"{label}{printable(model['name'])}"))
    console.print(names, highlight=False)
    say_settings(console, comparison.record)
    console.print()
    console.print(layer_table(comparison, console.width), highlight=False, crop=False)
    console.print()
    say(console, ("verdict ", "bold"), printable(verdict(comparison.record)))
    protocol = comparison.summary.get("protocol")
    if protocol:
        seeds = ", ".join(str(seed) for seed in protocol["seeds"])
        say(console, f"Protocol {printable(protocol['name'])} ({printable(protocol['source'])}), seeds {seeds}:")
        console.print(protocol_table(comparison, console.width), highlight=False, crop=False)
        if "ratio" in protocol:
            say(console, _ratio_over_draws(protocol))
    lines = [("not given ", line) for line in null_reasons(comparison)]
    lines += [("no ratio ", line) for line in ratio_refusals(comparison.layers)]
    lines += [("floor ", line) for line in floor_lines(comparison)]
    for head, line in lines:
        say(console, (head, "bold"), line)
    say_remarks(console, comparison.summary)
    if lines or comparison.summary["notes"] or comparison.warnings:
        console.print()
    say(console, summary_sentence(comparison), style="bold")
    if comparison.control is not None:
        say(console, ratio_sentence(comparison.summary), style="bold")


EXPLAINED = {
    "layer": "a block of A, counted from 0; A/B where they are paired with others, embeddings and final norm apart.",
    "divergence debiased %": "1 − linear CKA, debiased: 0 is the same up to rotation and scale, 100 nothing in common.",
    "interval": "what the documents leave open: 95 of 100 such intervals, each of other documents, hold the truth.",
    "biased %": "1 − CKA as first published; too small a divergence where documents are few against features.",
    "rescaled %": "the debiased divergence once every feature has unit variance: large features no longer decide.",
    "seed noise %": "the divergence of the control from B: what another training seed alone makes.",
    "ratio to it": "the divergence over the seed noise.",
    "interval of ratio": "the ratio's interval over documents; documents that move both alike do not widen it.",
    "eff. dim A": "how many directions of equal variance A's features are like; below 3 CKA speaks of very few.",
    "eff. dim B": "the same of B.",
    "top A %": f"share of A's variance in its largest feature; {MASSIVE_MARK} where it is more than half.",
    "top B %": "the same of B.",
    "best in B": "the layer of B with the highest debiased CKA, whether paired or not.",
    "procrustes": "1 − 2θ/π, θ the angle between the two after the best rotation; read it against its floor.",
    "mknn": "share of each document's 10 nearest neighbours that both models have in common.",
    "rsa": "rank correlation of the distances of all pairs of documents in A and in B.",
    "svcca": "mean correlation of the directions that hold 99 % of the variance; read it against its floor.",
}
"""What each column is, by its head."""


def explanations(comparison: Comparison) -> list[tuple[str, str]]:
    """The heads of a comparison's columns, each with a line on what it is."""
    level = level_in_words(comparison.summary)
    heads = [" ".join(column.head.split()).removeprefix(f"{level} ") for column in _columns(comparison)]
    return [(head, EXPLAINED["layer" if head.startswith("layer") else head]) for head in heads]


def floor_lines(comparison: Comparison) -> list[str]:
    """Each measure, and the best matches, against permuted documents: ranges over layers."""
    entries, floors = comparison.layers, comparison.summary.get("floors", {})
    lines = []
    for name, count in floors.get("permutations", {}).items():
        found = [one for e in entries if {"floor", "p"} <= (one := e["measures"][name]).keys()]
        if name != "cka" and found:
            values, means, chances = ([one[of] for one in found] for of in ("value", "floor", "p"))
            permuted = f"{_range(means, three_decimals)} for {count} orders of A's documents"
            lines.append(
                f"{name}: {_range(values, three_decimals)} by layer, {permuted} (p {_range(chances, p_value)})"
            )
    chances = [e["best_p"] for e in entries if e.get("best_p") is not None]
    if chances and "best_over" in comparison.summary:
        over = layers_in_words(comparison.summary["best_over"])
        lines.append(f"best in B: p {_range(chances, p_value)}, against the best of {over} for permuted documents")
    return lines


def _range(values: Sequence[float], write: Callable[[float], str]) -> str:
    low, high = write(min(values)), write(max(values))
    return low if low == high else f"{low} to {high}"


def null_reasons(comparison: Comparison) -> list[str]:
    """Why values are missing, one line a reason, unless a warning says it of the same layers."""
    said = {layer for w in comparison.warnings if w["code"] == "no-variance" for layer in w["layers"]}
    few = any(w["code"] == "few-documents" for w in comparison.warnings)
    by_reason: dict[str, list[int]] = {}
    for entry in comparison.layers:
        explained = entry["layer_a"] in said if entry["cka_debiased"] is None else few
        if entry.get("reason") and not explained:
            by_reason.setdefault(printable(entry["reason"]), []).append(entry["layer_a"])
    return [f"{layers_in_words(layers)}: {reason}" for reason, layers in by_reason.items()]


def _ratio_over_draws(protocol: dict[str, Any]) -> str:
    """Ratios of the draws' means to the control's, mean and standard deviation."""
    parts = []
    for name in ("mean", "early"):
        for estimator in ("biased", "debiased"):
            over = protocol["ratio"][name][estimator]
            known = over["mean"] is not None
            shown = f"{times(over['mean'])} ± {times(over['std'])}" if known else NOTHING
            parts.append(f"{name} {shown} ({estimator})")
    return f"Ratio to the control over {len(protocol['seeds'])} draws: {', '.join(parts)}."


def protocol_table(comparison: Comparison, width: int = WIDE) -> Table:
    """The protocol's mean and standard deviation over draws, beside our interval over documents."""
    summary, protocol = comparison.summary, comparison.summary["protocol"]
    rows = [(name, estimator) for name in ("mean", "early") for estimator in ("biased", "debiased")]
    spreads = [protocol[f"{name}_divergence"][estimator] for name, estimator in rows]
    entries = [summary[f"{name}_divergence"][estimator] for name, estimator in rows]
    over = [
        NOTHING if spread["mean"] is None else f"{percent(spread['mean'])} ± {percent(spread['std'])}"
        for spread in spreads
    ]
    columns = [
        Column("divergence %", [", ".join(row) for row in rows], justify="left"),
        Column(f"{len(protocol['seeds'])} draws, mean ± std", over),
        Column("first draw", [percent(entry["value"]) for entry in entries]),
        Column(f"{level_in_words(summary)} interval", [percent_interval(entry) or NOTHING for entry in entries]),
    ]
    return fitted_table(columns, width, comparison.table)
