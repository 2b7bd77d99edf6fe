"""Fine-tuning: one seed one result, runs that resume and are shared, heads on checked models."""

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import seqeval.metrics
import torch
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    BertConfig,
    BertModel,
    PreTrainedTokenizerFast,
)

from cka_tools import evaluate
from cka_tools.errors import UserError
from cka_tools.evaluation import table
from cka_tools.evaluation.examples import IGNORED, encode, labels_of, outputs_of
from cka_tools.evaluation.fine_tune import Tuned, readings, reproducible
from cka_tools.evaluation.heads import model_with_head
from cka_tools.evaluation.options import EvaluationOptions
from cka_tools.evaluation.run_evaluate import make_plan
from cka_tools.evaluation.runs import Run, share_runs
from cka_tools.models import CausalSource, LoadOptions, as_source
from cka_tools.tasks import Example, Task

FAST: dict[str, Any] = {"epochs": 2, "batch_size": 8, "lr": 5e-3, "device": "cpu"}


@pytest.fixture(scope="module")
def models(tiny_model: Callable[..., Path]) -> list[str]:
    return [str(tiny_model("modernbert", layers=2, head=True)), str(tiny_model("bert", layers=2))]


def records(out: Path) -> dict[str, Any]:
    """What runs found, without their times."""
    kept = ("key", "seed", "loss", "dev", "best_epoch", "found")
    found = {path.name: json.loads(path.read_text()) for path in sorted((out / "runs").glob("*.json"))}
    return {name: {one: record[one] for one in kept} for name, record in found.items()}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["label", "labels", "tags"])
def test_one_seed_gives_one_result_and_another_seed_another(
    models: list[str], tasks: Callable[[str], str], kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "_floors", lambda t, task: [])
    state = torch.get_rng_state()
    for name, seeds in {"a": [3, 4], "b": [3]}.items():
        evaluate(models[1:], [tasks(kind)], out=tmp_path / name, seeds=seeds, **FAST | {"epochs": 1})
    assert torch.equal(state, torch.get_rng_state())  # the caller's draws are its own
    one, same = records(tmp_path / "a"), records(tmp_path / "b")
    assert same == {name: one[name] for name in same}
    three, four = one.values()
    assert three["loss"] != four["loss"]
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.slow
def test_a_killed_evaluation_goes_on_to_the_same_table(
    models: list[str], tasks: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "_floors", lambda t, task: [])
    settings = {"seeds": 2, **FAST}
    whole = evaluate(models, [tasks("label")], out=tmp_path / "whole", **settings)
    code = (
        "import sys\nfrom cka_tools import evaluate\n"
        f"evaluate({models!r}, [{tasks('label')!r}], out=sys.argv[1], **{settings!r})"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "killed")], stderr=subprocess.DEVNULL)
    runs = tmp_path / "killed" / "runs"
    until = time.monotonic() + 240
    while not list(runs.glob("*.json")) and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = {path: path.stat().st_mtime_ns for path in runs.glob("*.json")}
    assert 0 < len(done) < 4
    told: list[str] = []
    again = evaluate(models, [tasks("label")], out=tmp_path / "killed", told=told.append, **settings)
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert len(told) == 4 - len(done)
    assert records(tmp_path / "killed") == records(tmp_path / "whole")
    for part in ("scores", "differences", "best", "summary"):
        assert again.record[part] == whole.record[part]
    assert {path.name for path in (tmp_path / "killed").iterdir()} == {"evaluation.json", "runs"}

    # A damaged record is made again, to the same content; more seeds join the directory.
    damaged = next(iter(done))
    damaged.write_text(damaged.read_text()[:-40])
    evaluate(models, [tasks("label")], out=tmp_path / "killed", **settings | {"seeds": 3})
    kept = records(tmp_path / "killed")
    assert len(kept) == 6
    assert {name: kept[name] for name in records(tmp_path / "whole")} == records(tmp_path / "whole")
    with pytest.raises(UserError, match=r"holds another evaluation \(it differs in lr\)"):
        evaluate(models, [tasks("label")], out=tmp_path / "killed", **settings | {"lr": 1e-3})


