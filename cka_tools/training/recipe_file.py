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
from types import MappingProxyType
from typing import Any, cast

from cka_tools.errors import UserError, one_line
from cka_tools.training.objectives import Masking, ObjectiveName
from cka_tools.training.recipe import PRESETS, Phase, Recipe, ScaleName, preset

OWN_SCALE = "own"
WHOLE, NUMBER, TEXT, TABLE = "a whole number", "a number", "a string", "a table"
LAYERS, NAMES, PAIR, TABLES = (
    "a list of whole numbers",
    "a list of strings",
    "a list of two numbers",
    "tables",
)

# Key → what it takes; keys with a star may be left out.
RECIPE_KEYS = {
    "name": TEXT,
    "scale*": TEXT,
    "peak_lr": NUMBER,
    "betas": PAIR,
    "eps": NUMBER,
    "weight_decay": NUMBER,
    "sequence_length": WHOLE,
    "sequences_per_step": WHOLE,
    "phases": TABLES,
}
PHASE_KEYS = {
    "name": TEXT,
    "objective": TEXT,
    "tokens": WHOLE,
    "schedule": TEXT,
    "masking*": TABLE,
    "warmup_tokens*": WHOLE,
    "floor*": NUMBER,
    "frozen*": LAYERS,
    "frozen_modules*": NAMES,
}
MASKING_KEYS = {"rate": NUMBER, "mask*": NUMBER, "random*": NUMBER}


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
        raise UserError(
            f"no recipe is called {given!r}: choose from {', '.join(PRESETS)}, or give a .toml file"
        )
    if any(option is not None for option in (scale, tokens, objective)):
        raise UserError(
            f"recipe {given!r} is a file: set its tokens, objectives and constants there, not by options"
        )
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
    except ValueError as error:  # TOML that does not parse, or bytes that are no UTF-8
        raise UserError(f"recipe file {str(path)!r} is no TOML ({one_line(error)})") from error
    return parse_recipe(data, f"recipe file {str(path)!r}")


def parse_recipe(data: dict[str, Any], where: str = "recipe") -> Recipe:
    """Return the recipe in plain data, such as `Recipe.to_dict()` gives; None counts as left out.

    Raises:
        UserError: as `read_recipe`.
    """
    data = _checked(data, RECIPE_KEYS, where)
    phases = []
    for number, table in enumerate(data["phases"], start=1):
        at = f"{where}, phase {number}"
        phase = _checked(table, PHASE_KEYS, at)
        if "masking" in phase:
            phase["masking"] = Masking(**_checked(phase["masking"], MASKING_KEYS, f"{at}, masking"))
        for key in ("frozen", "frozen_modules"):
            phase[key] = tuple(phase.get(key, ()))
        phases.append(Phase(**phase))
    rest = {"scale": OWN_SCALE} | data | {"phases": tuple(phases), "betas": tuple(data["betas"])}
    return Recipe(**cast(dict[str, Any], rest))


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


def _checked(data: Any, keys: dict[str, str], where: str) -> dict[str, Any]:
    """Return a table's items whose keys are known, whose types fit and of which none is missing."""
    if not isinstance(data, dict):
        raise UserError(f"{where} is {data!r}: write it as a table")
    kinds = {key.rstrip("*"): kind for key, kind in keys.items()}
    for key in data:
        if key not in kinds:
            near = get_close_matches(key, kinds, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(kinds)}"
            raise UserError(f"{where}: unknown key {key!r}: {hint}")
    given = {key: value for key, value in data.items() if value is not None}
    for key, kind in keys.items():
        name = key.rstrip("*")
        if name not in given:
            if key == name:
                raise UserError(f"{where}: {name!r} is missing: write {kind}")
        elif not _fits(given[name], kind):
            raise UserError(f"{where}: {name} = {given[name]!r} does not fit: write {kind}")
    return given


def _fits(value: Any, kind: str) -> bool:
    if kind == WHOLE:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind == NUMBER:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind == TEXT:
        return isinstance(value, str)
    if kind == TABLE:
        return isinstance(value, dict)
    if not isinstance(value, list | tuple):
        return False
    if kind == PAIR:
        return len(value) == 2 and all(_fits(item, NUMBER) for item in value)
    return all(_fits(item, {LAYERS: WHOLE, NAMES: TEXT, TABLES: TABLE}[kind]) for item in value)
