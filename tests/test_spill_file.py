"""Spill files: what is written comes back, nothing stays behind, and a full disk is one line."""

import os
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager

import numpy as np
import pytest

from cka_tools.errors import UserError
from cka_tools.spill_file import SpillFile, write_all


class ThreeBytesAtOnce:
    """A file of which a write takes three bytes, as one without a buffer may."""

    def __init__(self):
        self.content, self.place = bytearray(), 0

    def seek(self, place):
        self.place = place

    def write(self, part):
        taken = bytes(part[:3])
        self.content[self.place : self.place + len(taken)] = taken
        self.place += len(taken)
        return len(taken)


def test_what_a_write_leaves_over_is_written_too():
    numbers = np.arange(7, dtype=np.int32)
    file = ThreeBytesAtOnce()
    write_all(file, 0, numbers)
    assert bytes(file.content) == numbers.tobytes()


@contextmanager
def files_of_at_most(size):
    """Refuse to write any file beyond a size, as a full disk does; another test may need its space again."""
    resource = pytest.importorskip("resource", reason="a limit on the size of files needs POSIX")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_disk_that_fills_up_in_the_middle_is_one_line():
    file = SpillFile("numbers")
    file.write(np.zeros(1000))
    with files_of_at_most(10_000), pytest.raises(UserError) as error:
        file.write(np.zeros(1000))
    message = str(error.value)
    assert message.startswith(f"numbers need 15.6 KiB in {tempfile.gettempdir()!r} (file too large): point ")
    assert "\n" not in message


def test_a_disk_without_the_space_is_found_out_before_anything_is_written():
    with files_of_at_most(10_000), pytest.raises(UserError, match=r"numbers need 15\.6 KiB"):
        SpillFile("numbers", size=16_000)


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.bool_])
def test_content_of_any_kind_comes_back_and_nothing_is_nothing(dtype, tmp_path):
    file = SpillFile("numbers", folder=str(tmp_path))
    values = np.array([1, 0, 1, 1], dtype=dtype)
    assert file.write(values[:2]) == 0
    assert file.write(np.empty(0, dtype=dtype)) == values[:2].nbytes
    assert file.write(values[2:]) == values[:2].nbytes
    np.testing.assert_array_equal(file.map(dtype), values)
    np.testing.assert_array_equal(file.map(dtype, (2, 2)), values.reshape(2, 2))
    assert file.read(values.itemsize, values.itemsize) == values[1:2].tobytes()


def test_rows_may_come_in_any_order():
    values = np.arange(12, dtype=np.float32).reshape(4, 3)
    file = SpillFile("rows", size=values.nbytes)
    for row in (2, 0, 3, 1):
        file.write(values[row], row * values[row].nbytes)
    np.testing.assert_array_equal(file.map(np.float32, (4, 3)), values)


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    with pytest.raises(UserError, match=r"numbers need a file in .*nowhere"):
        SpillFile("numbers", folder=str(tmp_path / "nowhere"))


@pytest.mark.skipif(sys.platform == "win32", reason="killed by a POSIX signal")
def test_nothing_stays_of_a_process_that_was_killed(tmp_path):
    code = (
        "import sys, time; from cka_tools.spill_file import SpillFile\n"
        "file = SpillFile('numbers', 1000, folder=sys.argv[1]); file.write(b'x' * 5000)\n"
        "print('written', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"written\n"
        os.kill(process.pid, signal.SIGKILL)
        process.wait(30)
    finally:
        process.kill()
        process.communicate()
    assert not any(tmp_path.iterdir())
