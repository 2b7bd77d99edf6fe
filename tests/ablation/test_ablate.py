"""`cka ablate` from end to end, on tiny models."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.text import Text
from safetensors.torch import load_file

from cka_tools.ablation import train as ablation_run
from cka_tools.comparison import compare
from cka_tools.comparison import pairs as pairs_engine
from cka_tools.comparison.results import Ablation
from cka_tools.compute import FeatureRun
from cka_tools.formatting import NOISE_IN_WORDS
from cka_tools.models import CausalSource, as_source, load_model

SMALL = ("--sequence-length", 16, "--sequences-per-step", 2, "--precision", "float32", "--device", "cpu")
N = 40 * 32


def write_corpus(path: Path, seed: int, documents: int) -> Path:
    rng = np.random.default_rng(seed)
    texts = [" ".join(f"w{w}" for w in rng.integers(0, 120, size=20)) for _ in range(documents)]
    rows = "\n".join(json.dumps({"id": str(i), "text": text}) for i, text in enumerate(texts))
    path.write_text(rows, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("texts")
    return write_corpus(folder / "train.jsonl", 0, 200), write_corpus(folder / "held.jsonl", 1, 40)


@pytest.fixture(scope="module")
def start(tiny_model) -> Path:
    return tiny_model("modernbert", layers=3, head=True)


@pytest.fixture(scope="module")
def options(texts, start) -> tuple[object, ...]:
    given = ("--corpus", texts[0], "--compare-on", texts[1], "--max-length", 32, "--n", N)
    return ("--start", start, *given, *SMALL, "--fractions", "0.5,1", "--decays", "0.1,0.5")


@pytest.fixture(scope="module")
def everything(call_cka, options, tmp_path_factory) -> Path:
    """All axes for two sizes, one seed."""
    out = tmp_path_factory.mktemp("runs") / "all"
    with pytest.MonkeyPatch.context() as patch:
        given = (*options, "--start", "2x16", "--start-tokens", 640, "--seeds", "1", "--out", out, "--quiet")
        assert call_cka(patch, "ablate", "all", *given) == 0
    return out


def table(run_dir: Path) -> list[dict[str, str]]:
    with (run_dir / "ablation.csv").open() as file:
        return list(csv.DictReader(file))


DIVERGENCES = ("divergence", "control_divergence", "ratio")
CELLS = {
    "length": ["0.5", "1"],
    "decay": ["10 %", "50 %"],
    "freeze": ["none", "0 in CLM", "1 in CLM", "0 in decay"],
    "direction": ["encoder", "decoder"],
}


def test_the_table_is_tidy_and_complete(everything):
    rows = table(everything)
    facts = {"tokens", "n_documents", "recipe_sha256", "baseline_recipe_sha256", "mask", "noise"}
    assert facts <= set(rows[0])
    expected = {
        (axis, cell, size, "1", layer)
        for size, layers in (("3x32", 3), ("2x16", 2))
        for axis, cells in (CELLS | {"size": [size]}).items()
        for cell in cells
        for layer in (*map(str, range(layers)), "early", "mean")
    }
    keys = [(row["axis"], row["cell"], row["size"], row["seed"], row["layer"]) for row in rows]
    assert len(keys) == len(set(keys))
    assert set(keys) == expected
    for row in rows:
        for name in DIVERGENCES:
            if row[f"{name}_low"]:
                assert float(row[f"{name}_low"]) <= float(row[name]) <= float(row[f"{name}_high"])
        assert row["divergence_low"]
        assert bool(row["ratio"]) != bool(row["ratio_reason"])
        assert int(row["n_documents"]) == 40
        assert len({row["weights_detour"], row["weights_baseline"], row["weights_control"]}) == 3


def test_a_control_has_the_data_of_its_baseline_and_other_masks(everything):
    rows = {(row["cell"], row["noise"]): row for row in table(everything) if row["axis"] == "direction"}
    assert set(rows) == {("encoder", "masks"), ("decoder", "order")}
    for (_, noise), row in rows.items():
        seeds = row["data_seed"], row["control_seed"], row["control_data_seed"]
        assert seeds == ("1", "2", "1" if noise == "masks" else "2")
    made = [json.loads(p.read_text()) for p in (everything / "segments").glob("*/training.json")]
    data = {(one["seed"], one["data_seed"]): one["data_sha256"] for one in made if one["corpus"] != "x"}
    assert data[2, 1] != data[2, 2]


def test_start_models_of_a_shape_are_annealed(everything):
    made = [json.loads(p.read_text()) for p in (everything / "segments").glob("*/training.json")]
    annealed = [one for one in made if one["phase"]["name"] == "annealing"]
    assert len(annealed) == 3
    for one in annealed:
        assert (one["run_tokens"], one["tokens"], one["phase"]["schedule"]) == (640, 64, "1-sqrt")
        assert not one["fresh_optimizer"]


def test_tokens_are_those_of_the_run(everything):
    tokens = {(row["axis"], row["cell"]): int(row["tokens"]) for row in table(everything)}
    assert tokens["length", "0.5"] == round(N / 2 * 1.1)
    assert tokens["decay", "50 %"] == round(N * 1.5)


def test_what_two_axes_share_has_equal_numbers(everything):
    cells = {
        (row["axis"], row["cell"]): row["divergence"]
        for row in table(everything)
        if (row["layer"], row["size"]) == ("mean", "3x32")
    }
    same = [("length", "1"), ("decay", "10 %"), ("freeze", "none"), ("direction", "encoder"), ("size", "3x32")]
    assert len({cells[key] for key in same}) == 1
    assert len(set(cells.values())) == len(cells) - len(same) + 1


def test_frozen_layers_are_the_starts_own(everything, start):
    record = json.loads((everything / "result.json").read_text())
    frozen = next(c for c in record["pairs"] if (c["cell"], c["size"]) == ("0 in CLM", "3x32"))
    for manifest in (everything / "segments").glob("*/training.json"):
        data = json.loads(manifest.read_text())
        if data["phase"].get("frozen") == [0] and data["phase"]["objective"] == "clm" and data["seed"] == 1:
            before = load_file(start / "model.safetensors")
            after = load_file(manifest.parent / "model.safetensors")
            layer = [name for name in after if ".layers.0." in name]
            if data["recipe"]["phases"][0]["tokens"] == N and before[layer[0]].shape == after[layer[0]].shape:
                assert all(torch.equal(before[name].float(), after[name]) for name in layer)
                break
    else:
        pytest.fail(f"no frozen segment of {frozen['cell']}")


def test_show_and_plot_understand_the_run(cka, everything, tmp_path):
    code, out, _ = cka("show", everything)
    assert code == 0
    assert "22 comparisons over 40 documents" in " ".join(out.split())
    assert json.loads(cka("show", everything, "--json")[1])["kind"] == "ablation"
    assert cka("plot", everything, "--out", "a.svg")[0] == 0
    assert (tmp_path / "a.svg").stat().st_size > 10_000
    assert {"figure.pdf", "figure.png"} <= {path.name for path in everything.iterdir()}


def test_no_optimizer_is_left_and_starts_hand_none_on(everything):
    manifests = [json.loads(p.read_text()) for p in (everything / "segments").glob("*/training.json")]
    assert not list((everything / "segments").glob("*/optimizer.safetensors"))
    for manifest in manifests:
        first = manifest["key"]["sequences"][0] == 0
        assert manifest["fresh_optimizer"] == first


def test_checkpoints_are_compared_without_training(cka, everything, texts, tmp_path):
    folders = ["--checkpoints", *(p.parent for p in (everything / "segments").glob("*/training.json"))]
    same = ("--compare-on", texts[1], "--max-length", 32, "--device", "cpu", "--quiet")
    code, _, err = cka("ablate", "all", *folders, *same, "--n", N, "--out", "again")
    assert (code, err) == (0, "")
    mine = {(r["axis"], r["cell"], r["size"], r["layer"]): r for r in table(everything)}
    rows = table(tmp_path / "again")
    assert len(rows) == len(mine)
    for row in rows:
        own = mine[row["axis"], row["cell"], row["size"], row["layer"]]
        for column in ("weights_detour", "weights_baseline", "weights_control", "recipe_sha256", "divergence"):
            assert row[column] == own[column]


def test_a_causally_trained_model_is_seen_causally(start):
    ids = torch.arange(5, 25)[None]
    changed = ids.clone()
    changed[0, 12:] = 7
    for causal in (True, False):
        source = as_source(start)
        loaded = load_model(CausalSource(source) if causal else source, device="cpu")
        with torch.no_grad():
            a, b = (
                loaded.model(input_ids=x, attention_mask=torch.ones_like(x)).last_hidden_state[0, :12]
                for x in (ids, changed)
            )
        assert torch.allclose(a, b, atol=1e-6) == causal


def test_padding_changes_nothing_under_the_causal_mask(start):
    loaded = load_model(CausalSource(as_source(start)), device="cpu")
    ids = torch.arange(5, 25)[None]
    padded = torch.cat([ids, torch.ones(1, 6, dtype=torch.long)], 1)
    mask = torch.cat([torch.ones_like(ids), torch.zeros(1, 6, dtype=torch.long)], 1)
    with torch.no_grad():
        alone = loaded.model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
        beside = loaded.model(input_ids=padded, attention_mask=mask).last_hidden_state[:, :20]
    assert torch.allclose(alone, beside, atol=1e-5)


def test_an_interrupted_ablation_goes_on_without_training_again(cka, options, monkeypatch, tmp_path):
    given = ("ablate", "length", *options, "--seeds", "1", "--out", "run", "--quiet")
    trained: list[str] = []
    real = ablation_run.train_phase

    def counting(*arguments, out, **others):
        if len(trained) == 5 and "interrupted" not in trained:
            trained.append("interrupted")
            raise KeyboardInterrupt
        trained.append(out.name)
        return real(*arguments, out=out, **others)

    monkeypatch.setattr(ablation_run, "train_phase", counting)
    code, _, err = cka(*given)
    assert code == 130
    assert "the same command goes on" in err
    assert not (tmp_path / "run" / "result.json").exists()
    assert cka(*given)[0] == 0
    finished = [name for name in trained if name != "interrupted"]
    assert len(finished) == len(set(finished)) == 12
    before = (tmp_path / "run" / "ablation.csv").read_bytes()
    # What is finished is neither trained nor compared again; with other settings it is compared.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pairs_engine, "compare_statistics", lambda *_, **__: pytest.fail("compared again"))
        code, out, err = cka(*given[:-1])
    assert code == 0
    assert "nothing has changed since this ablation was compared" in err
    assert "comparisons over 40 documents" in " ".join(out.split())
    assert (tmp_path / "run" / "ablation.csv").read_bytes() == before
    assert len(trained) == 13
    record = json.loads((tmp_path / "run" / "result.json").read_text())
    names = [model["name"] for model in record["provenance"]["models"]]
    assert names[:3] == [f"length:0.5@3x32 {role} seed 1" for role in ("detour", "baseline", "control")]
    assert (tmp_path / "run" / "segments" / record["pairs"][0]["folders"]["detour"]).is_dir()
    code, _, err = cka(*given[:-1], "--documents", 30)
    assert code == 0
    assert "nothing has changed" not in err
    assert json.loads((tmp_path / "run" / "result.json").read_text())["summary"]["n_documents"] == 30


def test_damaged_segments_are_made_again(cka, options, tmp_path):
    given = ("ablate", "length", *options, "--seeds", "1", "--out", "run")
    assert cka(*given, "--quiet")[0] == 0
    before = (tmp_path / "run" / "ablation.csv").read_bytes()
    leaf = json.loads((tmp_path / "run" / "result.json").read_text())["pairs"][0]["weights"]["detour"]
    for manifest in (tmp_path / "run" / "segments").glob("*/training.json"):
        if json.loads(manifest.read_text())["weights_sha256"] == leaf:
            (manifest.parent / "model.safetensors").write_bytes(b"cut")
    code, _, err = cka(*given)
    assert code == 0
    assert "is damaged (model.safetensors is not what was written)" in err
    assert (tmp_path / "run" / "ablation.csv").read_bytes() == before


def test_the_dry_run_prints_tree_and_costs_and_writes_nothing(cka, options, tmp_path):
    dry = ("ablate", "length", *options, "--dry-run")
    code, out, _ = cka(*dry, "--tokens-per-second", "1000")
    assert code == 0
    assert "phase 1 CLM, 640, seed 1" in out
    assert "phase 1 MLM 30 %, 640, seed 2 on the order of seed 1" in out
    assert "→ detour of length:1" in out
    # Trunks of n, decays of 10 % of n/2 and of n, six of each; both trunks of their own without sharing.
    shared, unshared = 6 * (N + 2 * 32 + 4 * 32), 6 * (N // 2 + 2 * 32 + N + 4 * 32)
    assert f"shared     {shared:,} tokens, about 9 s in 24 segments" in out
    assert f"unshared   {unshared:,} tokens" in out
    assert not list(tmp_path.iterdir())
    data = json.loads(cka(*dry, "--json")[1])
    assert data["tokens"] == {"shared": shared, "unshared": unshared, "left": shared, "by_size": {"3x32": shared}}
    assert data["seconds"]["shared"] > 0
    assert "fine_tuning" not in data


def test_the_dry_run_says_what_fine_tuning_costs(cka, options, tmp_path):
    dry = ("ablate", "length", *options, "--dry-run", "--tokens-per-second", "1000", "--readout", "evaluate:sections")
    code, out, _ = cka(*dry)
    assert code == 0
    leaves = sum("→" in line for line in out.splitlines())
    words = (
        f"evaluate:sections fine-tunes {leaves} checkpoints once each: {leaves * 30:,} passes over 480 texts of train"
    )
    assert words in " ".join(out.split())
    # Ten epochs forwards, and backwards at twice that.
    cost = {"readout": "evaluate:sections", "checkpoints": leaves, "texts": 480, "passes": 30 * leaves}
    assert json.loads(cka(*dry, "--json")[1])["fine_tuning"] == [cost]
    assert not list(tmp_path.iterdir())


def test_a_corpus_too_small_for_the_default_takes_what_there_is_and_says_so(cka, options):
    at = options.index("--n")
    code, out, _ = cka("ablate", "length", *options[:at], *options[at + 2 :], "--dry-run", "--tokens-per-second", 9)
    assert code == 0
    assert "not the preset's 2,500,000" in out


@pytest.mark.parametrize(
    ("axis", "more", "told"),
    [
        ("depth", (), "no axis is called 'depth'"),
        ("length", ("--n", 31), "shorter than one step"),
        ("length", ("--n", 100_000), "give a larger corpus, or --n of at most"),
        ("length", ("--seeds", "1,1"), "--seeds '1,1'"),
        ("length", ("--seeds", "one"), "--seeds 'one'"),
        ("length", ("--fractions", "0,1"), "--fractions '0,1'"),
        ("length", ("--sequence-length", 128), "longer than the 64 positions"),
        ("length", ("--start", "3x32"), "two --start models are 3x32"),
        ("length", ("--start", "2x7"), "shape 2x7"),
        ("length", ("--start-epochs", 0), "--start-epochs 0"),
        ("direction", ("--start-tokens", 1_000_000), "fewer than --start-tokens"),
        ("length", ("--checkpoints", "nowhere"), "'nowhere' has no training.json"),
        ("length", ("--tokens-per-second", "0", "--dry-run"), "--tokens-per-second '0'"),
        ("length", ("--tokens-per-second", "1,2", "--dry-run"), "--tokens-per-second has 2 numbers"),
        ("length", ("--corpus", "none.jsonl"), "none.jsonl"),
        ("length", ("--checkpoints", ".", "--dry-run"), "leave one out"),
    ],
)
def test_bad_input_is_one_line(cka, options, axis, more, told, tmp_path):
    code, out, err = cka("ablate", axis, *options, *more)
    assert (code, out) == (2, "")
    assert told in err
    assert err.count("\n") == 1
    assert not (tmp_path / f"cka-ablate-{axis}").exists()


@pytest.mark.parametrize(
    ("axis", "more", "told"),
    [
        ("length", ("--max-length", 9999), "9999"),
        ("length", ("--documents", 0), "documents 0"),
        ("length", ("--documents", 3), "documents 3"),
        ("length", ("--compare-on", "nope"), "nope"),
        ("length", ("--document-seed", 2**70), str(2**70)),
        ("length", ("--layers", "7"), "layers [7]"),
        ("length", ("--measure", "cka,none"), "none"),
        ("length", ("--measure", "mknn", "--keep-features", "1KiB"), "--keep-features 1,024 bytes"),
        ("direction", ("--start-tokens", 640, "--early", "7"), "early layers [7]"),
        ("length", ("--readout", "probe:none"), "task 'none' is not known"),
        ("length", ("--readout", "mlm,,clm"), "--readout 'mlm,,clm' names no readout"),
        ("length", ("--readout", "clm"), "readout 'clm' needs a causal-LM head"),
    ],
)
def test_what_the_comparison_refuses_is_refused_before_training(cka, options, monkeypatch, tmp_path, axis, more, told):
    monkeypatch.setattr(ablation_run, "train_phase", lambda *_, **__: pytest.fail("something was trained"))
    given = ("ablate", axis, *options, *more, "--out", "run")
    for dry in ((), ("--dry-run", "--tokens-per-second", 1)):
        code, out, err = cka(*given, *dry)
        assert (code, out) == (2, "")
        assert told in err
        assert not list(tmp_path.iterdir())


def test_a_dry_run_refuses_the_directory_of_another_ablation(cka, options, everything):
    dry = ("--dry-run", "--tokens-per-second", 1)
    code, _, err = cka("ablate", "length", *options, "--seeds", "1", "--out", everything, *dry)
    assert code == 2
    assert "holds another ablation" in err


def numbers_of(run: Ablation) -> list[float]:
    """All divergences and ratios of a run with their intervals."""
    columns = [f"{name}{end}" for name in DIVERGENCES for end in ("", "_low", "_high")]
    return run.to_frame()[columns].to_numpy(dtype=float).ravel().tolist()


@pytest.fixture(scope="module")
def recompared(call_cka, everything, texts, tmp_path_factory):
    """`recompared(axis, *options)` → that part of the ablation again, of the same checkpoints."""
    folders = [p.parent for p in sorted((everything / "segments").glob("*/training.json"))]
    same = ("--compare-on", texts[1], "--max-length", 32, "--n", N, "--device", "cpu", "--no-cache", "--quiet")

    def run(axis: str, *more: object) -> Ablation:
        out = tmp_path_factory.mktemp("again") / "run"
        with pytest.MonkeyPatch.context() as patch:
            given = ("ablate", axis, "--checkpoints", *folders, *same, *more, "--out", out)
            assert call_cka(patch, *given) == 0
        return Ablation.load(out)

    return run


@pytest.fixture(scope="module")
def direction(recompared) -> Ablation:
    return recompared("direction")


@pytest.fixture(scope="module")
def trained(everything) -> dict[str, Path]:
    """Checkpoints by the hash of their weights."""
    manifests = (everything / "segments").glob("*/training.json")
    return {json.loads(one.read_text())["weights_sha256"]: one.parent for one in manifests}


def cell_of(run: Ablation, name: str) -> dict[str, Any]:
    return next(one for one in run.cells if (one["cell"], one["size"]) == (name, "3x32"))


def test_features_that_are_not_kept_give_the_same_numbers(direction, recompared):
    streamed = recompared("direction", "--keep-features", "1KiB")
    assert "streamed" in streamed.record["provenance"]["corpus"]["draws"][0]
    assert np.isfinite(numbers_of(direction)).any()
    np.testing.assert_allclose(numbers_of(streamed), numbers_of(direction), rtol=0, atol=1e-10)


def test_each_checkpoint_runs_once_however_many_cells_share_it(recompared, monkeypatch):
    loaded: list[str] = []
    load = FeatureRun.load

    def counted(self: FeatureRun, at: int):
        loaded.append(self.sources[at].name)
        return load(self, at)

    monkeypatch.setattr(FeatureRun, "load", counted)
    cells = recompared("all").cells
    weights = [one for cell in cells for one in cell["weights"].values()]
    assert len(loaded) == len(set(loaded)) == len(set(weights)) < len(weights)


def test_a_causal_cell_is_a_comparison_of_causal_views(direction, trained, texts):
    cell = cell_of(direction, "decoder")
    assert cell["mask"] == "causal"
    folders = [trained[cell["weights"][role]] for role in ("detour", "baseline", "control")]
    # Loaded here, and given as objects that hold the causal mask already.
    loaded = [load_model(CausalSource(as_source(folder)), device="cpu") for folder in folders]
    a, b, control = ((one.model, one.tokenizer) for one in loaded)
    by_hand = compare(a, b, texts[1], control=control, max_length=32, device="cpu", cache=False)
    for name in ("mean", "early"):
        mean = by_hand.summary[f"{name}_divergence"]["debiased"]["value"]
        assert cell[f"{name}_divergence"]["debiased"]["value"] == pytest.approx(mean, abs=1e-12)
    for own, layer in zip(cell["layers"], by_hand.layers, strict=True):
        for of in ("divergence", "control"):
            assert own[of]["value"] == pytest.approx(layer[of]["value"], abs=1e-12)
    bidirectional = compare(*folders[:2], texts[1], max_length=32, device="cpu", cache=False)
    plain = bidirectional.summary["mean_divergence"]["debiased"]["value"]
    assert abs(cell["mean_divergence"]["debiased"]["value"] - plain) > 1e-6


def test_an_ablation_takes_the_settings_of_every_comparison(recompared, trained, texts):
    result = recompared(
        "direction",
        "--layers", "0,1", "--early", "0", "--pooling", "last", "--sites", "mlp", "--rescale",
        "--measure", "cka,mknn", "--documents", 30, "--document-seed", 7,
    )  # fmt: skip
    cell = cell_of(result, "encoder")
    assert [layer["early"] for layer in cell["layers"]] == [True, False]
    by_hand = compare(
        trained[cell["weights"]["detour"]], trained[cell["weights"]["baseline"]], texts[1], layers=(0, 1),
        early=(0,), pooling="last", sites="mlp", rescale=True, measures=("cka", "mknn"), documents=30,
        seed=7, max_length=32, device="cpu", cache=False,
    )  # fmt: skip
    assert result.summary["n_documents"] == by_hand.summary["n_documents"] == 30
    for own, layer in zip(cell["layers"], by_hand.layers, strict=True):
        assert own["layer_a"] == layer["layer_a"]
        assert own["divergence"]["value"] == pytest.approx(layer["divergence"]["value"], abs=1e-12)
        assert own["rescaled"]["cka_debiased"] == pytest.approx(layer["rescaled"]["cka_debiased"], abs=1e-12)
        assert own["measures"]["mknn"]["value"] == layer["measures"]["mknn"]["value"]
    assert {"rescaled_cka", "mknn"} <= set(result.to_frame())


def test_the_ratio_is_computed_on_the_device_of_the_run(recompared, monkeypatch):
    devices: list[str] = []
    second_order = pairs_engine.ratio_second_order

    def watched(*given):
        devices.extend(str(side.device) for side in given[:3])
        return second_order(*given)

    monkeypatch.setattr(pairs_engine, "ratio_second_order", watched)
    monkeypatch.setattr(FeatureRun, "device", property(lambda self: torch.device("cpu:0")))
    recompared("direction")
    assert set(devices) == {"cpu:0"}


def test_the_kind_of_seed_noise_is_in_record_table_figure_and_report(cka, direction, everything):
    assert {cell["noise"] for cell in direction.cells} == {"masks", "order"}
    assert set(direction.to_frame()["noise"]) == {"masks", "order"}
    drawn = " ".join(" ".join(text.get_text() for text in direction.figure().findobj(Text)).split())
    printed = " ".join(cka("show", everything)[1].split())
    for kind in ("masks", "order"):
        for shown in (drawn, printed):
            assert f"{kind}: {NOISE_IN_WORDS[kind]}" in shown


def test_the_directory_of_another_ablation_is_refused(cka, options, everything, tmp_path):
    before = (everything / "ablation.json").read_bytes()
    code, _, err = cka("ablate", "length", *options, "--seeds", "1", "--out", everything)
    assert code == 2
    assert "holds another ablation (it differs in" in err
    assert (everything / "ablation.json").read_bytes() == before
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("x")
    code, _, err = cka("ablate", "length", *options, "--out", "notes")
    assert code == 2
    assert "holds something else" in err


def test_two_runs_of_one_command_share_the_tree(cka, call_cka, options, monkeypatch, tmp_path):
    """While one trains, a second call takes other branches; no segment is trained twice."""
    trained: list[str] = []
    train, inner = ablation_run.train_phase, []

    def counted(parent, phase, data, *, out, **settings):
        # In the middle of the first call's second segment, the other process comes by and does the rest.
        made = out.is_dir()
        if len(trained) == 1 and not inner:
            inner.append(out.name)

            def meanwhile(done) -> None:
                if len(inner) == 1:
                    inner.append("begun")
                    with monkeypatch.context() as patch:
                        patch.setattr(ablation_run.time, "sleep", give_up)
                        with pytest.raises(GivenUp):
                            call_cka(patch, "ablate", "length", *options, "--quiet", "--out", tmp_path / "run")

            settings["report"] = meanwhile
        result = train(parent, phase, data, out=out, **settings)
        if not made:
            trained.append(out.name)
        return result

    class GivenUp(BaseException):
        """What the command line lets through."""

    def give_up(seconds: float) -> None:
        raise GivenUp

    monkeypatch.setattr(ablation_run, "train_phase", counted)
    code, _, err = cka("ablate", "length", *options, "--quiet", "--out", tmp_path / "run")
    assert (code, err) == (0, "")
    assert len(trained) == len(set(trained))
    # The second call found work besides the segment that the first was at.
    assert trained.index(inner[0]) > 1
    assert not list((tmp_path / "run").rglob("optimizer.safetensors"))


def test_weights_are_kept_in_float16_on_demand(cka, options, tmp_path):
    code, _, err = cka("ablate", "length", *options, "--quiet", "--weights", "float16", "--out", tmp_path / "run")
    assert (code, err) == (0, "")
    cells = json.loads((tmp_path / "run" / "result.json").read_text())["pairs"]
    leaves = {weights for cell in cells for weights in cell["weights"].values()}
    kept = 0
    for folder in (tmp_path / "run" / "segments").iterdir():
        if not (folder / "training.json").is_file():
            continue
        manifest = json.loads((folder / "training.json").read_text())
        half = manifest.get("weights_dtype") == "float16"
        assert (manifest["weights_sha256"] in leaves) == half
        types = {tensor.dtype for tensor in load_file(folder / "model.safetensors").values()}
        assert types == {torch.float16 if half else torch.float32}
        kept += half
    assert kept == len(leaves)
    code, _, err = cka("ablate", "length", *options, "--quiet", "--out", tmp_path / "run")
    assert code == 2
    assert "weights" in err
