"""A block that runs several times in a forward pass is a layer each time."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModel

from cka_tools.documents import Document
from cka_tools.errors import UserError
from cka_tools.models import load_model
from cka_tools.models.parts import places_of
from cka_tools.store.cached_extraction import extract_cached


def albert(**sizes: int) -> Any:
    small = {"hidden_size": 16, "embedding_size": 8, "num_attention_heads": 2, "intermediate_size": 24}
    return AutoModel.from_config(AutoConfig.for_model("albert", vocab_size=125, **small, **sizes)).eval()


def shared_by_hand(model: Any, ids: torch.Tensor, order: list[Any]) -> list[torch.Tensor]:
    """What leaves each block where they run in this order."""
    hidden, states = model.encoder.embedding_hidden_mapping_in(model.embeddings(ids)), []
    for block in order:
        hidden = block(hidden)
        states.append(hidden)
    return states


def test_layers_that_share_blocks_are_the_calls_of_these(fresh_tokenizer: Callable[..., Any]) -> None:
    """Five runs of two groups of two blocks: ten layers, the first six of group 0."""
    model = albert(num_hidden_layers=5, num_hidden_groups=2, inner_group_num=2)
    loaded = load_model((model, fresh_tokenizer()))
    groups = [group.albert_layers for group in model.encoder.albert_layer_groups]
    order = [groups[group][at] for group in (0, 0, 0, 1, 1) for at in (0, 1)]
    assert [block.module for block in loaded.blocks] == order
    assert [(block.call, block.calls) for block in loaded.blocks[4:8]] == [(2, 3), (2, 3), (0, 2), (0, 2)]
    text = "w1 w2 w3"
    ids = torch.tensor([fresh_tokenizer()(text)["input_ids"]])
    with torch.no_grad():
        states = shared_by_hand(model, ids, order)
        found = extract_cached(loaded, [Document("d", text)], layers=[1, 4, 5, 9], cache=False).features[0].features
    for features, layer in zip(found, (1, 4, 5, 9), strict=True):
        np.testing.assert_allclose(features[0], states[layer][0].mean(0), atol=1e-6)


def test_a_block_that_stands_several_times_in_its_list_is_a_layer_each_time(
    fresh_model: Callable[..., Any], fresh_tokenizer: Callable[..., Any]
) -> None:
    model = fresh_model("bert")
    blocks = model.encoder.layer
    blocks[2] = blocks[0]
    loaded = load_model((model, fresh_tokenizer()))
    assert [(block.path, block.call) for block in loaded.blocks[:3]] == [
        ("encoder.layer.0", 0), ("encoder.layer.1", 0), ("encoder.layer.0", 1)]  # fmt: skip
    assert loaded.blocks[2].attention == loaded.blocks[0].attention


def test_a_model_whose_layers_share_blocks_has_no_parts_to_graft(fresh_tokenizer: Callable[..., Any]) -> None:
    loaded = load_model((albert(num_hidden_layers=3), fresh_tokenizer()))
    with pytest.raises(UserError, match="its layers share weights, so none of them has parts"):
        places_of(loaded)
