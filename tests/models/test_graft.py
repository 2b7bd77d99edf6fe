"""Grafts and interpolations: which parameters stand where, what is refused, and what stays as it was."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from cka_tools.errors import UserError
from cka_tools.models import LoadOptions, as_source, graft, interpolate
from cka_tools.models.parts import BEYOND, BLOCK_PARTS, places_of, select

FAMILIES = ("modernbert", "bert", "roberta", "distilbert", "gpt2", "llama", "modernbert-decoder")
LAYERS = 6
EVERYTHING = ("all", *BEYOND)
WITH_HEAD = LoadOptions("cpu", head=True)

Pair = tuple[Any, Any]
Family = Callable[[str], Pair]


@pytest.fixture(scope="module")
def family(fresh_model: Callable[..., Any], fresh_tokenizer: Callable[..., Any]) -> Family:
    """`family(architecture)` → two models of it with a head and one tokenizer, made once."""
    made: dict[str, Pair] = {}

    def make(architecture: str) -> Pair:
        if architecture not in made:
            tokenizer = fresh_tokenizer(specials=architecture in FAMILIES[:4])
            made[architecture] = tuple((fresh_model(architecture, seed=seed, head=True), tokenizer) for seed in (1, 2))
        return made[architecture]

    return make


def weights(loaded: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in loaded.root.state_dict().items()}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("architecture", FAMILIES)
def test_a_graft_of_everything_is_the_donor_and_one_of_nothing_the_base(family: Family, architecture: str) -> None:
    base, donor = family(architecture)
    assert equal(weights(graft(base, donor, parts=EVERYTHING).load(WITH_HEAD)), donor[0].state_dict())
    assert equal(weights(graft(base, donor, parts=()).load(WITH_HEAD)), base[0].state_dict())
    assert not equal(base[0].state_dict(), donor[0].state_dict())


@pytest.mark.parametrize("architecture", FAMILIES)
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_two_complementary_grafts_hold_every_parameter_once(family: Family, architecture: str, data: Any) -> None:
    """Some parts in some layers, and the rest: of each parameter one graft has the donor's, the other the base's."""
    base, donor = family(architecture)
    parts = data.draw(st.sets(st.sampled_from(BLOCK_PARTS)))
    layers = data.draw(st.sets(st.integers(0, LAYERS - 1), min_size=1))
    # Embeddings and head may be tied: together or not at all.
    beyond = ("embeddings", "head") if data.draw(st.booleans()) else ()
    beyond += ("final-norm",) if data.draw(st.booleans()) else ()
    loaded = as_source(base).load(WITH_HEAD)
    names = list(places_of(loaded))
    one = select(loaded, sorted(layers), [*parts, *beyond])
    rest = select(loaded, sorted(set(range(LAYERS)) - layers), ["all"]) if len(layers) < LAYERS else set()
    rest |= select(loaded, sorted(layers), [part for part in BLOCK_PARTS if part not in parts])
    rest |= select(loaded, [], [part for part in BEYOND if part not in beyond])
    assert not one & rest
    assert one | rest == set(names)
    made = weights(graft(base, donor, sorted(layers), [*parts, *beyond]).load(WITH_HEAD))
    theirs, own = donor[0].state_dict(), base[0].state_dict()
    for name in names:
        assert torch.equal(made[name], (theirs if name in one else own)[name]), name


@pytest.mark.parametrize("architecture", FAMILIES)
def test_parts_of_a_block_are_told_by_name(family: Family, architecture: str) -> None:
    loaded = as_source(family(architecture)[0]).load(WITH_HEAD)
    for name, (block, part) in places_of(loaded).items():
        if block is not None:
            norm = any(word in name for word in ("norm", "Norm", "ln_1", "ln_2"))
            attention = not norm and "att" in name
            assert part == ("norms" if norm else "attention" if attention else "mlp"), name


def test_a_graft_computes_what_its_parameters_say(family: Family) -> None:
    """By hand: the donor's block put into the base model."""
    base, donor = family("modernbert")
    loaded = graft(base, donor, [1], ["all"]).load(WITH_HEAD)
    ids = torch.arange(5, 15)[None]
    before = base[0](input_ids=ids).logits
    with torch.no_grad():
        own = base[0].model.layers[1]
        base[0].model.layers[1] = donor[0].model.layers[1]
        wanted = base[0](input_ids=ids).logits
        base[0].model.layers[1] = own
        assert torch.equal(loaded.root(input_ids=ids).logits, wanted)
    assert torch.equal(base[0](input_ids=ids).logits, before), "a model in memory is left as it was"
    assert not torch.equal(wanted, before)


@pytest.mark.parametrize("architecture", FAMILIES)
def test_interpolation_is_linear_and_its_ends_are_the_models(family: Family, architecture: str) -> None:
    a, b = family(architecture)
    for alpha, end in ((0.0, a), (1.0, b)):
        assert equal(weights(interpolate(a, b, alpha).load(WITH_HEAD)), end[0].state_dict())
    middle = interpolate(a, b, 0.25).load(WITH_HEAD)
    own, other = a[0].state_dict(), b[0].state_dict()
    for name, tensor in middle.root.state_dict().items():
        torch.testing.assert_close(
            tensor.double(), 0.75 * own[name].double() + 0.25 * other[name].double(), rtol=1e-6, atol=1e-7
        )
    tied = [id(t) for t in middle.root.state_dict(keep_vars=True).values()]
    assert len(set(tied)) == len({id(t) for t in a[0].state_dict(keep_vars=True).values()})


