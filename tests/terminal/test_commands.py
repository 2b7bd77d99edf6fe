"""The `cka` command from end to end: what it prints, writes and returns."""

import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from transformers import ViTConfig, ViTModel

from cka_tools.formatting import percent, times

COMMANDS = ("demo", "compare", "show", "summary", "plot", "layers")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("corpus") / "words.jsonl"
    rows = [{"id": f"doc{i}", "text": " ".join(f"w{w}" for w in rng.integers(0, 120, size=20))} for i in range(60)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture(scope="module")
def models(tiny_model) -> tuple[Path, Path]:
    return tiny_model("modernbert", seed=0), tiny_model("modernbert", seed=1)


@pytest.fixture(scope="module")
def run_dir(models, corpus, tmp_path_factory) -> Path:
    from cka_tools import compare

    return compare(*map(str, models), corpus, max_length=64).save(tmp_path_factory.mktemp("runs") / "one")


def test_compare_prints_a_table_and_a_sentence_and_saves_a_run(cka, models, corpus, tmp_path):
    code, out, err = cka("compare", *models, "--corpus", corpus, "--max-length", 64, "--out", "run")
    assert (code, err) == (0, "")
    record = json.loads((tmp_path / "run" / "result.json").read_text())
    mean = record["summary"]["mean_divergence"]["debiased"]["value"]
    assert f"Mean divergence {percent(mean)} %" in " ".join(out.split())
    assert len(re.findall(r"(?m)^ [0-5]  ", out)) == 6
    assert {p.name for p in (tmp_path / "run").iterdir()} >= {"figure.pdf", "figure.png", "layers.csv"}
    assert record["provenance"]["command"].startswith("cka compare ")
    assert record["provenance"]["command"].endswith("--out run")


def test_json_is_all_that_is_printed(cka, models, corpus):
    code, out, _ = cka("compare", *models, "--corpus", corpus, "--max-length", 64, "--json")
    assert code == 0
    assert json.loads(out)["n_documents"] == 60


def test_quiet_prints_nothing_and_names_the_run_after_the_models(cka, models, corpus, tmp_path):
    for number in ("", "-2"):
        assert cka("compare", *models, "--corpus", corpus, "--max-length", 64, "--quiet") == (0, "", "")
        name = f"cka-{models[0].name}-vs-{models[1].name}{number}"
        assert (tmp_path / name / "result.json").is_file()


def test_flags_reach_the_comparison(cka, models, corpus):
    read = ["--documents", 40, "--pooling", "last", "--sites", "mlp", "--layers", "1,3-4", "--early", 1]
    run = ["--seed", 7, "--rescale", "--batch-tokens", 99, "--max-length", 32, "--json"]
    run += ["--pairs", "diagonal"]
    code, out, err = cka("compare", *models, "--corpus", corpus, *read, *run)
    assert code == 0, err
    record = json.loads(out)
    settings = record["provenance"]["settings"]
    assert record["n_documents"] == 40
    assert [entry["layer_a"] for entry in record["layers"]] == [1, 3, 4]
    assert record["summary"]["early_layers"] == [1]
    assert (settings["pooling"], settings["sites"], settings["max_length"]) == ("last", "mlp", 32)
    assert (settings["seed"], settings["rescale"]) == (7, True)
    assert record["provenance"]["corpus"]["draws"][0]["plan"]["limit"] == 99
    assert "rescaled" in record["layers"][0]
    assert record["matrix"]["debiased"][0][1] is None


def test_show_prints_a_saved_run(cka, run_dir, tmp_path):
    code, out, _ = cka("show", run_dir)
    assert code == 0
    assert "Mean divergence" in out
    saved = json.loads((run_dir / "result.json").read_text())
    del saved["format"]
    assert json.loads(cka("show", run_dir, "--json")[1]) == saved
    code, out, _ = cka("show", run_dir, "--out", "report.txt")
    assert (code, out) == (0, "")
    assert "Mean divergence" in (tmp_path / "report.txt").read_text()


@pytest.mark.parametrize(("name", "magic"), [("f.pdf", b"%PDF"), ("f.png", b"\x89PNG"), ("f.svg", b"<?xml")])
def test_plot_writes_what_the_name_says(cka, run_dir, tmp_path, name, magic):
    assert cka("plot", run_dir, "--out", name)[0] == 0
    assert (tmp_path / name).read_bytes().startswith(magic)


def test_plot_draws_what_is_chosen(cka, run_dir, tmp_path):
    code, out, err = cka("plot", run_dir, "--what", "heatmap", "--range", "0:1", "--cmap", "jet", "--out", "heat.svg")
    assert (code, out) == (0, "Wrote heat.svg\n")
    assert "note: --cmap jet does not run from dark to light" in err
    svg = (tmp_path / "heat.svg").read_text()
    assert ">layer of A</text>" in svg, "text is kept as text"
    code, out, _ = cka(
        "plot", run_dir, "--what", "layers", "--font", "9", "--size", "double", "--out", "l.pdf", "--json"
    )
    assert json.loads(out) == {"figures": ["l.pdf"]}
    for options, words in (
        (["--what", "layers"], "a figure of your own choices does not replace that of the run"),
        (["--range", "1", "--out", "a.png"], "--range '1' does not fit"),
        (["--what", "layers", "--cmap", "gray", "--annotate", "--out", "a.png"], "--cmap and --annotate would"),
        (["--what", "heatmap", "--no-biased", "--out", "a.png"], "--no-biased would change nothing in --what heatmap"),
        (["--what", "sheet"], "'sheet'"),
        (["--font", "big", "--out", "a.png"], "--font 'big' is not a number"),
    ):
        code, out, err = cka("plot", run_dir, *options)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert words in err
    assert not (tmp_path / "a.png").exists()


def test_layers_lists_blocks_and_branches(cka, models):
    code, out, _ = cka("layers", models[0], "--json")
    assert code == 0
    described = json.loads(out)
    assert [layer["index"] for layer in described] == list(range(6))
    assert all(layer["path"] and layer["attention"] and layer["mlp"] for layer in described)
    assert "layers.5" in cka("layers", models[0])[1]


def test_demo_runs_offline_on_what_ships(cka, tmp_path):
    code, out, err = cka("demo", "--documents", 40, "--out", "demo")
    assert code == 0, err
    assert "clm-detour" in out
    assert (tmp_path / "demo" / "figure.png").is_file()


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example_of_each_command(cka, command):
    code, out, _ = cka(command, "--help")
    assert code == 0
    assert f"Example: cka {command}" in " ".join(out.split())
    for option in ("--out", "--quiet", "--json"):
        assert option in out


@pytest.mark.parametrize("group", [(), ("study",), ("cache",), ("recipe",)])
def test_no_command_of_a_list_is_cut_short_at_80_columns(cka, group):
    code, out, _ = cka(*group, "--help")
    assert code == 0
    lines = out.split("Commands:")[1].strip().splitlines()
    assert lines
    assert [line for line in lines if len(line) > 80 or line.endswith("...")] == []


@pytest.fixture(scope="module")
def bad(tmp_path_factory, models) -> Path:
    """A folder of things that are no models and no corpora."""
    folder = tmp_path_factory.mktemp("bad")
    (folder / "empty-model").mkdir()
    (folder / "pickled").mkdir()
    (folder / "pickled" / "config.json").write_text((models[0] / "config.json").read_text())
    (folder / "pickled" / "pytorch_model.bin").write_bytes(pickle.dumps({}))
    (folder / "no-tokenizer").mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / "no-tokenizer" / name).write_bytes((models[0] / name).read_bytes())
    (folder / "remote").mkdir()
    for tokenizer_file in models[0].glob("*token*"):
        (folder / "remote" / tokenizer_file.name).write_bytes(tokenizer_file.read_bytes())
    auto = {"model_type": "mine", "auto_map": {"AutoConfig": "code.Config", "AutoModel": "code.Model"}}
    (folder / "remote" / "config.json").write_text(json.dumps(auto))
    (folder / "remote" / "model.safetensors").write_bytes((models[0] / "model.safetensors").read_bytes())
    (folder / "empty.txt").write_text("")
    (folder / "blank.txt").write_text("   \n\n \t \n")
    (folder / "three.txt").write_text("one\ntwo\nthree")
    (folder / "binary.txt").write_bytes(bytes(range(256)) * 4)
    (folder / "broken.jsonl").write_text('{"text": "fine"}\n{"text": ')
    (folder / "table.xlsx").write_text("x")
    return folder


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("demo:nothing", "mlm-baseline"),
        ("{bad}/not-there", "not-there"),
        ("{bad}/empty-model", "config.json"),
        ("{bad}/pickled", "safetensors"),
        ("{bad}/no-tokenizer", "tokenizer"),
        ("{bad}/remote", "--trust-remote-code"),
        ("someone/unreachable", "unreachable"),
    ],
)
def test_a_model_that_does_not_fit_is_one_line_and_exit_code_2(cka, bad, models, corpus, tmp_path, model, words):
    code, out, err = cka("compare", model.format(bad=bad), models[0], "--corpus", corpus)
    assert (code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir()), "nothing is written"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("{bad}/not-there.txt", "not-there.txt"),
        ("{bad}/empty.txt", "empty.txt"),
        ("{bad}/blank.txt", "blank.txt"),
        ("{bad}/three.txt", "3"),
        ("{bad}/binary.txt", "binary.txt"),
        ("{bad}/broken.jsonl", "line 2"),
        ("{bad}/table.xlsx", ".xlsx"),
        ("pubmed", "sample"),
        ("hf:someone/unreachable", "sample"),
        ("nonsense", "sample"),
    ],
)
def test_a_corpus_that_does_not_fit_is_one_line_and_exit_code_2(cka, bad, models, tmp_path, given, words):
    code, out, err = cka("compare", *models, "--corpus", given.format(bad=bad), "--max-length", 64)
    assert (code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "flags",
    ["--layers 9", "--layers x", "--early 8",
     "--documents 61", "--documents 3", "--documents many", "--seed -1",
     "--max-length 65", "--pooling max", "--protocol mine", "--dtype int8", "--device tpu", "--no-such-flag"],
)  # fmt: skip
def test_flags_that_do_not_fit_are_one_line_and_exit_code_2(cka, models, corpus, tmp_path, flags):
    code, out, err = cka("compare", *models, "--corpus", corpus, *flags.split())
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_an_output_directory_with_another_run_is_refused_before_any_work(cka, models, corpus, run_dir):
    before = {p.name: p.read_bytes() for p in run_dir.iterdir()}
    code, _, err = cka("compare", "demo:nothing-is-loaded", models[0], "--corpus", corpus, "--out", run_dir)
    assert code == 2
    assert "holds another run" in err
    assert {p.name: p.read_bytes() for p in run_dir.iterdir()} == before


