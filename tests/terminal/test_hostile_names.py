"""Names that a terminal or a spreadsheet would obey, in every command."""

import csv
import io
import json
import shutil

import pytest

from cka_tools.comparison.run_directory import RESULT
from cka_tools.formatting import visible

#: ESC, C1's CSI and OSC, a bell, a line end, right-to-left override, zero width, delete.
CONTROLS = "\x1b[31m\x9b2J\x9d0;x\x07\n\u202e\u200b\x7f"
GROUP = f"cmd()|{CONTROLS}evil"
EVIL = f"={GROUP}"

ROWS = [{"id": f"d{i}", "text": " ".join(f"w{(i * j) % 120}" for j in range(1, 30))} for i in range(24)]


@pytest.fixture(scope="module")
def world(tiny_model, tmp_path_factory):
    """A folder with models, a corpus, a recipe and runs of hostile names."""
    folder = tmp_path_factory.mktemp("world") / f"a{CONTROLS}"
    folder.mkdir()
    for seed in range(4):
        shutil.copytree(tiny_model("modernbert", seed=seed, layers=2, head=True), folder / f"{EVIL}{seed}")
    (folder / f"{EVIL}.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    return folder


@pytest.fixture
def harmless(cka, world, monkeypatch):
    """Run a command among the hostile names; its output must obey nobody."""

    def run(*arguments, code=0):
        monkeypatch.chdir(world)
        found, out, err = cka(*arguments)
        assert found == code, err
        assert code or not err
        for text in (out, err):
            assert visible(text, keep="\n") == text
        return out + err

    return run


MODELS = [f"{EVIL}{seed}" for seed in range(4)]
CORPUS = ["--corpus", f"{EVIL}.jsonl", "--max-length", 32]


def check_table(path):
    text = path.read_text()
    assert visible(text, keep="\n") == text
    cells = [cell for row in csv.reader(io.StringIO(text)) for cell in row]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "@"))]


def test_runs_show_nothing_that_is_obeyed(harmless, world):
    a, b, c, d = MODELS
    runs = {
        "compare": ["compare", a, b, "--control", c],
        "matrix": ["matrix", a, b],
        "trajectory": ["trajectory", a, b, c],
        "contrast": ["contrast", "--group", f"+{GROUP}={a},{b}", "--group", f"@{GROUP}={c},{d}"],
    }
    for name, command in runs.items():
        out = f"{EVIL}-{name}"
        shown = harmless(*command, *CORPUS, "--out", out)
        assert "=cmd()|" in shown
        for flags in ([], ["--json"], ["--out", f"{EVIL}.txt"]):
            harmless("show", out, *flags)
        harmless("show", out, "--out", f"{EVIL}.txt")
        written = (world / f"{EVIL}.txt").read_text()
        assert visible(written, keep="\n") == written
        check_table(next((world / out).glob("*.csv")))
        if name in ("compare", "matrix"):
            harmless("plot", out)
            harmless("plot", out, "--out", f"{EVIL}.svg")
    for form in ("table", "csv", "markdown", "latex"):
        for label in ([], ["--label", EVIL]):
            harmless("summary", f"{EVIL}-compare", "--format", form, *label)
            harmless("summary", f"{EVIL}-compare", "--format", form, *label, "--out", "table.csv")
            if form == "csv":
                check_table(world / "table.csv")
    for command in (["list"], ["list", "--json"], ["verify"], ["path"], ["rm", "--all", "--yes"]):
        harmless("cache", *command)


def test_a_foreign_record_shows_nothing_that_is_obeyed(harmless, world):
    """Not only names: every text of a record that came from elsewhere."""
    harmless("compare", *MODELS[:2], "--control", MODELS[2], *CORPUS, "--out", "run")
    path = world / "run" / RESULT

    words = {"comparison", "a", "b", "control", "pair", "unknown"}  # that say what kind of thing it is

    def infected(value):
        if isinstance(value, dict):
            return {name: infected(one) for name, one in value.items()}
        if isinstance(value, list):
            return [infected(one) for one in value]
        return f"={value}{CONTROLS}" if isinstance(value, str) and value not in words else value

    record = json.loads(path.read_text())
    record["summary"]["notes"].append("note")
    record["summary"]["warnings"].append({"code": "x", "text": "y", "layers": [0]})
    record["layers"][0]["divergence"] |= {"value": None, "ci_low": None, "ci_high": None, "reason": "none"}
    path.write_text(json.dumps(infected(record)))
    for flags in ([], ["--json"]):
        harmless("show", "run", *flags)
    for form in ("table", "csv", "markdown", "latex"):
        harmless("summary", "run", "--format", form)


