"""A needle in a haystack, as it is read in a terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from cka_tools.comparison.readout_results import Needle
from cka_tools.formatting import NOTHING, counted, needle_in_words, percent, percent_interval, printable
from cka_tools.settings import EMBEDDINGS
from cka_tools.terminal.output import say, say_remarks
from cka_tools.terminal.probe_report import letters_of
from cka_tools.terminal.tables import ALWAYS, Column, print_table

Entry = dict[str, Any]
TITLES = {"mlp": "two-layer probe", "logistic": "logistic regression"}


def print_needle(result: Needle, console: Console) -> None:
    """Print a table for each probe, a row for each length and position, then layers, power and remarks."""
    record, summary, models = result.record, result.summary, result.models
    letters, sizes = letters_of(len(models)), summary["examples"]
    kinds = counted(len(summary["templates"]), "kind") + " of fact"
    examples = f"{sizes['train']:,} train, {sizes['dev']:,} dev, {sizes['test']:,} test"
    say(console, ("Needle in a haystack", "bold"), f": {kinds}; {examples}")
    for letter, model in zip(letters, models, strict=True):
        say(console, (f"{letter} ", "bold"), printable(model["name"]))
    say(console, ", ".join(needle_in_words(record)), style="dim")
    lengths, positions = summary["lengths"], summary["positions"]
    ends = (0, len(lengths), len(lengths) + len(positions))
    for name, title in TITLES.items():
        say(console, (title, "bold"))
        print_table(console, _columns(record, letters, name), result.table, ends=ends)
    for letter, model in zip(letters, models, strict=True):
        _say_layers(console, letter, model)
    entries = [one for m in models for layer in m["layers"] for p in layer["probes"].values() for one in p["accuracy"]]
    reasons = [one["reason"].replace("document", "example") for one in entries if one.get("reason")]
    for reason in dict.fromkeys(reasons):
        say(console, ("no interval ", "bold"), printable(reason))
    say_remarks(console, summary)
    power = summary["power"]
    share = (
        f"{100 * power['difference']:g} points would be clear of 0 in {percent(power['independent'])} % of such runs"
    )
    words = f"{share} if their errors were independent, and in more where models share errors."
    say(console, f"With {sizes['test']:,} test examples a difference of {words}")
    over = f"95 % intervals over {counted(sizes['test'], 'test example')}, the fitted probes as they are"
    say(console, f"Accuracy in %, chance {percent(summary['chance'])}; {over}; differences are paired.", style="bold")


def _say_layers(console: Console, letter: str, model: Entry) -> None:
    below = [layer for layer in model["layers"] if not layer["output"]]
    if not below:
        return
    for name, title in TITLES.items():
        told = [
            f"{'embeddings' if layer['layer'] == EMBEDDINGS else layer['layer']}: "
            f"{percent(layer['probes'][name]['accuracy'][0]['value'])}"
            for layer in below
        ]
        say(console, (f"{letter} by layer, {title} ", "bold"), ", ".join(told))


def output_of(one: Entry) -> Entry:
    """What is told of a model's output, or of the difference of two."""
    (found,) = [layer for layer in one["layers"] if layer["output"]]
    return found


def _columns(record: Entry, letters: list[str], probe: str) -> list[Column]:
    groups, shuffle = record["groups"], record["summary"]["label_shuffle"]
    columns = [
        Column("length", ["all" if one["length"] is None else f"{one['length']:,}" for one in groups]),
        Column("position", [one["position"] or "all" for one in groups], justify="left"),
        Column("n", [f"{one['examples']:,}" for one in groups], 1),
    ]

    def add(head: str, entries: list[Entry], keep: tuple[int, int]) -> None:
        columns.append(Column(head, [percent(one["value"]) for one in entries], keep[0]))
        columns.append(Column("interval", [percent_interval(one) or NOTHING for one in entries], keep[1]))

    for letter, model in zip(letters, record["models"], strict=True):
        found = output_of(model)["probes"][probe]
        add(f"{letter}\naccuracy", found["accuracy"], (ALWAYS, 6))
        if shuffle:
            columns.append(Column(f"{letter}\nshuffled", [percent(one["value"]) for one in found["shuffled"]], 4))
    for one in record["differences"]:
        if one["b"] == 0:
            add(f"{letters[one['a']]} − {letters[0]}\npoints", output_of(one)["probes"][probe]["accuracy"], (8, 7))
    return columns
