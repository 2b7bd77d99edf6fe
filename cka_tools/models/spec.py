"""What a user writes for a model: `demo:NAME`, a directory, `org/name` or `org/name@revision`."""

import re
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Literal

from cka_tools.bundled import bundled_data
from cka_tools.errors import UserError

_HUB = re.compile(r"(?P<repo>[A-Za-z0-9][\w.\-]*/[\w.\-]+)(?:@(?P<revision>[\w.\-/]+))?")
_GRAMMAR = "write demo:NAME, a directory, org/name or org/name@revision"


@dataclass(frozen=True)
class ModelSpec:
    """A parsed model spec: a folder for `demo` and `local`, a repository for `hub`."""

    given: str
    kind: Literal["demo", "local", "hub"]
    folder: Path | None = None
    repo: str | None = None
    revision: str | None = None


def demo_models() -> list[str]:
    """Names of the bundled models, sorted; empty where the installation carries none."""
    try:
        folder = bundled_data() / "models"
    except FileNotFoundError:
        return []
    return sorted(path.name for path in folder.glob("*") if (path / "config.json").is_file())


def offline_choices() -> str:
    """What a user can still compare without the hub, as words for the end of an error message."""
    demos = ", ".join(f"demo:{name}" for name in demo_models())
    return f"offline, give a local directory or {demos}" if demos else "offline, give a local directory"


def parse_spec(given: str | PathLike[str]) -> ModelSpec:
    """Parse what a user wrote for a model.

    A directory that exists wins over a hub id of the same spelling.

    Raises:
        UserError: an unknown demo name, a directory that is not there, or no spec at all.
    """
    text = fspath(given)
    if text.startswith("demo:"):
        return _parse_demo(text)
    path = Path(text).expanduser()
    if path.is_dir():
        return ModelSpec(text, "local", folder=path)
    if path.is_file():
        raise UserError(
            f"model {text!r} is a file: give the directory that holds config.json and the weights"
        )
    if isinstance(given, str) and (match := _HUB.fullmatch(text)):
        return ModelSpec(text, "hub", repo=match["repo"], revision=match["revision"])
    if not isinstance(given, str) or "/" in text or text.startswith("."):
        raise UserError(f"model directory {text!r} does not exist: {_GRAMMAR}")
    raise UserError(
        f"model {text!r} is neither a directory nor a hub id (which has an organisation): {_GRAMMAR}"
    )


def _parse_demo(text: str) -> ModelSpec:
    name = text.removeprefix("demo:")
    names = demo_models()
    if name not in names:
        known = ", ".join(f"demo:{known}" for known in names) or "none in this installation"
        raise UserError(f"unknown demo model {text!r}: the bundled models are {known}")
    return ModelSpec(text, "demo", folder=bundled_data() / "models" / name)
