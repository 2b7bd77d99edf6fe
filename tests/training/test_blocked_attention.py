from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import ModernBertForMaskedLM

from cka_tools.models.attention import boolean_masks
from cka_tools.training import attention as blocked


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocked, "QUERIES", 8)


@settings(max_examples=60, deadline=None)
@given(
    length=st.integers(1, 40),
    window=st.integers(0, 45),
    causal=st.booleans(),
    local=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_values_and_gradients_equal_dense_attention(
    length: int, window: int, causal: bool, local: bool, seed: int
) -> None:
    blocked.QUERIES = 8
    draw = torch.Generator().manual_seed(seed)
    shape = (2, 3, length, 4)
    q, k, v, d_out = (torch.randn(shape, generator=draw, dtype=torch.float64) for _ in range(4))
    inputs = [x.requires_grad_() for x in (q, k, v)]
    documents = torch.randint(0, 2, (2, length), generator=draw).cumsum(1)
    kind = "sliding_attention" if local else "full_attention"
    seen = boolean_masks(documents, causal=causal, sliding_window=window)[kind]
    dense = torch.nn.functional.scaled_dot_product_attention(*inputs, attn_mask=seen)
    expected = torch.autograd.grad(dense, inputs, d_out)

    mask = blocked.BlockedMask.of(documents, causal=causal, window=window if local else None)
    out, weights = blocked.blocked_attention(torch.nn.Module(), *inputs, mask)
    assert weights is None
    torch.testing.assert_close(out.transpose(1, 2), dense, rtol=0, atol=1e-12)
    # Keys' and values' gradients are summed over blocks in float32.
    for ours, theirs in zip(torch.autograd.grad(out.transpose(1, 2), inputs, d_out), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_scores_out_of_reach_are_not_computed() -> None:
    """Otherwise blocks would be for nothing: 64 tokens, 4 to each side."""
    cut = blocked.spans(64, causal=False, window=4)
    assert sum((s.end - s.begin) * (s.last - s.first) for s in cut) < 64 * 64 / 3.5
    cut = blocked.spans(64, causal=True, window=None)
    assert sum((s.end - s.begin) * (s.last - s.first) for s in cut) < 64 * 64 * 0.6


def test_a_sequence_of_several_blocks_is_as_under_sdpa(tiny_model: Callable[..., ModernBertForMaskedLM]) -> None:
    from cka_tools.training.attention import attention_masks

    ids = torch.randint(5, 32, (2, 24), generator=torch.Generator().manual_seed(1))
    owner = torch.arange(24)[None].repeat(2, 1) // 10
    a, b = (
        model.model(ids, attention_mask=attention_masks(model, owner, causal=True)).last_hidden_state
        for model in (tiny_model("sdpa"), tiny_model("blocked"))
    )
    torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def test_dropout_is_refused() -> None:
    q = torch.zeros(1, 1, 2, 2)
    mask = blocked.BlockedMask.of(torch.zeros(1, 2, dtype=torch.long), causal=False, window=None)
    with pytest.raises(ValueError, match=r"0\.5"):
        blocked.blocked_attention(torch.nn.Module(), q, q, q, mask, dropout=0.5)


def test_parts_of_a_wider_matrix_give_the_same_bits_as_copies() -> None:
    """As models hand them over: q, k and v are cut from one product, the gradient is seen with heads and tokens
    swapped."""
    draw = torch.Generator().manual_seed(0)
    qkv = torch.randn(2, 24, 3, 2, 4, generator=draw)
    d_out = torch.randn(2, 24, 2, 4, generator=draw)
    mask = blocked.BlockedMask.of(torch.ones(2, 24, dtype=torch.long), causal=False, window=None)
    found = []
    for copied in (False, True):
        whole = qkv.clone().requires_grad_()
        parts = [part.transpose(1, 2) for part in whole.unbind(2)]
        out, _ = blocked.blocked_attention(None, *([one.contiguous() for one in parts] if copied else parts), mask)
        (gradient,) = torch.autograd.grad(out, whole, d_out)
        found.append((out.detach(), gradient))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
