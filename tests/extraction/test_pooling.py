"""Pooling against brute force, padding on either side; token draws."""

from typing import Any

import numpy as np
import pytest
import torch

from cka_tools.extraction.activations import MaskedSum, draw_positions, make_pooler
from cka_tools.extraction.tokens import TokenTable

SPANS = {"right": [(0, 7), (0, 3), (0, 1)], "left": [(0, 7), (4, 7), (6, 7)]}


@pytest.fixture(params=["right", "left"])
def padded(request: Any) -> tuple[torch.Tensor, torch.Tensor, list[tuple[int, int]]]:
    """Hidden states (3, 7, 5), huge where padded, their mask, and the real span of each row."""
    spans = SPANS[request.param]
    torch.manual_seed(0)
    hidden, mask = torch.randn(3, 7, 5) + 2, torch.zeros(3, 7, dtype=torch.long)
    for row, (start, stop) in enumerate(spans):
        mask[row, start:stop] = 1
    hidden[mask == 0] = 1e30
    return hidden, mask, spans


@pytest.mark.parametrize("pooling", ["mean", "cls", "last", "token"])
def test_pooling_equals_brute_force(pooling: str, padded: Any) -> None:
    hidden, mask, spans = padded
    positions = torch.tensor([[0, 6, 3], [2, 1, 0], [0, 0, 0]])
    pooled = make_pooler(pooling, MaskedSum(mask, hidden.dtype), positions)(hidden)
    for row, (start, stop) in enumerate(spans):
        real = hidden[row, start:stop]
        expected = {
            "mean": real.mean(0, keepdim=True),
            "cls": real[:1],
            "last": real[-1:],
            "token": real[positions[row]],
        }[pooling]
        torch.testing.assert_close(pooled[:, row], expected)


@pytest.mark.parametrize(("dtype", "sums"), [(torch.bfloat16, torch.float32), (torch.float64, torch.float64)])
def test_sums_are_of_float32_or_better(dtype: torch.dtype, sums: torch.dtype) -> None:
    hidden = torch.full((1, 4096, 2), 1.0, dtype=dtype)
    total = MaskedSum(torch.ones(1, 4096), dtype)(hidden)
    assert total.dtype == sums
    assert total.tolist() == [[4096.0, 4096.0]]  # bfloat16 sums stop growing at 256


def table_of(documents: list[list[int]]) -> TokenTable:
    """Documents of given ids, the first and last token special."""
    offsets = np.concatenate([[0], np.cumsum([len(ids) for ids in documents])])
    ordinary = np.concatenate([[False] + [True] * (len(ids) - 2) + [False] for ids in documents])
    return TokenTable(np.concatenate(documents).astype(np.int32), ordinary, offsets, 1, 0)


def test_draws_are_of_ordinary_tokens_and_follow_the_document_not_its_place() -> None:
    documents = [[0, 5, 6, 7, 8, 9, 2], [0, 11, 12, 2], [0, 13, 2]]
    drawn = draw_positions(table_of(documents), 42, 8)
    assert drawn.shape == (3, 8)
    for row, ids in enumerate(documents):
        assert set(drawn[row].tolist()) == set(range(1, len(ids) - 1))  # 8 draws reach all of up to 5 tokens
    assert draw_positions(table_of(documents[::-1]), 42, 8)[::-1].tolist() == drawn.tolist()
    assert draw_positions(table_of(documents), 43, 8).tolist() != drawn.tolist()


def test_each_draw_is_uniform_over_a_documents_tokens() -> None:
    documents = [[0, *range(10 * i, 10 * i + 4), 2] for i in range(2000)]
    drawn = draw_positions(table_of(documents), 1, 3)
    for draw in range(3):
        shares = np.bincount(drawn[:, draw], minlength=6)[1:5] / 2000
        assert np.abs(shares - 0.25).max() < 0.05
