"""Features from the store: the same bits, without a forward pass; and what happens where the disk fails."""

import errno
import io
import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from cka_tools import compare
from cka_tools.extraction import extract as extract_module
from cka_tools.extraction.extract import run_splitting
from cka_tools.models import load_model
from cka_tools.settings import Settings
from cka_tools.store import partial
from cka_tools.store.cached_extraction import extract_cached
from cka_tools.store.catalogue import verify_entries
from cka_tools.store.directory import cache_directory, entry_folder
from cka_tools.store.entry import FEATURES, MANIFEST, VERIFIED, mark_of


def only_entry(cache):
    (folder,) = (cache / "features").iterdir()
    return folder


@pytest.mark.parametrize("pooling", ["mean", "cls", "token"])
def test_a_second_call_gives_the_same_bits_without_a_forward_pass(
    cache, bert, other, extract, passes, same_bits, pooling
):
    expected = extract(bert, other, cache=False, pooling=pooling)
    made = extract(bert, other, pooling=pooling)
    count = len(passes)
    found = extract(bert, other, pooling=pooling)
    assert len(passes) == count
    assert (expected.cache, made.cache, found.cache) == (["off"] * 2, ["made"] * 2, ["hit"] * 2)
    assert same_bits(made, expected)
    assert same_bits(found, expected)
    assert found.record()["cache"] == ["hit", "hit"]
    assert found.record() | {"cache": 0} == expected.record() | {"cache": 0}


def test_a_float64_model_keeps_its_bits(cache, tiny_model, extract, same_bits):
    model = load_model(str(tiny_model("bert")), dtype="float64")
    made, found = extract(model), extract(model)
    assert found.cache == ["hit"]
    assert found.features[0].features[0].dtype == np.float64
    assert same_bits(found, made)


def test_only_the_model_that_is_missing_runs(cache, bert, other, extract, passes, same_bits):
    extract(bert)
    passes.clear()
    both = extract(bert, other)
    assert both.cache == ["hit", "made"]
    assert sorted(row for rows in passes for row in rows) == list(range(40))
    assert same_bits(both, extract(bert, other, cache=False))


def test_copies_of_one_checkpoint_run_once(cache, bert, tiny_model, extract, passes):
    copy = load_model(str(tiny_model("bert")))
    both = extract(bert, copy)
    assert both.cache == ["made", "hit"]
    assert sorted(row for rows in passes for row in rows) == list(range(40))


def test_progress_ends_at_all_documents_and_says_nothing_of_a_hit(cache, bert, tiny_documents):
    calls: list[list[tuple[int, int]]] = []
    for _ in range(2):
        calls.append([])
        extract_cached(bert, tiny_documents, Settings(), lambda *done: calls[-1].append(done))
    assert calls[0][-1][0] == len(tiny_documents)
    assert calls[1] == []


def test_an_entry_is_a_safetensors_file_of_one_tensor_a_layer(cache, bert, extract):
    made = extract(bert, layers=(1, 4)).features[0]
    tensors = load_file(only_entry(cache) / FEATURES)
    assert list(tensors) == ["layer.1", "layer.4"]
    for layer, values in zip(made.layers, made.features, strict=True):
        np.testing.assert_array_equal(tensors[f"layer.{layer}"], values)
    assert sorted(path.name for path in only_entry(cache).iterdir()) == [FEATURES, MANIFEST, VERIFIED]
    assert not any((cache / "partial").iterdir())
    assert not any((cache / "locks").iterdir())


def test_compare_gives_the_same_values_with_and_without_the_store(cache, tiny_model, monkeypatch):
    pair = [str(tiny_model("modernbert", seed=seed)) for seed in (0, 1)]
    rng = np.random.default_rng(0)
    texts = [" ".join(f"w{w}" for w in rng.integers(0, 120, size=rng.integers(5, 40))) for _ in range(40)]
    without = compare(*pair, texts, max_length=64, cache=False)
    runs = [compare(*pair, texts, max_length=64) for _ in range(2)]
    states = [r.record["provenance"]["corpus"]["draws"][0]["cache"] for r in (without, *runs)]
    assert states == [["off"] * 2, ["made"] * 2, ["hit"] * 2]
    for run in runs:
        for estimator in ("biased", "debiased"):
            np.testing.assert_allclose(run.matrix(estimator), without.matrix(estimator), rtol=0, atol=1e-12)
        for kind in ("mean_divergence", "early_divergence"):
            for name, value in run.summary[kind]["debiased"].items():
                assert value == pytest.approx(without.summary[kind]["debiased"][name], abs=1e-12)


