"""`cka needle` from end to end, on tiny models whose tokenizer encodes pairs."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from tokenizers import processors
from transformers import AutoModel

from cka_tools import needle
from cka_tools.comparison.readout_results import KINDS, Needle
from cka_tools.documents import draw_documents
from cka_tools.errors import UserError
from cka_tools.extraction import extract
from cka_tools.tasks import classifier, mlp_probe
from cka_tools.tasks.needle import POSITIONS, Asked, Example, Haystacks, make_examples, templates

Run = Callable[..., tuple[int, str, str]]
LENGTHS = (60, 90)
SMALL = ("--lengths", "60,90", "--examples", 60, "--training", 48, "--documents", 120, "--templates", "drug,allergy",
         "--device", "cpu")  # fmt: skip
PAIRS = {
    "single": "[CLS] $A [SEP]",
    "pair": "[CLS] $A [SEP] $B:1 [SEP]:1",
    "special_tokens": [("[CLS]", 0), ("[SEP]", 2)],
}


@pytest.fixture(scope="module")
def tokenizer(fresh_tokenizer: Callable[..., Any]) -> Any:
    """Words of the facts and of the corpus, a third of all others."""
    words = {
        word for one in templates().values() for slot in one.slots.values() for value in slot for word in value.split()
    }
    words |= {word for text in draw_documents("sample", 60, 1).documents for word in text.text.split()}
    words |= {word for one in templates().values() for word in one.text.split()}
    made = fresh_tokenizer(words=sorted(words))
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(**PAIRS)
    return made


@pytest.fixture(scope="module")
def models(fresh_model: Callable[..., Any], tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two BERTs with segments, one with another depth."""
    found = []
    for seed, layers in ((0, 3), (1, 2)):
        folder = tmp_path_factory.mktemp(f"bert-{seed}")
        fresh_model(
            "bert", seed=seed, layers=layers, vocab_size=len(tokenizer), max_position_embeddings=96
        ).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        found.append(str(folder))
    return found


@pytest.fixture(scope="module")
def examples(tokenizer: Any) -> list[Example]:
    asked = Asked(LENGTHS, POSITIONS, ("drug", "allergy"), {"train": 48, "dev": 10, "test": 60})
    return make_examples(Haystacks(draw_documents("sample", 120, 42).documents, tokenizer, "sample"), asked, 42)


def test_needle(cka: Run, models: list[str], examples: list[Example], tmp_path: Path) -> None:
    code, out, err = cka("needle", *models, *SMALL, "--label-shuffle", "--layers", "1", "--out", "run")
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    record = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (record["format"], record["kind"], record["summary"]["n_documents"]) == (2, "needle", 60)
    assert record["summary"]["examples"] == {"train": 48, "dev": 12, "test": 60}
    assert examples[0].document not in (tmp_path / "run" / "result.json").read_text()
    arrays = load_file(tmp_path / "run" / "arrays.safetensors")
    tested = [one for one in examples if one.split == "test"]
    assert arrays["example.label"].tolist() == [float(one.label) for one in tested]
    rows = list(csv.DictReader((tmp_path / "run" / "needle.csv").open()))
    assert len(rows) == (2 + 2) * 2 * 12
    for row in rows:
        at, name = [one["name"] for one in record["models"]].index(row["model"]), row["probe"]
        layer = [one["layer"] for one in record["models"][at]["layers"]].index(int(row["layer"]))
        member = [
            (not row["length"] or one.length == int(row["length"])) and row["position"] in ("all", one.position)
            for one in tested
        ]
        assert float(row["accuracy"]) == pytest.approx(arrays[name][at, layer, member].mean())
        assert int(row["examples"]) == sum(member)
        assert bool(row["accuracy_low"]) == (sum(member) >= 30)
    assert "10 examples are fewer than the 30" in " ".join(out.split())
    (apart,) = record["differences"]
    assert [(one["layer_a"], one["layer_b"], one["output"]) for one in apart["layers"]] == [
        (1, 1, False), (2, 3, True),
    ]  # fmt: skip
    code, again, _ = cka("show", tmp_path / "run")
    assert again.strip() in out
    code, data, _ = cka("show", tmp_path / "run", "--json")
    assert json.loads(data) == KINDS["needle"].load(tmp_path / "run").record
    assert cka("plot", tmp_path / "run", "--out", tmp_path / "figure.pdf")[0] == 0
    assert (tmp_path / "figure.pdf").read_bytes().startswith(b"%PDF")
    code, table, _ = cka("summary", tmp_path / "run", "--label", "first", "--label", "second", "--format", "markdown")
    own = record["models"][1]["layers"][-1]["probes"]["mlp"]["accuracy"][2]
    assert code == 0
    assert f"| {100 * own['value']:.1f} (" in next(line for line in table.splitlines() if line.startswith("| second"))
    assert "| MLP, 90 % |" in table
    assert cka("summary", tmp_path / "run", "--label", "first")[0] == 2
    assert cka("summary", tmp_path / "run", "--columns", "mean")[0] == 2