@pytest.mark.parametrize("command", ["show", "plot"])
def test_what_is_no_run_is_named(cka, tmp_path, command):
    code, _, err = cka(command, tmp_path)
    assert code == 2
    assert str(tmp_path) in err
    assert err.count("\n") == 1


def test_a_model_named_like_markup_is_printed_literally(cka, models, corpus, tmp_path):
    (tmp_path / "[red]x[bold]").symlink_to(models[0])
    code, out, _ = cka("compare", "./[red]x[bold]", models[1], "--corpus", corpus, "--max-length", 64)
    assert code == 0
    assert "[red]x[bold]" in out


def test_empty_documents_are_counted_and_reported(cka, models, corpus, tmp_path):
    rows = corpus.read_text().split("\n") + [json.dumps({"text": t}) for t in ("", "  ", "w1 w2", "w1 w2")]
    (tmp_path / "holes.jsonl").write_text("\n".join(rows))
    code, out, _ = cka("compare", *models, "--corpus", "holes.jsonl", "--max-length", 64, "--json")
    assert code == 0
    record = json.loads(out)
    counts = record["provenance"]["corpus"]["draws"][0]["counts"]
    assert (counts["empty"], counts["duplicates"]) == (2, 1)
    assert any("empty" in note or "white space" in note for note in record["summary"]["notes"])


