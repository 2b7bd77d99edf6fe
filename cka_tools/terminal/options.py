"""Options that several commands share; those of the settings are made from `Settings` itself."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from enum import StrEnum
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from cka_tools.errors import UserError
from cka_tools.settings import FIELDS, Fact, Settings

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors (and --json).")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output, and no table.")]
OutFile = Annotated[Path | None, typer.Option("--out", "-o", help="Write to this file instead of the terminal.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
RemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run code that comes with a model. Read it first.")
]
RunDirectory = Annotated[
    Path | None, typer.Option("--out", "-o", help="Run directory to make; by default one named after the models.")
]


def numbers(text: str, option: str, *, whole: bool = False) -> list[float]:
    """Numbers separated by commas.

    Raises:
        UserError: something else; `option` names where it was given.
    """
    try:
        return [int(part) if whole else float(part) for part in text.split(",")]
    except ValueError:
        kind = "whole numbers" if whole else "numbers"
        raise UserError(f"{option} {text!r} is not a list of {kind}: write them with commas, as 1,2") from None


def at_least(least: int, **options: int | None) -> None:
    """Raise a UserError where an option, named by its Python name, is below `least`; None was not given."""
    for name, number in options.items():
        if number is not None and number < least:
            option = f"--{name.replace('_', '-')}"
            raise UserError(f"{option} {number} does not fit: give a whole number from {least}")


def with_settings(
    command: str, flags: Mapping[str, str] | None = None
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command the settings as options, and the function behind it one `settings` made of them.

    Args:
        command: its name; a setting that lacks it on purpose is left out (`Settings`).
        flags: other names of options, where the command has another one of that name.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        hints = get_type_hints(function, include_extras=True)
        taken = {
            name: fact
            for name, fact in FIELDS.items()
            if fact.field.metadata["help"] and command not in fact.field.metadata["lacking"]
        }
        parameters: list[inspect.Parameter] = []
        for parameter in inspect.signature(function).parameters.values():
            if parameter.name == "out":  # what every command has comes last
                parameters += [_parameter(name, fact, (flags or {}).get(name)) for name, fact in taken.items()]
            if parameter.name != "settings":
                kind = inspect.Parameter.KEYWORD_ONLY
                parameters.append(parameter.replace(annotation=hints[parameter.name], kind=kind))

        @wraps(function)
        def run(**given: Any) -> Any:
            values = {name: _value(name, fact, given.pop(name)) for name, fact in taken.items()}
            return function(settings=Settings(**values), **given)

        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return decorate


def _parameter(name: str, fact: Fact, flag: str | None) -> inspect.Parameter:
    """The option of a setting. Text that is parsed here is given as text, of several choices one is given."""
    facts, default = fact.field.metadata, fact.field.default
    kind: Any = fact.type
    if fact.choices:
        kind = _choices(name, fact.choices)
    elif facts["parse"] is not None or name == "keep_features":
        kind = str
    if facts["shown"] is not None:  # the default is said in words
        kind, default, told = kind | None, None, f"{facts['help']}  [default: {facts['shown']}]"
    elif kind is bool:
        # Always switched away from its default: --rescale, --no-cache.
        kind, default, told = bool, False, facts["help"]
    else:
        told = facts["help"]
        default = kind(default) if fact.choices and default is not None else default
        kind = kind | None if default is None else kind
    named = flag or facts["flag"] or f"--{name.replace('_', '-')}"
    shown = facts["shown"] is None and kind is not bool and default is not None
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[kind, typer.Option(named, help=told, show_default=shown)],
    )


def _choices(name: str, choices: tuple[str, ...]) -> Any:
    members: Any = {choice: choice for choice in choices}
    return StrEnum(name, members)


def _value(name: str, fact: Fact, given: Any) -> Any:
    """The setting that an option gives; its default where it was not given."""
    facts = fact.field.metadata
    if fact.type is bool:
        return not fact.field.default if given else fact.field.default
    if given is None:
        return fact.field.default
    if facts["parse"] is not None:
        return facts["parse"](given, name.replace("_", "-"))
    return given.value if isinstance(given, StrEnum) else given