def flip(path, at, by=1):
    content = bytearray(path.read_bytes())
    content[at] ^= by
    path.write_bytes(content)


def hide_writes(folder):
    """As if nothing had been written since the features were verified: a disk that lost bits by itself."""
    (folder / VERIFIED).write_text(mark_of(folder / FEATURES))


def header_bytes(folder):
    return 8 + int.from_bytes((folder / FEATURES).read_bytes()[:8], "little")


def test_a_flipped_byte_of_manifest_or_header_is_found_at_a_hit(cache, bert, extract, passes, same_bits):
    # Not the store's own arrays: they are the file that is about to be spoiled.
    expected = extract(bert, cache=False, layers=(0, 5))
    extract(bert, layers=(0, 5))
    folder, draw = only_entry(cache), random.Random(3)
    before = (folder / FEATURES).read_bytes()
    for turn in range(60):
        name = (FEATURES, MANIFEST)[turn % 2]
        size = header_bytes(folder) if name == FEATURES else len((folder / MANIFEST).read_bytes())
        flip(folder / name, draw.randrange(size), draw.randrange(1, 256))
        hide_writes(folder)
        passes.clear()
        found = extract(bert, layers=(0, 5))
        assert found.cache == ["made"]
        assert passes
        assert "damaged" in found.notes[0]
        assert same_bits(found, expected)
    assert (folder / FEATURES).read_bytes() == before


def test_features_that_were_written_to_are_found_at_a_hit(cache, bert, extract, same_bits):
    expected = extract(bert, cache=False)
    extract(bert)
    folder, draw = only_entry(cache), random.Random(4)
    for _ in range(10):
        times = (folder / FEATURES).stat()
        flip(folder / FEATURES, draw.randrange(header_bytes(folder), times.st_size), draw.randrange(1, 256))
        os.utime(folder / FEATURES, ns=(times.st_atime_ns, times.st_mtime_ns))
        found = extract(bert)
        assert found.cache == ["made"]
        assert "does not have its checksum" in found.notes[0]
        assert same_bits(found, expected)


def test_a_hit_does_not_read_the_features_and_verify_does(cache, bert, other, extract):
    extract(bert)
    folder, draw = only_entry(cache), random.Random(5)
    extract(other)
    assert set(verify_entries(cache).values()) == {""}
    before = (folder / FEATURES).read_bytes()
    for _ in range(20):
        flip(folder / FEATURES, draw.randrange(header_bytes(folder), len(before)), draw.randrange(1, 256))
        hide_writes(folder)
        found = verify_entries(cache)
        assert found.pop(folder.name) == f"{FEATURES} does not have its checksum"
        assert set(found.values()) == {""}
        (folder / FEATURES).write_bytes(before)
    flip(folder / FEATURES, -1)
    hide_writes(folder)
    # What is given up: bits that a disk loses by itself are not seen at a hit.
    assert extract(bert).cache == ["hit"]


@pytest.mark.parametrize("writable", [True, False])
def test_a_copied_entry_is_verified_once(cache, bert, extract, same_bits, tmp_path, monkeypatch, writable):
    expected = extract(bert, cache=False)
    extract(bert)
    copy = tmp_path / "copy"
    shutil.copytree(cache, copy)  # times included
    monkeypatch.setenv("CKA_TOOLS_CACHE", str(copy))
    folder = only_entry(copy)
    mark = (folder / VERIFIED).read_text()
    assert mark != mark_of(folder / FEATURES)
    with monkeypatch.context() as patch:
        if not writable:
            refuse_to_write(copy, patch)
        found = extract(bert)
    assert found.cache == ["hit"]
    assert found.notes == []
    assert same_bits(found, expected)
    assert (folder / VERIFIED).read_text() == (mark_of(folder / FEATURES) if writable else mark)