def test_processes_share_the_runs(tmp_path: Path) -> None:
    """Two at once make each run once, and both return when all are made."""
    runs = [Run(0, 0, seed, f"run{seed}", f"key{seed}", ("a", "b"), (1,)) for seed in range(6)]
    (tmp_path / "runs").mkdir()
    made: list[int] = []

    def make(run: Run) -> tuple[Tuned, dict[str, Any]]:
        made.append(run.seed)
        time.sleep(0.05)
        return Tuned([0.5], 1, [("b",)]), {}

    seen: list[list[int]] = [[], []]

    def work(at: int) -> None:
        share_runs(runs, tmp_path, make, keep_weights=False, seen=lambda run, made: seen[at].append(run.seed))

    workers = [threading.Thread(target=work, args=(at,)) for at in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sorted(made) == list(range(6))
    assert [sorted(one) for one in seen] == [list(range(6))] * 2
    assert runs[0].read(tmp_path) == Tuned([0.5], 1, [("b",)])
    assert not list((tmp_path / "runs").glob(".*"))


def test_a_head_stands_on_the_checkpoint(models: list[str]) -> None:
    """As transformers' own `from_pretrained` builds it, but for what is drawn."""
    with reproducible(1):
        own = model_with_head(as_source(models[0]), LoadOptions(device="cpu"), "label", ("a", "b", "c"))
    theirs = AutoModelForSequenceClassification.from_pretrained(models[0], num_labels=3).state_dict()
    drawn = {name for name, value in own.state_dict().items() if not torch.equal(value, theirs[name])}
    assert drawn == {"classifier.weight"}  # its bias starts at 0 in both
    language = AutoModelForMaskedLM.from_pretrained(models[0]).state_dict()
    assert torch.equal(own.state_dict()["head.dense.weight"], language["head.dense.weight"])
    with reproducible(1):
        same = model_with_head(as_source(models[0]), LoadOptions(device="cpu"), "label", ("a", "b", "c"))
    assert torch.equal(own.classifier.weight, same.classifier.weight)


def test_models_without_such_a_head_are_one_line(models: list[str], tasks: Callable[[str], str]) -> None:
    with pytest.raises(UserError, match="seen causally"):
        make_plan([CausalSource(as_source(models[0]))], [tasks("label")], EvaluationOptions(device="cpu"))
    with pytest.raises(UserError, match="is given twice"):
        make_plan([models[0], models[0]], [tasks("label")], EvaluationOptions(device="cpu"))


@pytest.mark.slow
def test_weights_are_kept_where_asked_and_give_the_same_labels(
    models: list[str], tasks: Callable[[str], str], tmp_path: Path
) -> None:
    found = evaluate(models[1:], [tasks("no-dev")], out=tmp_path / "run", seeds=[1], keep_weights=True, **FAST)
    assert any("has no dev split: 4 texts of train" in note for note in found.summary["notes"])
    (kept,) = (tmp_path / "run" / "weights").iterdir()
    assert {path.suffix for path in kept.iterdir()} == {".json", ".safetensors"}
    model = AutoModelForSequenceClassification.from_pretrained(kept).eval()
    plan = make_plan(models[1:], [tasks("no-dev")], EvaluationOptions(device="cpu"))
    rows = plan.split(0, 0)["test"].rows.rows
    with torch.no_grad():
        said = [int(model(input_ids=torch.tensor([row.ids])).logits.argmax()) for row in rows]
    (record,) = records(tmp_path / "run").values()
    assert [[one] for one in said] == record["found"]
    gold = np.array([row.target for row in rows])
    (run,) = found.record["scores"][0]["runs"]
    assert run["readouts"]["accuracy"] == pytest.approx(float((np.array(said) == gold).mean()))


@pytest.mark.slow
def test_a_loss_that_is_not_finite_ends_the_run_in_one_line(
    models: list[str], tasks: Callable[[str], str], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"loss is not finite at step \d+: .*--lr 1e\+30"):
        evaluate(models[1:], [tasks("label")], out=tmp_path / "run", seeds=[1], **FAST | {"lr": 1e30})
    assert not list((tmp_path / "run" / "runs").iterdir())


def test_words_beyond_the_cut_and_without_a_piece_count_as_o() -> None:
    """Of words cut into many pieces the first is tagged, the others are ignored, and what is lost is counted."""
    backend = Tokenizer(WordPiece({"[CLS]": 0, "[PAD]": 1, "[SEP]": 2, "[UNK]": 3, "a": 4, "##a": 5, "b": 6}))
    backend.normalizer = normalizers.Replace("_", "")
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=[("[CLS]", 0), ("[SEP]", 2)]
    )
    named = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **named)
    config = BertConfig(vocab_size=7, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    outline = as_source((BertModel(config), tokenizer)).outline(LoadOptions(device="cpu"))
    words, labels = ("aaa", "_", "b", "aa", "b"), ("B-X", "O", "I-X", "B-Y", "B-X")
    one = Example("1", " ".join(words), labels, words)
    task = Task("t", "t", "tags", ("X", "Y"), [one], [], [one])
    rows = encode([one], task, outline, max_length=7)
    (row,) = rows.rows
    assert row.ids == [0, 4, 5, 5, 6, 4, 2]
    assert row.firsts == (1, -1, 4, 5, -1)
    names = outputs_of(task)
    assert names == ("O", "B-X", "I-X", "B-Y", "I-Y")
    assert row.target == [
        IGNORED,
        names.index("B-X"),
        IGNORED,
        IGNORED,
        names.index("I-X"),
        names.index("B-Y"),
        IGNORED,
    ]
    assert (rows.cut, rows.beyond) == (1, 2)
    likeliest = np.array([[9, 1, 0, 0, 2, 3, 9, 9]])  # padded to a longer batch
    assert labels_of(likeliest, rows, task) == [("B-X", "O", "I-X", "B-Y", "O")]
    found = readings(task, [labels], labels_of(likeliest, rows, task))["micro_f1"].value
    assert found == pytest.approx(seqeval.metrics.f1_score([list(labels)], [["B-X", "O", "I-X", "B-Y", "O"]]))
    assert found == pytest.approx(2 * 3 / (4 + 3))  # the entity beyond the cut is missed


@pytest.mark.slow
def test_scores_of_tags_are_seqevals_on_the_kept_predictions(
    models: list[str], tasks: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "_floors", lambda t, task: [])
    found = evaluate(models[:1], [tasks("tags")], out=tmp_path / "run", seeds=[1], **FAST | {"epochs": 12})
    (path,) = (tmp_path / "run" / "runs").glob("*.json")
    record = json.loads(path.read_text())
    said = [[record["outputs"][at] for at in one] for one in record["found"]]
    rows = [json.loads(line) for line in Path(tasks("tags")).read_text(encoding="utf-8").splitlines()]
    gold = [row["tags"] for row in rows if row["split"] == "test"]
    assert found.record["summary"]["tasks"][0]["headline"] == "micro_f1"
    (run,) = found.record["scores"][0]["runs"]
    assert run["readouts"]["micro_f1"] == pytest.approx(seqeval.metrics.f1_score(gold, said))
    assert run["readouts"]["micro_f1"] > 0
