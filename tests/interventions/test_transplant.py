"""Transplants and interpolations against passes of grafted models one by one."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from cka_tools import compare, graft, health, interpolate, transplant
from cka_tools.comparison.readout_results import Transplant
from cka_tools.documents import Document
from cka_tools.errors import UserError
from cka_tools.interventions.plan import Graft, parse_groups_of_layers, parse_parts, plan_grafts
from cka_tools.models import load_model
from cka_tools.models.graft import interpolate as point_between

FEW = {"device": "cpu"}


@pytest.fixture(scope="module")
def models(tiny_model: Callable[..., Path]) -> list[str]:
    """Base, donor and control with masked-LM heads."""
    return [str(tiny_model("modernbert", seed=seed, head=True)) for seed in (0, 1, 2)]


@pytest.fixture(scope="module")
def texts(tiny_documents: list[Document]) -> list[str]:
    return [one.text for one in tiny_documents]


@pytest.fixture(scope="module")
def result(models: list[str], texts: list[str]) -> Transplant:
    """Both readouts, both directions and a control."""
    base, donor, control = models
    readout = ["mlm", "divergence"]
    return transplant(base, donor, texts, control=control, reverse=True, readout=readout, parts=["all", "mlp"], **FEW)


def test_what_is_waited_for_is_all_that_is_read(models: list[str], texts: list[str]) -> None:
    base, donor, control = models
    for run in (
        lambda to: transplant(base, donor, texts, control=control, readout=["mlm", "divergence"], progress=to, **FEW),
        lambda to: health([base, donor, base], texts, progress=to, **FEW),
    ):
        told: list[tuple[int, int, int]] = []
        run(lambda *now, told=told: told.append(now))
        assert {total for _, _, total in told} == {told[-1][0]}


def test_every_hybrid_reads_as_its_graft_does_by_itself(
    result: Transplant, models: list[str], texts: list[str]
) -> None:
    """Passes that share their beginnings, and whole passes of model sources, document by document."""
    base, donor, control = models
    ends = {"transplant": (base, donor), "control": (base, control), "reverse": (donor, base)}
    chosen = [one for one in result.hybrids if one["layers"] != [2, 3]]
    sources = [graft(*ends[one["direction"]], one["layers"], one["parts"]) for one in chosen]
    alone = health([*sources, base, donor], texts, **FEW)
    for one, row in zip([*chosen, {"model": 0}, {"model": 1}], alone.arrays["mlm.loss"], strict=True):
        np.testing.assert_array_equal(result.arrays["mlm.loss"][one["model"]], row)


def test_recovery_is_the_share_of_the_gap(result: Transplant) -> None:
    losses = result.arrays["mlm.loss"].mean(1)
    for one in result.hybrids:
        start, end = (1, 0) if one["direction"] == "reverse" else (0, 1)
        found = one["readouts"]["mlm.loss"]
        assert found["value"]["value"] == pytest.approx(losses[one["model"]])
        assert found["difference"]["value"] == pytest.approx(losses[one["model"]] - losses[start])
        gap = losses[end] - losses[start]
        if found["recovery"]["value"] is None:
            assert "not clear of 0" in found["recovery"]["reason"]
        else:
            assert found["recovery"]["value"] == pytest.approx((losses[one["model"]] - losses[start]) / gap)


def test_divergences_are_those_of_compare(result: Transplant, models: list[str], texts: list[str]) -> None:
    base, donor, _ = models
    one = next(one for one in result.hybrids if one["layers"] == [2, 3] and one["parts"] == ["mlp"])
    source = graft(base, donor, [2, 3], ["mlp"])
    own, whole = compare(source, donor, texts, **FEW), compare(base, donor, texts, **FEW)
    pair = next(p for p in result.record["pairs"] if (p["a"], p["b"]) == (one["model"], 1))
    for layer, other in zip(pair["layers"], own.layers, strict=True):
        assert layer["cka_debiased"] == pytest.approx(other["cka_debiased"], abs=1e-9)
        assert layer["divergence"] == pytest.approx(other["divergence"], abs=1e-9)
    downstream = [[layer["divergence"]["value"] for layer in run.layers[2:]] for run in (own, whole)]
    share = 1 - np.mean(downstream[0]) / np.mean(downstream[1])
    assert one["readouts"]["divergence.donor"]["value"]["value"] == pytest.approx(np.mean(downstream[0]), abs=1e-9)
    assert one["readouts"]["divergence.donor"]["recovery"]["value"] == pytest.approx(share, abs=1e-9)


def test_the_sum_of_the_groups_stands_beside_the_whole(result: Transplant) -> None:
    shares = {
        (tuple(one["layers"] or ()), one["parts"][0]): one["readouts"]["mlm.loss"]["recovery"]["value"]
        for one in result.hybrids
        if one["direction"] == "transplant"
    }
    found = [one for one in result.record["additivity"] if one["quantity"] == "mlm.loss"]
    assert {one["direction"] for one in found} == {"transplant", "reverse"}
    for one in found:
        if one["direction"] == "transplant" and one["sum"]["value"] is not None:
            parts = one["parts"][0]
            total = sum(value for (layers, of), value in shares.items() if of == parts and layers)
            assert one["sum"]["value"] == pytest.approx(total)
            assert one["whole"]["value"] == pytest.approx(shares[(), parts])


def test_blocks_that_two_hybrids_share_run_once(result: Transplant) -> None:
    """By the groups of 6 layers, thirds of two: counted by hand for the control's group alone."""
    cost = result.summary["cost"]
    assert cost["blocks"] < 0.75 * cost["blocks_naive"]
    # Two readouts; base and donor with both directions (18 variants), base and control (10).
    assert cost["blocks_naive"] == 2 * 40 * 6 * (18 + 10)


