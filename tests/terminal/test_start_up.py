"""What a command imports: those that read need none of the packages that compute, and start at once."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

RESULTS = Path(__file__).parents[2] / "figures" / "results"
HEAVY = {"torch", "transformers", "datasets", "accelerate", "scipy", "matplotlib", "seaborn"}
CODE = """
import json, sys
from cka_tools.terminal.app import main
sys.argv[0] = "cka"
try:
    main()
except SystemExit as left:
    assert not left.code, left.code
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})), file=sys.stderr)
"""


def imported(*arguments: str) -> set[str]:
    """Top-level packages that a command imported."""
    done = subprocess.run([sys.executable, "-c", CODE, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stderr.splitlines()[-1]))


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
    found = imported("layers", "demo:theta0")
    assert "torch" in found
    assert not found & {"datasets", "matplotlib", "seaborn"}
