"""`contrast`: M checkpoints in M passes, the numbers of `compare`, what is refused, what manifests tell."""

import json
import shutil
from itertools import combinations

import numpy as np
import pytest

from cka_tools import Contrast, compare, contrast
from cka_tools.errors import UserError
from cka_tools.manifest import identical_until

OPTIONS = {"max_length": 64, "cache": False}
PHASES = {
    objective: {"objective": objective, "tokens": 1000, "schedule": "warmup-constant", "name": objective}
    for objective in ("clm", "mlm")
}


def manifest(detour, *, seed=1, data="a", tokens=1000, **facts):
    first = PHASES["clm" if detour else "mlm"] | {"tokens": tokens}
    recipe = {"name": "clm-detour" if detour else "mlm-baseline", "phases": [first, PHASES["mlm"]], "eps": 1e-6}
    return {"recipe": recipe, "seed": seed, "data_seed": seed, "data_sha256": data, "start": "theta0", **facts}


@pytest.fixture(scope="module")
def models(tiny_model):
    return [str(tiny_model("modernbert", seed=seed, layers=3)) for seed in range(5)]


@pytest.fixture(scope="module")
def groups(models):
    return {"detour": models[:2], "baseline": models[2:]}


@pytest.fixture(scope="module")
def result(groups, texts):
    return contrast(groups, texts, **OPTIONS)


@pytest.fixture
def trained(models, tmp_path):
    """`trained(*manifests)` → groups of 2 and the rest, with these manifests."""

    def make(*manifests, names=("detour", "baseline")):
        folders = []
        for at, facts in enumerate(manifests):
            folder = tmp_path / str(at)
            shutil.copytree(models[at], folder)
            if facts is not None:
                (folder / "training.json").write_text(json.dumps(facts))
            folders.append(str(folder))
        return {names[0]: folders[:2], names[1]: folders[2:]}

    return make


def codes(found):
    return {one["code"] for one in found.warnings}


def test_every_pair_is_what_compare_gives(result, models, texts):
    for entry, (a, b) in zip(result.record["pairs"], combinations(range(5), 2), strict=True):
        assert (entry["a"], entry["b"]) == (a, b)
        assert entry["role"] == ("within" if (a < 2) == (b < 2) else "between")
    a, b = models[1], models[3]
    alone = compare(a, b, texts, **OPTIONS)
    distances = result.arrays["distances"]
    assert distances.shape == (3, 5, 5)
    np.testing.assert_allclose(distances[:, 1, 3], 1 - alone.diagonal(), atol=1e-12)
    np.testing.assert_array_equal(distances, distances.transpose(0, 2, 1))
    at = list(combinations(range(5), 2)).index((1, 3))
    np.testing.assert_allclose(result.arrays["leave_one_out"][at], alone.arrays["leave_one_out"], atol=1e-12)


def test_means_are_those_of_the_distances(result):
    D = result.arrays["distances"].mean(0)
    between = D[:2, 2:].mean()
    within = (D[0, 1] + (D[2, 3] + D[2, 4] + D[3, 4]) / 3) / 2
    mean = result.summary["mean"]
    assert mean["between"]["value"] == pytest.approx(between)
    assert mean["within"]["value"] == pytest.approx(within)
    assert mean["difference"]["value"] == pytest.approx(between - within)
    assert result.summary["early_layers"] == [0]
    assert result.summary["early"]["between"] == result.layers[0]["between"]


@pytest.mark.parametrize("cached", [False, True])
def test_m_checkpoints_are_m_passes(fresh_model, fresh_tokenizer, texts, cache, cached):
    made = [(fresh_model("modernbert", seed=seed, layers=2), fresh_tokenizer()) for seed in range(4)]
    seen = [0] * 4
    for at, (model, _) in enumerate(made):
        model.layers[0].register_forward_hook(
            lambda module, args, out, at=at: seen.__setitem__(at, seen[at] + len(args[0]))
        )
    few = texts[:40]
    compare(made[0], made[0], few[:8], max_length=64, cache=cached)
    checks = seen[0] - 8
    seen[:] = [0] * 4
    contrast({"one": made[:2], "other": made[2:]}, few, max_length=64, cache=cached)
    assert [rows - checks for rows in seen] == [40] * 4


