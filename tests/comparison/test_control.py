"""`compare` with a control: three models in three passes, the ratio to seed noise, its refusals."""

import json

import numpy as np
import pytest
from synthetic_comparison import make_comparison

from cka_tools import Comparison, compare
from cka_tools.errors import UserError
from cka_tools.formatting import ratio_refusals, ratio_sentence, times


@pytest.fixture(scope="module")
def texts(texts):
    return texts[:60]


@pytest.fixture(scope="module")
def models(fresh_model, fresh_tokenizer):
    """A, B and a control in memory: the control is B with a little noise on its weights."""
    import torch

    a, b, control = (fresh_model("modernbert", seed=s, layers=4) for s in (0, 1, 1))
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in control.parameters():
            parameter.add_(0.1 * parameter.abs().mean() * torch.randn_like(parameter))
    return [(model, fresh_tokenizer()) for model in (a, b, control)]


@pytest.fixture(scope="module")
def result(models, texts):
    a, b, control = models
    return compare(a, b, texts, control=control, max_length=64, cache=False)


def rows_seen(models):
    """Counts the documents that go through each model's first block."""
    seen, hooks = [0] * len(models), []
    for at, (model, _) in enumerate(models):

        def count(module, inputs, output, at=at):
            seen[at] += len(output[0] if isinstance(output, tuple) else output)

        hooks.append(model.layers[0].register_forward_hook(count))
    return seen, hooks


@pytest.mark.parametrize("cache", [False, True])
def test_three_models_cost_three_passes(models, texts, result, cache, tmp_path, monkeypatch):
    monkeypatch.setenv("CKA_TOOLS_CACHE", str(tmp_path))
    a, b, control = models
    seen, hooks = rows_seen(models)
    compare(a, a, texts[:8], max_length=64, cache=cache)
    once = seen[0] - 8  # what the checks at load, and for the store's key, take
    seen[:] = [0, 0, 0]
    found = compare(a, b, texts, control=control, max_length=64, cache=cache)
    assert [rows - once for rows in seen] == [len(texts)] * 3
    seen[:] = [0, 0, 0]
    again = compare(a, b, texts, control=control, max_length=64, cache=cache)
    assert [rows - once for rows in seen] == ([0] * 3 if cache else [len(texts)] * 3)
    for hook in hooks:
        hook.remove()
    for other in (found, again):
        np.testing.assert_allclose(other.matrix(), result.matrix(), atol=1e-12)
        for of in ("mean", "early"):
            assert other.summary["ratio"][of] == pytest.approx(result.summary["ratio"][of], rel=1e-9)
    assert len(found.record["provenance"]["corpus"]["draws"]) == 1


def test_the_control_is_the_comparison_of_both_baselines_and_the_ratio_their_quotient(models, texts, result):
    a, b, control = models
    pair, noise = (compare(m, b, texts, max_length=64, cache=False) for m in (a, control))
    np.testing.assert_allclose(result.matrix(), pair.matrix(), atol=1e-12)
    for kind in ("mean_divergence", "early_divergence"):
        assert result.summary[kind] == pair.summary[kind]
        for estimator in ("biased", "debiased"):
            assert result.summary["control"][kind][estimator] == pytest.approx(noise.summary[kind][estimator])
    for entry, own, other in zip(result.layers, pair.layers, noise.layers, strict=True):
        d, e = 1 - own["cka_debiased"], 1 - other["cka_debiased"]
        assert entry["control"]["value"] == pytest.approx(e)
        assert entry["control"]["ci_low"] == pytest.approx(1 - other["ci_high"])
        assert entry["ratio"]["value"] == pytest.approx(d / e)
        assert entry["ratio"]["ci_low"] < d / e < entry["ratio"]["ci_high"]
    ratio, means = result.summary["ratio"], [r.summary["mean_divergence"] for r in (pair, noise)]
    assert ratio["mean"]["value"] == pytest.approx(means[0]["debiased"]["value"] / means[1]["debiased"]["value"])
    values = [entry["ratio"]["value"] for entry in result.layers]
    assert (ratio["smallest"], ratio["largest"]) == (min(values), max(values))


def test_the_record_and_the_table_hold_it_and_survive_the_disk(models, result, tmp_path):
    roles = [model["role"] for model in result.record["provenance"]["models"]]
    assert roles == ["a", "b", "control"]
    assert result.control == "ModernBertModel"
    again = Comparison.load(result.save(tmp_path / "run"))
    assert again.record == json.loads(json.dumps(result.record, allow_nan=False))
    np.testing.assert_array_equal(
        again.arrays["control.matrix.debiased"].diagonal(), [1 - e["control"]["value"] for e in again.layers]
    )
    frame = again.to_frame()
    for part, column in (("value", "ratio"), ("ci_low", "ratio_low"), ("ci_high", "ratio_high")):
        assert list(frame[column]) == [e["ratio"][part] for e in again.layers]
    assert list(frame["control_divergence"]) == [e["control"]["value"] for e in again.layers]
    assert {"control_divergence_low", "control_divergence_high", "ratio_reason"} <= set(frame)
    assert "control_divergence" in (tmp_path / "run" / "layers.csv").read_text().splitlines()[0]


