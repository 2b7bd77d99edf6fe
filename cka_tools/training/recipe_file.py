"""A recipe as a TOML file: what is written there is all there is, and nothing unknown is passed over.

name = "clm-detour"
peak_lr = 0.001
betas = [0.9, 0.98]
eps = 1e-08
weight_decay = 1e-05            # decoupled: scaled by lr / peak_lr
sequence_length = 512
sequences_per_step = 4

[[phases]]
name = "detour"
objective = "clm"
tokens = 1500000
schedule = "warmup-constant"
warmup_tokens = 50000
frozen = [0, 1, 2]              # layers; frozen_modules = ["embeddings", "head"]

[[phases]]
name = "decay"
objective = "mlm"
masking = { rate = 0.15, mask = 0.8, random = 0.1 }
tokens = 150000
schedule = "1-sqrt"
floor = 0.1
"""

import dataclasses
import json
import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType, UnionType
from typing import Any, Literal, cast, get_args, get_origin, get_type_hints

from cka_tools.errors import UserError, one_line
from cka_tools.training.recipe import PRESETS, ObjectiveName, Recipe, ScaleName, preset

OWN_SCALE = "own"
_WORDS = {int: "whole number", float: "number", str: "string"}


def find_recipe(
    given: str,
    scale: ScaleName | None = None,
    tokens: int | None = None,
    objective: ObjectiveName | None = None,
    constants: Mapping[str, float] = MappingProxyType({}),
) -> Recipe:
    """Return the recipe that a name or a TOML file gives; scale, tokens and objective belong to named ones.

    Args:
        scale, tokens, objective: as `preset` takes them; None is the recipe's own.
        constants: `peak_lr`, `sequence_length` or `sequences_per_step` in place of the recipe's own.

    Raises:
        UserError: neither a preset nor a file, or a file that does not fit.
    """
    if given in PRESETS:
        return preset(given, scale or "demo", tokens, objective, **constants)
    if not given.endswith(".toml"):
        raise UserError(f"no recipe is called {given!r}: choose from {', '.join(PRESETS)}, or give a .toml file")
    if any(option is not None for option in (scale, tokens, objective)):
        raise UserError(f"recipe {given!r} is a file: set its tokens, objectives and constants there, not by options")
    return dataclasses.replace(read_recipe(Path(given)), **cast(dict[str, Any], dict(constants)))


def read_recipe(path: Path) -> Recipe:
    """Read a recipe from a TOML file.

    Raises:
        UserError: no such file, no TOML, an unknown, missing or mistyped key, or an impossible recipe.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"recipe file {str(path)!r} cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:  # TOML that does not parse, or bytes that are not UTF-8
        raise UserError(f"recipe file {str(path)!r} is not TOML ({one_line(error)})") from error
    return parse_recipe(data, f"recipe file {str(path)!r}")


def parse_recipe(data: dict[str, Any], where: str = "recipe") -> Recipe:
    """Return the recipe in plain data, such as `Recipe.to_dict()` gives; None counts as left out.

    Raises:
        UserError: as `read_recipe`.
    """
    made: Recipe = _made(Recipe, {"scale": OWN_SCALE} | data, where)
    return made


def to_toml(recipe: Recipe) -> str:
    """Return the recipe as TOML that `read_recipe` turns back into an equal one."""
    data = recipe.to_dict()
    phases = data.pop("phases")
    lines = [f"{key} = {_value(value)}" for key, value in data.items()]
    for phase in phases:
        lines += ["", "[[phases]]"]
        lines += [f"{key} = {_value(value)}" for key, value in phase.items() if value is not None]
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_value(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    # JSON's strings, except for DEL, and Python's numbers are TOML's.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _made(kind: Any, data: Any, where: str) -> Any:
    """Return the dataclass that a table describes: its keys and what they take are those of the fields."""
    if not isinstance(data, dict):
        raise UserError(f"{where} is {data!r}: write it as a table")
    hints = {name: _plain(hint) for name, hint in get_type_hints(kind).items()}
    for key in data:
        if key not in hints:
            near = get_close_matches(key, hints, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(hints)}"
            raise UserError(f"{where}: unknown key {key!r}: {hint}")
    given = {key: value for key, value in data.items() if value is not None}
    for field in dataclasses.fields(kind):
        name, hint = field.name, hints[field.name]
        if name in given:
            if not _fits(given[name], hint):
                raise UserError(f"{where}: {name} = {given[name]!r} does not fit: write {_in_words(hint)}")
            given[name] = _value_of(given[name], hint, where, name)
        elif field.default is dataclasses.MISSING:
            raise UserError(f"{where}: {name!r} is missing: write {_in_words(hint)}")
    return kind(**given)


def _plain(hint: Any) -> Any:
    """A field's type without None, which is a key left out; names of choices are strings."""
    hint = get_args(hint)[0] if isinstance(hint, UnionType) else hint
    return str if get_origin(hint) is Literal else hint


def _fits(value: Any, hint: Any) -> bool:
    if get_origin(hint) is tuple:
        item, last = get_args(hint)
        whole = isinstance(value, list | tuple) and (last is ... or len(value) == 2)
        return whole and all(_fits(one, _plain(item)) for one in value)
    wanted = dict if dataclasses.is_dataclass(hint) else int | float if hint is float else hint
    return isinstance(value, wanted) and not isinstance(value, bool)


def _value_of(value: Any, hint: Any, where: str, name: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return _made(hint, value, f"{where}, {name}")
    if get_origin(hint) is not tuple:
        return value
    item = _plain(get_args(hint)[0])
    return tuple(_value_of(one, item, where, f"phase {n}") for n, one in enumerate(value, start=1))


def _in_words(hint: Any) -> str:
    if get_origin(hint) is not tuple:
        return "a table" if dataclasses.is_dataclass(hint) else f"a {_WORDS[hint]}"
    item, last = get_args(hint)
    number = "" if last is ... else "two "
    return "tables" if dataclasses.is_dataclass(item) else f"a list of {number}{_WORDS[_plain(item)]}s"
