"""Many processes, and kills: the same numbers however the work was shared or interrupted."""

import json
import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
import time

import joined_run
import numpy as np
import pytest
import torch

from cka_tools import Comparison, compare
from cka_tools.bundled import bundled_data
from cka_tools.comparison.readout_results import open_run
from cka_tools.store.directory import VARIABLE

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="processes are killed by a POSIX signal")

# Children are forked from a server without threads that has imported what takes long.
CONTEXT = multiprocessing.get_context("forkserver") if sys.platform != "win32" else None
STREAMED = {"keep_features": 0, "snapshot_every": 6}
OPTIONS = {"max_length": 64, "batch_tokens": 128, "rescale": True}


@pytest.fixture(scope="module", autouse=True)
def preloaded():
    CONTEXT.set_forkserver_preload(["joined_run", "transformers.models.bert.modeling_bert"])


def environment(cache, rank=0, world=1, port=0):
    found = {VARIABLE: str(cache), "HF_HUB_OFFLINE": "1"}
    if world > 1:
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        found |= place | {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
    return found


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture
def start(cache, pair, texts, tmp_path):
    """`start(name, world=1, seconds=0.0, dies_after={rank: passes}, **options)` → processes at work."""
    running = []

    def begin(name, world=1, seconds=0.0, dies_after=None, **options):
        port, arguments = free_port(), (*pair, texts)
        begun = []
        for rank in range(world):
            args = environment(cache, rank, world, port), arguments, OPTIONS | options, tmp_path, name
            process = CONTEXT.Process(target=joined_run.run, args=(*args, seconds, (dies_after or {}).get(rank)))
            process.start()
            begun.append(process)
        running.extend(begun)
        return begun

    yield begin
    for process in running:
        process.kill()
        process.join()


def passes(tmp_path):
    log = tmp_path / "log"
    return log.read_text().splitlines() if log.exists() else []


def kill_at_work(processes, tmp_path, more, draw):
    """SIGKILL to all after some more passes and a moment of any length."""
    before, patience = len(passes(tmp_path)), time.monotonic() + 300
    while len(passes(tmp_path)) < before + more and time.monotonic() < patience:
        assert any(process.is_alive() for process in processes), "it was done before it could be killed"
        time.sleep(0.001)
    time.sleep(draw.uniform(0, 0.012))
    for process in processes:
        process.kill()
    for process in processes:
        process.join()


def finish(processes):
    for process in processes:
        process.join(600)
    assert [process.exitcode for process in processes] == [0] * len(processes)


def found(tmp_path, name, rank=0):
    with np.load(tmp_path / f"{name}.{rank}.npz") as file:
        return dict(file)


def assert_same(one, two, tolerance):
    assert one.keys() == two.keys()
    for name in one.keys() - {"record", "cache"}:
        np.testing.assert_allclose(one[name], two[name], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("world", [1, 2])
def test_kills_leave_a_streamed_result_as_it_is_to_the_bit(start, cache, pair, texts, tmp_path, world):
    options = STREAMED | {"rescale": False}  # the pilot is one batch then, and kills meet the sums
    finish(start("expected", world, **options))
    expected, needed = found(tmp_path, "expected"), len(passes(tmp_path))
    assert expected["cache"].tolist() == ["streamed"] * 2
    draw = random.Random(world)
    for number in range(3):
        work = start(f"killed-{number}", world, 0.004, **options)
        kill_at_work(work, tmp_path, draw.randint(10, needed // 4), draw)
    assert list((cache / "runs").rglob("*.safetensors"))
    before = len(passes(tmp_path))
    finish(start("last", world, **options))
    last = found(tmp_path, "last")
    assert last["cache"].tolist() == ["resumed"] * 2
    assert len(passes(tmp_path)) - before < needed
    assert not list((cache / "runs").iterdir())
    assert_same(last, expected, 0)
    assert last["record"] == expected["record"]
    kept = compare(*pair, texts, **OPTIONS | {"rescale": False, "cache": False})
    for name, array in kept.arrays.items():
        np.testing.assert_allclose(last[name], array, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "options",
    [{}, {"cache": False}, {"pooling": "token", "tokens_per_document": 2}, STREAMED, STREAMED | {"control": 0}],
    ids=["kept", "no cache", "token", "streamed", "streamed, A is the control"],
)
def test_processes_share_a_run_and_all_get_the_same(start, pair, texts, tmp_path, options):
    torch.set_num_threads(1)
    options = {key: pair[value] if key == "control" else value for key, value in options.items()}
    one = compare(*pair, texts, **OPTIONS | options | {"cache": False})
    finish(start("two", 2, **options))
    results = [found(tmp_path, "two", rank) for rank in range(2)]
    for result in results:
        assert result.keys() - {"record", "cache"} == one.arrays.keys()
        for name, array in one.arrays.items():
            np.testing.assert_allclose(result[name], array, rtol=1e-10, atol=1e-10)
    assert results[0]["record"] == results[1]["record"]
    assert json.loads(str(results[0]["record"]))["summary"]["n_documents"] == len(texts)
    batches = one.record["provenance"]["corpus"]["draws"][0]["plan"]["batches"]
    # Each batch ran once under each model, and the streamed run's pilot besides.
    pilot = batches if "keep_features" in options else 0
    assert len(passes(tmp_path)) == 2 * (batches + pilot)


def test_a_dead_process_ends_kept_runs_and_the_next_goes_on(start, cache, pair, texts, tmp_path):
    first, second = start("dead", 2, dies_after={1: 8})
    for process in (first, second):
        process.join(600)
    assert second.exitcode == -signal.SIGKILL
    assert first.exitcode == 1
    begun = len(passes(tmp_path))
    finish(start("again", 2))
    again = found(tmp_path, "again")
    # Models run one after the other: the process died in the first one's share.
    assert again["cache"].tolist() == ["resumed", "made"]
    expected = compare(*pair, texts, **OPTIONS, cache=False)
    batches = expected.record["provenance"]["corpus"]["draws"][0]["plan"]["batches"]
    assert len(passes(tmp_path)) - begun < 2 * batches
    for name, array in expected.arrays.items():
        np.testing.assert_array_equal(again[name], array)


@pytest.mark.parametrize("case", ["no corpus", "dead process"])
def test_one_line_for_all_processes(cache, pair, texts, tmp_path, case):
    corpus = tmp_path / "texts.txt"
    corpus.write_text("\n".join(texts if case == "dead process" else ["a", "b"]))
    words = ["compare", *pair, "--corpus", str(corpus), "--max-length", "64", "--batch-tokens", "128"]
    words += ["--out", str(tmp_path / "run")]
    port, processes = free_port(), []
    for rank in range(2):
        dies = 8 if (case, rank) == ("dead process", 1) else None
        args = (environment(cache, rank, 2, port), words, tmp_path / f"printed-{rank}", dies)
        processes.append(CONTEXT.Process(target=joined_run.command, args=args))
        processes[-1].start()
    for process in processes:
        process.join(600)
    printed = "".join((tmp_path / f"printed-{rank}").read_text() for rank in range(2)).splitlines()
    assert len(printed) == 1, printed
    if case == "no corpus":
        assert [process.exitcode for process in processes] == [2, 2]
        assert printed[0].startswith("cka: ")
        assert "2 usable documents" in printed[0]
    else:
        assert [process.exitcode for process in processes] == [1, -signal.SIGKILL]
        assert "finished batches are kept in the cache" in printed[0]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("command", "keep"), [("trajectory", "1KiB"), ("matrix", "8GiB"), ("ablate", "1KiB"), ("ablate", "8GiB")]
)
def test_two_processes_make_one_run_of_every_kind(cache, pair, tiny_model, texts, tmp_path, command, keep):
    corpus = tmp_path / "texts.txt"
    corpus.write_text("\n".join(texts))
    more = [str(tiny_model("bert", seed=seed)) for seed in (2, 3)]
    demo = [str(bundled_data() / "models" / name) for name in ("clm-detour", "mlm-baseline", "mlm-baseline-2")]
    words = {
        "trajectory": [
            "trajectory",
            pair[0],
            pair[1],
            more[0],
            "--control",
            more[1],
            "--corpus",
            str(corpus),
        ],
        "matrix": ["matrix", *pair, *more, "--corpus", str(corpus)],
        "ablate": ["ablate", "length", "--checkpoints", *demo, "--documents", "40", "--layers", "0,3,7"],
    }[command]  # fmt: skip
    words += ["--max-length", "64", "--no-cache", "--device", "cpu", "--batch-tokens", "512"]
    runs = []
    for world in (1, 2):
        port, processes, out = free_port(), [], tmp_path / f"run-{world}"
        for rank in range(world):
            given = [*words, "--keep-features", keep if world == 2 else "8GiB", "--out", str(out)]
            args = (environment(cache, rank, world, port), given, tmp_path / f"printed-{world}-{rank}")
            processes.append(CONTEXT.Process(target=joined_run.command, args=args))
            processes[-1].start()
        finish(processes)
        assert (tmp_path / f"printed-{world}-0").read_text().count("Saved in") == 1
        runs.append(open_run(out))
    assert (tmp_path / "printed-2-1").read_text() == "", "the second process says nothing"
    alone, shared = runs
    for one, two in zip(shared.record["pairs"], alone.record["pairs"], strict=True):
        for x, y in zip(leaves(one), leaves(two), strict=True):
            assert x == (pytest.approx(y, rel=1e-9, abs=1e-9) if isinstance(y, float) else y)
    for name, array in alone.arrays.items():
        np.testing.assert_allclose(shared.arrays[name], array, rtol=1e-9, atol=1e-9)
    kind = "streamed" if keep == "1KiB" else "off"
    assert set(shared.record["provenance"]["corpus"]["draws"][0]["cache"]) == {kind}
    assert not list(tmp_path.glob(".run*")), "nothing half written is left"


def leaves(value):
    """Every value of a record, in order."""
    if isinstance(value, dict):
        return [leaf for key in sorted(value) for leaf in leaves(value[key])]
    return [leaf for item in value for leaf in leaves(item)] if isinstance(value, list) else [value]


def test_torchrun_makes_one_run_and_one_table(cache, pair, texts, tmp_path):
    corpus = tmp_path / "texts.txt"
    corpus.write_text("\n".join(texts))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    words = ["cka_tools", "compare", *pair, "--corpus", str(corpus), "--max-length", "64"]
    words += ["--documents", "120", "--keep-features", "1KiB", "--out", str(tmp_path / "run")]
    done = subprocess.run(
        launch + words,
        capture_output=True,
        text=True,
        timeout=900,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Saved in") == 1
    assert done.stdout.count("Mean divergence") == 1
    expected = compare(*pair, corpus, documents=120, max_length=64, cache=False)
    result = Comparison.load(tmp_path / "run")
    for estimator in ("biased", "debiased"):
        np.testing.assert_allclose(result.matrix(estimator), expected.matrix(estimator), atol=1e-10)


def drawn_together(corpus, documents, world, folder):
    """What every process says of a draw, and which files were opened."""
    folder.mkdir()
    port = free_port()
    processes = []
    for rank in range(world):
        args = (environment(folder / "cache", rank, world, port), str(corpus), documents, folder)
        processes.append(CONTEXT.Process(target=joined_run.draw, args=args))
        processes[-1].start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    found = [json.loads((folder / f"draw.{rank}.json").read_text()) for rank in range(world)]
    return found, sorted((folder / "reads").read_text().split())


def write_parts(folder, files):
    folder.mkdir()
    for name, rows in files.items():
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_processes_read_a_corpus_once_between_them_and_draw_the_same(tmp_path):
    # Texts that are in several files, whose first id and metadata count, and an empty one.
    parts = {
        f"part{k}.jsonl": [{"text": f"text {i % 31} of {k * (i > 20)}", "from": k, "id": f"{k}:{i}"} for i in range(40)]
        for k in range(5)
    }
    parts["part3.jsonl"].append({"text": " ", "from": 3, "id": "empty"})
    write_parts(tmp_path / "corpus", parts)
    found = {world: drawn_together(tmp_path / "corpus", 25, world, tmp_path / str(world)) for world in (1, 2, 4)}
    (alone,), reads = found[1]
    distinct = {row["text"]: row for rows in reversed(parts.values()) for row in reversed(rows) if row["text"].strip()}
    assert alone["counts"] == {
        "read": 201, "empty": 1, "duplicates": 200 - len(distinct), "usable": len(distinct), "drawn": 25
    }  # fmt: skip
    assert all(distinct[one["text"]]["id"] == one["id"] for one in alone["documents"])
    assert reads == sorted(parts)
    for world in (2, 4):
        draws, reads = found[world]
        assert draws == [alone] * world
        assert reads == sorted(parts)


def test_one_file_is_read_by_one_of_the_processes(tmp_path):
    write_parts(tmp_path / "corpus", {"only.jsonl": [{"text": f"text {i}"} for i in range(40)]})
    corpus = tmp_path / "corpus" / "only.jsonl"
    (alone,), _ = drawn_together(corpus, 10, 1, tmp_path / "1")
    draws, reads = drawn_together(corpus, 10, 2, tmp_path / "2")
    assert draws == [alone, alone]
    assert reads == ["only.jsonl"]


def test_what_is_wrong_with_a_corpus_is_said_by_all_as_by_one(tmp_path):
    rows = [{"text": f"text {i}"} for i in range(9)]
    write_parts(tmp_path / "corpus", {"a.jsonl": rows, "b.jsonl": [*rows, {"other": 1}], "c.jsonl": [{"none": 1}]})
    (alone,), _ = drawn_together(tmp_path / "corpus", 4, 1, tmp_path / "1")
    assert "b.jsonl, line 10" in alone["error"]
    draws, _ = drawn_together(tmp_path / "corpus", 4, 3, tmp_path / "3")
    assert draws == [alone] * 3