def test_checkpoints_on_disk_are_grafted_and_not_written(tiny_model: Callable[..., Path]) -> None:
    base, donor = (tiny_model("modernbert", seed=seed, head=True) for seed in (1, 2))
    files = {file: file.stat().st_mtime_ns for folder in (base, donor) for file in folder.iterdir()}
    source = graft(str(base), str(donor), [0, 1], ["mlp"])
    loaded = source.load(WITH_HEAD)
    own, other = (load_file(folder / "model.safetensors") for folder in (base, donor))
    for name, tensor in own.items():
        grafted = any(f"layers.{at}.mlp." in name for at in (0, 1))
        assert torch.equal(loaded.root.state_dict()[name], other[name] if grafted else tensor), name
    assert files == {file: file.stat().st_mtime_ns for folder in (base, donor) for file in folder.iterdir()}
    known = source.fingerprint()
    assert known is not None
    assert known.items() <= loaded.provenance.items()
    assert known != graft(str(base), str(donor), [0], ["mlp"]).fingerprint()
    assert source == graft(str(base), str(donor), (1, 0), ["mlp"])


def test_a_tied_matrix_is_not_copied_by_half(family: Family, fresh_model: Callable[..., Any]) -> None:
    base, donor = family("modernbert")
    for part in ("embeddings", "head"):
        with pytest.raises(UserError, match=r"ties decoder.weight to model.embeddings.tok_embeddings.weight: half"):
            graft(base, donor, parts=[part]).load(WITH_HEAD)
    # Without its head the model ties nothing.
    assert graft(base, donor, parts=["embeddings"]).load(LoadOptions("cpu")).language_model is None
    tokenizer = base[1]
    free = [(fresh_model("modernbert", seed=s, head=True, tie_word_embeddings=False), tokenizer) for s in (1, 2)]
    loaded = graft(*free, parts=["head"]).load(WITH_HEAD)
    assert torch.equal(loaded.root.decoder.weight, free[1][0].decoder.weight)
    own, theirs = (one.model.embeddings.tok_embeddings.weight for one in (loaded.root, free[0][0]))
    assert torch.equal(own, theirs)
    with pytest.raises(UserError, match="tie_word_embeddings"):
        graft(base, free[1]).load(WITH_HEAD)


def quantised(model: Any) -> Any:
    model.config.quantization_config = {"quant_method": "bitsandbytes"}
    return model


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"architecture": "bert"}, "a ModernBertModel and a BertModel: give two of one architecture"),
        ({"layers": 2}, "is missing in the second"),
        ({"intermediate_size": 40}, "differ in shape: layers.0.mlp.Wi.weight"),
        ({"hidden_activation": "relu"}, r"differ in hidden_activation \(gelu and relu\)"),
        ({"words": ["x", "y", "z"]}, "different vocabularies"),
        ({"quantised": True}, "is quantised: its weights cannot be grafted"),
    ],
)
def test_what_does_not_fit_is_refused_before_weights_are_copied(
    family: Family,
    fresh_model: Callable[..., Any],
    fresh_tokenizer: Callable[..., Any],
    other: dict[str, Any],
    said: str,
) -> None:
    base, _ = family("modernbert")
    options = dict(other)
    tokenizer = fresh_tokenizer(words=options.pop("words")) if "words" in options else base[1]
    change = quantised if options.pop("quantised", False) else lambda model: model
    made = change(fresh_model(options.pop("architecture", "modernbert"), **({"seed": 2, "head": True} | options)))
    for source in (graft(base, (made, tokenizer)), interpolate(base, (made, tokenizer), 0.5)):
        with pytest.raises(UserError, match=said) as error:
            source.outline(WITH_HEAD)
        assert "\n" not in str(error.value)


def test_unknown_parts_layers_and_shares_are_refused(family: Family) -> None:
    base, donor = family("modernbert")
    with pytest.raises(UserError, match="parts: 'ffn' is not one of all, attention, mlp, norms, embeddings"):
        graft(base, donor, parts=["ffn"])
    with pytest.raises(UserError, match="layers 6: model 'ModernBertForMaskedLM' has layers 0 to 5"):
        graft(base, donor, [1, 6]).load(WITH_HEAD)
    for alpha in (-0.1, 1.5, float("nan")):
        with pytest.raises(UserError, match="is not between 0"):
            interpolate(base, donor, alpha)


@pytest.mark.parametrize("architecture", FAMILIES)
def test_a_base_model_alone_is_grafted_too(
    architecture: str, fresh_model: Callable[..., Any], fresh_tokenizer: Callable[..., Any]
) -> None:
    tokenizer = fresh_tokenizer(specials=architecture in FAMILIES[:4])
    base, donor = ((fresh_model(architecture, seed=seed), tokenizer) for seed in (1, 2))
    loaded = graft(base, donor, parts=EVERYTHING).load(LoadOptions("cpu"))
    assert equal(weights(loaded), donor[0].state_dict())
    with pytest.raises(UserError, match=r"has no masked-LM or causal-LM head: give a checkpoint of"):
        graft(base, donor).load(WITH_HEAD)
