"""Options of commands, made from dataclasses whose fields are `settings.option`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, is_dataclass
from enum import StrEnum
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer

from cka_tools.errors import UserError
from cka_tools.formatting import quoted
from cka_tools.settings import Fact, fact_of, facts_of, option


@dataclass(frozen=True)
class Output:
    """Where a command's result goes."""

    out: Path | None = option(None, "Write to this file instead of the terminal.", flag="--out -o")
    quiet: bool = option(False, "Print nothing but errors (and --json).", flag="--quiet -q")
    as_json: bool = option(False, "Print the result as JSON on standard output, and no table.", flag="--json")


@dataclass(frozen=True)
class RunOutput(Output):
    """Where a run goes."""

    out: Path | None = option(None, "Run directory to make; by default one named after the models.", flag="--out -o")
    log: tuple[str, ...] = option(
        (), "Where to log the run besides: wandb, tensorboard or trackio; repeatable.", shown="nowhere"
    )
    log_project: str = option("cka-tools", "Project of --log wandb and trackio.")


def with_options(
    command: str = "", flags: Mapping[str, str] | None = None
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command the fields of dataclasses as options, and the function behind it one object made of them.

    Every parameter whose type is a dataclass is replaced by options, one a field; one whose default is a
    `settings.option` becomes that option.

    Args:
        command: its name; a field that lacks it on purpose is left out (`settings.option`).
        flags: other names of options, where the command has another one of that name.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        hints = get_type_hints(function, include_extras=True)
        taken: dict[str, dict[str, Fact]] = {}
        own: dict[str, Fact] = {}
        parameters: list[inspect.Parameter] = []
        for place, parameter in inspect.signature(function).parameters.items():
            if isinstance(parameter.default, Field):
                own[place] = fact_of(parameter.default, hints[place])
                parameters.append(_parameter(place, own[place], None))
            elif is_dataclass(hints[place]):
                taken[place] = {
                    name: fact
                    for name, fact in facts_of(hints[place]).items()
                    if fact.field.metadata["help"] and command not in fact.field.metadata["lacking"]
                }
                parameters += [_parameter(name, fact, (flags or {}).get(name)) for name, fact in taken[place].items()]
            else:
                keyword = inspect.Parameter.KEYWORD_ONLY
                parameters.append(parameter.replace(annotation=hints[place], kind=keyword))

        @wraps(function)
        def run(**given: Any) -> Any:
            given |= {name: _value(name, fact, given[name]) for name, fact in own.items()}
            for place, facts in taken.items():
                values = {name: _value(name, fact, given.pop(name)) for name, fact in facts.items()}
                given[place] = hints[place](**values)
            return function(**given)

        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return decorate


def _parameter(name: str, fact: Fact, flag: str | None) -> inspect.Parameter:
    """The option of a field. Text that is parsed here is given as text, of several choices one is given."""
    facts, default = fact.field.metadata, fact.field.default
    kind: Any = fact.type
    shape = None
    told = facts["help"] + ("" if facts["shown"] is None else f"  [default: {facts['shown']}]")
    if fact.choices:
        kind = _one_of(name, fact.choices)
    elif facts["parse"] is not None:
        kind = str
    elif kind in (int, float):  # the parser's own message does not quote what was given
        kind, shape, default = str, f"<{kind.__name__}>", default if default in (None, MISSING) else str(default)
    elif get_origin(kind) is tuple:
        kind, default = list.__class_getitem__(get_args(kind)[0]), default or None
    if facts["shown"] is not None:  # the default is said in words
        default = None
    elif kind is bool:
        # Always switched away from its default: --rescale, --no-cache.
        default = False
    elif fact.choices and default is not None:
        default = kind(default)
    named = (flag or facts["flag"] or f"--{name.replace('_', '-')}").split()
    # Of two names the one that is the default is told.
    shown = facts["shown"] is None and default is not None and (kind is not bool or "/" in named[0])
    described = (
        typer.Argument(help=told)
        if facts["argument"]
        else typer.Option(*named, help=told, show_default=shown, metavar=shape)
    )
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if default is MISSING else default,
        annotation=Annotated[kind | None if default is None else kind, described],
    )


def _one_of(name: str, choices: tuple[str, ...]) -> Any:
    members: Any = {choice: choice for choice in choices}
    return StrEnum(name, members)


def _value(name: str, fact: Fact, given: Any) -> Any:
    """The value that an option gives; the field's default where it was not given."""
    facts = fact.field.metadata
    if fact.type is bool:
        return not fact.field.default if given else fact.field.default
    if given is None:
        return fact.field.default
    if facts["parse"] is not None:
        return facts["parse"](given, name.replace("_", "-"))
    if fact.type in (int, float):
        spelt = (facts["flag"] or f"--{name.replace('_', '-')}").split()[0]
        return _number(spelt, fact.type, given)
    if isinstance(given, list):
        return tuple(given)
    return given.value if isinstance(given, StrEnum) else given


def _number(option: str, kind: type[int] | type[float], given: str) -> float:
    """The number that a text says.

    Raises:
        UserError: none, in the option's name.
    """
    try:
        return kind(given)
    except ValueError:
        what = "a whole number" if kind is int else "a number"
        raise UserError(f"{option} {quoted(given)} is not {what}") from None
