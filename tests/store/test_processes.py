"""Several processes at one store: killed at any moment, or wanting the same at once."""

import multiprocessing
import os
import random
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import store_process

from cka_tools.extraction.extract import prepare
from cka_tools.store.cached_extraction import extract_cached
from cka_tools.store.directory import lock_file, locked

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="processes are killed by a POSIX signal")

# Children are forked from a server without threads that has imported what takes long.
CONTEXT = multiprocessing.get_context("forkserver") if sys.platform != "win32" else None

PATIENCE = 90
"""Seconds after which a process is given up, and the test with it."""


@pytest.fixture(scope="module", autouse=True)
def preloaded():
    CONTEXT.set_forkserver_preload(["store_process", "transformers.models.bert.modeling_bert"])


@pytest.fixture
def start(cache, tiny_model, tiny_documents, tmp_path):
    """`start(name, seconds=0.0, **options)` → a process that extracts, `seconds` a batch."""
    running = []

    def begin(name, seconds=0.0, **options):
        arguments = (str(tiny_model("bert")), tiny_documents, tmp_path / "log", tmp_path / f"{name}.npz", seconds)
        process = CONTEXT.Process(target=run_in, args=(str(cache), arguments, options))
        process.start()
        running.append(process)
        return process

    yield begin
    for process in running:
        process.kill()
    for process in running:
        process.join(PATIENCE)


def run_in(cache, arguments, options):
    os.environ["CKA_TOOLS_CACHE"] = cache
    store_process.extract_slowly(*arguments, **options)


def passes(tmp_path):
    log = tmp_path / "log"
    return log.read_text().splitlines() if log.exists() else []


def wait_for_passes(process, tmp_path, more):
    """Wait until so many more forward passes were made, or the process has ended."""
    before, patience = len(passes(tmp_path)), time.monotonic() + PATIENCE
    while len(passes(tmp_path)) < before + more and process.is_alive():
        assert time.monotonic() < patience, "no forward pass"
        time.sleep(0.001)


def kill_at_work(process, tmp_path, more, draw):
    """SIGKILL after some more passes and a moment of any length."""
    wait_for_passes(process, tmp_path, more)
    time.sleep(draw.uniform(0, 0.012))
    process.kill()
    process.join(PATIENCE)


def result_of(process, tmp_path, name):
    """What a process has found, once it has ended by itself."""
    process.join(PATIENCE)
    assert process.exitcode == 0
    return np.load(tmp_path / f"{name}.npz")


@pytest.mark.parametrize("pooling", ["mean", "token"])
def test_what_kills_interrupt_goes_on_to_the_same_bits(start, cache, bert, tiny_documents, tmp_path, pooling):
    settings = replace(store_process.SETTINGS, pooling=pooling)
    batches = len(prepare([bert], tiny_documents, settings).plan.batches)
    draw = random.Random(5)
    for number in range(3):
        kill_at_work(start(f"killed-{number}", 0.004, pooling=pooling), tmp_path, draw.randint(1, 4), draw)
    assert not (cache / "features").exists()
    begun = len(passes(tmp_path))
    found = result_of(start("last", pooling=pooling), tmp_path, "last")
    assert str(found["state"]) == "resumed"
    # Of each killed run at most the batch it was in ran again.
    assert len(passes(tmp_path)) <= batches + 3
    assert len(passes(tmp_path)) - begun < batches
    expected = extract_cached(bert, tiny_documents, settings, cache=False).features[0].features
    for layer, values in enumerate(expected):
        assert found[str(layer)].tobytes() == np.ascontiguousarray(values).tobytes()
    assert extract_cached(bert, tiny_documents, settings).cache == ["hit"]


def test_rows_that_are_not_as_the_journal_says_run_again(start, cache, bert, tiny_documents, tmp_path):
    kill_at_work(start("killed", 0.01), tmp_path, 8, random.Random(0))
    (folder,) = (cache / "partial").iterdir()
    content = bytearray((folder / "features.safetensors").read_bytes())
    header = int.from_bytes(content[:8], "little")
    draw = random.Random(1)
    for _ in range(200):
        content[draw.randrange(8 + header, len(content))] ^= 255
    (folder / "features.safetensors").write_bytes(content)
    with (folder / "journal").open("ab") as journal:
        journal.write(b"3 torn")
    found = extract_cached(bert, tiny_documents, store_process.SETTINGS)
    expected = extract_cached(bert, tiny_documents, store_process.SETTINGS, cache=False)
    for one, two in zip(found.features[0].features, expected.features[0].features, strict=True):
        assert one.tobytes() == two.tobytes()


def test_of_five_processes_one_extracts_and_all_get_the_same(start, bert, tiny_documents, tmp_path):
    processes = [start(f"one-{number}", 0.005) for number in range(5)]
    results = [result_of(process, tmp_path, f"one-{n}") for n, process in enumerate(processes)]
    assert sorted(str(result["state"]) for result in results) == ["hit"] * 4 + ["made"]
    assert len(passes(tmp_path)) == len(prepare([bert], tiny_documents, store_process.SETTINGS).plan.batches)
    for result in results[1:]:
        for layer in map(str, range(6)):
            assert result[layer].tobytes() == results[0][layer].tobytes()


def test_who_waits_for_a_killed_process_goes_on_from_where_it_stopped(start, tmp_path):
    first = start("first", 0.02)
    wait_for_passes(first, tmp_path, 3)
    second = start("second")
    time.sleep(0.2)
    first.kill()
    assert str(result_of(second, tmp_path, "second")["state"]) == "resumed"


def test_a_lock_is_held_by_one_and_leaves_no_file(tmp_path):
    path = lock_file(tmp_path, "key")
    with locked(path):
        with pytest.raises(BlockingIOError), locked(path, wait=False):
            pass
        assert path.exists()
    assert not path.exists()
    with locked(path, wait=False):
        pass


def hold(path, held):
    with locked(path):
        held.set()
        time.sleep(PATIENCE)


def test_a_lock_is_free_at_once_when_its_holder_is_killed(tmp_path):
    path, held = lock_file(tmp_path, "key"), CONTEXT.Event()
    holder = CONTEXT.Process(target=hold, args=(path, held))
    holder.start()
    try:
        assert held.wait(PATIENCE)
        with pytest.raises(BlockingIOError), locked(path, wait=False):
            pass
    finally:
        holder.kill()
        holder.join(PATIENCE)
    with locked(path, wait=False):
        pass


def take_turns(path, log, times):
    for _ in range(times):
        with locked(path), log.open("a") as file:
            file.write("in ")
            file.flush()
            time.sleep(0.001)
            file.write("out\n")


def test_a_lock_that_is_removed_with_each_release_still_lets_in_one_at_a_time(tmp_path):
    arguments = (lock_file(tmp_path, "key"), tmp_path / "log", 25)
    processes = [CONTEXT.Process(target=take_turns, args=arguments) for _ in range(4)]
    for process in processes:
        process.start()
    try:
        for process in processes:
            process.join(PATIENCE)
            assert process.exitcode == 0
    finally:
        for process in processes:
            process.kill()
    assert (tmp_path / "log").read_text() == "in out\n" * 100
