import dataclasses
import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cka_tools.errors import UserError
from cka_tools.training.freezing import freeze, named_layers
from cka_tools.training.recipe import DETOURS, Masking, Phase, Recipe, preset, third
from cka_tools.training.recipe_file import find_recipe, parse_recipe, read_recipe, to_toml

shares = st.floats(0.01, 0.99)
PAPERS = ("low@clm", "middle@clm", "low@decay")
phases = st.builds(
    lambda name, mlm, tokens, rate, decay, share, frozen, modules: Phase(
        name,
        "mlm" if mlm else "clm",
        tokens,
        "1-sqrt" if decay else "warmup-constant",
        Masking(rate, share / 2, share / 3) if mlm else None,
        warmup_tokens=0 if decay else int(tokens * share),
        floor=share if decay else 0.0,
        frozen=tuple(sorted(frozen)),
        frozen_modules=tuple(sorted(modules)),  # type: ignore[arg-type]
    ),
    st.text(min_size=1, max_size=8),
    st.booleans(),
    st.integers(10**4, 10**11),
    shares,
    st.booleans(),
    shares,
    st.sets(st.integers(0, 30), max_size=4),
    st.sets(st.sampled_from(["embeddings", "head"])),
)
recipes = st.builds(
    Recipe,
    st.text(max_size=9),
    st.just("own"),
    st.lists(phases, min_size=1, max_size=3, unique_by=lambda phase: phase.name).map(tuple),
    st.floats(1e-9, 1e3),
    st.tuples(shares, shares),
    st.floats(1e-12, 1e-3),
    st.floats(0, 1),
    st.integers(2, 100),
    st.integers(1, 100),
)


@given(recipes)
def test_a_recipe_comes_back_from_toml_and_from_plain_data(
    tmp_path_factory: pytest.TempPathFactory, recipe: Recipe
) -> None:
    path = tmp_path_factory.mktemp("recipe") / "recipe.toml"
    path.write_bytes(to_toml(recipe).encode())
    assert read_recipe(path) == recipe
    assert parse_recipe(recipe.to_dict()) == recipe


@pytest.mark.parametrize(("name", "scale"), [*itertools.product(DETOURS, ("paper", "demo")), ("pretraining", "demo")])
def test_every_preset_comes_back_from_toml(tmp_path: Path, name: str, scale: str) -> None:
    path = tmp_path / "recipe.toml"
    recipe = preset(name, scale)  # type: ignore[arg-type]
    path.write_text(to_toml(recipe))
    assert find_recipe(str(path)) == recipe


def test_the_reverse_detour_is_the_detour_with_the_objectives_swapped() -> None:
    detour, reverse = preset("clm-detour", "paper"), preset("reverse-detour", "paper")
    assert [phase.objective for phase in reverse.phases] == ["mlm", "clm"]
    assert reverse.phases[0].masking == Masking(0.3)
    assert [phase.tokens for phase in reverse.phases] == [phase.tokens for phase in detour.phases]
    assert [phase.objective for phase in preset("clm-baseline").phases] == ["clm", "clm"]