def test_streamed_equals_kept(result, groups, texts):
    streamed = contrast(groups, texts, keep_features=0, **OPTIONS)
    for name, array in result.arrays.items():
        np.testing.assert_allclose(streamed.arrays[name], array, atol=1e-10)
    assert streamed.summary["mean"]["p"] == result.summary["mean"]["p"]
    for part in ("between", "within", "difference", "ratio"):
        assert streamed.summary["mean"][part] == pytest.approx(result.summary["mean"][part], abs=1e-8)


def test_a_saved_contrast_is_read_again(result, tmp_path):
    run = result.save(tmp_path / "run")
    assert {path.name for path in run.iterdir()} == {
        "result.json", "arrays.safetensors", "contrast.csv", "figure.pdf", "figure.png",
    }  # fmt: skip
    again = Contrast.load(run)
    assert again.record == result.record
    table = again.to_frame()
    assert table["layer"].tolist() == [0, 1, 2, "early", "mean"]
    assert table["difference"].tolist()[-1] == result.summary["mean"]["difference"]["value"]
    roles = [model["role"] for model in again.record["provenance"]["models"]]
    assert roles == ["detour"] * 2 + ["baseline"] * 3


def test_small_groups_say_that_seeds_are_not_in_the_interval(result):
    assert result.summary["interval"]["over"] == "documents"
    assert "a group of 2" in result.summary["interval"]["reason"]
    assert result.summary["test"] == {"relabelings": 10, "exact": True, "smallest_p": 0.1}


def test_three_a_group_have_intervals_over_seeds_too(tiny_model, models, texts):
    sixth = str(tiny_model("modernbert", seed=5, layers=3))
    found = contrast({"x": models[:3], "y": [*models[3:], sixth]}, texts, **OPTIONS)
    assert found.summary["interval"] == {"level": 0.95, "over": "documents and training seeds"}
    assert 0 <= found.summary["mean"]["seed_share"] <= 1
    assert found.summary["mean"]["p"] >= 0.1
    assert not codes(found) & {"identical-until", "orders-differ", "recipes-differ"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: {"a": m[:2]}, "1 group given"),
        (lambda m: {"a": m[:2], "b": m[2:4], "c": m[4:]}, "3 groups given"),
        (lambda m: {"a": m[:1], "b": m[2:]}, "group 'a' has 1 checkpoint"),
        (lambda m: {"a": m[0], "b": m[2:]}, "group 'a' has 1 checkpoint"),
        (lambda m: {"a": m[:2], "b": m[1:]}, "is in 'a' and 'b'"),
        (lambda m: {"a": [m[0], m[0]], "b": m[1:]}, "is twice in group 'a'"),
    ],
)
def test_groups_that_make_no_contrast_are_refused(models, texts, change, message):
    with pytest.raises(UserError, match=message):
        contrast(change(models), texts, **OPTIONS)


def test_paired_groups_are_of_one_size(groups, texts):
    with pytest.raises(UserError, match="paired groups of 2 and 3"):
        contrast(groups, texts, paired=True, **OPTIONS)


def refused_before_any_pass(groups, texts, message, monkeypatch):
    def never(*args, **kwargs):
        raise AssertionError("a model ran")

    monkeypatch.setattr("cka_tools.comparison.run_contrast.compare_pairs", never)
    with pytest.raises(UserError, match=message) as caught:
        contrast(groups, texts, **OPTIONS)
    assert "\n" not in str(caught.value)


def test_another_depth_or_width_is_refused(tiny_model, fresh_model, fresh_tokenizer, models, texts, monkeypatch):
    deep = str(tiny_model("modernbert", seed=9, layers=4))
    refused_before_any_pass({"a": models[:2], "b": [models[2], deep]}, texts, "4 layers", monkeypatch)
    wide = (fresh_model("modernbert", seed=9, layers=3, hidden_size=64), fresh_tokenizer())
    refused_before_any_pass({"a": models[:2], "b": [models[2], wide]}, texts, "width 64", monkeypatch)


def test_the_same_weights_under_two_names_are_refused(models, texts, tmp_path, monkeypatch):
    copy = tmp_path / "copy"
    shutil.copytree(models[0], copy)
    groups = {"a": models[:2], "b": [models[2], str(copy)]}
    refused_before_any_pass(groups, texts, "hold the same weights", monkeypatch)


def test_the_same_weights_in_memory_are_refused(fresh_model, fresh_tokenizer, texts, monkeypatch):
    made = [(fresh_model("modernbert", seed=seed, layers=2), fresh_tokenizer()) for seed in (0, 1, 2, 1)]
    refused_before_any_pass({"a": made[:2], "b": made[2:]}, texts, "hold the same weights", monkeypatch)