@pytest.fixture(scope="module")
def found(models: list[str]) -> Needle:
    return needle(models, documents=120, lengths=LENGTHS, templates=("drug", "allergy"), examples=60, training=48,
                  device="cpu")  # fmt: skip


def test_it_is_probes_of_the_cls_row_of_pairs(
    found: Needle, models: list[str], tokenizer: Any, examples: list[Example]
) -> None:
    """Each pair alone through the model, with its token types; the probes on what comes out."""
    gold = {
        split: np.array([one.label for one in examples if one.split == split]) for split in ("train", "dev", "test")
    }
    for at, folder in enumerate(models):
        model = AutoModel.from_pretrained(folder).eval()
        rows = {split: [] for split in gold}
        for one in examples:
            given = tokenizer(one.query, one.document, return_tensors="pt", return_token_type_ids=True)
            assert given["token_type_ids"].sum() > 20
            with torch.no_grad():
                rows[one.split].append(model(**given).last_hidden_state[0, 0].numpy())
        features = {split: np.array(values) for split, values in rows.items()}
        fitted = mlp_probe.fit(features["train"], gold["train"], features["dev"], gold["dev"], 42)
        right = fitted.predict(features["test"]) == gold["test"]
        assert (found.arrays["mlp"][at, 0] == right).mean() >= 0.95  # features move by rounding
        stacked = np.concatenate([features["train"], features["test"]])
        both = [np.stack([~gold[split], gold[split]], 1) for split in ("train", "test")]
        numbers = np.arange(len(stacked))
        task = type("T", (), {"kind": "label"})
        of = classifier.Labelled(task, [], [], numbers[:48], numbers[48:], *both)
        scored = classifier.probe(stacked, of, 42)
        own = found.models[at]["layers"][0]["probes"]["logistic"]
        assert own["strength"] == scored.strength
        assert (found.arrays["logistic"][at, 0] == (scored.found[:, 1] == gold["test"])).mean() >= 0.95


def test_token_types_reach_the_model_in_batches(models: list[str], tokenizer: Any, examples: list[Example]) -> None:
    from cka_tools import compute_features
    from cka_tools.compute import open_run
    from cka_tools.documents import Document
    from cka_tools.extraction.extract import prepare
    from cka_tools.models.check import can_pack
    from cka_tools.settings import FINAL_NORM, Settings

    pairs = [Document(str(at), one.document, query=one.query) for at, one in enumerate(examples[:10])]
    run = open_run(models[:1], ["a b", "c d", "e f", "g h"], Settings(device="cpu", cache=False, pooling="cls"))
    prepared = prepare(run.outlines, pairs, Settings(max_length=96, pooling="cls", device="cpu"))
    assert (
        prepared.tables[0].take(np.array([3])).types.tolist()
        == (tokenizer(pairs[3].query, pairs[3].text, return_token_type_ids=True)["token_type_ids"])
    )
    loaded = run.load(0)
    own = extract.plan_forwards([loaded], Settings(pooling="cls"), [[FINAL_NORM]])[0]
    model = AutoModel.from_pretrained(models[0]).eval()
    with own as forward, loaded.evaluating():
        batch = extract.make_batch(prepared.tables[0], [0, 1, 2], loaded.device)
        rows = forward(batch)[0][0][0].numpy()
        assert can_pack(loaded)
        packed = forward(extract.make_pack(prepared.tables[0], [0, 1, 2], loaded.device))[0][0][0].numpy()
    np.testing.assert_allclose(packed, rows, atol=1e-5)
    for row, one in zip(rows, pairs[:3], strict=True):
        given = tokenizer(one.query, one.text, return_tensors="pt")
        with torch.no_grad():
            wanted = model(**given, token_type_ids=torch.tensor(
                [tokenizer(one.query, one.text, return_token_type_ids=True)["token_type_ids"]]
            )).last_hidden_state[0, 0].numpy()  # fmt: skip
            plain = model(**given, token_type_ids=torch.zeros_like(given["input_ids"])).last_hidden_state[0, 0].numpy()
        np.testing.assert_allclose(row, wanted, atol=1e-5)
        assert np.abs(row - plain).max() > 1e-3
    assert compute_features(models[:1], ["w1 w2"] * 3 + ["a", "b", "c", "d"], device="cpu")  # no pairs: as before


