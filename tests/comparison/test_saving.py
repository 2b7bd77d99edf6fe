"""A finished run is kept, whatever happens while it is written, and wherever."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cka_tools.comparison.record import circumstances, csv_bytes
from cka_tools.comparison.run_directory import NotDrawn, Taken, check_free, write_run, write_whole
from cka_tools.errors import UserError
from cka_tools.store.directory import locked


@pytest.mark.parametrize(
    ("first", "said"),
    [
        ("/usr/lib/cka_tools/__main__.py", "python -m cka_tools demo -o 'my run'"),
        ("/home/me/.venv/bin/cka", "cka demo -o 'my run'"),
        ("/home/me/__main__.py", "__main__.py demo -o 'my run'"),
    ],
)
def test_the_command_that_is_kept_can_be_given_again(monkeypatch, first, said):
    monkeypatch.setattr("sys.argv", [first, "demo", "-o", "my run"])
    assert circumstances()["command"] == said


class Drawing:
    """Stands for a figure."""

    def __init__(self, error=None):
        self.error = error

    def savefig(self, path):
        Path(path).write_bytes(b"half")
        if self.error:
            raise self.error


def save(out, record=None, figure=None, table=None, **options):
    frame = pd.DataFrame({"layer": [0], "name": ["=a"]})
    return write_run(
        Path(out), record or {"kind": "x"}, {"a": np.zeros(3)}, table or (lambda: frame), figure or Drawing,
        table_name="layers.csv", **options,
    )  # fmt: skip


FILES = ["arrays.safetensors", "figure.pdf", "figure.png", "layers.csv", "result.json"]


def files(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), ValueError("a\nb"), MemoryError()], ids=repr
)
def test_results_are_kept_where_a_picture_cannot_be_made(tmp_path, error):
    with pytest.raises(NotDrawn, match=r"saved in .* without its figure") as told:
        save(tmp_path / "run", figure=lambda: Drawing(error))
    assert told.value.exit_code == 1
    assert "\n" not in str(told.value)
    assert files(tmp_path / "run") == ["arrays.safetensors", "layers.csv", "result.json"]
    assert files(tmp_path) == ["run"]

    def broken():
        raise error

    with pytest.raises(NotDrawn, match="without its table"):
        save(tmp_path / "other", table=broken)
    assert files(tmp_path / "other") == ["arrays.safetensors", "figure.pdf", "figure.png", "result.json"]


def test_a_link_to_a_folder_is_written_through(tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("empty", "not-yet"):
        link = tmp_path / f"to-{name}"
        link.symlink_to(tmp_path / name)
        check_free(link)
        assert save(link) == link
        assert link.is_symlink()
        assert files(tmp_path / name) == FILES


def test_a_run_that_is_taken_meanwhile_overwrites_nothing(tmp_path):
    out = tmp_path / "run"

    def meanwhile():
        out.mkdir()
        (out / "mine").write_text("x")
        return Drawing()

    with pytest.raises(Taken):
        save(out, figure=meanwhile)
    assert files(tmp_path) == ["run"]
    assert files(out) == ["mine"]


def test_a_byte_that_is_not_utf_8_is_kept_in_every_file(tmp_path):
    name = os.fsdecode(b"caf\xe9")
    out = save(tmp_path / name, {"kind": "x", "name": name, "more": "\u00e9\U0001f600"})
    assert json.loads((out / "result.json").read_text(encoding="utf-8"))["name"] == name


def test_what_killed_runs_left_goes_and_what_is_being_written_stays(tmp_path):
    for name in (".cka-run-00000000", ".cka-run-11111111", ".cka-run-mine"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_text("x")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "thesis").write_text("x")
    (tmp_path / ".cka-run-22222222").symlink_to(tmp_path / "elsewhere")
    for name in ("00000000", "22222222"):
        (tmp_path / f".cka-run-{name}.lock").touch()
    with locked(tmp_path / ".cka-run-11111111.lock"):
        save(tmp_path / "run")
        left = set(files(tmp_path))
    assert ".cka-run-00000000" not in left
    assert {".cka-run-11111111", ".cka-run-mine", "elsewhere", "run"} <= left
    assert files(tmp_path / "elsewhere") == ["thesis"]


@pytest.mark.parametrize(
    ("out", "words"),
    [
        ("", "is the folder that you are in"),
        (".", "is the folder that you are in"),
        ("x" * 256, "too long"),
        ("a/" * 3000, "too long"),
        ("~nosuchuser/x", "cannot be used"),
        ("loop/x", "cannot be used"),
        ("file", "is a file"),
        ("file/x", "cannot be written to"),
        ("/proc/x", "cannot be written to"),
        ("a\0b", "cannot be used"),
    ],
)
def test_a_place_that_does_not_do_is_refused_before_any_work(tmp_path, monkeypatch, out, words):
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")
    Path("file").touch()
    with pytest.raises(UserError, match=words) as error:
        check_free(Path(out))
    assert "\n" not in str(error.value)


def test_the_longest_name_is_saved(tmp_path):
    assert files(save(tmp_path / ("x" * 255))) == FILES
    write_whole(tmp_path / ("y" * 255), "text")
    assert (tmp_path / ("y" * 255)).read_text() == "text"


def test_a_file_in_the_place_of_a_folder_is_refused_in_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"^--out '.*file/report.html' could not be written \(not a directory\): name "):
        write_whole(tmp_path / "file" / "report.html", "text")
    assert (tmp_path / "file").read_bytes() == b""


def test_a_device_is_written_to_and_stays_one(tmp_path):
    write_whole(Path("/dev/null"), b"text")
    assert Path("/dev/null").is_char_device()
    (tmp_path / "real").touch()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_whole(tmp_path / "link", "é\udcff")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == "é\\udcff".encode()


def test_a_spreadsheet_computes_nothing_of_a_table():
    cells = ["=1+1", "+a", "-b", "@c", "-1.5", "+2e3", "plain", "\t=x", "-inf", None, 3, -4.5]
    text = csv_bytes(pd.DataFrame({"a": cells, "n": pd.array([1, None] * 6, dtype="Int64"), "x": [-0.5] * 12})).decode()
    assert [line.split(",")[0] for line in text.splitlines()[1:]] == [
        "'=1+1", "'+a", "'-b", "'@c", "-1.5", "+2e3", "plain", "'=x", "'-inf", "", "3", "-4.5",
    ]  # fmt: skip
    assert [line.split(",")[1:] for line in text.splitlines()[1:3]] == [["1", "-0.5"], ["", "-0.5"]]