@pytest.mark.parametrize("launcher", [["-m", "cka_tools"], ["cli.py"]], ids=["python -m cka_tools", "python cli.py"])
def test_other_ways_to_start_it_are_the_same(launcher):
    root = Path(__file__).resolve().parents[2]
    found = subprocess.run(
        [sys.executable, *launcher, "show", "nowhere"], cwd=root, capture_output=True, text=True, timeout=120
    )
    assert found.returncode == 2
    assert found.stderr.startswith("cka: 'nowhere' is not a run: it holds no result.json; ")


def test_ctrl_c_says_what_was_kept_and_leaves_no_run(cka, models, corpus, tmp_path, monkeypatch, request):
    from cka_tools.compute import Told

    monkeypatch.setattr(Told, "__call__", lambda self, *done: os.kill(os.getpid(), signal.SIGINT))
    # Python leaves a signal ignored that was ignored when it was started, as in a shell's background jobs.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    code, out, err = cka("compare", *models, "--corpus", corpus, "--max-length", 64, "--out", "run", "--no-cache")
    assert (code, out) == (130, "")
    assert err.startswith("cka: interrupted: ")
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def controls(tiny_model) -> tuple[Path, Path]:
    """A control that fits, and one that is too shallow."""
    return tiny_model("modernbert", seed=2), tiny_model("modernbert", layers=3)


