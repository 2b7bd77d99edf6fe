"""`cka transplant`, `interpolate`, `health` and `fill` from end to end, and `trajectory --health`."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cka_tools.comparison.readout_results import KINDS
from cka_tools.comparison.record import COMMANDS
from cka_tools.comparison.results import Trajectory
from cka_tools.formatting import percent

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def models(tiny_model: Callable[..., Path]) -> list[str]:
    return [str(tiny_model("modernbert", seed=seed, head=True)) for seed in range(3)]


def check_other_commands(cka: Run, folder: Path, out: str, kind: str) -> None:
    """The table again, the same record, a figure, and no place in a summary of comparisons."""
    code, again, _ = cka("show", folder)
    assert code == 0
    assert again.strip() in out
    code, data, _ = cka("show", folder, "--json")
    assert json.loads(data) == KINDS[kind].load(folder).record
    code, _, _ = cka("plot", folder, "--out", folder.parent / "figure.pdf")
    assert (folder.parent / "figure.pdf").read_bytes().startswith(b"%PDF")
    code, _, err = cka("summary", folder)
    assert (code, f"is a run of `cka {COMMANDS[kind]}`" in err) == (2, True)


def test_transplant(cka: Run, models: list[str], corpus: Path, tmp_path: Path) -> None:
    base, donor, control = models
    code, out, err = cka(
        "transplant", base, donor, "--control", control, "--reverse", "--layers", "0-1,2-3,4-5",
        "--parts", "all,mlp+norms", "--readout", "mlm,divergence", "--corpus", corpus, "--out", "run",
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    record = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (record["format"], record["kind"]) == (2, "transplant")
    words = " ".join(out.split())
    assert "layers 0–1" in words
    assert "mlp and norms of layers 4–5" in words
    assert "control: another seed's parts in the base" in words
    assert "The control is a run whose manifest does not say" in words
    first = record["hybrids"][0]["readouts"]
    assert percent(first["divergence.donor"]["recovery"]["value"]) in out
    # Random weights are equally bad: there is no gap in loss.
    assert first["mlm.loss"]["recovery"]["value"] is None
    assert "no recovery masked-LM loss of layers 0–1 (transplant): nothing to divide by: the gap between base" in words
    rows = list(csv.DictReader((tmp_path / "run" / "transplant.csv").open()))
    assert len(rows) == 3 * (3 + 3 * 8)
    assert {row["quantity"] for row in rows} == {"mlm.loss", "mlm.accuracy", "divergence.donor"}
    check_other_commands(cka, tmp_path / "run", out, "transplant")


def test_interpolate(cka: Run, models: list[str], corpus: Path, tmp_path: Path) -> None:
    code, out, err = cka("interpolate", *models[:2], "--points", "3", "--corpus", corpus, "--out", "run")
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    assert "simultaneous over the points" in " ".join(out.split())
    assert len(list(csv.DictReader((tmp_path / "run" / "interpolation.csv").open()))) == 3 * 4
    check_other_commands(cka, tmp_path / "run", out, "interpolation")


def test_health(cka: Run, models: list[str], corpus: Path, tmp_path: Path) -> None:
    code, out, err = cka("health", *models, "--corpus", corpus, "--out", "run")
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    rows = list(csv.DictReader((tmp_path / "run" / "health.csv").open()))
    assert [row["quantity"] for row in rows[:3]] == ["mlm.loss", "mlm.accuracy", "mlm.perplexity"]
    assert rows[0]["difference_from_first"] == ""
    assert float(rows[3]["difference_from_first"]) == pytest.approx(float(rows[3]["value"]) - float(rows[0]["value"]))
    assert f"{float(rows[3]['value']):.3f}" in out
    check_other_commands(cka, tmp_path / "run", out, "health")


def test_trajectory_with_health(cka: Run, models: list[str], corpus: Path, tmp_path: Path) -> None:
    reference, *checkpoints = models
    code, out, _ = cka("trajectory", reference, *checkpoints, "--health", "--corpus", corpus, "--out", "run")
    assert code == 0
    assert cka("health", *models, "--corpus", corpus, "--out", "own")[0] == 0
    along = Trajectory.load(tmp_path / "run")
    alone = KINDS["health"].load(tmp_path / "own").record["models"]
    for pair, own in zip(along.checkpoints, alone[1:], strict=True):
        assert pair["health"] == own["readouts"]
        assert f"{own['readouts']['mlm.loss']['value']:.3f}" in out
    assert along.summary["health"]["reference"] == alone[0]["readouts"]
    rows = along.to_frame()
    assert rows["mlm_loss"].iloc[0] == alone[1]["readouts"]["mlm.loss"]["value"]


def test_fill(cka: Run, models: list[str]) -> None:
    text = "w1 [MASK] w3 w4 [MASK]"
    code, out, _ = cka("fill", *models[:2], "--text", text)
    assert code == 0
    assert "mask 2" in out
    code, data, _ = cka("fill", *models[:2], "--text", text, "--top", "3", "--json")
    found = json.loads(data)
    assert [(one["mask"], len(one["tokens"])) for one in found["filled"]] == [(0, 3), (1, 3)] * 2
    shares = [token["probability"] for token in found["filled"][0]["tokens"]]
    assert shares == sorted(shares, reverse=True)


def test_fill_gives_what_the_model_itself_predicts(cka: Run, models: list[str]) -> None:
    import torch
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    _, data, _ = cka("fill", models[0], "--text", "w1 w2 [MASK] w9", "--json")
    model, tokenizer = AutoModelForMaskedLM.from_pretrained(models[0]).eval(), AutoTokenizer.from_pretrained(models[0])
    ids = tokenizer("w1 w2 [MASK] w9", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        shares, best = model(input_ids=ids).logits[0, 3].softmax(-1).topk(5)
    wanted = list(zip(tokenizer.convert_ids_to_tokens(best.tolist()), shares.tolist(), strict=True))
    found: list[dict[str, Any]] = json.loads(data)["filled"][0]["tokens"]
    assert [(one["token"], pytest.approx(one["probability"], abs=1e-6)) for one in found] == wanted


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["transplant", 0, 0], "holds the same weights: nothing lies between them"),
        (["transplant", 0, 1, "--parts", "ffn"], "parts: 'ffn' is not one of"),
        (["transplant", 0, 1, "--layers", "0-x"], "layers '0-x'"),
        (["transplant", 0, 1, "--readout", "mlp"], "readout 'mlp' is not known: did you mean 'mlm'"),
        (["transplant", 0, 1, "--save", "made"], "--save 'made' writes one model"),
        (["interpolate", 0, 1, "--points", "1"], "points 1 is not a whole number"),
        (["health", 0, "--readout", "divergence"], "readout 'divergence' is not of a language model"),
        (["fill", 0, "--text", "nothing is missing"], "has no [MASK]: write it where a word is missing"),
        (["fill", "--text", "[MASK]"], "no model is given"),
    ],
)
def test_bad_input_is_one_line(cka: Run, models: list[str], corpus: Path, arguments: list[Any], said: str) -> None:
    named = [models[one] if isinstance(one, int) else one for one in arguments]
    more = [] if arguments[0] == "fill" else ["--corpus", corpus]
    code, out, err = cka(*named, *more)
    assert (code, out) == (2, "")
    assert said in err
    assert len(err.strip().splitlines()) == 1