def test_one_pass_a_model_and_none_for_what_is_stored(
    models: list[str], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    forward = extract._ModelRun._run
    monkeypatch.setattr(
        extract._ModelRun, "_run", lambda self, r, **more: rows.append(len(r)) or forward(self, r, **more)
    )
    asked = {
        "documents": 60,
        "lengths": (60,),
        "examples": 60,
        "training": 48,
        "device": "cpu",
        "templates": ("allergy",),
    }
    one = needle([*models, models[0]], **asked)
    assert sum(rows) == 2 * (48 + 12 + 60)
    assert one.models[0]["layers"] == one.models[2]["layers"]
    again = needle(models, **asked)
    assert sum(rows) == 2 * (48 + 12 + 60)
    assert again.models == one.models[:2]


def test_a_model_that_tells_is_told_from_one_that_does_not(
    models: list[str], monkeypatch: pytest.MonkeyPatch, examples: list[Example]
) -> None:
    """Features that hold the answer give 100 %, noise gives chance; the difference is clear."""
    from cka_tools.compute import FeatureRun, Features

    made = FeatureRun.features
    rng = np.random.default_rng(0)

    def features(self: FeatureRun, *given: Any) -> list[list[Features]]:
        own = made(self, *given)
        labels = {f"{one.split}:{at}": one.label for at, one in enumerate(examples)}
        gold = np.array([labels[name] for name in own[0][0].ids])
        for (one,), clear in zip(own, (True, False), strict=True):
            for layer in one.layers:
                one.layers[layer] = rng.normal(size=(len(gold), 8)) + 60.0 * clear * (gold[:, None] - 0.5)
        return own

    monkeypatch.setattr(FeatureRun, "features", features)
    found = needle(models, documents=120, lengths=LENGTHS, templates=("drug", "allergy"), examples=60, training=48,
                   device="cpu")  # fmt: skip
    clear, noise = (one["layers"][0]["probes"]["logistic"]["accuracy"][0] for one in found.models)
    assert (clear["value"], clear["ci_low"]) == (1.0, 1.0)
    assert noise["ci_low"] <= 0.5 <= noise["ci_high"]
    apart = found.record["differences"][0]["layers"][0]["probes"]["logistic"]["accuracy"][0]
    assert apart["value"] == pytest.approx(noise["value"] - 1)
    assert apart["ci_high"] < 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "no model is given"),
        ([0, "--lengths", "0"], "length '0' is not a number of tokens"),
        ([0, "--lengths", "many"], "length 'many' is not a number of tokens"),
        ([0, "--lengths", "60,-5"], "length '-5' is not a number of tokens"),
        ([0, "--lengths", ""], "length '' is not a number of tokens"),
        ([0, "--lengths", "60,97"], "length 97 is above what model"),
        ([0, "--lengths", "60,60"], "one is named twice"),
        ([0, "--lengths", "20"], "length 20 leaves no haystack beside a query and a fact"),
        ([0, "--positions", "begin"], "position 'begin' is not known"),
        ([0, "--positions", "Start"], "did you mean 'start'?"),
        ([0, "--templates", "drugs"], "did you mean 'drug'?"),
        ([0, "--templates", ""], "template '' is not known"),
        ([0, "--examples", "12"], "examples 12 does not fit: give a whole number of 60 to 1,000,000"),
        ([0, "--examples", "some"], "--examples 'some' is not a whole number"),
        ([0, "--examples", "9" * 20], "examples 99999999999999999999 does not fit"),
        ([0, "--lengths", "9" * 12], "length 999999999999 is above what model"),
        ([0, "--training", "0"], "training 0 does not fit"),
        ([0, "--documents", "8"], "too few for 96 tokens"),
        ([0, "--layers", "5"], "layers 5"),
        ([0, "--corpus", "none.jsonl"], "none.jsonl"),
        (["gpt2"], "its tokenizer puts nothing between two segments"),
        (["no-cls", "--pooling", "cls"], "its tokenizer puts no CLS token first"),
    ],
)
def test_bad_input_is_one_line_before_a_model_runs(
    cka: Run,
    models: list[str],
    no_cls: str,
    no_pairs: str,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[Any],
    said: str,
) -> None:
    def run(*given: Any, **more: Any) -> None:
        raise AssertionError("a model ran")

    monkeypatch.setattr("cka_tools.models.model.LoadedModel.run", run)
    named = {0: models[0], "gpt2": no_pairs, "no-cls": no_cls}
    small = () if "--examples" in arguments else ("--examples", 60)
    code, out, err = cka("needle", *[named.get(one, one) for one in arguments], *small)
    assert (code, out) == (2, "")
    assert said in err
    assert len(err.strip().splitlines()) == 1