def test_kinds_of_noise_within_each_group_are_read_from_the_manifests(trained, texts):
    found = contrast(
        trained(
            manifest(True, seed=1, data="a"),
            manifest(True, seed=2, data="b"),
            manifest(False, seed=3, data="c"),
            manifest(False, seed=4, data="c"),
            None,
        ),
        texts,
        **OPTIONS,
    )
    assert [group["noise"] for group in found.summary["groups"]] == [["order"], ["masks", "unknown"]]


def test_independent_runs_of_two_objectives_give_no_warning_of_manifests(trained, texts):
    runs = [manifest(at < 2, seed=at, data=str(at)) for at in range(4)]
    assert not codes(contrast(trained(*runs), texts, **OPTIONS)) & {
        "identical-until", "orders-differ", "recipes-differ", "name-contradicts-manifest",
    }  # fmt: skip


def test_members_that_share_a_trained_prefix_are_told(trained, texts):
    runs = [manifest(True, seed=1), manifest(True, seed=2), *(manifest(False, seed=s, data="b") for s in (3, 4))]
    found = contrast(trained(*runs), texts, **OPTIONS)
    (warning,) = [one for one in found.warnings if one["code"] == "identical-until"]
    assert len(warning["pairs"]) == 1  # the two detours; baselines draw other masks from the first step on
    assert "the same run until the phase 'mlm'" in warning["text"]


def test_names_that_contradict_manifests_are_told(trained, texts):
    runs = [manifest(False, seed=at, data=str(at)) for at in range(4)]
    found = contrast(trained(*runs), texts, **OPTIONS)
    (warning,) = [one for one in found.warnings if one["code"] == "name-contradicts-manifest"]
    assert "in group 'detour' was trained by MLM, then MLM" in warning["text"]
    assert "and 1 more" in warning["text"]


def test_recipes_and_orders_that_differ_between_groups_are_told(trained, texts):
    runs = [
        manifest(True, seed=1, data="a"),
        manifest(True, seed=2, data="b"),
        manifest(False, seed=3, data="a", tokens=2000),
        manifest(False, seed=4, data="b", tokens=2000),
    ]
    groups = trained(*runs)
    found = contrast(groups, texts, **OPTIONS)
    assert codes(found) >= {"recipes-differ", "orders-differ"}
    assert any("give --paired" in one["text"] for one in found.warnings)
    paired = contrast(groups, texts, paired=True, **OPTIONS)
    assert "orders-differ" not in codes(paired)
    assert [pair["role"] for pair in paired.record["pairs"]].count("partners") == 2
    D = paired.arrays["distances"].mean(0)
    assert paired.summary["mean"]["between"]["value"] == pytest.approx((D[0, 3] + D[1, 2]) / 2)


def key(parent, index=1, phase="decay", **facts):
    return {"parent_weights_sha256": parent, "phase_index": index, "phase": {"name": phase}, **facts}


@pytest.mark.parametrize(
    ("one", "other", "until"),
    [
        (manifest(True, seed=1), manifest(True, seed=2), "the phase 'mlm'"),
        (manifest(False, seed=1), manifest(False, seed=2), None),
        (manifest(False, seed=1), manifest(False, seed=1), "the end of the earlier one"),
        (manifest(True, seed=1), manifest(True, seed=2, data="b"), None),
        (manifest(True, seed=1), manifest(False, seed=1), None),
        (manifest(True, seed=1), manifest(True, seed=2, start="other"), None),
        (None, manifest(True), None),
        ({"key": key("p"), "weights_sha256": "1"}, {"key": key("p", x=1), "weights_sha256": "2"},
         "the phase 'decay'"),
        ({"key": key("p"), "weights_sha256": "1"}, {"key": key("q"), "weights_sha256": "2"}, None),
        ({"key": key("p", 0), "weights_sha256": "1"}, {"key": key("p", 0, x=1), "weights_sha256": "2"}, None),
        ({"key": key("p", 0), "weights_sha256": "1"}, {"key": key("1"), "weights_sha256": "2"},
         "the end of the earlier one"),
    ],
)  # fmt: skip
def test_until_when_two_runs_are_one(one, other, until):
    assert identical_until(one, other) == until
    assert identical_until(other, one) == until