def test_a_control_is_compared_printed_saved_shown_and_plotted(cka, models, controls, corpus, tmp_path):
    control = controls[0]
    code, out, err = cka(
        "compare", *models, "--control", control, "--corpus", corpus, "--max-length", 64, "--out", "run"
    )
    assert (code, err) == (0, "")
    record = json.loads((tmp_path / "run" / "result.json").read_text())
    ratio = record["summary"]["ratio"]["mean"]["value"]
    assert f"{times(ratio)} times the seed noise" in " ".join(out.split())
    roles = {model["role"]: model["name"] for model in record["provenance"]["models"]}
    assert roles == {"a": str(models[0]), "b": str(models[1]), "control": str(control)}
    assert "times the seed noise" in " ".join(cka("show", "run")[1].split())
    assert cka("plot", "run", "--out", "f.svg")[0] == 0
    assert (tmp_path / "f.svg").stat().st_size > 0


def test_labels_are_kept_in_the_run_and_shown(cka, models, controls, corpus, tmp_path):
    labels = ["--label", "A=the detour", "--label", "B=[b]base[/b]=1", "--label", "control=seed 2"]
    code, out, _ = cka(
        "compare", *models, "--control", controls[0], *labels, "--corpus", corpus, "--max-length", 64, "--out", "run"
    )
    assert code == 0
    assert f"the detour: {models[0]}" in out.replace("\n", "").replace("         ", "")
    kept = json.loads((tmp_path / "run" / "result.json").read_text())["provenance"]["models"]
    assert [model["label"] for model in kept] == ["the detour", "[b]base[/b]=1", "seed 2"]
    assert "the detour vs [b]base[/b]=1" in cka("summary", "run", "--format", "csv")[1]
    assert cka("plot", "run", "--out", "figure.svg")[0] == 0


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (["A"], "--label 'A' is not a label: write it like A=detour"),
        (["C=x"], "label 'C=x' is of none of A, B: write it like A=detour"),
        (["control=x"], "label 'control=x' is of none of A, B"),
        (["A=x", "A=y"], "--label 'A' is given twice"),
        (["A= "], "label 'A= ' has no letter"),
    ],
)
def test_labels_that_do_not_fit_are_one_line(cka, models, labels, words):
    code, out, err = cka("compare", *models, *(f"--label={label}" for label in labels))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert words in err


