"""Transplants, interpolations, health checks and filled masks, as they are read in a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console

from cka_tools.comparison.readout_results import Health, Interpolation, Transplant
from cka_tools.formatting import (
    NOISE_IN_WORDS,
    NOTHING,
    counted,
    in_unit,
    interval_in_unit,
    percent,
    percent_interval,
    printable,
    recovery_refusals,
    settings_in_words,
    shorten,
)
from cka_tools.readouts.fill import Filled
from cka_tools.terminal.output import say, say_remarks
from cka_tools.terminal.tables import ALWAYS, Column, print_table

LABEL_LETTERS, NAME_LETTERS = 30, 24

Entry = dict[str, Any]


def _head(unit: str) -> str:
    return "" if unit == "nats" else " %"


def print_transplant(result: Transplant, console: Console) -> None:
    """Print a table for each readout, additivity, and what was refused; nothing given is read as markup."""
    record, summary = result.record, result.summary
    names = {end["role"]: printable(end["name"]) for end in record["ends"]}
    for role, name in names.items():
        say(console, (f"{role.capitalize()} ", "bold"), name)
    say(console, ", ".join(settings_in_words(record)), style="dim")
    for readout in summary["readouts"]:
        quantity = readout["quantities"][0]
        _hybrid_table(result, f"{readout['name']}.{quantity['name']}", quantity, console)
        if len(readout["quantities"]) > 1:
            rest = ", ".join(one["title"] for one in readout["quantities"][1:])
            say(console, f"{readout['title']}; {rest} in {result.table}.", style="dim")
    first = summary["readouts"][0]
    for one in record["additivity"]:
        shown = f"{first['name']}.{first['quantities'][0]['name']}"
        if one["direction"] == "transplant" and one["quantity"] == shown and one["sum"]["value"] is not None:
            say(console, ("additive? ", "bold"), _additivity(one))
    for line in recovery_refusals(result.record):
        say(console, ("no recovery ", "bold"), line)
    say_remarks(console, summary, "pair", ", such as ")
    cost = summary["cost"]
    share = f"{100 * cost['blocks'] / cost['blocks_naive']:.0f} %"
    say(console, f"Hybrids start where they first differ: {share} of the blocks of whole passes were run.", style="dim")
    sentence = f"{counted(len(result.hybrids), 'hybrid')} over {counted(summary['n_documents'], 'document')}. Recovery "
    sentence += "is (hybrid − base) / (donor − base), the share of the gap that moves with the graft"
    sentence += "; control: another seed's parts in the base, by the same gap" if "control" in names else ""
    sentence += "; reverse: the base's parts in the donor" if _directions(result) & {"reverse"} else ""
    noise = f" The control is {NOISE_IN_WORDS[summary['noise']]}." if "noise" in summary else ""
    say(console, f"{sentence}.{noise}", style="bold")


def _additivity(one: Entry) -> str:
    """The sum of the groups' recoveries beside that of all layers."""

    def told(of: str, unit: str) -> str:
        return f"{percent(one[of]['value'])}{unit} ({percent_interval(one[of]) or 'no interval'})"

    text = f"{'+'.join(one['parts'])}: the groups' recoveries sum to {told('sum', ' %')}; all layers at once give "
    return f"{text}{told('whole', ' %')}; the difference is {told('difference', ' points')}"


def _directions(result: Transplant) -> set[str]:
    return {hybrid["direction"] for hybrid in result.hybrids}


def _hybrid_table(result: Transplant, key: str, quantity: Entry, console: Console) -> None:
    unit = quantity["unit"]
    ends = [end for end in result.record["ends"] if end["role"] != "control"]
    by = {
        name: [one["readouts"][key] for one in result.hybrids if one["direction"] == name]
        for name in ("transplant", "control", "reverse")
        if name in _directions(result)
    }
    labels = [one["label"] for one in result.hybrids if one["direction"] == "transplant"]
    blank = [NOTHING] * len(ends)
    head = quantity["title"].replace(" ", "\n", 1) + _head(unit)
    values = [end["readouts"][key] for end in ends] + [one["value"] for one in by["transplant"]]
    names = [end["role"] for end in ends] + [shorten(one, LABEL_LETTERS) for one in labels]
    columns = [
        Column("graft", names, justify="left"),
        Column(head, [in_unit(one["value"], unit) for one in values]),
        Column("interval", [interval_in_unit(one, unit) for one in values], 3),
    ]
    for name, found in by.items():
        called, keep = ("recovery", (ALWAYS, 7)) if name == "transplant" else (name, (8, 5))
        shares = [one["recovery"] for one in found]
        columns.append(Column(f"{called} %", blank + [percent(one["value"]) for one in shares], keep[0]))
        intervals = blank + [percent_interval(one) or NOTHING for one in shares]
        columns.append(Column(f"{called}\ninterval", intervals, keep[1]))
    print_table(console, columns, result.table, ends=[len(ends) - 1])