GOOD = to_toml(preset("clm-detour"))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("peak_lr", "peek_lr", "unknown key 'peek_lr': did you mean 'peak_lr'"),
        ("floor = 0.1", "flor = 0.1", "phase 2: unknown key 'flor': did you mean 'floor'"),
        ("rate = 0.15", "ratio = 0.15", "masking: unknown key 'ratio'"),
        ("tokens = 2500000", "tokens = 2.5e6", "tokens = 2500000.0 does not fit: write a whole number"),
        ("tokens = 250000\n", "tokens = 2047\n", "shorter than one step of 2,048"),
        ("tokens = 2500000", "tokens = -1", "nothing to train on"),
        ('objective = "clm"', 'objective = "rtd"', "objective 'rtd' is neither"),
        ('objective = "clm"', 'objective = "mlm"', "do not go together"),
        ('schedule = "1-sqrt"', 'schedule = "cosine"', "schedule 'cosine' is neither"),
        ("rate = 0.15", "rate = 1.5", "masking rate of 1.5"),
        ("betas = [0.9, 0.98]", "betas = [0.9]", "write a list of two numbers"),
        ("betas = [0.9, 0.98]", "betas = [0.9, 1.0]", "do not fit"),
        ("peak_lr = 0.00025", "peak_lr = 0.0", "give one above 0"),
        ("peak_lr = 0.00025", "peak_lr = nan", "give one above 0"),
        ("eps = 1e-06", "", "'eps' is missing"),
        ("warmup_tokens = 50000", "warmup_tokens = 2500001", "does not fit into"),
        ("warmup_tokens = 50000", 'frozen = ["low"]', "frozen = .* write a list of whole numbers"),
        ("warmup_tokens = 50000", "frozen = [1, 1]", "each index once"),
        ("warmup_tokens = 50000", 'frozen_modules = ["norm"]', "frozen module 'norm'"),
        ('name = "decay"', 'name = "detour"', "a name of its own"),
        ("[[phases]]", "[phases", "is not TOML"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_in_one_line(tmp_path: Path, old: str, new: str, words: str) -> None:
    assert old in GOOD
    path = tmp_path / "recipe.toml"
    path.write_text(GOOD.replace(old, new, 1))
    with pytest.raises(UserError, match=words) as error:
        read_recipe(path)
    assert "\n" not in str(error.value)


def test_what_is_no_recipe_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'clm-detor': choose from clm-detour"):
        find_recipe("clm-detor")
    with pytest.raises(UserError, match="cannot be read"):
        find_recipe(str(tmp_path / "none.toml"))
    (tmp_path / "empty.toml").write_text('name = "x"\nphases = []\n')
    with pytest.raises(UserError, match="'peak_lr' is missing"):
        find_recipe(str(tmp_path / "empty.toml"))
    with pytest.raises(UserError, match="set its tokens, objectives and constants there"):
        find_recipe("x.toml", "paper")
    with pytest.raises(UserError, match="-5 tokens is nothing"):
        preset("clm-detour", "demo", -5)


def test_the_thirds_are_the_papers_and_are_rounded_up() -> None:
    assert [third(name, 22) for name in ("low", "middle", "high")] == [
        tuple(range(8)),
        tuple(range(8, 15)),
        tuple(range(15, 22)),
    ]
    assert [third(name, 8) for name in ("low", "middle", "high")] == [(0, 1, 2), (3, 4, 5), (6, 7)]
    assert [third(name, 4) for name in ("low", "middle", "high")] == [(0, 1), (2,), (3,)]
    with pytest.raises(UserError, match="no middle third"):
        third("middle", 1)


@given(st.integers(3, 100))
def test_the_thirds_are_all_layers_once(layers: int) -> None:
    assert [layer for name in ("low", "middle", "high") for layer in third(name, layers)] == list(range(layers))


def test_interventions_freeze_one_phase() -> None:
    recipe = preset("clm-detour")
    frozen = [[phase.frozen for phase in freeze(recipe, what, 22).phases] for what in PAPERS]
    assert frozen == [[tuple(range(8)), ()], [tuple(range(8, 15)), ()], [(), tuple(range(8))]]
    twice = freeze(freeze(recipe, "0,2@detour", 8), "head@detour", 8)
    assert (twice.phases[0].frozen, twice.phases[0].frozen_modules) == ((0, 2), ("head",))
    assert dataclasses.replace(twice.phases[0], frozen=(), frozen_modules=()) == recipe.phases[0]


@pytest.mark.parametrize("given", ["low", "low@other", "@clm", "8-3@clm", "x@clm", "0-8@clm"])
def test_an_intervention_that_names_nothing_is_refused(given: str) -> None:
    with pytest.raises(UserError):
        freeze(preset("clm-detour"), given, 8)


def test_layers_are_given_outright() -> None:
    assert named_layers("0,3, 5-6", 8) == (0, 3, 5, 6)
    with pytest.raises(UserError, match="layer 8 does not exist: the start model has layers 0 to 7"):
        named_layers("0-8", 8)
