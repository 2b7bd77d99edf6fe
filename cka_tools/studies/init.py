"""A study file made from directories: what each model is, its training's manifest tells."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cka_tools.comparison.run_trajectory import expand
from cka_tools.errors import UserError
from cka_tools.formatting import is_text, quoted
from cka_tools.manifest import noise_kind, read_manifest
from cka_tools.models.folder import ADAPTER, parse_spec
from cka_tools.studies.analyses import ANALYSES
from cka_tools.studies.models import BASELINE, CONTROL, DETOUR, ROLES, START

DEMO = ("theta0", "clm-detour", "clm-detour-matched", "mlm-baseline", "mlm-baseline-matched", "mlm-baseline-2",
        "mlm-baseline-2-matched")  # fmt: skip
DEMO_DOCUMENTS, DEMO_MAX_LENGTH = 60, 128

UNKNOWN = "unknown"


@dataclass(frozen=True)
class Guess:
    """What a model seems to be.

    Attributes:
        given: as it was given. reason: in words.
    """

    given: str
    role: str
    reason: str
    manifest: dict[str, Any] | None = None


def guess_roles(given: Sequence[str]) -> list[Guess]:
    """The role of each model: by its manifest, else by its name, else `UNKNOWN`.

    Raises:
        UserError: no such model, one that is given twice, or a folder without any.
    """
    if not given:
        raise UserError("no model is given: name the directories of models or training runs, or give --demo")
    if twice := next((one for at, one in enumerate(given) if one in given[:at]), None):
        raise UserError(f"{twice!r} is given twice: name every model once")
    found = [_guess(one) for one in given]
    detours = [one for one in found if one.role == DETOUR]
    baselines = [one for one in found if one.role == BASELINE]
    if detours and len(baselines) > len(detours) and not any(one.role == CONTROL for one in found):
        # Of one seed with a detour first; what is left is as many controls.
        seeds = [(one.manifest or {}).get("seed") for one in detours]
        ranked = sorted(baselines, key=lambda one: (one.manifest or {}).get("seed") not in seeds)
        for one in ranked[len(detours) :]:
            kinds = {noise_kind(other.manifest, one.manifest) for other in ranked[: len(detours)]} - {"unknown"}
            why = f"a further baseline, of other {' or '.join(sorted(kinds))}" if kinds else "a further baseline"
            found[found.index(one)] = Guess(one.given, CONTROL, why, one.manifest)
    return found


def _guess(given: str) -> Guess:
    spec = parse_spec(given)
    folder = spec.folder
    if folder is not None and not (folder / ADAPTER).is_file():
        places = expand(str(folder))
        folder = Path(str(places[-1]))
    manifest = read_manifest(folder)
    recipe = (manifest or {}).get("recipe")
    phases = recipe.get("phases") if isinstance(recipe, dict) else None
    if manifest is not None and isinstance(recipe, dict) and isinstance(phases, list) and phases:
        objectives = [str(phase.get("objective")) for phase in phases if isinstance(phase, dict)]
        trained = f"trained by {', then '.join(one.upper() for one in dict.fromkeys(objectives))}"
        if ("start" in manifest and manifest["start"] is None) or recipe.get("name") == "pretraining":
            return Guess(given, START, f"{trained} from no other model", manifest)
        role = DETOUR if len(set(objectives)) > 1 else BASELINE
        return Guess(given, role, trained, manifest)
    name = given.lower()
    for role, words in ((CONTROL, ("control", "twin")), (DETOUR, ("detour",)), (BASELINE, ("baseline",)),
                        (START, ("start", "theta0"))):  # fmt: skip
        if any(word in name for word in words):
            return Guess(given, role, "by its name", manifest)
    return Guess(given, UNKNOWN, "no manifest and no name that tells", manifest)


def demo_models() -> list[str]:
    """The bundled models that the demo's study takes."""
    return [f"demo:{name}" for name in DEMO]


