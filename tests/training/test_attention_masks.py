from collections.abc import Callable

import numpy as np
import pytest
import torch
from transformers import ModernBertDecoderForCausalLM, ModernBertForMaskedLM, PreTrainedModel

from cka_tools.errors import UserError
from cka_tools.models.attention import boolean_masks
from cka_tools.training import attention
from cka_tools.training.attention import IMPLEMENTATIONS, attention_masks

WINDOW = 4
SHORT, LONG = 4, 24
# Sequence length and the position at which each later document begins.
PACKINGS = {
    "short, no boundary": (SHORT, []),
    "short, one boundary": (SHORT, [2]),
    "short, many boundaries": (SHORT, [1, 2, 3]),
    "long, no boundary": (LONG, []),
    "long, one boundary": (LONG, [11]),
    "long, many boundaries": (LONG, [3, 4, 9, 17, 22]),
}
packings = pytest.mark.parametrize(("length", "starts"), PACKINGS.values(), ids=PACKINGS.keys())
implementations = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)


def documents(length: int, starts: list[int]) -> torch.Tensor:
    ids = np.zeros(length, dtype=np.int64)
    ids[starts] = 1
    return torch.from_numpy(ids.cumsum())[None].repeat(2, 1)


def states(model: PreTrainedModel, ids: torch.Tensor, owner: torch.Tensor, causal: bool) -> torch.Tensor:
    """Return all hidden states, (layers + 1, batch, length, hidden)."""
    with torch.inference_mode():
        masks = attention_masks(model, owner, causal=causal)
        return torch.stack(model.model(ids, attention_mask=masks, output_hidden_states=True).hidden_states)


def random_ids(length: int) -> torch.Tensor:
    return torch.randint(5, 32, (2, length), generator=torch.Generator().manual_seed(1))


def changed(ids: torch.Tensor, position: int) -> torch.Tensor:
    other = ids.clone()
    other[:, position] = 5 + (other[:, position] - 4) % 27
    return other


@implementations
@packings
def test_in_clm_a_future_token_changes_no_earlier_hidden_state(
    tiny_model: Callable[..., ModernBertForMaskedLM], implementation: str, length: int, starts: list[int]
) -> None:
    model, ids, owner = tiny_model(implementation), random_ids(length), documents(length, starts)
    before = states(model, ids, owner, causal=True)
    for position in range(1, length):
        after = states(model, changed(ids, position), owner, causal=True)
        assert torch.equal(after[:, :, :position], before[:, :, :position])
        assert not torch.allclose(after[:, :, position], before[:, :, position])


@implementations
@packings
@pytest.mark.parametrize("causal", [True, False])
def test_a_token_reaches_all_of_its_document_that_it_may_and_nothing_of_another(
    tiny_model: Callable[..., ModernBertForMaskedLM], implementation: str, length: int, starts: list[int], causal: bool
) -> None:
    model, ids, owner = tiny_model(implementation), random_ids(length), documents(length, starts)
    before = states(model, ids, owner, causal)
    for position in range(length):
        after = states(model, changed(ids, position), owner, causal)
        moved = (after[1:] != before[1:]).any(dim=(0, 1, 3))
        reachable = owner[0] == owner[0, position]
        if causal:
            reachable &= torch.arange(length) >= position
        assert torch.equal(moved, reachable)


@implementations
def test_local_layers_see_the_window_and_no_further(
    tiny_model: Callable[..., ModernBertForMaskedLM], implementation: str
) -> None:
    model, ids, owner = tiny_model(implementation), random_ids(LONG), documents(LONG, [])
    assert model.config.layer_types[0] == "full_attention"
    model.model.layers = model.model.layers[1:2]
    for causal, reach in ((True, range(10, 15)), (False, range(6, 15))):
        before = states(model, ids, owner, causal)
        after = states(model, changed(ids, 10), owner, causal)
        moved = (after[-1] != before[-1]).any(dim=(0, 2))
        assert moved.nonzero().ravel().tolist() == list(reach)


@implementations
def test_bidirectional_masks_of_one_document_equal_the_models_own(
    tiny_model: Callable[..., ModernBertForMaskedLM], implementation: str
) -> None:
    model, ids = tiny_model(implementation), random_ids(LONG)
    with torch.inference_mode():
        own = torch.stack(tiny_model("sdpa").model(ids, output_hidden_states=True).hidden_states)
    torch.testing.assert_close(states(model, ids, documents(LONG, []), causal=False), own, rtol=0, atol=1e-5)


