import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

from cka_tools.bundled import bundled_data
from cka_tools.manifest import noise_kind
from cka_tools.models.folder import hash_weight_files

PAIR = ("clm-detour", "mlm-baseline")
TRIO = (*PAIR, "mlm-baseline-2")
MATCHED = tuple(f"{name}-matched" for name in TRIO)
FAMILY = ("theta0", *TRIO, *MATCHED)
family = pytest.mark.parametrize("name", FAMILY)


def folder(name: str) -> Path:
    return bundled_data() / "models" / name


def manifest(name: str) -> dict[str, Any]:
    return json.loads((folder(name) / "training.json").read_text(encoding="utf-8"))


@family
def test_a_bundled_model_is_small_safe_and_documented(name: str) -> None:
    files = {path.name: path.stat().st_size for path in folder(name).iterdir()}
    assert sum(files.values()) < 4_000_000
    assert {"model.safetensors", "config.json", "tokenizer.json", "README.md", "loss.csv"} <= files.keys()
    assert not [file for file in files if file.endswith((".bin", ".pt", ".pkl"))]
    assert len((folder(name) / "loss.csv").read_text().splitlines()) <= 201


@family
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_bundled_model_is_finite_in_every_layer_up_to_its_last_position(name: str, dtype: torch.dtype) -> None:
    model = AutoModelForMaskedLM.from_pretrained(folder(name), dtype=dtype).eval()
    ids = torch.randint(5, 4096, (2, 1024), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        output = model(ids, output_hidden_states=True)
    assert len(output.hidden_states) == 9
    assert all(torch.isfinite(state).all() for state in (*output.hidden_states, output.logits))


@family
def test_a_bundled_model_has_learnt_more_than_token_frequencies(name: str) -> None:
    model = AutoModelForMaskedLM.from_pretrained(folder(name), dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder(name))
    made = manifest(name)
    assert made["held_out_mlm_loss"] < made["held_out_unigram_loss"] - 0.5
    ids = tokenizer("The results of this study were published, and the", return_tensors="pt")["input_ids"]
    at = ids.shape[1] - 1 - 3
    assert ids[0, at] == tokenizer.convert_tokens_to_ids(",")
    ids[0, at] = tokenizer.mask_token_id
    with torch.inference_mode():
        best = model(ids).logits[0, at].topk(20).indices
    assert tokenizer.convert_tokens_to_ids(",") in best


@pytest.mark.parametrize("names", [TRIO, MATCHED], ids=["trio", "matched"])
def test_the_three_saw_the_same_data_in_the_same_order_and_the_control_has_other_masks(names: tuple[str, ...]) -> None:
    detour, baseline, control = (manifest(name) for name in names)
    assert detour["data_sha256"] == baseline["data_sha256"] == control["data_sha256"]
    assert detour["tokens"] == baseline["tokens"] == control["tokens"]
    assert [phase["objective"] for phase in detour["recipe"]["phases"]] == ["clm", "mlm"]
    assert (baseline["seed"], baseline["data_seed"]) == (detour["seed"], detour["data_seed"]) == (1, 1)
    assert noise_kind(baseline, control) == "masks"


def test_a_matched_decay_is_as_long_as_phase_1_and_the_rest_of_the_run_is_the_same() -> None:
    for name in TRIO:
        short, long = manifest(name), manifest(f"{name}-matched")
        first, decay = long["recipe"]["phases"]
        assert first == short["recipe"]["phases"][0]
        assert long["tokens"] == pytest.approx(2 * first["tokens"], rel=1e-3)
        assert decay["objective"] == "mlm"
        assert (long["seed"], long["data_seed"]) == (short["seed"], short["data_seed"])
        assert long["final_loss"][first["name"]] == short["final_loss"][first["name"]]


def test_the_start_model_is_annealed_and_phase_1_runs_below_its_peak() -> None:
    start, detour = manifest("theta0"), manifest("clm-detour")
    assert [phase["name"] for phase in start["recipe"]["phases"]] == ["pretraining", "annealing"]
    assert start["tokens"] >= 12_000_000
    assert detour["recipe"]["peak_lr"] == start["recipe"]["peak_lr"] / 4


@family
def test_the_manifest_tells_the_weights_and_nothing_of_where_they_were_made(name: str) -> None:
    made = manifest(name)
    assert made["weights_sha256"] == hash_weight_files([folder(name) / "model.safetensors"])
    assert made["corpus"] in ("general", "biomed_train")


@family
def test_the_family_shares_one_tokenizer(name: str) -> None:
    assert (folder(name) / "tokenizer.json").read_bytes() == (folder("theta0") / "tokenizer.json").read_bytes()
