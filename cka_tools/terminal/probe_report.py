"""Probes, as they are read in a terminal."""

from __future__ import annotations

from string import ascii_uppercase
from typing import Any

from rich.console import Console

from cka_tools.comparison.readout_results import Probe
from cka_tools.formatting import NOTHING, counted, percent, percent_interval, printable, settings_in_words
from cka_tools.terminal.output import say, say_remarks
from cka_tools.terminal.tables import ALWAYS, Column, print_table

Entry = dict[str, Any]
SHOWN, TITLE = "macro_f1", "macro F1"


def print_probe(result: Probe, console: Console) -> None:
    """Print one row a layer, floors, what train chose, and remarks."""
    record, summary, models = result.record, result.summary, result.models
    task, letters = summary["task"], letters_of(len(models))
    of_words = task["kind"] == "tags"
    kinds = counted(len(task["classes"]), "type") + " of entity" if of_words else f"{len(task['classes'])} classes"
    sizes = f"{task['train']:,} train, {task['test']:,} test, {kinds}"
    say(console, ("Task ", "bold"), printable(task.get("title", task["name"])), f": {sizes}")
    for letter, model in zip(letters, models, strict=True):
        say(console, (f"{letter} ", "bold"), printable(model["name"]))
    say(console, ", ".join(settings_in_words(record)), style="dim")
    print_table(console, _columns(record, letters), result.table)
    for floor in record["floors"]:
        say(console, (f"{floor['name']} ", "bold"), _told(floor["readouts"][SHOWN]))
    for letter, model in zip(letters, models, strict=True):
        (best,) = [layer for layer in model["layers"] if layer["layer"] == model["chosen_layer"]]
        text = f"{_told(best['readouts'][SHOWN])}; less bag of words, in points: {_told(best['above_words'][SHOWN])}"
        say(console, (f"{letter}, layer {best['layer']}, chosen within train: ", "bold"), text)
    for one in record["differences"]:
        name = f"{letters[one['a']]} − {letters[one['b']]} of the chosen layers, in points: "
        say(console, (name, "bold"), _told(one["chosen"]["readouts"][SHOWN]))
    for reason in dict.fromkeys(_reasons(models)):
        say(console, ("no interval ", "bold"), printable(reason))
    say_remarks(console, summary)
    noun, title = ("test sentence", f"{TITLE} of entities") if of_words else ("test document", TITLE)
    over = f"95 % intervals over {counted(summary['n_documents'], noun)}, the fitted probes as they are"
    say(console, f"{title} in % of logistic regression on each layer; {over}; differences are paired.", style="bold")


def letters_of(count: int) -> list[str]:
    """A to Z, then numbers."""
    return [ascii_uppercase[at] if at < len(ascii_uppercase) else str(at + 1) for at in range(count)]


def _told(entry: Entry) -> str:
    return f"{percent(entry['value'])} ({percent_interval(entry) or 'no interval'})"


def _reasons(models: list[Entry]) -> list[str]:
    entries = [layer["readouts"][SHOWN] for model in models for layer in model["layers"]]
    return [one["reason"] for one in entries if one.get("reason")]


def _columns(record: Entry, letters: list[str]) -> list[Column]:
    models = record["models"]
    layers = sorted({layer["layer"] for model in models for layer in model["layers"]})
    columns = [Column("layer", [str(layer) for layer in layers])]

    def add(head: str, by_layer: dict[int, Entry], keep: tuple[int, int]) -> None:
        entries = [by_layer.get(layer) for layer in layers]
        columns.append(Column(head, [NOTHING if one is None else percent(one["value"]) for one in entries], keep[0]))
        intervals = [NOTHING if one is None else percent_interval(one) or NOTHING for one in entries]
        columns.append(Column("interval", intervals, keep[1]))

    for letter, model in zip(letters, models, strict=True):
        add(f"{letter}\n{TITLE}", {one["layer"]: one["readouts"][SHOWN] for one in model["layers"]}, (ALWAYS, 6))
        if record["summary"]["label_shuffle"]:
            add(f"{letter}\nselectivity", {one["layer"]: one["selectivity"][SHOWN] for one in model["layers"]}, (5, 2))
    for one in record["differences"]:
        if one["b"] == 0:
            by_layer = {layer["layer_a"]: layer["readouts"][SHOWN] for layer in one["layers"]}
            add(f"{letters[one['a']]} − {letters[0]}\npoints", by_layer, (8, 7))
    return columns
