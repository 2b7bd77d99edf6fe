"""`cka contrast` from end to end: the table, the record, the other commands, bad input in one line."""

import csv
import json
import shutil

import pytest

from cka_tools import Contrast
from cka_tools.formatting import percent


@pytest.fixture(scope="module")
def models(tiny_model):
    return [str(tiny_model("modernbert", seed=seed, layers=3)) for seed in range(6)]


def group(name, members):
    return "--group", f"{name}={','.join(map(str, members))}"


@pytest.fixture
def run(cka, models, corpus, tmp_path):
    code, out, err = cka(
        "contrast", *group("detour", models[:3]), *group("baseline", models[3:]), "--corpus", corpus, "--out", "run"
    )
    assert (code, err) == (0, "")
    return tmp_path / "run", out


def test_the_table_says_what_was_found_and_what_not_to_conclude(run):
    folder, out = run
    assert max(map(len, out.splitlines())) <= 80
    words = " ".join(out.split())
    assert "10 ways to label checkpoints; the smallest possible is 0.10" in words
    assert "over documents and training seeds" in words
    assert "group detour, 3 checkpoints" in words
    assert "no test at 5 % is possible, so nothing is shown either way" in words
    record = json.loads((folder / "result.json").read_text())
    assert (record["format"], record["kind"]) == (2, "contrast")
    for part in ("between", "within"):
        assert percent(record["summary"]["mean"][part]["value"]) in out
    rows = list(csv.DictReader((folder / "contrast.csv").open()))
    assert [row["layer"] for row in rows] == ["0", "1", "2", "early", "mean"]
    assert float(rows[-1]["between"]) == record["summary"]["mean"]["between"]["value"]


def test_other_commands_know_a_contrast(run, cka, tmp_path):
    folder, out = run
    code, again, _ = cka("show", folder)
    assert code == 0
    assert again.strip() in out
    code, data, _ = cka("show", folder, "--json")
    assert json.loads(data) == Contrast.load(folder).record
    code, _, _ = cka("plot", folder, "--out", tmp_path / "figure.pdf")
    assert code == 0
    assert (tmp_path / "figure.pdf").read_bytes().startswith(b"%PDF")
    code, _, err = cka("summary", folder)
    assert code == 2
    assert "is a run of `cka contrast`" in err


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "0 groups given"),
        (["a={0},{1}"], "1 group given"),
        (["a={0},{1}", "b={2}"], "group 'b' has 1 checkpoint"),
        (["a={0},{1}", "a={2},{3}"], "--group 'a' is given twice"),
        (["{0},{1}", "b={2},{3}"], "is not a group: write it like"),
        (["={0},{1}", "b={2},{3}"], "is not a group: write it like"),
        (["a={0},,{1}", "b={2},{3}"], "is not a group: write it like"),
        (["a={0},{1}", "b={2},{1}"], "is in 'a' and 'b'"),
        (["a={0},{1}", "b={2},{3}", "c={4},{5}"], "3 groups given"),
        (["a={0},{1}", "b={2},nowhere/at-all/no"], "nowhere"),
        (["a={0},{1}", "b={2},{3},{4}", "--paired"], "paired groups of 2 and 3"),
    ],
)
def test_bad_groups_are_refused_in_one_line(cka, models, corpus, tmp_path, given, message):
    texts = [part.format(*models) for part in given]
    arguments = [one for text in texts for one in ((text,) if text.startswith("--") else ("--group", text))]
    code, out, err = cka("contrast", *arguments, "--corpus", corpus, "--out", "run")
    assert code == 2
    assert out == ""
    assert err.startswith("cka: ")
    assert err.count("\n") == 1
    assert message in err
    assert not (tmp_path / "run").exists()


def test_a_copy_under_another_name_is_refused(cka, models, corpus, tmp_path):
    shutil.copytree(models[0], tmp_path / "copy")
    code, _, err = cka("contrast", *group("a", models[:2]), *group("b", [models[2], "copy"]), "--corpus", corpus)
    assert code == 2
    assert "hold the same weights" in err


def test_names_are_never_read_as_markup(cka, models, corpus):
    code, out, _ = cka(
        "contrast", *group("[red]x", models[:2]), *group(r"a_$\frac{", models[2:4]), "--corpus", corpus,
        "--out", "run",
    )  # fmt: skip
    assert code == 0
    assert "[red]x" in out
    assert r"a_$\frac{" in " ".join(out.split())
