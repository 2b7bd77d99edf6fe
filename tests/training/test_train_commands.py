"""`cka train` and `cka recipe show`, and the run that they make."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_start import TEXTS, write_start
from transformers import AutoModelForMaskedLM

from cka_tools.formatting import duration
from cka_tools.models.folder import hash_weight_files
from cka_tools.training import checkpoint
from cka_tools.training.loop import held_out_loss, pack_held_out
from cka_tools.training.start_model import load_start

Cka = Callable[..., tuple[int, str, str]]
SMALL = ("--sequence-length", "16", "--sequences-per-step", "4", "--seed", "3", "--tokens", "1280", "--device", "cpu")


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """--start and --corpus of something small."""
    root = tmp_path_factory.mktemp("given")
    write_start(root / "theta0")
    (root / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return ("--start", str(root / "theta0"), "--corpus", str(root / "texts.jsonl"))


def test_a_run_holds_a_checkpoint_a_phase_and_the_whole_loss_curve(
    cka: Cka, given: tuple[str, ...], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    code, printed, err = cka("train", "clm-detour", *given, *SMALL, "--out", out, "--freeze", "low@decay")
    assert code == 0, err
    assert f"Wrote {out}/final (1,408 tokens" in printed
    assert "tokens/s" in err
    assert "left" in err
    assert sorted(path.name for path in out.iterdir()) == ["1-detour", "final", "loss.csv", "run.json"]
    assert AutoModelForMaskedLM.from_pretrained(out / "final").num_parameters() > 0
    rows = [row.split(",") for row in (out / "loss.csv").read_text().splitlines()]
    assert rows[0] == ["phase", "objective", "step", "tokens", "learning_rate", "loss", "tokens_per_second"]
    assert [int(row[3]) for row in rows[1:]] == list(range(64, 1409, 64))
    manifest = json.loads((out / "final" / "training.json").read_text())
    assert manifest["recipe"]["phases"][1]["frozen"] == [0]
    before, after = (load_file(out / name / "model.safetensors") for name in ("1-detour", "final"))
    frozen = "model.layers.0.mlp.Wi.weight"
    assert (before[frozen] == after[frozen]).all()
    assert (before[frozen.replace("0", "1")] != after[frozen.replace("0", "1")]).any()


def test_detour_and_baseline_read_the_same_data(cka: Cka, given: tuple[str, ...], tmp_path: Path) -> None:
    told = []
    for recipe in ("clm-detour", "mlm-baseline"):
        code, out, err = cka("train", recipe, *given, *SMALL, "--out", tmp_path / recipe, "--json", "--quiet")
        assert (code, err) == (0, "")
        told.append(json.loads(out))
    assert told[0]["data_sha256"] == told[1]["data_sha256"]
    assert told[0]["run_tokens"] == told[1]["run_tokens"] == 1408
    assert told[0]["weights_sha256"] != told[1]["weights_sha256"]
    again = cka("train", "clm-detour", *given, *SMALL, "--out", tmp_path / "clm-detour", "--json", "--quiet")
    assert json.loads(again[1]) == told[0]


def test_held_out_losses_are_measured_kept_and_shown(cka: Cka, given: tuple[str, ...], tmp_path: Path) -> None:
    out, texts = tmp_path / "run", tmp_path / "held-out.jsonl"
    held_out = [*TEXTS[:3], *(f"{text} w1 w2" for text in TEXTS)]
    texts.write_text("".join(json.dumps({"text": text}) + "\n" for text in held_out))
    kept = ("--keep-checkpoints", "--checkpoint-tokens", "640")
    train = ("train", "clm-detour", *given, *SMALL, *kept, "--out", out, "--eval", texts)
    code, printed, err = cka(*train)
    assert code == 0, err
    assert f"note: 3 texts of --eval '{texts}' are trained on as well" in err
    with (out / "held_out.csv").open() as file:
        rows = list(csv.DictReader(file))
    places = [("start", 0), ("detour", 640), ("detour", 1280), ("decay", 1408)]
    assert [(row["phase"], int(row["tokens"]), row["objective"]) for row in rows] == [
        (*place, objective) for place in places for objective in ("clm", "mlm")
    ]
    # The same number by hand, of the final model.
    model, tokenizer = load_start(out / "final")
    packed = pack_held_out(held_out, tokenizer, 16)
    for row in rows[-2:]:
        assert float(row["loss"]) == pytest.approx(held_out_loss(model, packed, tokenizer, row["objective"]), abs=1e-6)
        assert f"{float(row['loss']):.3f} {row['objective']}" in printed
    # Nothing is measured twice.
    assert "held out: " in err
    assert "held out: " not in cka(*train)[2]
    code, shown, err = cka("show", out)
    assert (code, err) == (0, "")
    assert f"{float(rows[-1]['loss']):.3f}" in shown
    assert "Finished: 1,408 of 1,408 tokens in 2 phases" in " ".join(shown.split())
    assert max(map(len, shown.splitlines())) <= 80
    told = json.loads(cka("show", out, "--json")[1])
    assert [row["tokens"] for row in told["losses"]] == list(range(64, 1409, 64))
    assert told["phases"][1]["last_loss"] == told["losses"][-1]["loss"]
    assert told["seed"] == 3
    # Of a run that was stopped the losses of what there is.
    shutil.rmtree(out / "final")
    (out / "loss.csv").unlink()
    assert "Not finished: 1,280 of 1,408 tokens" in " ".join(cka("show", out)[1].split())
    assert "A checkpoint at 1,280 of 1,408 tokens" in " ".join(cka("show", out / "1-detour")[1].split())
    # What files say is shown as text, whatever it is; a table without its columns is none.
    manifest = json.loads((out / "1-detour" / "training.json").read_text())
    manifest["recipe"]["phases"][0] |= {"objective": "c\x1b[31m", "name": "d\x1b[2J"}
    (out / "1-detour" / "training.json").write_text(json.dumps(manifest))
    code, shown, _ = cka("show", out / "1-detour")
    assert code == 0
    assert "\x1b[" not in shown
    (out / "1-detour" / "held_out.csv").write_text("checkpoint,tokens\n1,2\n")
    assert "is not a whole training run (KeyError: there is no 'phase')" in cka("show", out / "1-detour")[2]
    (out / "run.json").write_text("{}")
    code, printed, err = cka("show", out)
    assert (code, printed, err.count("\n")) == (2, "", 1)
    assert "is not a whole training run" in err


@pytest.mark.parametrize(
    ("recipe", "options", "words"),
    [
        ("clm-detour", ("--eval", "/nowhere.txt"), "nowhere.txt"),
        ("clm-detor", (), "no recipe is called 'clm-detor'"),
        ("clm-detour", ("--tokens", "63"), "shorter than one step"),
        ("clm-detour", ("--tokens", "10000000"), "larger corpus"),
        ("clm-detour", ("--freeze", "low@nowhere"), "names no phase"),
        ("clm-detour", ("--freeze", "3@clm"), "layer 3 does not exist"),
        ("clm-detour", ("--freeze", "0-2@clm", "--freeze", "head@clm", "--lr", "nan"), "learning rate of nan"),
        ("clm-detour", ("--sequence-length", "128", "--sequences-per-step", "1"), "64 positions"),
        ("clm-detour", ("--start", "/nowhere/at-all"), "does not exist"),
        ("clm-detour", ("--checkpoint-tokens", "0"), "--checkpoint-tokens 0 must be at least 1"),
        ("clm-detour", ("--corpus", "/nowhere.jsonl"), "nowhere.jsonl"),
        ("clm-detour", ("--epochs", "0"), "--epochs 0 must be at least 1"),
        ("clm-detour", ("--data-seed", "-1"), "--data-seed -1 must be at least 0"),
        ("clm-detour", ("--start", "2x32"), "recipe 'clm-detour' goes on from a trained model"),
        ("clm-detour", ("--objective", "mlm"), "fixes its objectives"),
        ("pretraining", ("--scale", "paper"), "recipe 'pretraining' has no scale 'paper'"),
    ],
)
def test_what_does_not_fit_is_one_line_before_any_training(
    cka: Cka, given: tuple[str, ...], tmp_path: Path, recipe: str, options: tuple[str, ...], words: str
) -> None:
    code, out, err = cka("train", recipe, *given, *SMALL, "--out", tmp_path / "run", *options)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert words in err
    assert not (tmp_path / "run").exists()


def test_a_directory_with_another_run_or_something_else_is_refused(
    cka: Cka, given: tuple[str, ...], tmp_path: Path
) -> None:
    def train(*options: object) -> tuple[int, str, str]:
        return cka("train", "clm-detour", *given, *SMALL, "--out", tmp_path / "run", "--quiet", *options)

    assert train()[0] == 0
    weights = (tmp_path / "run" / "final" / "model.safetensors").read_bytes()
    for options, words in (
        (("--seed", "4"), "seed"),
        (("--lr", "0.01"), "recipe"),
        (("--precision", "float32"), "bf16"),
    ):
        code, _, err = train(*options)
        assert code == 2
        assert "holds another run (it differs in " in err
        assert words in err
    assert (tmp_path / "run" / "final" / "model.safetensors").read_bytes() == weights
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    code, _, err = cka("train", "clm-detour", *given, *SMALL, "--out", tmp_path / "mine")
    assert code == 2
    assert "holds something else" in err


def test_one_order_with_two_seeds_is_the_same_data_under_other_masks(
    cka: Cka, given: tuple[str, ...], tmp_path: Path
) -> None:
    found = {}
    for recipe in ("clm-detour", "mlm-baseline"):
        for seed, data_seed in ((3, 42), (4, 42), (4, 5)):
            out = tmp_path / f"{recipe}-{seed}-{data_seed}"
            seeds = ("--seed", seed, "--data-seed", data_seed)
            code, printed, err = cka("train", recipe, *given, *SMALL, *seeds, "--out", out, "--json", "--quiet")
            assert (code, err) == (0, "")
            first = json.loads((next(out.glob("1-*")) / "training.json").read_text())
            told = json.loads(printed)
            assert (told["seed"], told["data_seed"]) == (seed, data_seed)
            found[recipe, seed, data_seed] = told["data_sha256"], first["weights_sha256"]
    for recipe, equal in (("clm-detour", True), ("mlm-baseline", False)):
        one, masks, order = (found[recipe, *seeds] for seeds in ((3, 42), (4, 42), (4, 5)))
        assert one[0] == masks[0] != order[0]
        # CLM draws no masks: Phase 1 of two seeds on one order is one run.
        assert (one[1] == masks[1]) == equal
        assert order[1] != masks[1]


def test_pretraining_begins_with_random_weights_and_is_annealed(
    cka: Cka, given: tuple[str, ...], tmp_path: Path
) -> None:
    options = (*given, *SMALL, "--objective", "clm", "--json", "--quiet", "--out", tmp_path / "a")
    code, printed, err = cka("train", "pretraining", *options)
    assert (code, err) == (0, "")
    told = json.loads(printed)
    assert (told["run_tokens"], list(told["losses"])) == (1280, ["pretraining", "annealing"])
    start = Path(given[1])
    manifest = json.loads((tmp_path / "a" / "final" / "training.json").read_text())
    assert manifest["phase"]["floor"] == 0.05
    assert [phase["objective"] for phase in manifest["recipe"]["phases"]] == ["clm", "clm"]
    assert json.loads((tmp_path / "a" / "run.json").read_text())["start_weights_sha256"] != hash_weight_files(
        [start / "model.safetensors"]
    )
    # The same command recognises it, random weights and all; another seed has others.
    assert json.loads(cka("train", "pretraining", *options, "--objective", "clm", "--out", tmp_path / "a")[1]) == told
    code, _, err = cka("train", "pretraining", *options, "--objective", "clm", "--seed", 9, "--out", tmp_path / "a")
    assert code == 2
    assert "start weights" in err


def test_a_corpus_may_be_read_several_times(cka: Cka, given: tuple[str, ...], tmp_path: Path) -> None:
    few = tmp_path / "few.jsonl"
    few.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS[:80]))
    command = ("train", "clm-detour", *given, *SMALL, "--corpus", few, "--quiet", "--json")
    assert "larger corpus" in cka(*command, "--out", tmp_path / "once")[2]
    code, printed, err = cka(*command, "--epochs", 4, "--out", tmp_path / "often")
    assert (code, err) == (0, "")
    assert json.loads(printed)["run_tokens"] == 1408


def test_a_corpus_smaller_than_one_batch_is_refused(cka: Cka, given: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "one.jsonl").write_text(json.dumps({"text": "the protein"}) + "\n")
    code, _, err = cka(
        "train", "clm-detour", *given, *SMALL, "--corpus", tmp_path / "one.jsonl", "--out", tmp_path / "r"
    )
    assert (code, err.count("\n")) == (2, 1)
    assert "larger corpus" in err


def test_ctrl_c_says_how_to_go_on_and_the_same_command_does(
    cka: Cka, given: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("train", "clm-detour", *given, *SMALL, "--quiet", "--json")
    whole = json.loads(cka(*command, "--out", tmp_path / "whole")[1])

    saved = checkpoint.save_file
    with monkeypatch.context() as patched:
        calls = iter(range(100))

        def interrupted(*arguments: object) -> None:
            if next(calls) == 3:
                raise KeyboardInterrupt
            saved(*arguments)  # type: ignore[arg-type]

        patched.setattr(checkpoint, "save_file", interrupted)
        code, out, err = cka(*command, "--out", tmp_path / "run")
    assert (code, out) == (130, "")
    assert "the same command goes on" in err
    assert json.loads(cka(*command, "--out", tmp_path / "run")[1])["weights_sha256"] == whole["weights_sha256"]


def test_other_threads_after_the_phase_border_are_told(cka: Cka, given: tuple[str, ...], tmp_path: Path) -> None:
    command = ("train", "clm-detour", *given, *SMALL, "--out", tmp_path / "run", "--json")
    assert json.loads(cka(*command)[1])["notes"] == []
    shutil.rmtree(tmp_path / "run" / "final")
    torch.set_num_threads(2)
    _, out, err = cka(*command)
    assert "note: decay: begun with another threads (1, now 2): not bit-identical" in err
    assert len(json.loads(out)["notes"]) == 1


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no kill -9 on this system")
def test_the_command_itself_is_killed_and_started_again(cka: Cka, given: tuple[str, ...], tmp_path: Path) -> None:
    def command(out: str) -> list[str]:
        options = ["--tokens", "5120", "--checkpoint-tokens", "64", "--json", "--quiet"]
        return ["train", "clm-detour", *given, *SMALL, *options, "--out", str(tmp_path / out)]

    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    killed = subprocess.Popen([sys.executable, "-m", "cka_tools", *command("run")], env=environment)
    until = time.monotonic() + 120
    while not list(tmp_path.glob("run/1-detour-checkpoints/tokens-*")) and killed.poll() is None:
        if time.monotonic() > until:
            break
        time.sleep(0.005)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait(timeout=120)
    assert killed.returncode == -9
    assert not (tmp_path / "run" / "final").exists()
    told = [json.loads(cka(*command(out))[1]) for out in ("run", "whole")]
    assert told[0]["weights_sha256"] == told[1]["weights_sha256"]
    assert told[0]["notes"] == []


def test_recipe_show_gives_phases_tokens_and_ten_rates(cka: Cka, tmp_path: Path) -> None:
    code, out, _ = cka("recipe", "show", "clm-detour", "--scale", "paper", "--json")
    assert code == 0
    told = json.loads(out)
    assert told["tokens_per_step"] == 384 * 8192
    for phase in told["phases"]:
        assert len(phase["rates"]) == 10
        assert phase["rates"][-1]["step"] == phase["steps"] - 1
    warm_up, decay = (phase["rates"] for phase in told["phases"])
    assert warm_up[0] == {"step": 0, "learning_rate": pytest.approx(2e-4 / 32)}
    assert decay[-1]["learning_rate"] == 2e-4 * 0.1
    text = cka("recipe", "show", "clm-detour", "--scale", "paper")[1]
    assert "10,000,269,312" in text
    assert "(s+1)/W" in text


def test_a_recipe_shown_as_toml_can_be_changed_and_shown_again(cka: Cka, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    assert cka("recipe", "show", "reverse-detour", "--toml", "--out", file)[0] == 0
    file.write_text(file.read_text().replace("tokens = 250000\n", "tokens = 300000\n"))
    told = json.loads(cka("recipe", "show", file, "--json")[1])
    assert told["recipe"]["phases"][1]["tokens"] == 300_000
    code, _, err = cka("recipe", "show", file, "--scale", "paper")
    assert code == 2
    assert "set its tokens" in err


@pytest.mark.parametrize("command", ["train", "recipe show"])
def test_help_shows_an_example(cka: Cka, command: str) -> None:
    out = " ".join(cka(*command.split(), "--help")[1].split())
    assert f"Example: cka {command}" in out
    for option in ("--out", "--quiet", "--json"):
        assert option in out


def test_durations_read_well() -> None:
    assert [duration(s) for s in (0.4, 41, 200, 7500)] == ["0 s", "41 s", "3 min 20 s", "2 h 05 min"]