def test_a_copied_entry_that_is_damaged_is_made_again(cache, bert, extract, same_bits, tmp_path, monkeypatch):
    expected = extract(bert, cache=False)
    extract(bert)
    flip(only_entry(cache) / FEATURES, -1)
    hide_writes(only_entry(cache))
    shutil.copytree(cache, tmp_path / "copy")
    monkeypatch.setenv("CKA_TOOLS_CACHE", str(tmp_path / "copy"))
    found = extract(bert)
    assert found.cache == ["made"]
    assert same_bits(found, expected)


@pytest.mark.parametrize("mark", [None, b"", b"\xff\x00", b"1 2 3 4"])
def test_an_entry_without_its_mark_is_verified_and_used(cache, bert, extract, mark):
    extract(bert)
    folder = only_entry(cache)
    (folder / VERIFIED).unlink()
    if mark is not None:
        (folder / VERIFIED).write_bytes(mark)
    assert extract(bert).cache == ["hit"]
    assert (folder / VERIFIED).read_text() == mark_of(folder / FEATURES)


@pytest.mark.parametrize("name", [FEATURES, MANIFEST])
@pytest.mark.parametrize("harm", ["missing", "empty", "cut", "longer"])
def test_an_entry_that_is_not_whole_is_made_again(cache, bert, extract, same_bits, name, harm):
    expected = extract(bert, cache=False)
    extract(bert)
    path = only_entry(cache) / name
    if harm == "missing":
        path.unlink()
    else:
        content = path.read_bytes()
        path.write_bytes({"empty": b"", "cut": content[:-1], "longer": content + b" "}[harm])
    found = extract(bert)
    assert found.cache == ["made"]
    assert len(found.notes) == 1
    assert same_bits(found, expected)
    assert extract(bert).cache == ["hit"]


def test_an_entry_under_another_ones_name_is_not_used(cache, bert, other, extract, same_bits):
    extract(bert)
    first = only_entry(cache)
    expected = extract(other, cache=False)
    extract(other)
    (second,) = (p for p in (cache / "features").iterdir() if p != first)
    for name in (FEATURES, MANIFEST):
        (second / name).write_bytes((first / name).read_bytes())
    found = extract(other)
    assert found.cache == ["made"]
    assert same_bits(found, expected)


def test_a_store_that_cannot_be_written_costs_one_line(cache, bert, other, extract, same_bits):
    cache.write_text("a file where the folder should be")
    found = extract(bert, other)
    assert found.cache == ["off", "off"]
    assert len(found.notes) == 1
    assert str(cache) in found.notes[0]
    assert "\n" not in found.notes[0]
    assert same_bits(found, extract(bert, other, cache=False))


def test_a_read_only_store_is_read(cache, bert, other, extract, same_bits, monkeypatch):
    extract(bert)
    refuse_to_write(cache, monkeypatch)
    found = extract(bert, other)
    assert found.cache == ["hit", "off"]
    assert len(found.notes) == 1
    assert "read-only" in found.notes[0]
    assert same_bits(found, extract(bert, other, cache=False))
    assert extract(bert).notes == []


