"""The real loading code of hub corpora against a stand-in on the loopback interface, and without any hub."""

import json
import os
import random
import socket
import subprocess
import sys
import time
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hub_stand_in import COMMIT
from hypothesis import given
from hypothesis import strategies as st

from cka_tools.documents import Document
from cka_tools.documents import hub as hub_pubmed
from cka_tools.documents.document import Corpus
from cka_tools.documents.hub import guarded, line_behind
from cka_tools.errors import UserError

PROJECT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {
    "PYTHONPATH": str(PROJECT),
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "0",
    "NO_PROXY": "127.0.0.1",
    "no_proxy": "127.0.0.1",
}

DRAW = """
import dataclasses, json, sys, time
from cka_tools.documents import draw_documents, stream_documents
from cka_tools.errors import UserError
for spec, documents, seed in json.loads(sys.argv[1]):
    begun = time.monotonic()
    try:
        if seed is None:
            result = [dataclasses.asdict(document) for document in stream_documents(spec)]
        else:
            result = dataclasses.asdict(draw_documents(spec, documents, seed))
    except UserError as error:
        result = {"error": str(error)}
    print(json.dumps([spec, result, time.monotonic() - begun]))
"""


def run_draws(asked, environment=None, stand_in=None):
    command = [sys.executable, "-c", DRAW, json.dumps(asked)]
    if stand_in:
        command = [sys.executable, str(Path(__file__).with_name("hub_stand_in.py")), str(stand_in), *command]
    done = subprocess.run(
        command,
        env={**os.environ, **ENVIRONMENT, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]


def write_jsonl(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_parquet(path, columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table(columns), path)


def build_hub(root):
    words = random.Random(0)
    for part in range(12):
        rows = []
        for row in range(200):
            content = " ".join(words.choices(["alpha", "beta", "gamma", "delta"], k=words.randint(40, 400)))
            pmid, title = 1000 * part + row, f"Title {part} {row}."
            both = f"{title} {content}"
            rows.append({"id": f"p{part}_{row}", "title": title, "content": content, "contents": both, "PMID": pmid})
        write_jsonl(root / f"MedRAG/pubmed/chunk/pubmed23n{part:04d}.jsonl", rows)
    (root / "MedRAG/pubmed/README.md").write_text("# About\n")

    biomed = root / "almanach/Biomed-Enriched"
    for split in ("commercial", "noncommercial"):
        for part in range(2):
            texts = [f"{split} paragraph {part} {row}" for row in range(100)]
            ids = [f"{split}-{part}-{row}" for row in range(100)]
            name = f"data/{split}-{part:05d}-of-00002.parquet"
            write_parquet(biomed / name, {"id": ids, "text": texts, "educational_score": [1.0] * 100})
    (biomed / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n"
        "  - split: commercial\n    path: data/commercial-*\n"
        "  - split: noncommercial\n    path: data/noncommercial-*\n---\n"
    )
    for part in range(20):
        texts = {"abstract": [f"large {part} {row}" for row in range(2000)], "label": list(range(2000))}
        write_parquet(root / f"org/large/data/train-{part:05d}-of-00020.parquet", texts)
    for config in ("one", "two"):
        write_jsonl(root / f"org/configs/{config}.jsonl", [{"body": f"{config} {row}"} for row in range(30)])
    (root / "org/configs/README.md").write_text(
        "---\nconfigs:\n- config_name: one\n  data_files: one.jsonl\n- config_name: two\n  data_files:\n"
        "  - split: test\n    path: two.jsonl\n---\n"
    )
    for name in ("org/gated", "org/refused"):
        write_jsonl(root / name / "data.jsonl", [{"text": "x"}])
    (root / "gated.txt").write_text("org/gated")
    script = root / "org/script/script.py"
    script.parent.mkdir(parents=True)
    script.write_text("raise SystemExit('code of a dataset was run')\n")


ASKED = [
    ["pubmed", 40, 1],
    ["pubmed", 40, 1],
    ["pubmed", 40, 2],
    ["pubmed", None, None],
    ["biomed-enriched", 50, 1],
    ["biomed-enriched:noncommercial", 50, 1],
    ["hf:org/large", 50, 1],
    ["hf:org/large", 50, 2],
    ["hf:org/configs:two", 10, 1],
    ["hf:org/configs:one:train:body", 10, 1],
    ["hf:org/configs", 10, 1],
    ["hf:org/configs:three", 10, 1],
    ["hf:org/configs:two:train", 10, 1],
    ["hf:org/configs:two:test:words", 10, 1],
    ["hf:org/large:::label", 10, 1],
    ["hf:org/configs:two", 31, 1],
    ["hf:org/none", 10, 1],
    ["hf:not an id", 10, 1],
    ["hf:org/gated", 10, 1],
    ["hf:org/refused", 10, 1],
    ["hf:org/broken", 10, 1],
    ["hf:org/script", 10, 1],
]


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    root = tmp_path_factory.mktemp("hub")
    build_hub(root)
    results = run_draws(ASKED, stand_in=root)
    assert [spec for spec, _, _ in results] == [spec for spec, _, _ in ASKED]
    return root, [result for _, result, _ in results]


def of(hub, spec, number=0):
    found = [result for asked, result in zip(ASKED, hub[1], strict=True) if asked[0] == spec]
    return found[number]


def test_pubmed_draws_seeded_lines_and_records_parts_and_revision(hub):
    draw, again, other = (of(hub, "pubmed", number) for number in range(3))
    assert draw == again
    ids, others = ({document["id"] for document in each["documents"]} for each in (draw, other))
    assert len(ids) == len(others) == 40
    assert len(ids & others) < 10
    assert draw["source"]["revision"] == COMMIT
    assert draw["source"]["parts_total"] == 12
    assert set(draw["source"]["parts"]) == {f"chunk/pubmed23n{part:04d}.jsonl" for part in range(12)}
    assert len({int(pmid) // 1000 for pmid in ids}) > 6
    for document in draw["documents"]:
        part, row = divmod(int(document["id"]), 1000)
        assert document["text"].startswith(f"Title {part} {row}. ")
    assert "not read whole" in draw["notes"][0]


def test_pubmed_parts_are_never_downloaded_whole(hub):
    log = (hub[0] / "requests.log").read_text().splitlines()
    fetched = [line for line in log if line.startswith("GET") and "/chunk/" in line and "resolve" in line]
    drawn = fetched[: 3 * 60]  # the draws come before the stream
    assert len(drawn) >= 3 * 40
    for line in drawn:
        begin, end = map(int, line.rpartition("bytes=")[2].split("-"))
        assert end - begin < hub_pubmed.WINDOW_BYTES


def test_pubmed_streams_every_abstract_for_training(hub):
    documents = of(hub, "pubmed", 3)
    assert len(documents) == 12 * 200
    assert documents[0]["text"].startswith("Title 0 0. ")


def test_biomed_enriched_reads_its_split(hub):
    draw = of(hub, "biomed-enriched")
    assert all(document["text"].startswith("commercial paragraph") for document in draw["documents"])
    assert all(document["id"].startswith("commercial-") for document in draw["documents"])
    assert draw["source"]["split"] == "commercial"
    assert draw["source"]["population"] == "all rows of the split"
    other = of(hub, "biomed-enriched:noncommercial")
    assert all(document["text"].startswith("noncommercial") for document in other["documents"])


def test_a_large_dataset_is_read_in_part_and_says_of_what_the_draw_is(hub):
    draw, other = of(hub, "hf:org/large"), of(hub, "hf:org/large", 1)
    assert draw["counts"]["read"] == 10_000
    assert draw["source"]["population"] == "the first rows (at most 1,250) of 8 seeded files of 20"
    assert len(draw["source"]["files_read"]) == 8
    assert draw["source"]["files_read"] != other["source"]["files_read"]
    assert len({document["text"].split()[1] for document in draw["documents"]}) == 8
    assert any("not read whole" in note for note in draw["notes"])


def test_a_draw_from_the_hub_has_metadata_and_a_stream_does_not_fetch_them(hub):
    for document in of(hub, "hf:org/large")["documents"]:
        assert document["metadata"] == {"label": int(document["text"].split()[2])}
    assert {d["metadata"]["educational_score"] for d in of(hub, "biomed-enriched")["documents"]} == {1.0}
    for document in (*of(hub, "pubmed")["documents"], *of(hub, "pubmed", 3)):
        assert document["metadata"] == {}


def test_config_split_and_column_are_taken_or_chosen(hub):
    assert of(hub, "hf:org/configs:two")["source"]["split"] == "test"
    draw = of(hub, "hf:org/configs:one:train:body")
    assert draw["source"]["column"] == "body"
    assert {document["text"].split()[0] for document in draw["documents"]} == {"one"}


@pytest.mark.parametrize(
    ("spec", "number", "parts"),
    [
        ("hf:org/configs", 0, ["Config name is missing", "'one', 'two'"]),
        ("hf:org/configs:three", 0, ["'three' not found", "'one', 'two'"]),
        ("hf:org/configs:two:train", 0, ["no split 'train'", "it has test"]),
        ("hf:org/configs:two:test:words", 0, ["no column 'words'", "it has 'body'"]),
        ("hf:org/large:::label", 0, ["(int)", "not a string"]),
        ("hf:org/configs:two", 1, ["31 documents were asked for, it gives 30"]),
        ("hf:org/none", 0, ["no dataset org/none", "`sample`"]),
        ("hf:not an id", 0, ["not a dataset id", "org/name"]),
        ("hf:org/gated", 0, ["is gated", "HF_TOKEN"]),
        ("hf:org/refused", 0, ["refuses access", "HF_TOKEN"]),
        ("hf:org/broken", 0, ["error 503", "`sample`"]),
        ("hf:org/script", 0, ["org/script cannot be loaded"]),
    ],
)
def test_what_the_hub_does_not_give_is_told_in_one_line(hub, spec, number, parts):
    message = of(hub, spec, number)["error"]
    assert message.startswith(spec)
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_without_a_hub_the_offline_choices_are_named_within_seconds():
    with socket.socket() as unused:  # bound, not listening: connections are refused
        unused.bind(("127.0.0.1", 0))
        environment = {"HF_ENDPOINT": f"http://127.0.0.1:{unused.getsockname()[1]}"}
        specs = ["pubmed", "biomed-enriched", "hf:org/name"]
        results = run_draws([[spec, None, 1] for spec in specs], environment)
    for (spec, result, seconds), asked in zip(results, specs, strict=True):
        assert spec == asked
        assert result["error"].startswith(f"{spec}: the hub cannot be reached")
        assert "`sample` or the path of a file" in result["error"]
        assert seconds < 5


def test_a_connection_lost_in_the_middle_is_told_in_one_line():
    def read():
        yield Document("1", "one")
        raise ConnectionResetError("reset\nby peer")

    documents = guarded(read(), Corpus("hf:org/name"), "org/name")
    assert next(documents).id == "1"
    with pytest.raises(UserError, match=r"hf:org/name: the hub cannot be reached \(reset by peer\)"):
        next(documents)


def test_a_bug_of_our_own_is_no_user_error():
    def read():
        yield Document("1", "one")
        raise AttributeError("ours")

    documents = guarded(read(), Corpus("hf:org/name"), "org/name")
    next(documents)
    with pytest.raises(AttributeError):
        next(documents)


def test_a_hub_that_is_switched_off_is_not_asked():
    (_, result, seconds), _ = run_draws([["pubmed", None, 1], ["hf:a/b", None, 1]], {"HF_HUB_OFFLINE": "1"})
    assert "HF_HUB_OFFLINE is set" in result["error"]
    assert "`sample`" in result["error"]
    assert seconds < 5


def test_a_hub_that_never_answers_is_given_up():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        begun = time.monotonic()
        environment = {"HF_ENDPOINT": f"http://127.0.0.1:{silent.getsockname()[1]}"}
        ((_, result, seconds),) = run_draws([["pubmed", None, 1]], environment)
    assert "cannot be reached" in result["error"]
    assert seconds < 15
    assert time.monotonic() - begun < 30


LINES = st.lists(st.binary(max_size=60).map(lambda line: line.replace(b"\n", b" ")), min_size=1, max_size=20)


@given(LINES, st.booleans(), st.integers(0, 10_000), st.integers(1, 40))
def test_line_behind_an_offset_is_the_next_whole_one(lines, ends, offset, window):
    content = b"\n".join(lines) + (b"\n" if ends else b"")
    if not content:
        return
    offset %= len(content)
    starts, position = [], 0
    for line in content.split(b"\n"):
        if line.strip():
            starts.append((position, line))
        position += len(line) + 1
    behind = [(start, line) for start, line in starts if start > offset]
    expected = (behind or starts or [(0, b"")])[0]
    usual, hub_pubmed.WINDOW_BYTES = hub_pubmed.WINDOW_BYTES, window
    try:
        assert line_behind(lambda begin, end: content[begin:end], len(content), offset) == expected
    finally:
        hub_pubmed.WINDOW_BYTES = usual