def print_health(result: Health, console: Console) -> None:
    """Print one row a model, its paired differences from the first one, and remarks."""
    record, summary = result.record, result.summary
    say(console, ", ".join(settings_in_words(record)), style="dim")
    (readout,) = summary["readouts"]
    models = result.models
    columns = [Column("model", [shorten(one["name"], NAME_LETTERS) for one in models], justify="left")]
    if any(one["tokens"] is not None for one in models):
        columns.append(
            Column("tokens", [NOTHING if one["tokens"] is None else f"{one['tokens']:,}" for one in models], 6)
        )
    from_first = [
        next((one["readouts"] for one in record["differences"] if (one["a"], one["b"]) == (at, 0)), None)
        for at in range(len(models))
    ]
    for number, quantity in enumerate(readout["quantities"]):
        key, unit, title = f"{readout['name']}.{quantity['name']}", quantity["unit"], quantity["title"]
        keep = (ALWAYS, ALWAYS, 7, 3) if number == 0 else (8, 4, 2, 1)
        entries = [one["readouts"][key] for one in models]
        columns.append(Column(f"{title}{_head(unit)}", [in_unit(one["value"], unit) for one in entries], keep[0]))
        columns.append(Column("interval", [interval_in_unit(one, unit) for one in entries], keep[3]))
        if len(models) > 1:
            apart = [{} if one is None else one[key] for one in from_first]
            columns.append(Column(f"{title}\n− first", [in_unit(one.get("value"), unit) for one in apart], keep[1]))
            columns.append(Column("paired\ninterval", [interval_in_unit(one, unit) for one in apart], keep[2]))
    key = f"{readout['name']}.perplexity"
    if all(key in one["readouts"] for one in models):
        columns.append(Column("perplexity", [f"{one['readouts'][key]['value']:.1f}" for one in models], 4))
    print_table(console, columns, result.table)
    reasons = dict.fromkeys(e["reason"] for one in models for e in one["readouts"].values() if e.get("reason"))
    for reason in reasons:
        say(console, ("no interval ", "bold"), printable(reason))
    say_remarks(console, summary)
    told = {"mlm": "15 % of each document's tokens hidden, the same for all models", "clm": "every next token"}
    title = f"{readout['title'][0].upper()}{readout['title'][1:]}"
    over = f"means over {counted(summary['n_documents'], 'document')} of each one's mean"
    say(console, f"{title} loss in nats and accuracy, {told.get(readout['name'], '')}: {over}.", style="bold")


def print_interpolation(result: Interpolation, console: Console) -> None:
    """Print one row a point, the barriers, and remarks."""
    record, summary, points = result.record, result.summary, result.points
    for letter, name in zip("AB", summary["names"], strict=True):
        say(console, (f"{letter} ", "bold"), printable(name))
    say(console, ", ".join(settings_in_words(record)), style="dim")
    columns = [Column("share of B", [f"{point['alpha']:.3g}" for point in points])]
    for readout in summary["readouts"]:
        for number, quantity in enumerate(readout["quantities"]):
            key, unit = f"{readout['name']}.{quantity['name']}", quantity["unit"]
            if key not in points[0]["readouts"]:
                continue
            for part, head, keep in (
                ("value", quantity["title"], ALWAYS),
                ("excess", f"{quantity['title']}\nexcess", 6),
            ):
                entries = [point["readouts"][key][part] for point in points]
                columns.append(
                    Column(f"{head}{_head(unit)}", [in_unit(one["value"], unit) for one in entries], keep - 3 * number)
                )
                columns.append(Column("interval", [interval_in_unit(one, unit) for one in entries], 4 - number))
    for end in "ab" if "divergence" in points[0] else ():
        entries = [point["divergence"][end] for point in points]
        columns.append(Column(f"to {end.upper()} %", [percent(one["value"]) for one in entries], 8))
        columns.append(Column("interval", [percent_interval(one) or NOTHING for one in entries], 2))
    print_table(console, columns, result.table)
    say_remarks(console, summary, "pair", ", such as ")
    titles = {
        f"{r['name']}.{q['name']}": (f"{r['title']} {q['title']}", q["unit"])
        for r in summary["readouts"]
        for q in r["quantities"]
    }
    for key, one in record["barrier"].items():
        title, unit = titles[key]
        points_of = " points" if unit == "share" else " nats"
        text = f"the largest excess of the {title} over the line between the ends is {in_unit(one['value'], unit)}"
        text += f"{points_of} at {one['alpha']:.3g} ({interval_in_unit(one, unit)}, simultaneous over the points): "
        low, high = one["ci_low"], one["ci_high"]
        known = low is not None and high is not None
        found = "no interval" if not known else "a barrier" if low > 0 else "no barrier is shown"
        say(console, ("barrier ", "bold"), text + found)


def print_filled(text: str, found: Sequence[Filled], console: Console) -> None:
    """Print the likeliest tokens of each model side by side, a table for each mask."""
    say(console, printable(text))
    for mask in dict.fromkeys(one.mask for one in found):
        own = [one for one in found if one.mask == mask]
        if len({one.mask for one in found}) > 1:
            say(console, f"mask {mask + 1}", style="bold")
        rows = max(len(one.tokens) for one in own)
        columns = [Column("", [str(at + 1) for at in range(rows)])]
        for one in own:
            cells = [f"{printable(token)} {percent(share)}" for token, share in one.tokens]
            columns.append(
                Column(f"{shorten(one.model, NAME_LETTERS)} %", cells + [""] * (rows - len(cells)), justify="left")
            )
        print_table(console, columns, "--json")
