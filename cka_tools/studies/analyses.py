"""The analyses that a study may have: which function, which models by default, which options.

A new one is an entry in `ANALYSES`: its function, which models of a study it takes, and how each option of its own
is read. Its settings are those of the command of the same name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from math import isfinite
from pathlib import Path
from typing import Any

from cka_tools.errors import UserError
from cka_tools.evaluation.options import SHARED
from cka_tools.formatting import counted, quoted
from cka_tools.interventions.plan import parse_groups_of_layers, parse_parts
from cka_tools.settings import LARGEST_WHOLE, MOST_LAYERS, parse_layers
from cka_tools.studies.models import BASELINE, CONTROL, DETOUR, Roles, StudyModel, in_words, resolve_path

MODELS, CHECKPOINTS = "models", "checkpoints"
"""Keys of an analysis beside the roles: all its models; those along a training."""


@dataclass(frozen=True)
class Call:
    """One call of an analysis, which makes one run.

    Attributes:
        label: what tells it from the other calls of the analysis.
        arguments: the function's, with models in place of their sources.
        words: what it does.
    """

    label: str
    arguments: dict[str, Any]
    words: str


Reader = Callable[[Any, str, Path], Any]
"""Makes an option's value of what a study says: that, the option's name, and the folder that paths start from."""


@dataclass(frozen=True)
class Analysis:
    """An analysis that a study may have.

    Attributes:
        function: module and name, imported when it is called.
        calls: which calls it takes for these models; raises a UserError where the roles lack what it needs.
        takes: the keys that choose its models.
        options: of its own. needed: those that have no default.
        corpus: whether it takes one; a task has texts of its own.
        default: in words, which models it takes; None: it runs only where it is asked for.
        settings: those that it has; None: those of the command of its name.
        keeps_parts: whether it goes on with what is finished of it, which it keeps in its argument `parts`.
    """

    function: str
    calls: Callable[[Roles], list[Call]]
    takes: tuple[str, ...]
    options: Mapping[str, Reader] = field(default_factory=dict)
    needed: tuple[str, ...] = ()
    corpus: bool = True
    default: str | None = None
    settings: tuple[str, ...] | None = None
    keeps_parts: bool = False

    def run(self, call: Call, **others: Any) -> Any:
        """Call the function."""
        module, _, name = self.function.partition(":")
        arguments = {key: _sources(value) for key, value in call.arguments.items()}
        return getattr(import_module(module), name)(**arguments, **others)


def _sources(value: Any) -> Any:
    """Models as functions take them."""
    if isinstance(value, StudyModel):
        return value.source
    if isinstance(value, dict):
        return {key: _sources(one) for key, one in value.items()}
    return [_sources(one) for one in value] if isinstance(value, list) else value


# Which models an analysis takes.


def _needed(roles: Roles, role: str, least: int = 1) -> list[StudyModel]:
    found = roles.get(role, [])
    if len(found) < least:
        has = counted(len(found), "model") if found else "no model"
        raise UserError(f"needs {least} or more of the role {role!r}, which has {has}")
    return found


def _pairs(roles: Roles) -> list[tuple[StudyModel, StudyModel, StudyModel | None]]:
    """Each detour with its baseline and control."""
    detours, baselines = _needed(roles, DETOUR), _needed(roles, BASELINE)
    controls = roles.get(CONTROL) or (baselines[1:] if CONTROL not in roles else [])[:1]
    return [
        (detour, baselines[at if len(baselines) == len(detours) else 0], _control(controls, at, len(detours)))
        for at, detour in enumerate(detours)
    ]


def _control(controls: list[StudyModel], at: int, detours: int) -> StudyModel | None:
    return controls[at if len(controls) == detours else 0] if controls else None


PAIRED = (
    "each detour with its baseline and control: by position where there are as many, else with the first; without a "
    "role control the second baseline is the control"
)


def _beside(control: StudyModel | None) -> str:
    return "no control" if control is None else f"control {control.given}"


def _pairwise(first: str, second: str, verb: str, *, control: bool = True, swap: bool = False) -> Any:
    """Calls of a function of two models, one for each detour.

    Args:
        first, second: its parameters. swap: the baseline is the first one.
    """

    def calls(roles: Roles) -> list[Call]:
        found = []
        for detour, baseline, twin in _pairs(roles):
            if control and twin is baseline:
                twin = None
            one, other = (baseline, detour) if swap else (detour, baseline)
            arguments: dict[str, Any] = {first: one, second: other} | ({CONTROL: twin} if control else {})
            words = f"{one.given} {verb} {other.given}" + (f", {_beside(twin)}" if control else "")
            found.append(Call(detour.label, arguments, words))
        return found

    return calls


def _trajectory(roles: Roles) -> list[Call]:
    baselines = _needed(roles, BASELINE)
    given = roles.get(CHECKPOINTS)
    if given is not None:
        control = roles.get(CONTROL, [])
        twin = control[0] if control else None
        along = [source for one in given for source in (one.checkpoints or (one.source,))]
        words = f"{in_words(given)} from {baselines[0].given}, {_beside(twin)}"
        return [Call("", {"reference": baselines[0], CHECKPOINTS: along, CONTROL: twin}, words)]
    found = []
    for detour, baseline, twin in _pairs(roles):
        if detour.checkpoints:
            along = list(detour.checkpoints)
            words = f"{counted(len(along), 'checkpoint')} of {detour.given} from {baseline.given}, {_beside(twin)}"
            found.append(Call(detour.label, {"reference": baseline, CHECKPOINTS: along, CONTROL: twin}, words))
    if not found:
        raise UserError("no detour is a training run's folder with checkpoints: name some with checkpoints = […]")
    return found


def _contrast(roles: Roles) -> list[Call]:
    groups = {DETOUR: roles.get(DETOUR, []), BASELINE: [*roles.get(BASELINE, []), *roles.get(CONTROL, [])]}
    for name, members in groups.items():
        if len(members) < 2:
            there = "is" if len(members) == 1 else "are"
            raise UserError(f"needs 2 models or more a group, and there {there} {counted(len(members), name)}")
    words = " against ".join(f"{counted(len(members), name)}" for name, members in groups.items())
    return [Call("", {"groups": groups}, words)]


def _of_all(least: int) -> Callable[[Roles], list[Call]]:
    def calls(roles: Roles) -> list[Call]:
        found = roles[MODELS]
        if len(found) < least:
            raise UserError(f"needs {least} models or more, and has {len(found)}")
        return [Call("", {MODELS: found}, counted(len(found), "model"))]

    return calls


# How options are read.


def _yes_or_no(value: Any, name: str, base: Path) -> bool:
    if not isinstance(value, bool):
        raise UserError(f"{name} = {quoted(value)} does not fit: write true or false")
    return value


def _whole(value: Any, name: str, base: Path) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > LARGEST_WHOLE:
        raise UserError(f"{name} = {quoted(value)} is not a whole number of a size that is of use")
    return value


def _wholes(value: Any, name: str, base: Path) -> list[int]:
    listed = value if isinstance(value, list) and value else [value]
    return [_whole(one, name, base) for one in listed]


def _numbers(value: Any, name: str, base: Path) -> list[float]:
    listed = value if isinstance(value, list) else [value]
    fits = all(isinstance(one, int | float) and not isinstance(one, bool) for one in listed)
    if not listed or not fits or not all(abs(one) <= LARGEST_WHOLE and isfinite(one) for one in listed):
        raise UserError(f"{name} = {quoted(value)} is not a list of numbers: write it like [0, 0.5, 1]")
    return [float(one) for one in listed]


def _number(value: Any, name: str, base: Path) -> float:
    (number,) = _numbers([value], name, base)
    return number


def _seeds(value: Any, name: str, base: Path) -> int | list[int]:
    """How many, or which."""
    return _wholes(value, name, base) if isinstance(value, list) else _whole(value, name, base)


def _texts(value: Any, name: str, base: Path) -> list[str]:
    """A list of texts, or one text with commas."""
    found = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
    if not isinstance(found, list) or not found or not all(isinstance(one, str) and one for one in found):
        raise UserError(f'{name} = {quoted(value)} is not a list of texts: write it like ["a", "b"], or "a,b"')
    return found


def _text(value: Any, name: str, base: Path) -> str:
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{name} = {quoted(value)} is not a text: write it in quotes")
    return value


def _task(value: Any, name: str, base: Path) -> str:
    """A task's name, its file, or NAME=FILE."""
    text = _text(value, name, base)
    known, equals, file = text.rpartition("=")
    return f"{known}{equals}{resolve_path(file, base) or file}"