def test_other_commands_show_nothing_that_is_obeyed(harmless, world):
    harmless("layers", MODELS[0])
    harmless("layers", MODELS[0], "--json")
    shown = harmless("recipe", "show", "clm-detour", "--toml")
    recipe = world / f"{EVIL}.toml"
    recipe.write_text(shown.replace('name = "clm-detour"', f"name = {json.dumps(EVIL)}"))
    for flags in ([], ["--json"], ["--toml"]):
        assert "cmd()" in harmless("recipe", "show", recipe.name, *flags)
    train = ["train", recipe.name, "--start", MODELS[0], "--corpus", f"{EVIL}.jsonl", "--out", f"{EVIL}-trained"]
    harmless(*train, "--sequence-length", 16, "--sequences-per-step", 1, code=2)
    ablate = ["ablate", "length", "--corpus", f"{EVIL}.jsonl", "--start", MODELS[0], "--dry-run"]
    harmless(*ablate, "--tokens-per-second", 1000, code=2)


@pytest.mark.parametrize(
    "command",
    [
        [EVIL],
        ["compare", EVIL, EVIL],
        ["compare", "demo:theta0", "demo:theta0", "--corpus", EVIL],
        ["compare", "demo:theta0", "demo:theta0", "--layers", EVIL],
        ["compare", "demo:theta0", "demo:theta0", "--documents", EVIL],
        ["compare", "demo:theta0", "demo:theta0", "--pooling", EVIL],
        ["compare", "demo:theta0", "demo:theta0", "--keep-features", EVIL],
        ["compare", "demo:theta0", "demo:theta0", "--device", EVIL],
        ["compare", "demo:theta0", "demo:theta0", "--measure", EVIL],
        ["compare", "demo:theta0", "demo:theta0", "--column", EVIL],
        ["compare", "demo:theta0", "demo:theta0", "--out", f"nowhere/{EVIL * 9}"],
        ["compare", "demo:theta0", "demo:theta0", f"--{EVIL}"],
        ["matrix", EVIL, EVIL],
        ["trajectory", EVIL, EVIL],
        ["trajectory", "demo:theta0", "demo:theta0", "--x", EVIL],
        ["contrast", "--group", EVIL, "--group", EVIL],
        ["show", EVIL],
        ["plot", EVIL],
        ["plot", EVIL, "--out", EVIL],
        ["summary", EVIL],
        ["summary", EVIL, "--format", EVIL],
        ["layers", EVIL],
        ["cache", "rm", EVIL],
        ["recipe", "show", EVIL],
        ["train", EVIL, "--start", EVIL, "--corpus", EVIL, "--out", EVIL],
        ["train", "clm-detour", "--start", EVIL, "--corpus", "sample", "--out", "o"],
        ["train", "clm-detour", "--start", "demo:theta0", "--corpus", EVIL, "--out", "o"],
        ["train", "clm-detour", "--start", "demo:theta0", "--corpus", "sample", "--out", "o", "--freeze", EVIL],
        ["ablate", EVIL],
        ["ablate", "length", "--corpus", EVIL, "--dry-run"],
        ["ablate", "length", "--start", EVIL, "--dry-run"],
        ["ablate", "length", "--checkpoints", EVIL],
        ["demo", "--documents", EVIL],
        ["demo", "--out", EVIL * 9],
    ],
    ids=lambda command: " ".join("EVIL" if "cmd()" in str(part) else str(part) for part in command),
)
def test_an_error_quotes_without_what_is_obeyed(cka, command):
    code, out, err = cka(*command)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert visible(err, keep="\n") == err
