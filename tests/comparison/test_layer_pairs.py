"""Pairings at different depths, layers of one model alone, and the rows beside the layers."""

import re

import numpy as np
import pytest
import torch

from cka_tools import cka, compare, compute_features
from cka_tools.comparison.layer_pairs import best_pairs, choose_pairing
from cka_tools.errors import UserError
from cka_tools.settings import EMBEDDINGS, FINAL_NORM, Settings


@pytest.fixture(scope="module")
def cut(tiny_model, tmp_path_factory):
    """A model of six layers and the first four of them."""
    from transformers import AutoModel, AutoTokenizer

    whole = tiny_model("modernbert", seed=0)
    model = AutoModel.from_pretrained(whole)
    model.layers = model.layers[:4]
    model.config.num_hidden_layers = 4
    model.config.layer_types = model.config.layer_types[:4]
    folder = tmp_path_factory.mktemp("cut")
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(whole).save_pretrained(folder)
    return str(folder), str(whole)


def pairs_of(result):
    return [(e["layer_a"], e["layer_b"]) for e in result.layers]


def test_identical_layers_at_other_depths_are_named(cut, texts):
    found = compare(*cut, texts, max_length=64)
    assert pairs_of(found) == [(0, 0), (1, 2), (2, 3), (3, 5)]
    (warning,) = [w for w in found.warnings if w["code"] == "closer-elsewhere"]
    assert warning["layers"] == [1, 2, 3]
    assert "best matches 1.00" in warning["text"]
    assert found.summary["best_over"] == list(range(6))


@pytest.mark.parametrize("pairing", ["index", "best", "0:0,1:1,2:2,3:3"])
@pytest.mark.parametrize("keep", ["8GiB", 0])
def test_other_pairings_find_them(cut, texts, pairing, keep):
    found = compare(*cut, texts, max_length=64, pairing=pairing, keep_features=keep, cache=False)
    assert pairs_of(found) == [(i, i) for i in range(4)]
    np.testing.assert_allclose(found.diagonal(), 1, atol=1e-9)
    assert not [w for w in found.warnings if w["code"] == "closer-elsewhere"]
    assert found.summary["mean_divergence"]["debiased"]["value"] == pytest.approx(0, abs=1e-9)
    assert any(("chosen by their CKA" in note) == (pairing == "best") for note in found.summary["notes"])


def test_the_best_of_some_layers_is_what_a_plain_search_gives(tiny_model, texts):
    names = [str(tiny_model("bert", seed=seed)) for seed in (0, 1)]
    found = compare(*names, texts, max_length=64, pairing="best", layers_a=(1, 4), layers_b=(0, 3, 5), rescale=True)
    a, b = compute_features(names, texts, max_length=64)
    expected = [(i, max((0, 3, 5), key=lambda j: cka(a.layers[i], b.layers[j]))) for i in (1, 4)]
    assert pairs_of(found) == expected
    for entry in found.layers:
        value = cka(a.layers[entry["layer_a"]], b.layers[entry["layer_b"]])
        assert entry["cka_debiased"] == pytest.approx(value, abs=1e-9)
        assert entry["best_cka_debiased"] == pytest.approx(value, abs=1e-9)
    assert found.summary["best_over"] == [0, 3, 5]


def test_best_pairs_keep_what_has_no_value():
    matrix = np.array([[0.1, 0.9, 0.95], [np.nan] * 3])
    assert best_pairs([(0, 0), (1, 0)], [0, 1], [0, 1], matrix) == [(0, 1), (1, 0)]


@pytest.mark.parametrize(
    ("depths", "options", "pairs"),
    [
        ((6, 12), {}, [(0, 0), (1, 2), (2, 4), (3, 7), (4, 9), (5, 11)]),
        ((6, 12), {"pairing": "index"}, [(i, i) for i in range(6)]),
        ((12, 6), {"pairing": "index", "layers": (2, 3)}, [(2, 2), (3, 3)]),
        ((6, 12), {"layers_b": (0, 1, 2, 3, 4, 5)}, [(i, i) for i in range(6)]),
        ((6, 12), {"layers_a": (4, 5), "layers_b": (8, 9, 10)}, [(4, 8), (5, 10)]),
        ((6, 6), {"layers_a": (1, 2), "pairing": "index"}, [(1, 1), (2, 2)]),
        ((6, 6), {"pairing": "3:0, 1:5"}, [(1, 5), (3, 0)]),
        ((6, 6), {"layers": (EMBEDDINGS, 2)}, [(EMBEDDINGS, EMBEDDINGS), (2, 2)]),
        ((2, 2), {"final_norm": True}, [(0, 0), (1, 1), (FINAL_NORM, FINAL_NORM)]),
        ((6, 6), {"pairing": "embeddings:0"}, [(EMBEDDINGS, 0)]),
    ],
)
def test_what_the_settings_pair(depths, options, pairs):
    found = choose_pairing(*depths, Settings(**options))
    assert found.pairs == pairs
    beside = {EMBEDDINGS, FINAL_NORM}
    assert found.counted == [at for at, pair in enumerate(pairs) if not beside & set(pair)]
    assert found.candidates is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pairing": "0:9"}, r"layers of B \[9\] do not exist: there are 6, 0 to 5"),
        ({"pairing": "0:0", "layers": (0,)}, "names the layers itself"),
        ({"layers": (0,), "layers_a": (0,)}, "are both given"),
        ({"layers_b": (7,)}, r"layers-b \[7\] do not exist"),
        ({"layers_a": (1,), "layers_b": (2,), "pairing": "index"}, "no index in common"),
        ({"layers_a": (EMBEDDINGS, 1)}, "embeddings of one model alone"),
    ],
)
def test_settings_that_do_not_fit_are_named(options, words):
    with pytest.raises(UserError, match=words):
        choose_pairing(6, 6, Settings(**options))


