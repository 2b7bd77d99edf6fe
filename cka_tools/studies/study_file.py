"""A study as a TOML file or a dictionary: what is written there is all there is, and nothing unknown is passed over.

title = "What the detour leaves"

[models]                            # paths start from this file's folder
start = "demo:theta0"
detour = ["runs/detour"]            # a training run's folder: its last checkpoint, all of them for a trajectory
baseline = "runs/baseline/final"
control = "runs/baseline-2/final"

[corpora]                           # or corpora = "sample"
abstracts = "abstracts.jsonl.gz"

[settings]                          # options of commands, by their names
documents = 500
max-length = 512

[analyses.compare]
[analyses.early]                    # a second one of a kind has a name of its own
analysis = "compare"
layers = "0-7"                      # settings of this analysis alone
detour = "start"                    # and other models: a role, or a model of the study
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Protocol

from cka_tools.documents.corpus_spec import open_corpus
from cka_tools.errors import UserError
from cka_tools.figure_choices import MOST_TITLE
from cka_tools.formatting import quoted, slug
from cka_tools.models import resolve_device
from cka_tools.settings import FIELDS, Settings
from cka_tools.statistics.measures import find_measure
from cka_tools.studies.analyses import ANALYSES, MODELS, Analysis, Call
from cka_tools.studies.models import CONTROL, ROLES, Roles, StudyModel, find_model, resolve_corpus
from cka_tools.studies.toml_text import Keys, read_toml

TITLE, CORPORA, SETTINGS, ANALYSES_KEY, ANALYSIS = "title", "corpora", "settings", "analyses", "analysis"
TABLES = (TITLE, MODELS, CORPORA, SETTINGS, ANALYSES_KEY)

DEFAULT_CORPUS = "sample"

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,59}")
"""Of an analysis or a corpus: it becomes a part of a directory's name."""


_CHECKS: dict[str, Callable[[Any], object]] = {
    "measures": lambda names: [find_measure(one) for one in names],
    "device": resolve_device,
}
"""Of settings whose values other modules know: an analysis refuses them later, and would be left out for that."""


class Written(Protocol):
    """Where a study stands."""

    @property
    def name(self) -> str:
        """What it is called in messages."""

    def place(self, keys: Keys, value: object = None) -> str:
        """The beginning of a message about a key."""


@dataclass(frozen=True)
class Dictionary:
    """A study given in Python."""

    name: str = "study"

    def place(self, keys: Keys, value: object = None) -> str:
        """The keys themselves."""
        return ", ".join([self.name, *([".".join(keys)] if keys else [])])


@dataclass(frozen=True)
class Entry:
    """An analysis that is wanted.

    Attributes:
        name: its own; that of the analysis where it has none.
        models: by role, as this analysis has them. calls: what is made of them.
        given: its options as the study has them. options: as the function takes them.
        settings: its own on top of the study's, without what its command lacks.
        corpora: names.
        own_models: whether it names models itself, in the place of those by role.
        keys: where it stands; None where the study names no analyses, and it is one of the defaults.
    """

    name: str
    kind: str
    models: Roles
    calls: list[Call]
    given: dict[str, Any]
    options: dict[str, Any]
    settings: Settings
    corpora: list[str]
    own_models: bool
    keys: Keys | None

    @property
    def analysis(self) -> Analysis:
        """What runs."""
        return ANALYSES[self.kind]


@dataclass(frozen=True)
class Study:
    """A study, checked as far as can be without opening a model.

    Attributes:
        file: None for a dictionary. folder: that paths start from.
        corpora: specs by name.
        left_out: of the default analyses those that the models do not allow, and why.
    """

    written: Written
    file: Path | None
    folder: Path
    title: str | None
    models: Roles
    corpora: dict[str, str]
    settings: Settings
    entries: list[Entry]
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def all_models(self) -> list[StudyModel]:
        """In the order of the roles."""
        return [one for role in ROLES for one in self.models.get(role, [])]


def read_study(given: str | PathLike[str] | Mapping[str, Any]) -> Study:
    """Read a study.

    Args:
        given: a TOML file, or what one would hold; in a dictionary paths start from the working directory.

    Raises:
        UserError: what does not fit, with the file and the line.
    """
    if isinstance(given, Mapping):
        return _Reader(Dictionary(), Path()).read(dict(given), None)
    file = Path(given)
    written = read_toml(file)
    return _Reader(written, file.parent).read(written.data, file)


