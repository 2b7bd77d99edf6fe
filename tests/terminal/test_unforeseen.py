"""What nobody made a message of, outputs that take nothing, and narrow terminals."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import cka_tools.comparison
from cka_tools.comparison.record import COMPARISON
from cka_tools.formatting import visible

RUN = Path(__file__).parents[1] / "comparison" / "version_1" / COMPARISON


@pytest.mark.parametrize(
    "error", [KeyError("what\x1b[31m"), RuntimeError("a\nb"), MemoryError(), RecursionError()], ids=repr
)
def test_any_other_exception_is_one_line_and_a_file(cka, monkeypatch, tmp_path, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(cka_tools.comparison, "compare", fail)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    command = ("compare", "demo:theta0", "demo:theta0", "--out", "run")
    code, out, err = cka(*command)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert visible(err, keep="\n") == err
    file = re.search(r"traceback is in (\S+)", err)
    assert file
    assert "Traceback" in Path(file[1]).read_text(encoding="utf-8")
    assert "in fail" in Path(file[1]).read_text(encoding="utf-8")
    assert not (tmp_path / "run").exists()
    for debug, env in ((["--debug"], {}), ([], {"CKA_TOOLS_DEBUG": "1"})):
        with monkeypatch.context() as patch:
            for name, value in env.items():
                patch.setenv(name, value)
            code, _, err = cka(*command, *debug)
        assert code == 1
        assert "in fail" in err
        assert "traceback is in" not in err


def test_debug_shows_where_a_user_error_comes_from(cka):
    code, _, err = cka("show", "nowhere", "--debug")
    assert code == 2
    assert "in read_run" in err
    assert err.splitlines()[-1].startswith("cka: 'nowhere' is not a run")


@pytest.mark.parametrize("flags", [[], ["--json"]])
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_output_is_one_line(flags):
    command = [sys.executable, "-m", "cka_tools", "show", str(RUN), *flags]
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        found = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert found.returncode == 1
    assert found.stderr == "cka: standard output cannot be written (no space is left): what was saved is kept\n"


def test_an_encoding_that_lacks_a_letter_shows_another():
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "COLUMNS": "40"}
    command = [sys.executable, "-m", "cka_tools", "show", str(RUN)]
    found = subprocess.run(command, capture_output=True, env=environment, check=False)
    assert (found.returncode, found.stderr) == (0, b"")
    assert found.stdout.isascii()


@pytest.mark.parametrize("columns", ["0", "1", "20", "40", "80"])
@pytest.mark.parametrize(
    "command", [["show", RUN], ["recipe", "show", "clm-detour"], ["layers", "demo:theta0"], ["summary", RUN]], ids=str
)
def test_no_number_is_cut_at_any_width(cka, monkeypatch, columns, command):
    monkeypatch.setenv("COLUMNS", "200")
    numbers = set(re.findall(r"\d[\d.,]*\d", cka(*command)[1]))
    monkeypatch.setenv("COLUMNS", columns)
    code, out, err = cka(*command)
    assert (code, err) == (0, "")
    assert "…" not in out
    found = set(re.findall(r"\d[\d.,]*\d", " ".join(out.split())))
    assert found
    assert (
        not {one for one in found if one not in numbers and not any(one in other for other in numbers)}
        or int(columns) < 40
    )


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["--documents", "abc"], "--documents 'abc' is not a whole number"),
        (["--documents", "1.5"], "--documents '1.5' is not a whole number"),
        (["--documents", "9" * 5000], "is not a whole number"),
        (["--max-length", "9" * 30], f"max-length '{'9' * 30}' must be at most"),
        (["--seed", str(2**63)], f"seed '{2**63}' must be at most"),
        (["--tokens-per-document", "100000"], "must be at most 1024"),
        (["--keep-features", "9" * 400], "is not a valid size"),
        (["--keep-features", "1e308"], "is not a valid size"),
        (["--layers", "0-999999999999"], "is not an index or a range"),
        (["--layers", "9" * 5000], "is not an index or a range"),
        (["--protocol", "paper", "--documents", "3", "--pooling", "cls"], "documents 3, pooling 'cls' contradict"),
    ],
)
def test_a_number_beyond_use_is_quoted_in_one_line(cka, command, words):
    code, out, err = cka("compare", "demo:theta0", "demo:theta0", *command)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert words in err
    assert len(err) < 300