def test_a_run_is_saved_loaded_tabulated_and_drawn(result: Transplant, tmp_path: Path) -> None:
    folder = result.save(tmp_path / "run")
    again = Transplant.load(folder)
    assert again.record == json.loads(json.dumps(result.record))
    table = again.to_frame()
    assert len(table) == 3 * (3 + 24)
    assert set(table["direction"]) == {"base", "donor", "control", "transplant", "reverse"}
    assert (folder / "figure.png").stat().st_size > 10_000
    models = again.record["provenance"]["models"]
    assert [one["role"] for one in models[:3]] == ["base", "donor", "control"]
    assert len(models) == 3 + 24


def test_one_graft_is_saved_bit_for_bit_with_a_card(models: list[str], texts: list[str], tmp_path: Path) -> None:
    base, donor, _ = models
    transplant(base, donor, texts, layers=[[1, 2]], parts=["mlp"], save=tmp_path / "made", **FEW)
    made, own, other = (load_file(Path(folder) / "model.safetensors") for folder in (tmp_path / "made", base, donor))
    assert made.keys() == own.keys()
    for name, tensor in made.items():
        taken = any(f"layers.{at}.mlp." in name for at in (1, 2))
        assert tensor.equal(other[name] if taken else own[name]), name
    card = (tmp_path / "made" / "README.md").read_text()
    assert "was not trained" in card
    assert "mlp of layers 1–2" in card
    assert load_model(str(tmp_path / "made"), device="cpu").name
    with pytest.raises(UserError, match=r"--save .* holds files already"):
        transplant(base, donor, texts, layers=[[1]], parts=["mlp"], save=tmp_path / "made", **FEW)
    with pytest.raises(UserError, match=r"writes one model, and 12 grafts are asked for"):
        transplant(base, donor, texts, save=tmp_path / "other", **FEW)


def test_interpolation_has_the_ends_on_it_and_its_barrier_is_the_largest_excess(
    models: list[str], texts: list[str]
) -> None:
    base, donor, _ = models
    found = interpolate(base, donor, texts, points=5, **FEW)
    alone = health([base, point_between(base, donor, 0.75), donor], texts, **FEW).arrays["mlm.loss"]
    for at, row in zip((0, 3, 4), alone, strict=True):
        np.testing.assert_allclose(found.arrays["mlm.loss"][at], row, atol=1e-6)
    losses = found.arrays["mlm.loss"].mean(1)
    excess = losses - np.linspace(losses[0], losses[-1], 5)
    barrier = found.record["barrier"]["mlm.loss"]
    assert barrier["value"] == pytest.approx(excess[1:-1].max())
    assert barrier["alpha"] == pytest.approx(np.linspace(0, 1, 5)[1 + excess[1:-1].argmax()])
    assert barrier["ci_low"] < barrier["value"] < barrier["ci_high"]
    accuracy = found.arrays["mlm.accuracy"].mean(1)
    shortfall = np.linspace(accuracy[0], accuracy[-1], 5) - accuracy
    assert found.record["barrier"]["mlm.accuracy"]["value"] == pytest.approx(shortfall[1:-1].max())
    whole = compare(base, donor, texts, **FEW).summary["mean_divergence"]["debiased"]["value"]
    assert found.points[0]["divergence"]["b"]["value"] == pytest.approx(whole, abs=1e-9)
    assert found.points[0]["divergence"]["a"]["value"] == 0
    assert found.points[2]["divergence"]["a"]["value"] > 0


def test_health_pairs_models_over_documents(models: list[str], texts: list[str]) -> None:
    found = health(models[:2], texts, **FEW)
    losses = found.arrays["mlm.loss"]
    (difference,) = found.record["differences"]
    entry = difference["readouts"]["mlm.loss"]
    assert (difference["a"], difference["b"]) == (1, 0)
    assert entry["value"] == pytest.approx((losses[1] - losses[0]).mean())
    first = found.models[0]["readouts"]
    assert first["mlm.perplexity"]["value"] == pytest.approx(np.exp(losses[0].mean()))
    assert first["mlm.loss"]["ci_low"] < losses[0].mean() < first["mlm.loss"]["ci_high"]