@pytest.fixture(scope="module")
def no_cls(
    fresh_model: Callable[..., Any], fresh_tokenizer: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> str:
    """A decoder whose tokenizer ends segments and begins none."""
    folder = tmp_path_factory.mktemp("no-cls")
    made = fresh_tokenizer(specials=False)
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A [SEP]", pair="$A [SEP] $B [SEP]", special_tokens=[("[SEP]", 2)]
    )
    fresh_model("gpt2").save_pretrained(folder)
    made.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def no_pairs(tiny_model: Callable[..., Path]) -> str:
    return str(tiny_model("gpt2"))


def test_a_decoder_is_read_at_its_last_token(no_cls: str) -> None:
    made = needle([no_cls], documents=60, lengths=(64,), templates=("duration",), pooling="last", examples=60,
                  training=40, device="cpu")  # fmt: skip
    assert made.record["provenance"]["settings"]["pooling"] == "last"


def test_an_example_that_another_tokenizer_makes_too_long_is_refused(
    models: list[str], tokenizer: Any, fresh_model: Callable[..., Any], fresh_tokenizer: Callable[..., Any]
) -> None:
    from tokenizers import pre_tokenizers

    letters = fresh_tokenizer(words=list("abcdefghijklmnopqrstuvwxyz"))
    letters.backend_tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    letters.backend_tokenizer.post_processor = processors.TemplateProcessing(**PAIRS)
    other = (fresh_model("bert", max_position_embeddings=96), letters)
    with pytest.raises(UserError, match="its tokenizer makes more than 90 tokens of 120 of 120 examples"):
        needle([models[0], other], documents=60, lengths=(90,), examples=60, training=48, device="cpu")


def test_a_run_that_does_not_hold_together_is_refused(found: Needle, tmp_path: Path) -> None:
    found.save(tmp_path / "run")
    path = tmp_path / "run" / "result.json"
    whole = json.loads(path.read_text())
    for change, said in (
        (lambda r: r["models"].pop(), "models are not those of provenance.models"),
        (lambda r: r["groups"].pop(), "groups are not those of"),
        (lambda r: r["models"][0]["layers"][0].update(output=False), "does not tell of one output"),
        (lambda r: r["models"][1]["layers"][0]["probes"]["mlp"]["accuracy"].pop(), "every group"),
        (lambda r: r["summary"].update(label_shuffle=True), "lacks its control of shuffled labels"),
        (lambda r: r["differences"][0].update(a=7), "a difference is of a model that is not there"),
        (lambda r: r["summary"].update(n_documents=3), "array 'mlp'"),
        (lambda r: r["summary"].pop("power"), "there is no summary.power"),
    ):
        broken = json.loads(json.dumps(whole))
        change(broken)
        path.write_text(json.dumps(broken))
        with pytest.raises(UserError, match="is damaged") as error:
            Needle.load(tmp_path / "run")
        assert said in str(error.value)
