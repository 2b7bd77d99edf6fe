"""Flex attention: which blocks it looks at, and that its kernels see what the dense masks say."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import flex_attention
from torch.nn.functional import scaled_dot_product_attention

from cka_tools.errors import UserError
from cka_tools.models.attention import boolean_masks
from cka_tools.training import attention
from cka_tools.training.attention import FLEX_BLOCK, flex_mask, flex_within_documents
from cka_tools.training.start_model import load_start

KIND = {True: "sliding_attention", False: "full_attention"}


def documents(length: int, most: int, seed: int) -> torch.Tensor:
    """Two sequences of documents, some of them longer than a block."""
    draw = torch.Generator().manual_seed(seed)
    starts = torch.rand(2, length, generator=draw) < most / max(length, 1)
    return starts.cumsum(1)


@settings(max_examples=80, deadline=None)
@given(
    length=st.integers(1, 5 * FLEX_BLOCK + 3),
    window=st.none() | st.integers(0, 3 * FLEX_BLOCK),
    causal=st.booleans(),
    most=st.integers(0, 12),
    seed=st.integers(0, 1000),
)
def test_blocks_left_out_hold_nothing_seen_and_whole_ones_nothing_hidden(
    length: int, window: int | None, causal: bool, most: int, seed: int
) -> None:
    owner = documents(length, most, seed)
    mask = flex_mask(owner, causal=causal, window=window)
    dense = boolean_masks(owner, causal=causal, sliding_window=length if window is None else window)
    seen = dense[KIND[window is not None]][:, 0]
    query = torch.arange(length)[:, None]
    both = torch.arange(2)[:, None, None]
    assert torch.equal(mask.mask_mod(both, torch.zeros(()), query, query.T), seen)

    blocks = -(-length // FLEX_BLOCK)
    for counts, listed, whole in (
        (mask.kv_num_blocks, mask.kv_indices, False), (mask.full_kv_num_blocks, mask.full_kv_indices, True),
    ):  # fmt: skip
        assert counts.shape == (2, 1, blocks)
        for batch, row in ((b, i) for b in range(2) for i in range(blocks)):
            taken = set(listed[batch, 0, row, : counts[batch, 0, row]].tolist())
            for column in range(blocks):
                rows, columns = (slice(at * FLEX_BLOCK, (at + 1) * FLEX_BLOCK) for at in (row, column))
                part = seen[batch, rows, columns]
                if whole and column in taken:
                    assert part.shape == (FLEX_BLOCK, FLEX_BLOCK)
                    assert part.all()
                elif not whole and column not in taken:
                    assert not part.any() or column in _taken(mask, batch, row)
                elif not whole:
                    assert column not in _taken(mask, batch, row)


def _taken(mask: object, batch: int, row: int) -> set[int]:
    count = mask.full_kv_num_blocks[batch, 0, row]  # type: ignore[attr-defined]
    return set(mask.full_kv_indices[batch, 0, row, :count].tolist())  # type: ignore[attr-defined]


def test_most_blocks_of_many_short_documents_are_left_out() -> None:
    """Otherwise blocks would be for nothing: 64 blocks of queries, each document within one or two of them."""
    owner = torch.arange(64 * FLEX_BLOCK)[None] // 100
    for causal, most in ((False, 3), (True, 2)):
        mask = flex_mask(owner, causal=causal, window=None)
        assert int(mask.kv_num_blocks.max()) <= most
        assert int(mask.full_kv_num_blocks.max()) == 0
    alone = flex_mask(torch.zeros(1, 64 * FLEX_BLOCK, dtype=torch.long), causal=False, window=64)
    assert int(alone.kv_num_blocks.max()) == 3


@pytest.mark.slow
@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="there is no C++ compiler")
@pytest.mark.parametrize("window", [None, 40])
@pytest.mark.parametrize("causal", [True, False])
def test_compiled_kernels_see_what_dense_masks_say(causal: bool, window: int | None) -> None:
    """Those for a CPU, which know a forward pass only, read the same tables of blocks as those for a GPU."""
    length = 3 * FLEX_BLOCK + 50
    owner = documents(length, 5, 3)
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 2, length, 16, generator=draw) for _ in range(3))
    dense = boolean_masks(owner, causal=causal, sliding_window=window or length)[KIND[window is not None]]
    expected = scaled_dot_product_attention(q, k, v, attn_mask=dense)
    with torch.inference_mode():
        mask = flex_mask(owner, causal=causal, window=window)
        found = torch.compile(flex_attention, dynamic=False)(q, k, v, block_mask=mask)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_dropout_is_refused() -> None:
    q = torch.zeros(1, 1, 2, 2)
    mask = flex_mask(torch.zeros(1, 2, dtype=torch.long), causal=False, window=None)
    with pytest.raises(ValueError, match=r"0\.5"):
        flex_within_documents(torch.nn.Module(), q, q, q, mask, dropout=0.5)


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_training_without_a_backward_pass_is_refused(device: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"'flex' has no backward pass on '{device}': choose sdpa, eager, blocked"):
        load_start(tmp_path, attention=attention.FLEX, device_type=device)