def test_decoders_are_read_by_their_next_tokens(tiny_model: Callable[..., Path], texts: list[str]) -> None:
    base, donor = (str(tiny_model("gpt2", seed=seed, head=True)) for seed in (0, 1))
    found = transplant(base, donor, texts, layers=[[0, 1, 2], [3, 4, 5]], parts=["all"], **FEW)
    assert [one["label"] for one in found.hybrids] == ["layers 0–2", "layers 3–5", "all layers"]
    assert list(found.hybrids[0]["readouts"]) == ["clm.loss", "clm.accuracy"]


def test_embeddings_and_a_tied_head_go_together(models: list[str], texts: list[str]) -> None:
    base, donor, _ = models
    everything = [("all", "embeddings", "final-norm", "head")]
    found = transplant(base, donor, texts, layers=[range(6)], parts=everything, **FEW)
    (one,) = found.hybrids
    np.testing.assert_array_equal(found.arrays["mlm.loss"][one["model"]], found.arrays["mlm.loss"][1])
    with pytest.raises(UserError, match="half of that pair would be copied"):
        transplant(base, donor, texts, parts=["head"], **FEW)


def test_groups_and_parts_are_planned() -> None:
    thirds = plan_grafts(22, "thirds", ["all", "attention"])
    assert [one.layers for one in thirds[::2]] == [tuple(range(8)), tuple(range(8, 15)), tuple(range(15, 22)), None]
    assert len(plan_grafts(22, "thirds", ["all", "attention", "mlp"])) == 12
    assert plan_grafts(6, [[0, 1]], ["mlp"]) == [Graft((0, 1), ("mlp",))]
    assert plan_grafts(6, [[0, 1]], [("head", "embeddings")]) == [Graft((), ("embeddings", "head"))]
    assert parse_groups_of_layers("0-7,8-14", "layers") == [tuple(range(8)), tuple(range(8, 15))]
    assert parse_parts("all,head+embeddings", "parts") == (("all",), ("embeddings", "head"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"donor": 0}, "is the donor, and .*, the base, holds the same weights"),
        ({"control": 1}, "is the control, and .*, the donor, holds the same weights"),
        ({"layers": [[0, 1], [1, 2]]}, "layers 1 is in two groups"),
        ({"layers": [[6]]}, "layers 6: the models have layers 0 to 5"),
        ({"layers": "halves"}, "layers 'halves': write thirds"),
        ({"parts": ["ffn"]}, "parts: 'ffn' is not one of all"),
        ({"readout": ["clm"]}, "readout 'clm' needs a causal-LM head, and .* has a masked-LM one: give --readout mlm"),
        ({"readout": ["perplexity"]}, "readout 'perplexity' is not known"),
        ({"readout": []}, "readout: the list is empty"),
        ({"readout": ["divergence"], "keep_features": 1000}, "keeps the features of 14 models"),
    ],
)
def test_what_cannot_be_transplanted_is_one_line(
    models: list[str], texts: list[str], change: dict[str, Any], said: str
) -> None:
    given: dict[str, Any] = {"donor": 1} | change
    donor = models[given.pop("donor")]
    if "control" in given:
        given["control"] = models[given["control"]]
    with pytest.raises(UserError, match=said) as error:
        transplant(models[0], donor, texts, **given, **FEW)
    assert "\n" not in str(error.value)


def test_models_without_a_head_have_divergences_alone(tiny_model: Callable[..., Path], texts: list[str]) -> None:
    base, donor = (str(tiny_model("bert", seed=seed)) for seed in (0, 1))
    with pytest.raises(UserError, match=r"has no masked-LM or causal-LM head: give .*BertForMaskedLM"):
        transplant(base, donor, texts, **FEW)
    found = transplant(base, donor, texts, readout=["divergence"], layers=[[0, 1, 2]], parts=["all"], **FEW)
    assert found.hybrids[0]["readouts"]["divergence.donor"]["recovery"]["value"] is not None
    assert found.arrays == {}
    with pytest.raises(UserError, match="has no masked-LM or causal-LM head"):
        health([base], texts, **FEW)


def test_points_and_models_of_one_kind_are_asked_for(models: list[str], texts: list[str]) -> None:
    with pytest.raises(UserError, match="points 2 is not a whole number from 3 to 101"):
        interpolate(models[0], models[1], texts, points=2, **FEW)
    with pytest.raises(UserError, match="holds the same weights"):
        interpolate(models[0], models[0], texts, **FEW)
    with pytest.raises(UserError, match="no model is given"):
        health([], texts, **FEW)