def _tasks(value: Any, name: str, base: Path) -> list[str]:
    return [_task(one, name, base) for one in _texts(value, name, base)]


def _readouts(value: Any, name: str, base: Path) -> list[str]:
    found = []
    for one in _texts(value, name, base):
        kind, colon, argument = one.partition(":")
        found.append(f"{kind}:{_task(argument, name, base)}" if colon else one)
    return found


def _groups(value: Any, name: str, base: Path) -> Any:
    """ "thirds", "0-3,4-7", or a list of groups, each a text such as "0-3" or a list of layers."""
    if isinstance(value, str):
        return parse_groups_of_layers(value, name)
    if not isinstance(value, list) or not value:
        raise UserError(f'{name} = {quoted(value)} is not groups of layers: write "thirds" or ["0-3", "4-7"]')
    return [parse_layers(one, name) if isinstance(one, str) else _layers(one, name) for one in value]


def _layers(value: Any, name: str) -> tuple[int, ...]:
    whole = isinstance(value, list) and all(isinstance(one, int) and not isinstance(one, bool) for one in value)
    if not whole or not all(0 <= one < MOST_LAYERS for one in value):
        raise UserError(f"{name}: {quoted(value)} is not a list of layers: write it like [0, 1] or 0-1 in quotes")
    return tuple(value)


