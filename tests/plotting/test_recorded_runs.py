"""What the figures' scripts record: finished fine-tuning, and the control of needles that is set by hand."""

import sys
from pathlib import Path

import evaluations
import numpy as np
import pytest
from evaluations import sentences
from word_matcher import word_matcher

from cka_tools import needle
from cka_tools.bundled import bundled_data
from cka_tools.comparison.readout_results import Evaluation
from cka_tools.documents import draw_documents
from cka_tools.errors import UserError
from cka_tools.tasks.needle import POSITIONS, Asked, Haystacks, make_examples, templates

RECORDED = Path(evaluations.__file__).parent / "results" / "evaluate"
THETA0 = str(bundled_data() / "models" / "theta0")


def test_finished_runs_are_recorded_without_what_each_seed_predicted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "begun").mkdir()
    arguments = [str(RECORDED / "gad"), str(tmp_path / "begun"), "--results", str(tmp_path / "kept")]
    monkeypatch.setattr(sys, "argv", ["evaluations.py", *arguments])
    evaluations.main()
    told = capsys.readouterr()
    assert "begun: no table yet" in told.err
    assert told.out.splitlines() == sentences(Evaluation.load(tmp_path / "kept" / "gad"))
    assert {path.name for path in (tmp_path / "kept" / "gad").iterdir()} == set(evaluations.KEPT)


def test_a_sentence_says_detour_less_baseline_whichever_is_first() -> None:
    run = Evaluation.load(RECORDED / "gad")
    (apart,) = [one for one in run.record["differences"] if {one["a"], one["b"]} == {1, 2}]
    entry = apart["readouts"]["macro_f1"]["over_both"]
    sign = 1 if apart["a"] == 1 else -1
    for low, high, said in ((0.01, 0.03, "**shown**"), (-0.01, 0.05, "**not shown**")):
        ends = sorted(sign * end for end in (low, high))
        entry |= {"value": sign * 0.02, "ci_low": ends[0], "ci_high": ends[1], "reason": None}
        assert f"Detour less baseline: 2.00 points ({100 * low:.2f} to {100 * high:.2f}), {said}" in sentences(run)[0]
    entry |= {"ci_low": None, "ci_high": None, "reason": "too few"}
    assert "no verdict (too few)" in sentences(run)[0]


def test_a_run_that_names_a_place_of_one_machine_is_not_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (RECORDED / "gad" / "result.json").read_text()
    run = tmp_path / "gad"
    run.mkdir()
    for name in evaluations.KEPT:
        (run / name).write_bytes((RECORDED / "gad" / name).read_bytes())
    (run / "result.json").write_text(text.replace('"gad=gad.jsonl.gz"', '"gad=/home/me/gad.jsonl.gz"'))
    monkeypatch.setattr(sys, "argv", ["evaluations.py", str(run), "--results", str(tmp_path / "kept")])
    with pytest.raises(UserError, match="names a place of one machine"):
        evaluations.main()
    assert not (tmp_path / "kept").exists()


@pytest.mark.slow
def test_a_needle_is_found_by_an_encoder_that_matches_words() -> None:
    """From text to accuracy: the regression answers as a plain rule on sets of tokens does, nearly always right."""
    matcher, tokenizer = word_matcher(THETA0)
    found = needle([(matcher, tokenizer)], documents=120, lengths=(200,), examples=60, training=40, device="cpu")
    asked = Asked((200,), POSITIONS, tuple(templates()), {"train": 40, "dev": 9, "test": 60})
    documents = draw_documents("sample", 120, 42).documents
    tested = [one for one in make_examples(Haystacks(documents, tokenizer, "sample"), asked, 42) if one.split == "test"]

    def pieces(text: str) -> set[str]:
        return {one.removeprefix("Ġ") for one in tokenizer.tokenize(text)}

    rule = np.array([pieces(one.query) <= pieces(one.document) for one in tested])
    right = rule == [one.label for one in tested]
    assert right.mean() > 0.85
    assert (found.arrays["logistic"][0, 0] == right).all()
