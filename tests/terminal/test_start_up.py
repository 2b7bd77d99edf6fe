"""What a command imports: those that read need none of the packages that compute, and start at once."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

RESULTS = Path(__file__).parents[2] / "figures" / "results"
HEAVY = {"torch", "transformers", "datasets", "accelerate", "scipy", "matplotlib", "seaborn"}
CODE = """
import gc, json, sys
from cka_tools.terminal.app import main
sys.argv[0] = "cka"
try:
    main()
except SystemExit as left:
    assert not left.code, left.code
print(json.dumps([gc.get_stats()[2]["collections"], sorted(sys.modules)]), file=sys.stderr)
"""


def ran(code: str, *arguments: str) -> tuple[int, set[str]]:
    """How often a process looked through all its objects for garbage, and the modules it imported."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    whole, modules = json.loads(done.stderr.splitlines()[-1])
    return whole, set(modules)


def imported(*arguments: str) -> set[str]:
    """Top-level packages that a command imported."""
    return {name.partition(".")[0] for name in ran(CODE, *arguments)[1]}


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("--version",),
        ("compare", "--help"),
        ("ablate", "--help"),
        ("study", "--help"),
        ("show", str(RESULTS / "detour")),
        ("show", str(RESULTS / "decay")),
        ("summary", str(RESULTS / "detour")),
        ("cache", "list"),
        ("recipe", "show", "clm-detour"),
    ],
    ids=lambda arguments: " ".join(Path(one).name for one in arguments),
)
def test_what_only_reads_imports_nothing_that_computes(
    arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CKA_TOOLS_CACHE", str(tmp_path))
    assert not imported(*arguments) & HEAVY


def test_a_figure_is_drawn_without_torch(tmp_path: Path) -> None:
    found = imported("plot", str(RESULTS / "detour"), "--out", str(tmp_path / "figure.png"))
    assert "matplotlib" in found
    assert not found & (HEAVY - {"matplotlib", "seaborn", "scipy"})


def test_layers_needs_neither_corpora_nor_figures() -> None:
    collections, found = ran(CODE, "layers", "demo:theta0")
    assert "torch" in found
    assert not found & {"datasets", "matplotlib", "seaborn", "pandas", "sklearn", "scipy.stats"}
    assert collections <= 1, "garbage is looked for again and again while packages are imported"


def test_a_comparison_needs_no_package_of_statistics_or_corpora() -> None:
    code = """
import json, sys
import cka_tools.comparison.run_comparison, cka_tools.plotting
print(json.dumps([0, sorted(sys.modules)]), file=sys.stderr)
"""
    _, found = ran(code)
    assert {"torch", "transformers", "matplotlib"} <= found
    assert not found & {"datasets", "seaborn", "sklearn", "scipy.stats", "scipy.cluster", "peft", "torchvision"}