@pytest.mark.parametrize("causal", [True, False])
def test_implementations_agree(tiny_model: Callable[..., ModernBertForMaskedLM], causal: bool) -> None:
    ids, owner = random_ids(LONG), documents(LONG, [3, 9])
    a, *others = (states(tiny_model(name), ids, owner, causal) for name in IMPLEMENTATIONS)
    for other in others:
        torch.testing.assert_close(other, a, rtol=0, atol=1e-5)


@packings
def test_the_causal_masks_are_the_bidirectional_ones_cut_at_the_diagonal(length: int, starts: list[int]) -> None:
    owner = documents(length, starts)
    causal = boolean_masks(owner, causal=True, sliding_window=WINDOW)
    both = boolean_masks(owner, causal=False, sliding_window=WINDOW)
    for kind in ("full_attention", "sliding_attention"):
        assert causal[kind].dtype == torch.bool
        assert causal[kind].shape == (2, 1, length, length)
        assert torch.equal(causal[kind], both[kind].tril())
        assert torch.equal(both[kind], both[kind].transpose(2, 3))
    assert int(causal["sliding_attention"].sum(-1).max()) <= WINDOW + 1


def test_an_implementation_without_masks_of_ours_is_refused(tiny_model: Callable[..., ModernBertForMaskedLM]) -> None:
    model = tiny_model()
    model.config._attn_implementation = "flex_attention"
    with pytest.raises(UserError, match="'flex_attention'"):
        attention_masks(model, documents(SHORT, []), causal=True)


def last_states(
    model: ModernBertDecoderForCausalLM, ids: torch.Tensor, owner: torch.Tensor, causal: bool
) -> torch.Tensor:
    with torch.inference_mode():
        return model.model(ids, attention_mask=attention_masks(model, owner, causal=causal)).last_hidden_state


@implementations
def test_a_decoder_keeps_its_own_causal_masks(
    tiny_decoder: Callable[..., ModernBertDecoderForCausalLM], implementation: str
) -> None:
    model, ids = tiny_decoder(implementation), random_ids(LONG)
    # The window is narrower than the sequence, so one token more or less in reach would be seen.
    assert "sliding_attention" in model.config.layer_types
    with torch.inference_mode():
        own = tiny_decoder("sdpa").model(ids).last_hidden_state
    ours = last_states(model, ids, documents(LONG, []), causal=True)
    torch.testing.assert_close(ours, own, rtol=0, atol=1e-5)


@implementations
@packings
@pytest.mark.parametrize("causal", [True, False])
def test_in_a_decoder_a_token_reaches_all_of_its_document_that_it_may(
    tiny_decoder: Callable[..., ModernBertDecoderForCausalLM],
    implementation: str,
    length: int,
    starts: list[int],
    causal: bool,
) -> None:
    model, ids, owner = tiny_decoder(implementation), random_ids(length), documents(length, starts)
    assert "full_attention" in model.config.layer_types
    before = last_states(model, ids, owner, causal)
    for position in range(length):
        after = last_states(model, changed(ids, position), owner, causal)
        moved = (after != before).any(dim=(0, 2))
        reachable = owner[0] == owner[0, position]
        if causal:
            reachable &= torch.arange(length) >= position
        assert torch.equal(moved, reachable)


@pytest.mark.parametrize("causal", [True, False])
def test_long_sequences_leave_other_documents_out_and_compute_weights_again(
    tiny_model: Callable[..., ModernBertForMaskedLM], causal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids, owner = random_ids(LONG), documents(LONG, [3, 9])

    def gradients(implementation: str) -> list[torch.Tensor]:
        model = tiny_model(implementation)
        masks = attention_masks(model, owner, causal=causal)
        model.model(ids, attention_mask=masks).last_hidden_state.square().sum().backward()
        return [p.grad for p in model.model.parameters() if p.grad is not None]

    expected = gradients("sdpa")
    monkeypatch.setattr(attention, "QUERIES", 4)
    kept = gradients(attention.BLOCKED)
    monkeypatch.setattr(attention, "KEPT", 8)
    mask = attention.BlockedMask.of(owner, causal=causal, window=None)
    assert max(span.last - span.first for span in mask.spans) < LONG
    again = gradients(attention.BLOCKED)
    assert len(expected) == len(again) > 0
    for a, b, c in zip(expected, kept, again, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(c, a, rtol=1e-3, atol=1e-4)
