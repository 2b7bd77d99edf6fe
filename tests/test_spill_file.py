import errno

import numpy as np
import pytest

from cka_tools.errors import UserError
from cka_tools.nameless_file import nameless_file, write_at


class Hesitant:
    """A file that takes three bytes at a time, as an unbuffered one may, and no more than it has room for."""

    def __init__(self, room):
        self.content, self.room, self.place = bytearray(), room, 0

    def seek(self, place):
        self.place = place

    def write(self, part):
        if self.place >= self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = bytes(part[: min(3, self.room - self.place)])
        self.content[self.place : self.place + len(taken)] = taken
        self.place += len(taken)
        return len(taken)


def test_what_a_write_leaves_over_is_written_too():
    numbers = np.arange(7, dtype=np.int32)
    file = Hesitant(room=100)
    write_at(file, 0, numbers.data, "numbers", numbers.nbytes)
    assert bytes(file.content) == numbers.tobytes()


def test_a_disk_that_fills_up_in_the_middle_is_one_line():
    with pytest.raises(UserError, match=r"numbers need 28 B .*no space is left"):
        write_at(Hesitant(room=10), 0, np.arange(7, dtype=np.int32).data, "numbers", 28)


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.bool_])
def test_content_of_any_kind_comes_back_and_nothing_is_nothing(dtype, tmp_path):
    file = nameless_file("numbers", folder=str(tmp_path))
    write_at(file, 0, np.array([1, 0, 1], dtype=dtype).data, "numbers", 0)
    write_at(file, 0, np.empty(0, dtype=dtype).data, "numbers", 0)
    np.testing.assert_array_equal(np.memmap(file, dtype=dtype, mode="r"), [1, 0, 1])


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    with pytest.raises(UserError, match=r"numbers need a file in .*nowhere"):
        nameless_file("numbers", folder=str(tmp_path / "nowhere"))
