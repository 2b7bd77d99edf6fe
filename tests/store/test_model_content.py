"""A model in memory that is changed in any way is never given the features of what it was."""

import copy
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from cka_tools.models import load_model
from cka_tools.models.content import NotKeyed, hash_attributes
from cka_tools.settings import Settings
from cka_tools.store.cached_extraction import extract_cached

SETTINGS = Settings(max_length=64, batch_tokens=256)


class Adapted(nn.Module):
    """A linear map with low-rank additions by name, of which some are active, as adapters are."""

    def __init__(self, base: nn.Module, width: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.base = base
        self.scaling = {"one": 2.0, "two": 0.5}
        self.active = ["one"]
        self.disabled = False
        self.extra = nn.ParameterDict(
            {name: nn.Parameter(torch.randn(width, width, generator=generator)) for name in self.scaling}
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.base(x)
        for name in () if self.disabled else self.active:
            out = out + self.scaling[name] * x @ self.extra[name]
        return out


class Steered(nn.Module):
    """Adds a vector that is neither a parameter nor a buffer."""

    def __init__(self, inner: nn.Module, width: int) -> None:
        super().__init__()
        self.inner, self.vector, self.settings = inner, torch.ones(width), {"by": [1.0, (2, "x")]}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x) + self.settings["by"][0] * self.vector


def adapted(model: Any) -> None:
    own = model.encoder.layer[1].attention.self
    own.query = Adapted(own.query, 32)


def steered(model: Any) -> None:
    dense = model.encoder.layer[2].output
    dense.dense = Steered(dense.dense, 32)


def softsign(model: Any) -> None:
    inner = model.encoder.layer[3].intermediate
    del inner.intermediate_act_fn
    inner.intermediate_act_fn = nn.functional.softsign


def deep(model: Any) -> None:
    model.encoder.layer[2].output.dense.settings["by"][0] = 4.0


def attention(model: Any) -> Any:
    return model.encoder.layer[1].attention.self


# How a model is made before, and what is changed about it then.
CHANGES = {
    "an epsilon": (None, lambda m: setattr(m.encoder.layer[0].output.LayerNorm, "eps", 0.5)),
    "the scale of attention": (None, lambda m: setattr(attention(m), "scaling", 2.0)),
    "an activation": (
        None,
        lambda m: setattr(m.encoder.layer[3].intermediate, "intermediate_act_fn", nn.ReLU()),
    ),
    "an activation as a function": (None, softsign),
    "a module's class": (
        None,
        lambda m: setattr(m.encoder.layer[3].output, "LayerNorm", nn.RMSNorm(32)),
    ),
    "an adapter switched off": (adapted, lambda m: setattr(attention(m).query, "disabled", True)),
    "another adapter": (adapted, lambda m: setattr(attention(m).query, "active", ["two"])),
    "an adapter's scale": (adapted, lambda m: attention(m).query.scaling.update(one=9.0)),
    "an adapter's weights": (adapted, lambda m: attention(m).query.extra["one"].data.mul_(2)),
    "a tensor held aside": (steered, lambda m: m.encoder.layer[2].output.dense.vector.mul_(3)),
    "a value deep inside": (steered, deep),
    "a buffer": (None, lambda m: m.embeddings.position_ids.copy_(m.embeddings.position_ids.flip(-1))),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_cached_is_what_runs(
    change: str, cache: Any, fresh_model: Any, fresh_tokenizer: Any, tiny_documents: Any
) -> None:
    prepare, alter = CHANGES[change]
    model, tokenizer = fresh_model("bert"), fresh_tokenizer()
    if prepare is not None:
        prepare(model)

    def features(*, cache: bool) -> np.ndarray:
        loaded = load_model((model, tokenizer))
        found = extract_cached(loaded, tiny_documents, SETTINGS, cache=cache)
        assert found.cache == (["off"] if not cache else found.cache)
        return np.stack(found.features[0].features)

    before = features(cache=True)
    assert np.array_equal(before, features(cache=True))
    alter(model)
    plain = features(cache=False)
    assert not np.array_equal(plain, before)
    assert np.array_equal(features(cache=True), plain)


def test_a_model_is_found_again_after_a_pass_and_as_a_copy(
    architecture: str, cache: Any, fresh_model: Any, fresh_tokenizer: Any, tiny_documents: Any
) -> None:
    model, tokenizer = fresh_model(architecture), fresh_tokenizer()
    states = [
        extract_cached(load_model((one, tokenizer)), tiny_documents, SETTINGS).cache
        for one in (model, model, copy.deepcopy(model))
    ]
    assert states == [["made"], ["hit"], ["hit"]]


@pytest.mark.parametrize(
    "held",
    [lambda x: x, partial(lambda x, y: x, 1), object(), [iter([1])]],
    ids=["lambda", "partial", "object", "iterator"],
)  # fmt: skip
def test_what_does_not_show_its_content_is_not_cached(
    held: Any, cache: Any, fresh_model: Any, fresh_tokenizer: Any, tiny_documents: Any
) -> None:
    model = fresh_model("bert")
    model.encoder.layer[4].held = held
    found = extract_cached(load_model((model, fresh_tokenizer())), tiny_documents, SETTINGS)
    assert found.cache == ["off"]
    assert any("not kept in the cache" in note and "encoder.layer.4.held" in note for note in found.notes)


def test_two_modules_that_hold_each_other_are_told_by_their_names(fresh_model: Any) -> None:
    def tied(at: int) -> str:
        model = fresh_model("bert")
        model.encoder.layer[0].friends = [model.encoder.layer[at]]
        return hash_attributes(model)[0]

    assert tied(1) == tied(1)
    assert tied(1) != tied(2)


def test_a_thing_that_leads_back_to_itself_comes_to_an_end() -> None:
    class Held:
        pass

    module = nn.Linear(2, 2)
    module.held, module.held.self = Held(), None
    module.held.self = module.held
    one = hash_attributes(module)[0]
    module.held.more = 1
    assert hash_attributes(module)[0] != one
    module.held.more = open  # a builtin function
    hash_attributes(module)
    module.held.more = (value for value in ())
    with pytest.raises(NotKeyed, match=r"held\.more"):
        hash_attributes(module)
