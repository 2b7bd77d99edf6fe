"""A branch that gives every token one vector has no variance, whatever rounding makes of it."""

import numpy as np
import pytest
import torch

from cka_tools import compare, compute_features


@pytest.fixture(scope="module")
def branches(fresh_model, fresh_tokenizer):
    """Two models whose first attention has value weights of zero, so that its output is a bias alone."""
    tokenizer = fresh_tokenizer()
    models = []
    for seed in (0, 1):
        model = fresh_model("bert", seed=seed, layers=2, max_position_embeddings=512)
        torch.nn.init.zeros_(model.encoder.layer[0].attention.self.value.weight)
        torch.nn.init.normal_(model.encoder.layer[0].attention.self.value.bias)
        models.append((model, tokenizer))
    return models


@pytest.fixture(scope="module")
def long_texts():
    rng = np.random.default_rng(0)
    return [" ".join(f"w{w}" for w in rng.integers(0, 120, size=rng.integers(200, 500))) for _ in range(40)]


@pytest.mark.parametrize("options", [{}, {"keep_features": 0}, {"pooling": "cls"}], ids=["kept", "streamed", "cls"])
def test_a_constant_branch_has_no_variance_and_no_cka(branches, long_texts, options):
    result = compare(*branches, long_texts, sites="attention", rescale=True, cache=False, **options)
    constant, other = result.layers
    assert constant["cka_debiased"] is None
    assert constant["rescaled"]["cka_debiased"] is None
    assert "no variance" in constant["reason"]
    assert [w["layers"] for w in result.warnings if w["code"] == "no-variance"] == [[0]]
    assert not [w for w in result.warnings if w["code"] in ("low-dimension", "massive-feature") and 0 in w["layers"]]
    assert other["cka_debiased"] is not None
    assert result.summary["mean_divergence"]["debiased"]["value"] == pytest.approx(1 - other["cka_debiased"])


def test_mean_pooling_does_round_more_than_one_operation(branches, long_texts):
    """What the case is about: the spread is more than a few steps of float32, and grows with the tokens."""
    (found,) = compute_features([branches[0]], long_texts, sites="attention", layers=(0,), cache=False)
    features = found.layers[0].astype(np.float64)
    spread = np.sqrt((features - features[0]).var(axis=0).sum()) / np.linalg.norm(features[0])
    assert spread > 4 * np.finfo(np.float32).eps


def test_a_small_spread_that_is_real_stays(branches, long_texts):
    """A spread of 1e-3 of the mean is far above what sums over 500 tokens can round to."""
    model, tokenizer = branches[0]
    with torch.no_grad():
        model.encoder.layer[0].attention.self.value.weight[0, 0] = 1e-2
    try:
        result = compare((model, tokenizer), branches[1], long_texts, sites="attention", layers=(0,), cache=False)
    finally:
        torch.nn.init.zeros_(model.encoder.layer[0].attention.self.value.weight)
    assert result.layers[0]["reason"] == "the layer of B has no variance over these documents"
