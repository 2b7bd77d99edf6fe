"""Every `cka` command that README and the documentation show: run in order, page by page, or its options parsed.

A block that is not run says why, in a comment before it: `<!-- not run: reason -->`. The pages' own models and
corpora are stood in for by the bundled ones with few and short documents, so that a page costs seconds.
"""

import gzip
import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from cka_tools import bundled
from cka_tools.terminal.app import app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(
    r"(?:<!-- not run: (?P<why>[^>]+) -->\s*)?^```(?:sh|console)\n(?P<lines>.*?)^```", re.MULTILINE | re.DOTALL
)
DOCUMENTS, OWN, WORDS = 500, 60, 12
EXAMPLES = 5
"""Of a task's, one in so many."""

STANDING_IN = {
    "models/detour": "clm-detour",
    "models/baseline": "mlm-baseline",
    "models/baseline-2": "mlm-baseline-2",
    "models/start": "theta0",
    "path/to/detour": "clm-detour",
    "path/to/baseline": "mlm-baseline",
    "path/to/mine": "clm-detour-matched",
    "detour": "clm-detour",
    "baseline": "mlm-baseline",
    "baseline-2": "mlm-baseline-2",
}


def commands_of(page: Path) -> list[tuple[str, str | None]]:
    """The commands that a page shows, with the reason why one is not run."""
    found = []
    for block in BLOCK.finditer(page.read_text(encoding="utf-8")):
        for line in block["lines"].replace("\\\n", " ").splitlines():
            for part in line.removeprefix("$ ").split("&&"):
                command = part.strip().removeprefix(".venv/bin/")
                if command.startswith("cka "):
                    found.append((command, block["why"]))
    return found


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ships with the project, its corpus cut short."""
    place = tmp_path_factory.mktemp("package")
    whole = bundled.bundled_data()
    (place / "data").mkdir()
    for name in ("models", "published.toml"):
        (place / "data" / name).symlink_to(whole / name)
    (place / "data" / "tasks").mkdir()
    for file in (whole / "tasks").iterdir():
        content = file.read_bytes()
        if file.suffix == ".gz":
            content = gzip.compress(b"".join(gzip.decompress(content).splitlines(keepends=True)[::EXAMPLES]))
        (place / "data" / "tasks" / file.name).write_bytes(content)
    rows = map(json.loads, gzip.decompress((whole / "sample.jsonl.gz").read_bytes()).decode().splitlines())
    short = {" ".join(row["text"].split()[:WORDS]): row for row in rows}
    lines = [json.dumps(row | {"text": text}) for text, row in list(short.items())[:DOCUMENTS]]
    for name, kept in (("data/sample", lines), ("own", lines[:OWN])):
        (place / f"{name}.jsonl.gz").write_bytes(gzip.compress("\n".join(kept).encode()))
    return place


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in PAGES if commands_of(page)], ids=lambda page: str(page.relative_to(ROOT))
)
def test_the_commands_of_a_page_run(
    page: Path, data: Path, cka: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundled, "PACKAGE", data)
    for name, model in STANDING_IN.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).symlink_to(bundled.bundled_data() / "models" / model)
    for name in ("abstracts.jsonl.gz", "texts.jsonl.gz"):
        (tmp_path / name).write_bytes((data / "own.jsonl.gz").read_bytes())
    for command, why in commands_of(page):
        if why is not None:
            continue
        words = []
        for word in shlex.split(command, comments=True)[1:]:
            words += sorted(map(str, Path().glob(word))) if "*" in word else [word]
        code, _, said = cka(*words)
        assert code == 0, f"{command}: {said}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_is_one_of_the_program(page: Path) -> None:
    for command, _ in commands_of(page):
        parse(shlex.split(command, comments=True)[1:])


def parse(words: list[str]) -> None:
    """Parse a command's words without running it; one that does not fit raises the parser's error."""
    command = typer.main.get_command(app)
    context = command.make_context("cka", list(words)) if "--version" not in words else None
    while context is not None and hasattr(command, "list_commands"):
        name, command, words = command.resolve_command(context, [*context._protected_args, *context.args])
        context = command.make_context(name, list(words), parent=context)


def test_an_option_that_is_not_there_is_found() -> None:
    with pytest.raises(Exception, match="No such option"):
        parse(["compare", "A", "B", "--corpsu", "sample"])
    with pytest.raises(Exception, match="No such command"):
        parse(["compair", "A", "B"])


def test_every_warning_is_explained() -> None:
    sources = "\n".join(file.read_text(encoding="utf-8") for file in (ROOT / "cka_tools").rglob("*.py"))
    codes = set(re.findall(r'(?:\bwarn\(|_warning\(|"code": )\s*"([a-z0-9-]+)"', sources))
    assert {"estimators-disagree", "orders-differ", "same-weights"} <= codes
    explained = set(
        re.findall(r"^\| `([a-z0-9-]+)` \|", (ROOT / "docs/believe.md").read_text(encoding="utf-8"), re.MULTILINE)
    )
    assert explained == codes
