"""Hooks on blocks see the residual stream, and on branches what they add to it, in every family."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cka_tools.errors import UserError
from cka_tools.models import load_model
from cka_tools.models.blocks import block_output
from cka_tools.models.check import check_blocks

LENGTH = 20
CAUSAL = {"gpt2", "gpt_neox", "llama", "gemma", "gemma2", "gemma3", "modernbert-decoder"}
POST_NORM = {"bert", "roberta", "distilbert"}


@pytest.fixture(scope="module")
def batch() -> dict[str, torch.Tensor]:
    """Three sequences of 20, 13 and 5 tokens, without pad ids in the text."""
    torch.manual_seed(3)
    ids = torch.randint(5, 120, (3, LENGTH))
    mask = torch.ones_like(ids)
    for row, length in enumerate((20, 13, 5)):
        mask[row, length:] = 0
        ids[row, length:] = 1
    return {"input_ids": ids, "attention_mask": mask}


def record(model: Any, paths: list[str], batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    seen: dict[str, torch.Tensor] = {}
    modules = dict(model.named_modules())
    handles = [
        modules[path].register_forward_hook(
            lambda module, args, output, path=path: seen.__setitem__(path, block_output(output))
        )
        for path in paths
    ]
    with torch.no_grad():
        model(**batch)
    for handle in handles:
        handle.remove()
    return seen


def test_hooks_equal_the_hidden_states(architecture: str, tiny_model: Callable[..., Path], batch: Any) -> None:
    loaded = load_model(tiny_model(architecture), device="cpu")
    seen = record(loaded.model, [block.path for block in loaded.blocks], batch)
    with torch.no_grad():
        output = loaded.model(**batch, output_hidden_states=True)
    assert len(loaded.blocks) == 6
    for block in loaded.blocks[:-1]:
        torch.testing.assert_close(seen[block.path], output.hidden_states[block.index + 1], rtol=0, atol=0)
    last = seen[loaded.blocks[-1].path]
    if architecture in POST_NORM:
        assert loaded.final_norm is None
    else:
        assert loaded.final_norm is not None
        assert not torch.allclose(last, output.last_hidden_state, atol=1e-2)
        last = loaded.model.get_submodule(loaded.final_norm)(last)
    torch.testing.assert_close(last, output.last_hidden_state, rtol=0, atol=0)
    assert float((seen[loaded.blocks[0].path] - seen[loaded.blocks[1].path]).abs().max()) > 0.1


def run_blocks_by_hand(architecture: str, model: Any, batch: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """The forward pass written out: embedding, masks made here, one block after the other."""
    ids, mask = batch["input_ids"], batch["attention_mask"].bool()
    positions = torch.arange(LENGTH).unsqueeze(0)
    query, key = torch.arange(LENGTH)[:, None], torch.arange(LENGTH)[None, :]
    allowed = mask[:, None, None, :].expand(-1, 1, LENGTH, LENGTH)
    if architecture in CAUSAL:
        allowed = allowed & (key <= query)
    window = getattr(model.config, "sliding_window", None)
    near = (query - key).abs() <= window if architecture == "modernbert" else key > query - (window or LENGTH)
    masks = {"full_attention": allowed, "sliding_attention": allowed & near}
    if model.config._attn_implementation == "eager":
        masks = {kind: torch.where(m, 0.0, torch.finfo(torch.float32).min) for kind, m in masks.items()}
    if architecture in {"modernbert", "modernbert-decoder", "bert", "roberta", "distilbert"}:
        hidden = model.embeddings(input_ids=ids)
    elif architecture == "gpt2":
        hidden = model.wte(ids) + model.wpe(positions)
    elif architecture == "gpt_neox":
        hidden = model.embed_in(ids)
    else:
        hidden = model.embed_tokens(ids)
    blocks = {"gpt2": "h", "distilbert": "transformer.layer", "bert": "encoder.layer", "roberta": "encoder.layer"}
    outputs = []
    for index, block in enumerate(model.get_submodule(blocks.get(architecture, "layers"))):
        kinds = getattr(model.config, "layer_types", None)
        kind = kinds[index] if kinds else "full_attention"
        options: dict[str, Any] = {"attention_mask": masks[kind]}
        if architecture in {"modernbert", "modernbert-decoder", "gemma3"}:
            options["position_embeddings"] = model.rotary_emb(hidden, positions, kind)
        elif architecture in {"gpt_neox", "llama", "gemma", "gemma2"}:
            options["position_embeddings"] = model.rotary_emb(hidden, position_ids=positions)
        hidden = block_output(block(hidden, **options))
        outputs.append(hidden)
    return outputs


def test_hooks_equal_the_blocks_run_by_hand(architecture: str, tiny_model: Callable[..., Path], batch: Any) -> None:
    loaded = load_model(tiny_model(architecture), device="cpu")
    seen = record(loaded.model, [block.path for block in loaded.blocks], batch)
    with torch.no_grad():
        by_hand = run_blocks_by_hand(architecture, loaded.model, batch)
    real = batch["attention_mask"].bool()
    for block, expected in zip(loaded.blocks, by_hand, strict=True):
        torch.testing.assert_close(seen[block.path][real], expected[real], rtol=1e-4, atol=1e-5)


def test_branches_add_up_to_the_blocks_output(architecture: str, tiny_model: Callable[..., Path], batch: Any) -> None:
    loaded = load_model(tiny_model(architecture), device="cpu")
    paths = [path for block in loaded.blocks for path in (block.path, block.attention, block.mlp) if path]
    assert len(paths) == 18
    seen = record(loaded.model, paths, batch)
    for before, block in zip(loaded.blocks, loaded.blocks[1:], strict=False):
        given, output = seen[before.path], seen[block.path]
        attention, mlp = seen[str(block.attention)], seen[str(block.mlp)]
        assert float(attention.abs().max()) > 1e-3
        assert float(mlp.abs().max()) > 1e-3
        if architecture in POST_NORM:
            assert block.norms is not None
            first, second = (loaded.model.get_submodule(path) for path in block.norms)
            total = second(first(given + attention) + mlp)
        else:
            assert block.norms is None
            total = given + attention + mlp
        torch.testing.assert_close(total, output, rtol=1e-5, atol=1e-5)


def test_a_branch_module_that_does_not_add_up_is_dropped(tiny_model: Callable[..., Path]) -> None:
    wrong = {
        "gemma2": ("self_attn", "post_feedforward_layernorm"),  # the attention before its post-norm
        "bert": ("attention.output", "output.dense", "attention.output.LayerNorm", "output.LayerNorm"),  # with residual
    }
    for architecture, names in wrong.items():
        loaded = load_model(tiny_model(architecture), device="cpu")
        for block in loaded.blocks:
            block.candidates = [tuple(f"{block.path}.{name}" for name in names)]
            block.take_branches(block.candidates[0])
        check_blocks(loaded)
        assert {block.attention for block in loaded.blocks} == {None}


def test_the_branches_that_add_up_are_found_among_those_that_could_be(tiny_model: Callable[..., Path]) -> None:
    loaded = load_model(tiny_model("llama"), device="cpu")
    for block in loaded.blocks:
        names = (("post_attention_layernorm", "mlp"), ("self_attn", "mlp"))  # in Llama a norm in front of the MLP
        block.candidates = [tuple(f"{block.path}.{name}" for name in pair) for pair in names]
        block.take_branches(block.candidates[0])
    check_blocks(loaded)
    assert [block.attention for block in loaded.blocks] == [f"layers.{at}.self_attn" for at in range(6)]


def test_a_block_that_is_not_the_residual_stream_is_refused_with_its_layer(tiny_model: Callable[..., Path]) -> None:
    loaded = load_model(tiny_model("modernbert"), device="cpu")
    loaded.blocks[3].path += ".mlp_norm"
    with pytest.raises(UserError, match=r"layer 3 \(layers\.3\.mlp_norm\)"):
        check_blocks(loaded)
    assert not any(module._forward_hooks for module in loaded.model.modules())


def test_a_block_that_does_not_run_is_refused(tiny_model: Callable[..., Path]) -> None:
    loaded = load_model(tiny_model("bert"), device="cpu")
    loaded.blocks[2].path = "pooler.activation"
    with pytest.raises(UserError, match="layer 2"):
        check_blocks(loaded)


@pytest.mark.parametrize(
    ("architecture", "local", "window"),
    [("modernbert", {1, 2, 4, 5}, 4), ("gemma3", {0, 1, 3, 4}, 8), ("gemma2", {0, 2, 4}, 8)],
)
def test_layers_are_described_with_their_attention(
    architecture: str, local: set[int], window: int, tiny_model: Callable[..., Path]
) -> None:
    layers = load_model(tiny_model(architecture), device="cpu").blocks
    assert [layer.index for layer in layers] == list(range(6))
    assert {layer.index for layer in layers if layer.scope == "local"} == local
    assert {layer.window for layer in layers if layer.scope == "local"} == {window}
    assert {layer.window for layer in layers if layer.scope == "global"} == {None}
    assert all(layer.width == 32 and layer.attention and layer.mlp for layer in layers)


def test_no_scope_is_claimed_where_the_config_has_none(tiny_model: Callable[..., Path]) -> None:
    assert {layer.scope for layer in load_model(tiny_model("bert"), device="cpu").blocks} == {None}
