"""Attention by document against SDPA, for every architecture that it is chosen for."""

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModel

from cka_tools.models import attention as document_attention
from cka_tools.models import load_model
from cka_tools.models.attention import BY_DOCUMENT, BY_DOCUMENT_MODELS
from cka_tools.settings import Settings
from cka_tools.store.cached_extraction import extract_cached

LENGTHS = (61, 60, 33, 2)
CASES = [(kind, False) for kind in sorted(BY_DOCUMENT_MODELS)]
# ModernBERT has no causal form in transformers.
CASES += [(kind, True) for kind in sorted(BY_DOCUMENT_MODELS - {"modernbert"})]
SMALL = {
    "vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4,
    "intermediate_size": 48, "max_position_embeddings": 80, "pad_token_id": 0,
}  # fmt: skip


def hidden_states(model, ids, mask, attention):
    model.set_attn_implementation(attention)
    with torch.inference_mode():
        return model(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states


@pytest.mark.parametrize("queries", [16, 256])
@pytest.mark.parametrize(("kind", "causal"), CASES)
def test_equals_sdpa_on_every_token_of_text(monkeypatch, kind, causal, queries):
    monkeypatch.setattr(document_attention, "QUERIES", queries)
    options = dict(SMALL)
    if kind == "modernbert":
        options |= {"local_attention": 16, "global_attn_every_n_layers": 3}
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **options)
    if causal:
        config.is_decoder = True
    model = AutoModel.from_config(config).eval()
    mask = torch.zeros(len(LENGTHS), max(LENGTHS), dtype=torch.long)
    for row, length in enumerate(LENGTHS):
        mask[row, :length] = 1
    ids = torch.randint(1, 50, mask.shape) * mask
    expected = hidden_states(model, ids, mask, "sdpa")
    found = hidden_states(model, ids, mask, BY_DOCUMENT)
    moved = hidden_states(model, ids, torch.ones_like(mask), "sdpa")
    real = mask.bool()
    for x, y in zip(found, expected, strict=True):
        assert torch.isfinite(x).all()
        torch.testing.assert_close(x[real], y[real], rtol=1e-5, atol=1e-5)
    # Who sees whom matters here: with the padding in sight everything is different.
    if not causal:
        assert (moved[-1][real] - expected[-1][real]).abs().max() > 1e-2


@pytest.mark.parametrize("kind", ["bert", "modernbert"])
def test_features_in_bfloat16_are_sdpas_to_its_rounding(tiny_model, tiny_documents, kind):
    chosen, plain, exact = (
        load_model(tiny_model(kind), device="cpu", dtype=dtype) for dtype in ("bfloat16", "bfloat16", "float32")
    )
    plain.model.set_attn_implementation("sdpa")
    assert chosen.model.config._attn_implementation == BY_DOCUMENT
    settings = Settings(batch_tokens=128)
    first, second, reference = (
        np.stack(extract_cached(m, tiny_documents, settings, cache=False).features[0].features)
        for m in (chosen, plain, exact)
    )
    error, of_sdpa = np.abs(first - reference).max(), np.abs(second - reference).max()
    assert 0 < error < 2 * of_sdpa