@pytest.mark.parametrize("text", ["0", "0:", "a:b", "0:1;1:2", "-1:0", "nearest"])
def test_text_that_is_no_pairing_is_quoted(text):
    with pytest.raises(UserError, match="pairing") as error:
        Settings(pairing=text)
    assert repr(text) in str(error.value)


def test_best_does_not_fit_a_control(tiny_model, texts):
    a, b, c = (str(tiny_model("bert", seed=seed)) for seed in (0, 1, 2))
    with pytest.raises(UserError, match="pairing 'best' does not fit: a control is of fixed pairs"):
        compare(a, b, texts, control=c, pairing="best")


def last_states(folder, texts):
    """Mean-pooled first and last hidden states as transformers gives them, one document at a time."""
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    rows = []
    for text in texts:
        batch = tokenizer(text, truncation=True, max_length=64, return_tensors="pt")
        with torch.no_grad():
            states = model(**batch, output_hidden_states=True).hidden_states
        rows.append([states[0][0].mean(0), states[-1][0].mean(0)])
    return [torch.stack(side).numpy() for side in zip(*rows, strict=True)]


def test_embeddings_and_final_norm_are_the_first_and_last_hidden_states(architecture, tiny_model, texts):
    folder = str(tiny_model(architecture, seed=0))
    (found,) = compute_features(
        [folder], texts[:12], max_length=64, layers=(EMBEDDINGS, 5), final_norm=True, cache=False
    )
    assert sorted(found.layers) == [-1, 5, 6]
    first, last = last_states(folder, [texts[int(re.sub(r"\D", "", name))] for name in found.ids])
    np.testing.assert_allclose(found.layers[-1], first, atol=2e-5)
    np.testing.assert_allclose(found.layers[6], last, atol=2e-5)
    has_norm = architecture not in ("bert", "roberta", "distilbert")
    assert np.allclose(found.layers[5], last, atol=1e-4) != has_norm
    assert (found.provenance["final_norm"] is not None) == has_norm


def test_the_store_holds_them_under_keys_of_their_own(tiny_model, texts, cache):
    folder = str(tiny_model("modernbert", seed=0))
    asked = [{}, {"final_norm": True}, {"layers": (EMBEDDINGS, *range(6))}]
    made = [compute_features([folder], texts[:12], max_length=64, **options)[0] for options in asked]
    again = [compute_features([folder], texts[:12], max_length=64, **options)[0] for options in asked]
    for first, second, layers in zip(made, again, (range(6), range(7), range(-1, 6)), strict=True):
        assert first.extraction.cache == ["made"]
        assert second.extraction.cache == ["hit"]
        assert list(second.layers) == list(layers)
        for layer in layers:
            np.testing.assert_array_equal(first.layers[layer], second.layers[layer])
            np.testing.assert_array_equal(first.layers[layer], made[layer == 6].layers.get(layer, first.layers[layer]))


def test_an_outline_knows_the_final_norm_that_the_check_finds(architecture, tiny_model):
    from cka_tools.models import LoadOptions, as_source, load_model

    folder = str(tiny_model(architecture, seed=0))
    assert as_source(folder).outline(LoadOptions("cpu")).final_norm == load_model(folder, device="cpu").final_norm


@pytest.mark.parametrize("keep", ["8GiB", 0])
def test_rows_beside_the_layers_do_not_count_in_means(tiny_model, texts, keep, tmp_path, cka):
    a, b, c = (str(tiny_model("modernbert", seed=seed)) for seed in (0, 1, 2))
    options = {"max_length": 64, "control": c, "keep_features": keep, "rescale": True}
    plain = compare(a, b, texts, **options)
    more = compare(a, b, texts, layers=(EMBEDDINGS, *range(6)), final_norm=True, **options)
    assert [e["layer_a"] for e in more.layers] == [-1, 0, 1, 2, 3, 4, 5, 6]
    assert [e.get("place") for e in more.layers] == ["embeddings", *[None] * 6, "final norm"]
    for name in ("mean_divergence", "early_divergence", "ratio", "rescaled"):
        first, second = plain.summary[name], more.summary[name]
        flat = [(k, v) for k, v in _leaves(first)]
        assert [v for _, v in flat] == pytest.approx([v for _, v in _leaves(second)], abs=1e-9)
    assert more.layers[0]["best_layer_b"] is None
    assert more.summary["best_over"] == list(range(6))
    assert not more.layers[-1]["early"]
    run = more.save(tmp_path / "run")
    code, out, _ = cka("show", run)
    assert code == 0
    assert "embeddings" in out
    assert "final norm" in out


def _leaves(entry):
    for name, value in entry.items():
        if isinstance(value, dict):
            yield from _leaves(value)
        elif isinstance(value, float):
            yield name, value


def test_branches_have_no_embeddings(tiny_model, texts):
    a, b = (str(tiny_model("bert", seed=seed)) for seed in (0, 1))
    with pytest.raises(UserError, match="sites 'attention': the embeddings of model"):
        compare(a, b, texts, sites="attention", layers=(EMBEDDINGS, 0))


def test_the_table_says_where_the_last_layer_is(tiny_model, texts, tmp_path, cka):
    for family, said in (("modernbert", True), ("bert", False)):
        a, b = (str(tiny_model(family, seed=seed)) for seed in (0, 1))
        run = compare(a, b, texts, max_length=64).save(tmp_path / family)
        assert ("The last layer is before the final norm" in cka("show", run)[1]) == said
        assert ("is taken before the final norm" in cka("layers", a)[1]) == said