def study_text(guesses: Sequence[Guess], folder: Path, *, demo: bool = False) -> str:
    """A commented study file.

    Args:
        folder: that it will lie in; paths are written from there.
        demo: ask for every analysis, over few and short documents.
    """
    lines = ["# A study: `cka study FILE --dry-run` says what it costs, `cka study FILE` runs it.",
             "# Paths start from the folder of this file.", ""]  # fmt: skip
    lines += [f"title = {_text('The bundled models' if demo else 'A study')}", "", "[models]"]
    for role, words in ROLES.items():
        members = [one for one in guesses if one.role == role]
        lines.append(f"# {words}")
        if not members:
            lines.append(f"# {role} = []")
            continue
        lines.append(f"{role} = [")
        lines += [f"  {_text(_from(one.given, folder))},  # guessed: {_plain(one.reason)}" for one in members]
        lines.append("]")
    for one in guesses:
        if one.role == UNKNOWN:
            lines.append(f"# put where it belongs ({_plain(one.reason)}): {_text(_from(one.given, folder))}")
    documents, length = (DEMO_DOCUMENTS, DEMO_MAX_LENGTH) if demo else (500, 512)
    lines += [
        "",
        "# One corpus or several, by name: sample, pubmed, hf:ID, a file or a folder.",
        "[corpora]",
        'sample = "sample"',
        "",
        "# Options of the commands, by their names (`cka compare --help`).",
        "[settings]",
        f"documents = {documents}",
        f"max-length = {length}",
        "# cache = false   # keeps features in the study's folder",
        "",
        "# The analyses that are wanted; without any table all that fit run. Each takes its command's options,",
        '# settings of its own, and other models (detour = "start"). A second one of a kind has another name, and',
        '# analysis = "compare".',
    ]
    if not demo:
        for name, analysis in ANALYSES.items():
            lines.append(f"# [{_key(name)}]  # {analysis.default or 'all models; only where it is named'}")
            lines += [f"# {line}" for line in NEEDED_OPTIONS if line.split()[0] in analysis.needed]
        return "\n".join(lines) + "\n"
    for name in ANALYSES:
        lines += [f"[{_key(name)}]", *DEMO_OPTIONS.get(name, []), ""]
    return "\n".join(lines)


NEEDED_OPTIONS = ('task = "sections"', 'tasks = ["sections"]')
"""What analyses cannot do without, as an example."""

DEMO_OPTIONS = {
    "trajectory": [f'checkpoints = ["{START}", "demo:clm-detour"]  # a run\'s folder under detour would give its own'],
    "transplant": ['detour = "demo:clm-detour"', 'baseline = "demo:mlm-baseline"', 'control = "demo:mlm-baseline-2"'],
    "interpolate": ['detour = "demo:clm-detour"', 'baseline = "demo:mlm-baseline"', "points = 5"],
    "needle": [
        'models = ["demo:mlm-baseline", "demo:clm-detour"]',
        "lengths = [128]",
        'templates = ["drug"]',
        "examples = 120",
        "training = 120",
    ],
    "probe": ['models = ["demo:mlm-baseline", "demo:clm-detour"]', NEEDED_OPTIONS[0]],
    "evaluate": ['models = ["demo:mlm-baseline", "demo:clm-detour"]', NEEDED_OPTIONS[1], "seeds = 2", "epochs = 1"],
}
"""What the demo's study says of an analysis."""


def _key(name: str) -> str:
    return f"analyses.{name}"


def _from(given: str, folder: Path) -> str:
    """A directory as it is called from the study's folder."""
    spec = parse_spec(given)
    if spec.kind != "local" or Path(given).is_absolute() or given.startswith("~"):
        return given
    relative = Path(os.path.relpath(given, folder)).as_posix()
    return relative if "/" in relative or relative.startswith(".") else f"./{relative}"


def _text(text: str) -> str:
    """A TOML string.

    Raises:
        UserError: half a surrogate pair, as the name of a file that is not UTF-8 has.
    """
    if not is_text(text):
        raise UserError(f"{quoted(text)} is not UTF-8, which a study file is: rename it")
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _plain(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text)