@dataclass
class _Reader:
    written: Written
    base: Path

    def read(self, data: dict[str, Any], file: Path | None) -> Study:
        for key in data:
            if key not in TABLES:
                raise self._unknown((key,), "key", TABLES)
        title = data.get(TITLE)
        if title is not None and (not isinstance(title, str) or not 0 < len(title.strip()) <= MOST_TITLE):
            raise self._error((TITLE,), f"title {quoted(title)} is not a text of 1 to {MOST_TITLE} letters")
        models = self._models(data.get(MODELS))
        settings = self._settings(self._table(data, SETTINGS), (SETTINGS,), Settings())
        corpora = self._corpora(data.get(CORPORA, DEFAULT_CORPUS), settings)
        study = Study(self.written, file, self.base, title, models, corpora, settings, [])
        self._entries(data, study)
        return study

    def _error(self, keys: Keys, text: object, value: object = None) -> UserError:
        return UserError(f"{self.written.place(keys, value)}: {text}")

    def _unknown(
        self, keys: Keys, what: str, known: Sequence[str], name: str | None = None, more: str = ""
    ) -> UserError:
        """The error for the last of the keys, or for a name that is its value."""
        given = keys[-1] if name is None else name
        near = get_close_matches(given.lower(), known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
        return self._error(keys, f"the {what} {quoted(given)} is not known: {hint}{more}", name)

    def _checked(self, keys: Keys, read: Callable[[], Any], value: object = None) -> Any:
        """What a reader gives; its errors with the place."""
        try:
            return read()
        except UserError as error:
            raise self._error(keys, error, value) from error

    def _table(self, data: dict[str, Any], *keys: str) -> dict[str, Any]:
        found = data.get(keys[-1], {})
        if not isinstance(found, dict):
            table = ".".join(keys)
            raise self._error(keys, f"{keys[-1]} = {quoted(found)} does not fit: write it as a table, [{table}]")
        return found

    def _names(self, value: Any, keys: Keys, *, empty: bool = False) -> list[str]:
        """One text or a list of them."""
        found = value if isinstance(value, list | tuple) else [value]
        found = [fspath(one) if isinstance(one, PathLike) else one for one in found]
        wrong = next((one for one in found if not isinstance(one, str) or not one.strip()), None)
        if wrong is not None:
            raise self._error(keys, f"{keys[-1]}: {quoted(wrong)} is not a name: write a text, or a list of them")
        if not found and not empty:
            raise self._error(keys, f"{keys[-1]} names nothing: name one or more, or leave it out")
        return found

    def _models(self, given: Any) -> Roles:
        if not isinstance(given, dict) or not given:
            problem = f"no models are named: write a table [{MODELS}] with {', '.join(ROLES)}"
            raise self._error((MODELS,) if given is not None else (), problem)
        roles: Roles = {}
        seen: dict[Any, StudyModel] = {}
        for role in given:
            if role not in ROLES:
                raise self._unknown((MODELS, role), "role", tuple(ROLES))
        for role, value in given.items():
            keys = (MODELS, role)
            for name in self._names(value, keys):
                model: StudyModel = self._checked(keys, lambda: find_model(role, name, self.base), name)  # noqa: B023
                folder = model.source.folder
                known = model.source if folder is None else folder.resolve()
                if known in seen:
                    other = seen[known]
                    twice = f"twice in {role}" if other.role == role else f"in {other.role} and in {role}"
                    called = "" if other.given == name else f", once as {other.given!r}"
                    raise self._error(keys, f"the model {name!r} is {twice}{called}: name every model once", name)
                seen[known] = model
                roles.setdefault(role, []).append(model)
        return roles

    def _corpora(self, given: Any, settings: Settings) -> dict[str, str]:
        """Specs by name; a corpus without a name has that of its file."""
        keys = (CORPORA,)
        if isinstance(given, dict):
            named = {name: self._names(value, (*keys, name)) for name, value in given.items()}
            if several := next((name for name, specs in named.items() if len(specs) > 1), None):
                raise self._error((*keys, several), f"the corpus {several!r} is a list: give each one a name")
            specs = {name: values[0] for name, values in named.items()}
        else:
            specs = {}
            for spec in self._names(given, keys):
                name = slug(spec.removeprefix("hf:").partition(":")[0]).partition(".")[0] or "corpus"
                if name in specs:
                    raise self._error(keys, f"two corpora would be called {name!r}: write [{CORPORA}] with names", spec)
                specs[name] = spec
        if not specs:
            raise self._error(keys, "no corpus is named: name one or more, or leave the table out")
        found = {}
        for name, spec in specs.items():
            own = (*keys, name) if isinstance(given, dict) else keys
            self._check_name(own, name, specs)
            found[name] = self._checked(own, lambda: resolve_corpus(spec, self.base), spec)  # noqa: B023
            self._checked(own, lambda: open_corpus(found[name], 1, reading=settings), spec)  # noqa: B023
        return found

    def _check_name(self, keys: Keys, name: str, among: Sequence[str] | Mapping[str, Any]) -> None:
        if not NAME.fullmatch(name):
            raise self._error(keys, f"the name {quoted(name)} does not fit: up to 60 letters, digits and . _ -")
        if alike := [one for one in among if one != name and one.lower() == name.lower()]:
            raise self._error(keys, f"{name!r} and {alike[0]!r} differ in case alone: rename one")

    def _settings(self, table: dict[str, Any], keys: Keys, base: Settings, command: str | None = None) -> Settings:
        spelt = settings_of(command)
        values: dict[str, Any] = {}
        for key, value in table.items():
            if key not in spelt:
                raise self._unknown((*keys, key), "setting", tuple(spelt))
            name = spelt[key]
            if name in values:
                raise self._error((*keys, key), f"{key!r} says again what another key says: leave one out")
            values[name] = self._checked((*keys, key), lambda: setting(name, key, value))  # noqa: B023
            self._checked((*keys, key), lambda: Settings(**{name: values[name]}))  # noqa: B023
            if check := _CHECKS.get(name):
                self._checked((*keys, key), lambda: check(values[name]))  # noqa: B023
        return dataclasses.replace(base, **values)

    def _entries(self, data: dict[str, Any], study: Study) -> None:
        given = data.get(ANALYSES_KEY)
        if given is None:
            for kind, analysis in ANALYSES.items():
                if analysis.default is not None:
                    try:
                        study.entries.append(self._entry(kind, {}, None, study))
                    except UserError as error:
                        study.left_out[kind] = str(error)
            if not study.entries:
                reasons = "; ".join(f"{kind}: {why}" for kind, why in study.left_out.items())
                raise self._error((MODELS,), f"these models allow none of the analyses by default: {reasons}")
            return
        if isinstance(given, list | tuple):  # without options
            names = self._names(given, (ANALYSES_KEY,))
            if twice := [name for name in names if names.count(name) > 1]:
                raise self._error((ANALYSES_KEY,), f"the analysis {twice[0]!r} is there twice: leave one out")
            given = {name: {} for name in names}
        if not isinstance(given, dict) or not given:
            raise self._error((ANALYSES_KEY,), f"no analysis is named: write [{ANALYSES_KEY}.compare], or leave it out")
        for name in given:
            keys = (ANALYSES_KEY, name)
            self._check_name(keys, name, given)
            study.entries.append(self._entry(name, self._table(given, *keys), keys, study))

    def _entry(self, name: str, table: dict[str, Any], keys: Keys | None, study: Study) -> Entry:
        at = keys or ()
        kind = table.get(ANALYSIS, name)
        if not isinstance(kind, str) or kind not in ANALYSES:
            if ANALYSIS in table:
                raise self._unknown((*at, ANALYSIS), "analysis", tuple(ANALYSES), str(kind))
            another = f'; a name of your own needs {ANALYSIS} = "compare", say'
            raise self._unknown(at, "analysis", tuple(ANALYSES), more=another)
        analysis = ANALYSES[kind]
        options = {one.replace("_", "-"): one for one in analysis.options}
        spelt = settings_of(kind)
        known = dict.fromkeys([ANALYSIS, CORPORA, *analysis.takes, *options, *analysis.options, *spelt])
        for key in table:
            if key not in known:
                raise self._unknown((*at, key), f"key of {kind}", tuple(known))
            if key == CORPORA and not analysis.corpus:
                raise self._error((*at, key), f"{kind} takes no corpus: a task has texts of its own")
        values: dict[str, Any] = {}
        for key, value in table.items():
            if (option := options.get(key, key)) in analysis.options:
                if option in values:
                    raise self._error((*at, key), f"{key!r} says again what another key says: leave one out")
                values[option] = self._checked(
                    (*at, key),
                    lambda: analysis.options[option](value, key, self.base),  # noqa: B023
                )
        for option in analysis.needed:
            if option not in values:
                raise self._error(at, f"{kind}: needs {option} = …")
        overrides = {key: value for key, value in table.items() if key in spelt and options.get(key, key) not in values}
        kept = {one: getattr(study.settings, one) for one in spelt.values()}
        settings = self._settings(overrides, at, Settings(**kept), kind)
        models = self._models_of(analysis, table, at, study)
        corpora = self._names(table.get(CORPORA, list(study.corpora)), (*at, CORPORA))
        for one in corpora:
            if one not in study.corpora:
                raise self._unknown((*at, CORPORA), "corpus", tuple(study.corpora), one)
        calls = analysis.calls(models) if keys is None else self._checked(at, lambda: _of(kind, analysis.calls, models))
        given = {options.get(key, key): table[key] for key in table if options.get(key, key) in values}
        own, names = any(key in table for key in analysis.takes), list(dict.fromkeys(corpora))
        return Entry(name, kind, models, calls, given, values, settings, names, own, keys)

    def _models_of(self, analysis: Analysis, table: dict[str, Any], at: Keys, study: Study) -> Roles:
        """The study's models, those that the analysis names in the place of its own."""
        found: Roles = {**study.models, MODELS: study.all_models}
        for key in analysis.takes:
            if key in table:
                names = self._names(table[key], (*at, key), empty=key == CONTROL)
                found[key] = [one for name in names for one in self._known(name, (*at, key), study)]
        return found

    def _known(self, name: str, keys: Keys, study: Study) -> list[StudyModel]:
        if name in study.models:
            return study.models[name]
        found = [one for one in study.all_models if one.given == name]
        if not found:
            known = [*study.models, *(one.given for one in study.all_models)]
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"name a role, or put it into [{MODELS}] first"
            raise self._error(keys, f"{quoted(name)} is not a model of the study: {hint}", name)
        return found


def _of(kind: str, calls: Callable[[Roles], list[Call]], models: Roles) -> list[Call]:
    try:
        return calls(models)
    except UserError as error:
        raise UserError(f"{kind}: {error}") from error


def settings_of(command: str | None) -> dict[str, str]:
    """Of each spelling of a setting that a command has, or any where None, the field's name."""
    found: dict[str, str] = {}
    own = ANALYSES[command].settings if command in ANALYSES else None
    for name, fact in FIELDS.items():
        facts = fact.field.metadata
        if facts["help"] and command not in facts["lacking"] and (own is None or name in own):
            flags = [] if fact.type is bool else (facts["flag"] or "").split()
            spellings = [name.replace("_", "-"), name, *(flag.lstrip("-") for flag in flags)]
            found |= dict.fromkeys(spellings, name)
    return found


def setting(name: str, key: str, value: Any) -> Any:
    """A setting's value from that of a TOML file: a list, or the text that the terminal takes.

    Raises:
        UserError: a value of another type.
    """
    fact = FIELDS[name]
    parse, default = fact.field.metadata["parse"], fact.field.default
    if fact.type is bool:
        if not isinstance(value, bool):
            raise UserError(f"{key} = {quoted(value)} does not fit: write true or false")
        return value
    if parse is not None:
        listed = value if isinstance(value, list | tuple) else [value]
        if not listed or not all(isinstance(one, str | int) and not isinstance(one, bool) for one in listed):
            raise UserError(f'{key} = {quoted(value)} does not fit: write a list, or a text as on the terminal, "0-7"')
        return parse(",".join(map(str, listed)), key)
    # Sizes have a text as their default, and may be bytes.
    takes_number = fact.type is int or (isinstance(default, str) and default.endswith("iB"))
    if fact.type is not int and isinstance(value, str):
        return value
    if takes_number and isinstance(value, int) and not isinstance(value, bool):
        return value
    raise UserError(f"{key} = {quoted(value)} does not fit: write {'a whole number' if fact.type is int else 'a text'}")