def test_runs_without_a_control_are_as_they_were(models, texts):
    found = compare(*models[:2], texts, max_length=64, cache=False)
    assert found.control is None
    assert not {"control", "ratio"} & set(found.summary)
    assert not {"control", "ratio"} & set(found.layers[0])
    assert not [name for name in found.arrays if name.startswith("control")]
    assert "ratio" not in found.to_frame()


def test_a_control_that_is_b_is_refused_with_its_reason_and_no_crash(models, texts, tmp_path):
    found = compare(*models[:2], texts, control=models[1], max_length=64, cache=False)
    for entry in [*(e["ratio"] for e in found.layers), found.summary["ratio"]["mean"]]:
        assert entry["value"] is None
        assert "nothing to divide by" in entry["reason"]
    assert found.summary["ratio"]["smallest"] is None
    assert "nothing to divide by" in ratio_sentence(found.summary)
    assert ratio_refusals(found.layers)[0].startswith("in layers 0–3: nothing to divide by")
    found.save(tmp_path / "run")
    assert set(found.to_frame()["ratio_reason"]) == {e["ratio"]["reason"] for e in found.layers}


def test_a_control_that_is_a_gives_one(models, texts):
    found = compare(*models[:2], texts, control=models[0], max_length=64, cache=False)
    for entry in [*(e["ratio"] for e in found.layers), found.summary["ratio"]["mean"]]:
        assert (entry["value"], entry["ci_low"], entry["ci_high"]) == (pytest.approx(1),) * 3


def test_chosen_layers_and_other_depths_read_the_control_in_bs_layers(models, texts, fresh_model, fresh_tokenizer):
    _, b, control = models
    shallow = fresh_model("modernbert", seed=3, layers=2), fresh_tokenizer()
    found = compare(shallow, b, texts, control=control, max_length=64, cache=False)
    noise = compare(control, b, texts, max_length=64, cache=False)
    assert [entry["layer_b"] for entry in found.layers] == [0, 3]
    for entry in found.layers:
        own = noise.layers[entry["layer_b"]]
        assert entry["control"]["value"] == pytest.approx(1 - own["cka_debiased"])
    assert found.summary["early_layers"] == [0]
    entry = found.summary["control"]["early_divergence"]["debiased"]
    assert entry["value"] == pytest.approx(1 - noise.layers[0]["cka_debiased"])
    # Layer 1 of the shallow one is paired with B's last: so is the control's.
    for a, layers in ((shallow, (1,)), (models[0], (1, 3))):
        part = compare(a, b, texts, control=control, layers=layers, max_length=64, cache=False)
        for entry in part.layers:
            own = noise.layers[entry["layer_b"]]
            assert entry["control"]["value"] == pytest.approx(1 - own["cka_debiased"], abs=1e-9)
    assert [entry["layer_b"] for entry in part.layers] == [1, 3]


def test_a_control_of_another_depth_is_refused_in_one_line(models, texts, fresh_model, fresh_tokenizer):
    other = fresh_model("modernbert", seed=3, layers=2), fresh_tokenizer()
    with pytest.raises(UserError, match="has 2 layers") as error:
        compare(*models[:2], texts, control=other, max_length=64)
    assert "\n" not in str(error.value)


def test_a_control_of_another_tokenizer_cannot_be_read_token_by_token(models, texts, fresh_tokenizer):
    turned = models[2][0], fresh_tokenizer(words=[f"w{i}" for i in range(119, -1, -1)])
    with pytest.raises(UserError, match="different tokenizers"):
        compare(*models[:2], texts, control=turned, max_length=64, pooling="token")


def test_the_protocol_gives_the_ratio_of_every_draw():
    found = make_comparison(6, protocol="paper", control="c")
    protocol = found.summary["protocol"]
    over = protocol["ratio"]["mean"]["debiased"]
    assert len(over["draws"]) == 3
    assert over["draws"][0] == found.summary["ratio"]["mean"]["value"]
    assert over["std"] == pytest.approx(np.std(over["draws"], ddof=1))
    pair, noise = (part["mean_divergence"]["biased"]["draws"] for part in (protocol, protocol["control"]))
    np.testing.assert_allclose(protocol["ratio"]["mean"]["biased"]["draws"], np.divide(pair, noise))


def test_the_sentence_says_how_many_times():
    summary = make_comparison(8, control="c").summary
    mean = summary["ratio"]["mean"]
    assert ratio_sentence(summary).startswith(
        f"The pair's mean divergence is {times(mean['value'])} times the seed noise (95 % interval "
        f"{times(mean['ci_low'])} to {times(mean['ci_high'])}), in early layers 0–2 "
    )


def test_refusals_are_grouped_by_kind():
    found = make_comparison(8, control="c", constant=[6])
    assert ratio_refusals(found.layers) == ["in layer 6: no variance in a layer of the pair or of the control"]
    assert found.layers[6]["control"]["reason"] == "the layer of B has no variance over these documents"
