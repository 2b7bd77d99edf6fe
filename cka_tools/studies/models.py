"""The models of a study by their roles, and paths as a study file has them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import fspath
from pathlib import Path

from cka_tools.comparison.run_trajectory import expand
from cka_tools.documents.corpus_spec import KNOWN
from cka_tools.documents.open_file import STANDARD_INPUT
from cka_tools.errors import UserError
from cka_tools.formatting import slug
from cka_tools.models import ModelSource, as_source
from cka_tools.models.folder import ADAPTER
from cka_tools.training.run import FINAL

START, DETOUR, BASELINE, CONTROL = "start", "detour", "baseline", "control"
ROLES = {
    START: "what the others were trained from",
    DETOUR: "trained by the way whose mark is looked for",
    BASELINE: "trained without it",
    CONTROL: "baselines of another seed: the noise",
}
"""What a model may be in a study."""


@dataclass(frozen=True)
class StudyModel:
    """A model of a study.

    Attributes:
        given: as the study has it.
        source: the model; of a training run's folder its last checkpoint.
        checkpoints: of a training run's folder all of them, by tokens; none of another model.
    """

    role: str
    given: str
    source: ModelSource
    checkpoints: tuple[ModelSource, ...] = ()

    @property
    def label(self) -> str:
        """What tells it in a directory's name."""
        path = Path(self.given)
        return slug(path.parent.name if path.name == FINAL and path.parent.name else self.given)


Roles = dict[str, list[StudyModel]]
"""Models by role."""


def find_model(role: str, given: str, base: Path) -> StudyModel:
    """The model that a study names.

    Raises:
        UserError: no such model, as far as its name tells.
    """
    spec = resolve_model(given, base)
    folder = Path(spec)
    if spec.startswith("demo:") or not folder.is_dir() or (folder / ADAPTER).is_file():
        return StudyModel(role, given, as_source(spec))
    found = [fspath(one) for one in expand(spec)]  # type: ignore[arg-type]
    if found == [spec]:
        return StudyModel(role, given, as_source(spec))
    last = next((one for one in found if Path(one).name == FINAL), found[-1])
    sources = {one: as_source(one) for one in found}
    return StudyModel(role, given, sources[last], tuple(sources.values()))


def resolve_model(given: str, base: Path) -> str:
    """A model spec whose path, if it is one, starts from where the command runs and not from `base`.

    Raises:
        UserError: a directory that does not exist.
    """
    if given.startswith("demo:"):
        return given
    place = resolve_path(given, base)
    if place is not None:
        return place
    if "+" in given:  # BASE+ADAPTER
        first, _, adapter = given.rpartition("+")
        return f"{resolve_model(first, base)}+{resolve_model(adapter, base)}"
    first = given.partition("/")[0]
    if first in ("", ".", "..") or first.startswith("~") or "\\" in given or (base / first).is_dir():
        raise UserError(f"model directory {given!r} does not exist, seen from {str(base)!r}")
    return given


def resolve_corpus(given: str, base: Path) -> str:
    """The same of a corpus spec.

    Raises:
        UserError: standard input, which can be read but once.
    """
    if given == STANDARD_INPUT:
        raise UserError("corpus '-' is standard input, which can be read but once: give a file")
    if given in KNOWN or given.partition(":")[0] in ("hf", KNOWN[-1]):
        return given
    return resolve_path(given, base) or given


def resolve_path(given: str, base: Path) -> str | None:
    """A path that exists seen from `base`; None where there is none, nor one of this name where we are.

    Raises:
        UserError: text that cannot be a path.
    """
    try:
        place = base / Path(given).expanduser()
        return fspath(place) if place.exists() or Path(given).exists() else None
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"{given[:60]!r} cannot be a path ({error})") from error


def in_words(models: Sequence[StudyModel]) -> str:
    """Their names, with commas."""
    return ", ".join(one.given for one in models)