def test_a_control_that_does_not_fit_is_one_line_and_exit_code_2(cka, models, controls, corpus, tmp_path):
    for given, words in ((controls[1], "3 layers"), ("demo:nothing", "demo:nothing")):
        code, out, err = cka("compare", *models, "--control", given, "--corpus", corpus, "--max-length", 64)
        assert (code, out) == (2, "")
        assert words in err
        assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_summary_prints_and_writes_each_format(cka, run_dir, tmp_path):
    code, out, _ = cka("summary", run_dir, run_dir, "--label", "one", "--label", "a_b")
    assert code == 0
    assert "a_b" in out
    held = json.loads(cka("summary", run_dir, "--json")[1])
    saved = json.loads((run_dir / "result.json").read_text())
    mean = saved["summary"]["mean_divergence"]["debiased"]["value"]
    assert held["runs"][0]["mean_divergence"] == pytest.approx(mean)
    assert held["runs"][0]["ratio_mean"] is None
    for form, words in (("latex", "\\toprule"), ("markdown", "---:"), ("csv", "model_a")):
        assert words in cka("summary", run_dir, "--format", form)[1]
        assert cka("summary", run_dir, "--format", form, "--out", f"table.{form}") == (0, "", "")
        assert words in (tmp_path / f"table.{form}").read_text()
        assert cka("summary", run_dir, "--format", form, "--quiet") == (0, "", "")


def test_summary_passes_over_what_is_no_comparison_and_says_so(cka, run_dir, tmp_path):
    (tmp_path / "ablation").mkdir()
    (tmp_path / "ablation" / "result.json").write_text(json.dumps({"format": 1, "kind": "ablation"}))
    (tmp_path / "training").mkdir()
    (tmp_path / "notes.txt").touch()
    both = ("--label", "a", "--label", "b", "--label", "c")
    for labels in ((), both, ("--label", "a")):
        code, out, err = cka("summary", "ablation", run_dir, "training", *labels, "--format", "csv")
        assert code == 0
        assert err.splitlines() == [
            "note: 'ablation' is a run of `cka ablate`: passed over",
            "note: 'training' holds no result.json: passed over",
        ]
        (row,) = out.splitlines()[1:]
        name = row.split(",")[0]
        assert name == ("b" if labels == both else "a") if labels else " vs " in name


def test_summary_of_no_comparison_at_all_is_one_line(cka, run_dir, tmp_path):
    (tmp_path / "ablation").mkdir()
    (tmp_path / "ablation" / "result.json").write_text(json.dumps({"format": 1, "kind": "ablation"}))
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "result.json").write_text("{")
    for given, words in (
        (["ablation"], "no run of `cka compare` given: 'ablation' is a run of `cka ablate`"),
        ([run_dir, "nowhere"], "is not a run"),
        ([run_dir, "damaged"], "is damaged"),
        ([run_dir, "--label", "a", "--label", "b"], "2 labels for 1 runs"),
        ([run_dir, "--columns", "mean,x"], "column 'x' is not one of"),
        ([run_dir, "--fit"], "--fit is for --format latex, not table"),
        ([run_dir, "--format", "csv", "--latex-label", "tab:a"], "--latex-label is for --format latex, not csv"),
    ):
        code, out, err = cka("summary", *given)
        assert (code, out) == (2, "")
        assert words in err
        assert err.count("\n") == 1


def test_debug_prints_the_traceback_behind_an_error(cka, models, tmp_path):
    broken = tmp_path / "no-text"
    config = ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=8)
    ViTModel(config).save_pretrained(broken)
    for file in Path(models[0]).glob("tokenizer*"):
        shutil.copy(file, broken)
    code, _, plain = cka("compare", models[0], broken)
    assert code == 2
    assert "Traceback" not in plain
    assert "ViTModel reads pixel_values, not text" in plain.splitlines()[-1]
    code, _, told = cka("compare", models[0], broken, "--debug")
    assert code == 2
    assert "Traceback (most recent call last)" in told
    assert told.splitlines()[-1] == plain.splitlines()[-1]
