"""Batch plans: each document once, within the budget, a pure function of lengths and settings."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from cka_tools.extraction.batches import make_batch, plan_corpus_order, plan_equal_lengths, plan_sorted
from cka_tools.extraction.tokens import TokenTable

lengths_of_documents = st.lists(st.integers(1, 512), min_size=1, max_size=60)


@given(lengths_of_documents, st.integers(1, 4096))
def test_every_document_is_in_one_batch_within_the_budget(lengths: list[int], budget: int) -> None:
    plan = plan_sorted(lengths, budget)
    assert sorted(row for rows in plan.batches for row in rows) == list(range(len(lengths)))
    for rows, longest in zip(plan.batches, plan.lengths, strict=True):
        assert longest == max(lengths[row] for row in rows)
        assert len(rows) == 1 or len(rows) * longest <= budget
    assert list(plan.lengths) == sorted(plan.lengths, reverse=True)


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=60), st.integers(1, 40))
def test_documents_of_a_batch_of_equal_lengths_are_as_long_for_each_tokenizer(
    lengths: list[tuple[int, int]], budget: int
) -> None:
    plan = plan_equal_lengths(np.array(lengths).T, budget)
    assert sorted(row for rows in plan.batches for row in rows) == list(range(len(lengths)))
    for rows, longest in zip(plan.batches, plan.lengths, strict=True):
        assert len({lengths[row] for row in rows}) == 1
        assert longest == max(lengths[rows[0]])
        assert len(rows) == 1 or len(rows) * longest <= budget
    assert list(plan.lengths) == sorted(plan.lengths, reverse=True)
    alone = plan_equal_lengths([length for length, _ in lengths], budget)
    assert alone.record()["padded_tokens"] == sum(length for length, _ in lengths)


@given(lengths_of_documents)
def test_sorting_pads_no_more_than_corpus_order(lengths: list[int]) -> None:
    ordered = plan_corpus_order(lengths, 16).record()["padded_tokens"]
    assert plan_sorted(lengths, 16 * 512).record()["padded_tokens"] <= max(ordered, sum(lengths) * 512)


@given(lengths_of_documents, st.integers(1, 5))
def test_shards_are_whole_batches_of_the_one_plan(lengths: list[int], world: int) -> None:
    plan = plan_sorted(lengths, 600)
    shards = [plan.shard(rank, world) for rank in range(world)]
    assert sorted(rows for shard in shards for rows in shard.batches) == sorted(plan.batches)


def test_corpus_order_is_batches_of_sixteen_as_they_come() -> None:
    plan = plan_corpus_order(list(range(1, 41)), 16)
    assert plan.batches == (tuple(range(16)), tuple(range(16, 32)), tuple(range(32, 40)))
    assert plan.lengths == (16, 32, 40)


def test_the_record_tells_plans_apart() -> None:
    one, other = plan_sorted([5, 6, 7], 100), plan_sorted([5, 7, 6], 100)
    assert one.record() == plan_sorted([5, 6, 7], 100).record()
    assert one.record()["sha256"] != other.record()["sha256"]


def test_a_batch_is_padded_on_the_right_and_masked() -> None:
    ids = np.arange(10, 20, dtype=np.int32)
    table = TokenTable(ids, np.ones(10, bool), np.array([0, 3, 4, 10]), pad_id=1, truncated=0)
    batch = make_batch(table, (1, 0), torch.device("cpu"))
    assert batch.input_ids.tolist() == [[13, 1, 1], [10, 11, 12]]
    assert batch.attention_mask.tolist() == [[1, 0, 0], [1, 1, 1]]
