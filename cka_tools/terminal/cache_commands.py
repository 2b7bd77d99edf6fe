"""`cka cache list`, `cka cache verify`, `cka cache rm` and `cka cache path`."""

from __future__ import annotations

from datetime import UTC, datetime

import typer
from rich.console import Console

from cka_tools.errors import UserError
from cka_tools.formatting import NOTHING, counted, printable, shorten, size_in_words, visible
from cka_tools.settings import option
from cka_tools.terminal.options import Output, with_options
from cka_tools.terminal.output import DAMAGED, as_json, emit
from cka_tools.terminal.tables import Column, print_table

MODEL_LETTERS = 32
KEY_LETTERS = 10

cache_app = typer.Typer(no_args_is_help=True, help="The activation store: features kept between runs.")


@cache_app.command("list")
@with_options()
def list_command(output: Output) -> None:
    """List what the cache holds.

    Example: cka cache list
    """
    from cka_tools.store.catalogue import list_entries
    from cka_tools.store.directory import cache_directory

    cache = cache_directory()
    entries = list_entries(cache)

    def show(console: Console) -> None:
        models = [NOTHING if entry.model is None else shorten(entry.model, MODEL_LETTERS) for entry in entries]
        documents = [NOTHING if entry.documents is None else f"{entry.documents:,}" for entry in entries]
        columns = [
            Column("Key", [entry.key[:KEY_LETTERS] for entry in entries], justify="left"),
            Column("Model", models, justify="left"),
            Column("State", [entry.state for entry in entries], justify="left"),
            Column("Documents", documents, 3),
            Column("Layers", [NOTHING if entry.layers is None else str(entry.layers) for entry in entries], 1),
            Column("Size", [size_in_words(entry.size) for entry in entries]),
            Column("Age", [age_in_words(entry.created) for entry in entries], 2),
        ]
        # A state is worth its column only where an entry is not complete.
        if all(entry.state == "complete" for entry in entries):
            del columns[2]
        if entries:
            print_table(console, columns, "--json")
        total = size_in_words(sum(entry.size for entry in entries))
        _print_line(console, f"{_entries(len(entries))}, {total}, in {cache}")

    data = as_json({"path": str(cache), "entries": [entry.to_dict() for entry in entries]})
    emit(show, data, output)


@cache_app.command("verify")
@with_options()
def verify_command(output: Output) -> None:
    """Check every byte of what the cache holds; remove nothing.

    Every finished entry is compared with its checksum.

    Exit code 1 where an entry is damaged.

    Example: cka cache verify
    """
    from cka_tools.store.catalogue import verify_entries
    from cka_tools.store.directory import cache_directory

    cache = cache_directory()
    found = verify_entries(cache)
    damaged = {key: reason for key, reason in found.items() if reason}

    def show(console: Console) -> None:
        for key, reason in damaged.items():
            _print_line(console, f"{key[:KEY_LETTERS]} is damaged: {reason}")
        _print_line(console, f"{_entries(len(found))} verified, {len(damaged)} damaged, in {cache}")
        if damaged:
            keys = " ".join(key[:KEY_LETTERS] for key in damaged)
            _print_line(console, f"`cka cache rm {keys}` removes what is damaged")

    entries = [
        {"key": key, "state": "damaged" if reason else "ok", "reason": reason or None} for key, reason in found.items()
    ]
    emit(show, as_json({"path": str(cache), "entries": entries}), output)
    if damaged:
        raise typer.Exit(DAMAGED)


@cache_app.command("rm")
@with_options()
def remove_command(
    *,
    keys: tuple[str, ...] = option((), "Keys, or their first letters, as `cka cache list` shows them.", argument=True),
    everything: bool = option(False, "Remove every entry.", flag="--all"),
    yes: bool = option(False, "Do not ask.", flag="--yes -y"),
    output: Output,
) -> None:
    """Remove entries from the cache.

    Example: cka cache rm 3f9a1c --yes
    """
    from cka_tools.store.catalogue import choose_entries, foreign, list_entries, remove_entries
    from cka_tools.store.directory import cache_directory

    if bool(keys) == everything:
        raise UserError("cache rm takes keys or --all: `cka cache list` shows what there is")
    cache = cache_directory()
    entries = list_entries(cache)
    chosen = entries if everything else choose_entries(entries, keys)
    size = size_in_words(sum(entry.size for entry in chosen))
    number = _entries(len(chosen))
    if chosen and not yes and not _confirmed(f"Remove {number} ({size}) from {cache}?"):
        raise UserError("nothing was removed from the cache: answer y, or add --yes")
    remove_entries(cache, chosen)
    left = [str(path) for path in foreign(cache)] if everything else []

    def show(console: Console) -> None:
        _print_line(console, f"Removed {number} ({size})")
        for path in left:
            _print_line(console, f"left: {path}, which no cache made")

    emit(show, as_json({"removed": [entry.key for entry in chosen]} | ({"left": left} if everything else {})), output)


@cache_app.command("path")
@with_options()
def path_command(output: Output) -> None:
    """Print where the cache lies (CKA_TOOLS_CACHE moves it).

    Example: cka cache path
    """
    from cka_tools.store.directory import cache_directory

    cache = str(cache_directory())

    emit(lambda console: _print_line(console, cache), as_json({"path": cache}), output)


def _print_line(console: Console, line: str) -> None:
    console.print(printable(line), markup=False, highlight=False, soft_wrap=True)


def _entries(number: int) -> str:
    return f"{number:,} {'entry' if number == 1 else 'entries'}"


def _confirmed(question: str) -> bool:
    try:
        return typer.confirm(visible(question), err=True)
    except typer.Abort:  # Ctrl-C, or nobody there to answer
        typer.echo(err=True)
        return False


def age_in_words(created: str) -> str:
    """Time since an ISO date in its largest whole unit: "3 days"."""
    seconds = max(0, int((datetime.now(UTC) - datetime.fromisoformat(created)).total_seconds()))
    for unit, length in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= length:
            return counted(seconds // length, unit)
    return counted(seconds, "second")
