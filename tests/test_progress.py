"""What a run tells of itself: pace, time left, lines in a log, a bar in a notebook."""

import io
import sys
from types import SimpleNamespace

import pytest
from rich.console import Console

from cka_tools import compute_features, progress
from cka_tools.progress import Pace, reporter
from cka_tools.terminal import output
from cka_tools.terminal.output import TrainingLine, document_progress
from cka_tools.training.loop import StepReport


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets; `now[0]` are its seconds."""
    now = [100.0]
    for module in (progress, output):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_the_pace_counts_from_the_first_report(clock):
    pace = Pace()
    assert pace.words(50, 5_000, 500) == "50/500 documents"
    clock[0] += 10
    # 100 documents and 20,000 tokens in 10 s: 350 are left.
    assert pace.words(150, 25_000, 500) == "150/500 documents  2,000 tokens/s  35 s left"


def test_a_pipe_gets_a_line_every_ten_seconds(clock, capsys):
    with document_progress(Console(file=io.StringIO(), width=80), hidden=False) as report:
        for done in range(1, 61):
            clock[0] += 1
            report(done, 100 * done, 60)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" ")[0] for line in lines] == ["10/60", "20/60", "30/60", "40/60", "50/60", "60/60"]
    assert lines[0] == "10/60 documents  100 tokens/s  50 s left"


def test_a_quiet_run_tells_nothing(clock, capsys):
    with document_progress(Console(file=io.StringIO()), hidden=True) as report:
        for done in range(60):
            clock[0] += 9
            report(done, done, 60)
    assert capsys.readouterr().err == ""


def test_80_columns_hold_the_whole_bar(clock):
    stream = io.StringIO()
    with document_progress(Console(file=stream, width=80, force_terminal=True), hidden=False) as report:
        report(1, 100, 2_400_000)
        clock[0] += 1
        report(2, 123_556, 2_400_000)
    assert "2/2,400,000 documents  123,456 tokens/s  666 h 39 min left" in stream.getvalue()


@pytest.mark.parametrize("width", [30, 60, 80, 200])
def test_training_keeps_the_time_left_at_any_width(width):
    line = TrainingLine({"a": (1_000_000, "mlm"), "b": (1_000_000, "mlm")})
    line._console = Console(file=(stream := io.StringIO()), width=width, force_terminal=True)
    line.show("a", StepReport("phase 1", "mlm", 500, 1000, 500_000, 1e-3, 6.1234, 1000.0), "8x128 phase 1 (mlm) seed 1")
    text = stream.getvalue().rpartition("\x1b[2K")[2]
    assert len(text) < width
    assert text.endswith("25 min 00 s left")
    assert ("loss 6.123" in text) == (width >= 80)
    assert ("lr 1.00e-03" in text) == (width == 200)


def test_what_the_cache_has_is_in_no_pace(tiny_model, monkeypatch, tmp_path):
    monkeypatch.setenv("CKA_TOOLS_CACHE", str(tmp_path))
    one, two, texts = str(tiny_model("bert")), str(tiny_model("bert", seed=1)), [f"w{i} w{i + 1}" for i in range(30)]
    compute_features([one], texts)
    told = []
    compute_features([one, two, one], texts, progress=lambda *done: told.append(done))
    assert told
    assert {total for _, _, total in told} == {30}
    assert told[-1][0] == 30


def test_a_bar_is_for_notebooks_and_for_those_who_ask(monkeypatch, capsys):
    assert reporter(None) is None
    assert reporter(False) is None
    own = lambda documents, tokens, total: None  # noqa: E731
    assert reporter(own) is own
    shell = SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    assert reporter(None) is not None
    assert reporter(False) is None
    report = reporter(True)
    report(10, 1_000, 40)
    report(40, 4_000, 40)
    shown = capsys.readouterr().err
    assert "10/40" in shown
    assert "40/40" in shown
    assert "4,000 tokens" in shown