def test_a_full_disk_before_extraction_costs_one_line(cache, bert, other, extract, same_bits, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    found = extract(bert, other)
    assert found.cache == ["off", "off"]
    assert len(found.notes) == 1
    assert "no space is left" in found.notes[0]
    assert same_bits(found, extract(bert, other, cache=False))
    assert not any((cache / "partial").iterdir())


@pytest.mark.parametrize("pooling", ["mean", "token"])
@pytest.mark.parametrize("share", [0, 0.05, 0.5, 0.999])
def test_a_disk_that_fills_up_during_extraction_costs_one_line(
    cache, bert, extract, same_bits, monkeypatch, pooling, share
):
    expected = extract(bert, cache=False, pooling=pooling)
    room = [share * sum(layer.nbytes for layer in expected.features[0].features) + 4096]  # beside the header
    write = partial.write_all

    def on_a_small_disk(file, at, content):
        room[0] -= memoryview(content).nbytes
        if room[0] < 4096:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(file, at, content)

    with monkeypatch.context() as patch:
        patch.setattr(partial, "write_all", on_a_small_disk)
        found = extract(bert, pooling=pooling)
    assert found.cache == ["off"]
    assert len(found.notes) == 1
    assert "no space is left" in found.notes[0]
    assert same_bits(found, expected)
    assert not any((cache / "partial").iterdir())
    assert extract(bert, pooling=pooling).cache == ["made"]


def test_a_disk_that_is_full_at_the_end_costs_one_line(cache, bert, extract, same_bits, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        found = extract(bert)
    assert found.cache == ["off"]
    assert len(found.notes) == 1
    assert same_bits(found, extract(bert, cache=False))
    assert not any((cache / "partial").iterdir())


def test_a_store_removed_while_it_is_written_costs_one_line(cache, bert, extract, same_bits, tiny_documents):
    settings = Settings(max_length=64, batch_tokens=256)
    removed = []

    def remove(*done):
        if not removed:
            shutil.rmtree(cache)
            removed.append(done)

    found = extract_cached(bert, tiny_documents, settings, remove)
    assert removed
    assert found.cache == ["off"]
    assert len(found.notes) == 1
    assert same_bits(found, extract(bert, cache=False))


def test_features_of_split_batches_are_used_but_not_kept(cache, bert, extract, monkeypatch):
    def out_of_memory_once(run, rows, on_split):
        def limited(part):
            if len(part) > 8:
                raise torch.OutOfMemoryError("out of memory")
            return run(part)

        return run_splitting(limited, rows, on_split)

    with monkeypatch.context() as patch:
        patch.setattr(extract_module, "run_splitting", out_of_memory_once)
        found = extract(bert)
    assert found.splits
    assert found.cache == ["off"]
    assert "split" in found.notes[0]
    assert extract(bert).cache == ["made"]


def test_the_caches_place(monkeypatch, tmp_path):
    monkeypatch.setenv("CKA_TOOLS_CACHE", str(tmp_path / "own"))
    assert cache_directory() == tmp_path / "own"
    monkeypatch.delenv("CKA_TOOLS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_directory() == tmp_path / "cka-tools"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_directory() == Path.home() / ".cache" / "cka-tools"


def test_without_the_cache_nothing_is_written(cache, bert, extract):
    extract(bert, cache=False)
    assert not cache.exists()


def test_a_moved_store_is_used(cache, bert, extract, tmp_path, monkeypatch):
    extract(bert)
    cache.rename(tmp_path / "elsewhere")
    monkeypatch.setenv("CKA_TOOLS_CACHE", str(tmp_path / "elsewhere"))
    assert extract(bert).cache == ["hit"]
    assert not cache.exists()
    assert entry_folder(tmp_path / "elsewhere", only_entry(tmp_path / "elsewhere").name).is_dir()


def refuse_to_write(cache, monkeypatch):
    """Let every call that writes below the cache fail as on a read-only file system."""
    real_open, real_io_open, real_mkdir = os.open, io.open, Path.mkdir

    def refuse(path):
        if str(path).startswith(str(cache)):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    def guarded_open(path, flags, *args, **options):
        if flags & (os.O_RDWR | os.O_WRONLY | os.O_CREAT):
            refuse(path)
        return real_open(path, flags, *args, **options)

    def guarded_io_open(path, mode="r", *args, **options):
        if set(mode) & set("wax+"):
            refuse(path)
        return real_io_open(path, mode, *args, **options)

    def guarded_mkdir(self, *args, **options):
        if not self.is_dir():
            refuse(self)
        real_mkdir(self, *args, **options)

    monkeypatch.setattr(os, "open", guarded_open)
    monkeypatch.setattr(io, "open", guarded_io_open)
    monkeypatch.setattr(Path, "mkdir", guarded_mkdir)