def _parts(value: Any, name: str, base: Path) -> Any:
    return parse_parts(",".join(_texts(value, name, base)), name)


PAIR = (DETOUR, BASELINE, CONTROL)

ANALYSES: dict[str, Analysis] = {
    "compare": Analysis(
        "cka_tools.comparison:compare", _pairwise("model_a", "model_b", "against"), PAIR, default=PAIRED
    ),
    "contrast": Analysis(
        "cka_tools.comparison:contrast",
        _contrast,
        PAIR,
        {"paired": _yes_or_no},
        default="detours against baselines, controls among them",
    ),
    "trajectory": Analysis(
        "cka_tools.comparison:trajectory",
        _trajectory,
        (*PAIR, CHECKPOINTS),
        {"x": _numbers, "health": _yes_or_no},
        default="the checkpoints of every detour that is a training run's folder, from its baseline",
    ),
    "matrix": Analysis("cka_tools.comparison:matrix", _of_all(2), (MODELS,), default="all models"),
    "transplant": Analysis(
        "cka_tools.interventions:transplant",
        _pairwise("donor", "base", "into"),
        PAIR,
        {"layers": _groups, "parts": _parts, "readout": _readouts, "reverse": _yes_or_no},
        default=f"parts of the detour into the baseline; {PAIRED}",
    ),
    "interpolate": Analysis(
        "cka_tools.interventions:interpolate",
        _pairwise("model_a", "model_b", "to", control=False, swap=True),
        (DETOUR, BASELINE),
        {"points": _whole, "readout": _readouts},
        default=f"from the baseline to the detour; {PAIRED.partition(';')[0]}",
    ),
    "health": Analysis(
        "cka_tools.interventions:health", _of_all(1), (MODELS,), {"readout": _text}, default="all models"
    ),
    "probe": Analysis(
        "cka_tools.probes:probe",
        _of_all(1),
        (MODELS,),
        {"task": _task, "label_shuffle": _yes_or_no},
        needed=("task",),
        corpus=False,
    ),
    "needle": Analysis(
        "cka_tools.probes:needle",
        _of_all(1),
        (MODELS,),
        {"lengths": _wholes, "positions": _texts, "templates": _texts, "examples": _whole, "training": _whole}
        | {"pooling": _text, "label_shuffle": _yes_or_no},
    ),
    "evaluate": Analysis(
        "cka_tools.evaluation.in_study:evaluate_in_study",
        _of_all(1),
        (MODELS,),
        {"tasks": _tasks, "seeds": _seeds, "lr": _number, "weight_decay": _number, "epochs": _whole}
        | {"batch_size": _whole, "precision": _text, "group_by_length": _yes_or_no},
        needed=("tasks",),
        corpus=False,
        settings=SHARED,
        keeps_parts=True,
    ),
}
"""Every analysis by its name, which is also that of its command."""
