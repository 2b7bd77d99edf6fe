"""A snapshot is found again whole or not at all, and goes when its result is safe."""

import os
import shutil

import pytest
import torch
from safetensors.torch import load_file

from cka_tools.processes import Process
from cka_tools.store import snapshot as snapshots
from cka_tools.store.catalogue import choose_entries, list_entries, remove_entries
from cka_tools.store.directory import run_folder
from cka_tools.store.key import make_key
from cka_tools.store.snapshot import Snapshot, kept_until_saved

KEY = make_key({"run": 1})
RECORD = {"format": 1, "pilot": "abc"}
STATE = {
    "S": torch.arange(6, dtype=torch.float64).reshape(2, 3).T,
    "kept": torch.ones(1, 2, 2, dtype=torch.float32),
    "n": torch.tensor(7),
    "rows": torch.zeros(0, 3, dtype=torch.float64),
}


@pytest.fixture
def written(cache):
    snapshot = Snapshot(KEY, Process())
    snapshot.write(STATE, 3, RECORD)
    snapshot.close()
    return run_folder(cache, KEY.digest) / "rank-0-of-1.safetensors"


def test_a_state_is_read_as_it_was_written(written):
    found = Snapshot(KEY, Process()).read(RECORD)
    assert found is not None
    state, batches = found
    assert batches == 3
    assert state.keys() == STATE.keys() == load_file(written).keys()
    for name, tensor in STATE.items():
        assert torch.equal(state[name], tensor)
        assert state[name].dtype == tensor.dtype
    assert [path.name for path in written.parent.iterdir()] == [written.name]


@pytest.mark.parametrize("other", [{"pilot": "abd"}, {"format": 2}])
def test_a_state_about_another_pilot_is_not_taken(written, other):
    assert Snapshot(KEY, Process()).read(RECORD | other) is None


def test_each_process_has_its_own(written):
    for process in (Process(0, 2), Process(1, 2)):
        snapshot = Snapshot(KEY, process)
        assert snapshot.kept
        assert snapshot.read(RECORD) is None
        snapshot.close()


@pytest.mark.parametrize("size", [0, 5, 200, -8])
def test_a_torn_file_is_not_believed(written, size):
    content = written.read_bytes()
    written.write_bytes(content[:size])
    snapshot = Snapshot(KEY, Process())
    assert snapshot.read(RECORD) is None
    assert "damaged" in snapshot.notes[0]


def test_who_comes_second_keeps_none_and_says_so(cache):
    first, second = Snapshot(KEY, Process()), Snapshot(KEY, Process())
    assert (first.kept, second.kept) == (True, False)
    assert "Another command" in second.notes[0]
    second.write(STATE, 1, RECORD)
    assert second.read(RECORD) is None
    first.finish()


def test_a_full_disk_costs_a_note_and_the_last_snapshot_stays(written, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    snapshot = Snapshot(KEY, Process())
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        snapshot.write(STATE, 4, RECORD)
    assert not snapshot.kept
    assert "no space is left" in snapshot.notes[0]
    assert [path.name for path in written.parent.iterdir()] == [written.name]
    snapshot.close()
    _, batches = Snapshot(KEY, Process()).read(RECORD)
    assert batches == 3


def test_a_disk_too_small_for_it_costs_a_note_and_the_last_snapshot_stays(written):
    resource = pytest.importorskip("resource", reason="a limit on the size of files needs POSIX")
    before, limits = written.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    snapshot = Snapshot(KEY, Process())
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
        snapshot.write(STATE, 4, RECORD)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not snapshot.kept
    assert "File too large" in snapshot.notes[0]
    assert "\n" not in snapshot.notes[0]
    assert [path.name for path in written.parent.iterdir()] == [written.name]
    assert written.read_bytes() == before


class Killed(BaseException):
    """Stands for a signal: nothing after the write is done, whatever it left stays."""


@pytest.fixture
def killed(written, monkeypatch):
    """What a process leaves that is killed within the library's write, which begins under another name."""

    def begin(tensors, path, metadata):
        path.with_name(".tmpAb3dEf").write_bytes(b"x" * 1000)
        raise Killed

    snapshot = Snapshot(KEY, Process())
    with monkeypatch.context() as patched:
        patched.setattr(snapshots, "save_file", begin)
        patched.setattr(shutil, "rmtree", lambda *args, **options: None)
        with pytest.raises(Killed):
            snapshot.write(STATE, 4, RECORD)
    snapshot.close()
    return written.parent


def test_what_a_kill_within_a_write_leaves_goes_with_the_next_write(written, killed):
    assert len(list(killed.rglob(".tmp*"))) == 1
    snapshot = Snapshot(KEY, Process())
    snapshot.write(STATE, 5, RECORD)
    assert list(killed.iterdir()) == [written]


def test_what_a_kill_within_a_write_leaves_is_counted_and_goes_with_the_run(written, killed, cache):
    (entry,) = list_entries(cache)
    assert entry.size == written.stat().st_size + 1000
    Snapshot(KEY, Process()).finish()
    assert not killed.exists()


def test_it_goes_when_the_result_is_safe(written):
    Snapshot(KEY, Process()).finish()
    assert not written.parent.exists()


@pytest.mark.parametrize("saved", [True, False])
def test_it_stays_until_the_run_is_saved(written, saved):
    def save():
        with kept_until_saved():
            Snapshot(KEY, Process()).finish()
            assert written.exists()
            if not saved:
                raise OSError("the disk is full")

    if saved:
        save()
    else:
        with pytest.raises(OSError, match="full"):
            save()
    assert written.exists() is not saved


def test_the_cache_lists_and_removes_it(written, cache):
    (entry,) = list_entries(cache)
    assert (entry.state, entry.key) == ("snapshot", KEY.digest)
    assert entry.size == written.stat().st_size
    remove_entries(cache, choose_entries([entry], [KEY.digest[:8]]))
    assert list_entries(cache) == []
