"""Wheel and sdist as they are published, tried outside the clone with what `pip install cka-tools` brings, no more."""

import importlib.metadata
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from cka_tools import __version__

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CONSUMER = Path(__file__).with_name("consumer.py")
INSTALL = ROOT / "docs" / "install.md"
STRICT = """\
[mypy]
strict = True
# Of these the public types name a few classes; following them costs a minute.
[mypy-torch.*,transformers.*,datasets.*,scipy.*,pandas.*]
follow_imports = skip
ignore_missing_imports = True
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The wheel, which is made from the sdist, and the sdist."""
    pytest.importorskip("build", reason="needs the extra `dev`")
    pytest.importorskip("hatchling", reason="needs the extra `dev`")
    place = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", place, ROOT)
    return next(place.glob("*.whl")), next(place.glob("*.tar.gz"))


@pytest.fixture(scope="module")
def clean(built: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of an environment that holds the wheel and what it requires, without any extra."""
    place = tmp_path_factory.mktemp("clean")
    run(sys.executable, "-m", "venv", "--without-pip", place)
    scripts = place / ("Scripts" if os.name == "nt" else "bin")
    library = Path(run(scripts / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    link_requirements(built[0], library)
    run(sys.executable, "-m", "pip", "--python", scripts / "python", "install", "-q", "--no-deps", built[0])
    return scripts


def link_requirements(wheel: Path, library: Path) -> None:
    """Link the packages that a wheel requires, and those that these require, from this environment."""
    with zipfile.ZipFile(wheel) as opened:
        metadata = opened.read(f"cka_tools-{__version__}.dist-info/METADATA").decode()
    wanted = [("", Requirement(line)) for line in re.findall(r"^Requires-Dist: (.+)$", metadata, re.MULTILINE)]
    seen = set()
    while wanted:
        extra, one = wanted.pop()
        if one.marker is not None and not one.marker.evaluate({"extra": extra}):
            continue
        for inner in ("", *one.extras):
            if (name := (canonicalize_name(one.name), inner)) in seen:
                continue
            seen.add(name)
            try:
                found = importlib.metadata.distribution(one.name)
            except importlib.metadata.PackageNotFoundError:
                continue  # of another system: a package that is missed fails below
            wanted += [(inner, Requirement(line)) for line in found.requires or ()]
            for top in {
                Path(file.parts[0]) for file in found.files or () if file.parts[0] not in ("..", "__pycache__")
            }:
                link = library / top
                if not link.exists():
                    link.symlink_to(Path(str(found.locate_file(top))))


def run(*command: str | Path, cwd: Path | None = None, code: int = 0, **environment: str) -> str:
    """Standard output and error of a command that has to end with a code."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MYPYPATH")}
    done = subprocess.run(
        [*map(str, command)], cwd=cwd, capture_output=True, text=True, check=False, env=kept | environment
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_both_hold_what_is_published_and_nothing_else(built: tuple[Path, Path]) -> None:
    wheel, sdist = built
    with zipfile.ZipFile(wheel) as opened:
        names = set(opened.namelist())
        metadata = opened.read(f"cka_tools-{__version__}.dist-info/METADATA").decode()
    assert {"cka_tools/py.typed", "cka_tools/data/sample.jsonl.gz", "cka_tools/data/models/theta0/config.json"} <= names
    assert f"version: {__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert {name.split("/")[0] for name in names} == {"cka_tools", f"cka_tools-{__version__}.dist-info"}
    assert not [name for name in names if name.endswith(".py") and "/data/" in name]
    for extra in ("train", "probe", "evaluate", "adapters"):
        assert f"Provides-Extra: {extra}" in metadata
    with tarfile.open(sdist) as opened:
        parts = [Path(member.name).parts[1:] for member in opened]
    tops = {part[0] for part in parts if part}
    assert {"cka_tools", "tests", "docs", "figures", "pyproject.toml", "README.md", "CITATION.cff"} <= tops
    assert not tops & {".ci", ".venv", "dist", "site", ".mypy_cache"}


def test_the_size_that_is_stated_is_the_wheels(built: tuple[Path, Path]) -> None:
    stated = re.search(r"wheel is about (\d+) MB", INSTALL.read_text(encoding="utf-8"))
    assert stated is not None
    assert abs(int(stated[1]) - built[0].stat().st_size / 1e6) < 1.5


def test_the_wheel_compares_without_any_extra(clean: Path, tmp_path: Path) -> None:
    assert run(clean / "cka", "--version", cwd=tmp_path).strip() == f"cka-tools {__version__}"
    shown = run(clean / "cka", "demo", "--documents", "40", "--out", "run", cwd=tmp_path, HF_HUB_OFFLINE="1")
    assert "Saved in run" in shown
    assert (tmp_path / "run" / "result.json").is_file()


def test_each_missing_extra_is_named_in_one_line(clean: Path, tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(f"text {number} " * 300 for number in range(400)), encoding="utf-8")
    training = (
        "train",
        "clm-detour",
        "--start",
        "demo:theta0",
        "--corpus",
        texts,
        "--out",
        "trained",
        "--tokens",
        "100000",
    )
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}", encoding="utf-8")
    for command, extra in (
        (training, "train"),
        (("probe", "demo:theta0", "--task", "sections"), "probe"),
        (("layers", "demo:theta0+adapter"), "adapters"),
    ):
        said = run(clean / "cka", *command, cwd=tmp_path, code=2, HF_HUB_OFFLINE="1")
        assert f"pip install 'cka-tools[{extra}]'" in said
        assert len(said.strip().splitlines()) == 1


def test_a_consumers_types_are_checked_strictly(clean: Path, tmp_path: Path) -> None:
    pytest.importorskip("mypy", reason="needs the extra `dev`")
    (tmp_path / "mypy.ini").write_text(STRICT, encoding="utf-8")
    (tmp_path / "consumer.py").write_bytes(CONSUMER.read_bytes())
    wrong = "import cka_tools\nx: str = cka_tools.cka([[0.0]], [[0.0]], estimator=1)\n"
    (tmp_path / "wrong.py").write_text(wrong, encoding="utf-8")
    command = (sys.executable, "-m", "mypy", "--python-executable", clean / "python")
    found = run(*command, "consumer.py", "wrong.py", cwd=tmp_path, code=1)
    assert "wrong.py:2" in found
    assert "consumer.py" not in found
