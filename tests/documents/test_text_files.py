"""Text, JSON lines, CSV and parquet files, and what is wrong with them."""

import csv
import gzip
import json

import pyarrow
import pyarrow.parquet
import pytest

from cka_tools.documents import draw_documents, stream_documents
from cka_tools.errors import UserError


def read(path):
    return [(document.id, document.text) for document in stream_documents(path)]


def test_txt_without_blank_lines_is_one_document_a_line(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_bytes("\n\ufefffirst\r\nsecond é\r\nthird\n\n\n".encode()[1:])
    assert read(path) == [("line:1", "first"), ("line:2", "second é"), ("line:3", "third")]


def test_txt_with_blank_lines_is_one_document_a_paragraph(tmp_path):
    path = tmp_path / "paragraphs.txt"
    path.write_text("\nfirst line\nsecond line\n  \n\nnext paragraph\n\nlast")
    assert read(path) == [("line:2", "first line\nsecond line"), ("line:6", "next paragraph"), ("line:8", "last")]
    assert draw_documents(["a", "b", "c", "d"]).source.get("units") is None


def test_jsonl_takes_the_text_column_and_the_id(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [{"title": "t", "content": "c1", "contents": "t. c1", "PMID": 7}, {"contents": None}, {"contents": "x"}]
    path.write_text("\n\n".join(map(json.dumps, rows)))
    assert read(path) == [("7", "t. c1"), ("line:5", "x")]


def test_csv_reads_quoted_line_breaks_and_long_fields(tmp_path):
    path = tmp_path / "rows.csv.gz"
    long = "word " * 100_000
    with gzip.open(path, "wt", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows([["Abstract", "pmid"], ['one,\n"two"', "11"], [long, ""], ["", "13"]])
    assert read(path) == [("11", 'one,\n"two"'), ("row:2", long)]


def test_parquet_is_read_with_nulls_and_large_strings(tmp_path):
    path = tmp_path / "rows.parquet"
    texts = pyarrow.array(["a", None, "c"], pyarrow.large_string())
    pyarrow.parquet.write_table(pyarrow.table({"x": [1, 2, 3], "text": texts}), path)
    assert read(path) == [("row:1", "a"), ("row:3", "c")]


def test_parquet_dictionary_columns_are_text(tmp_path):
    path = tmp_path / "rows.parquet"
    column = pyarrow.array(["a", "b", "a"]).dictionary_encode()
    pyarrow.parquet.write_table(pyarrow.table({"text": column, "id": [5, 6, 7]}), path)
    assert read(path) == [("5", "a"), ("6", "b"), ("7", "a")]


def test_a_folder_is_all_its_files_with_ids_that_name_them(tmp_path):
    (tmp_path / "b.txt").write_text("from b\n")
    (tmp_path / "a.jsonl").write_text('{"text": "from a"}\n{"text": "named", "id": "n1"}\n')
    (tmp_path / "notes.md").write_text("not read")
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "c.txt").write_text("not read")
    assert read(tmp_path) == [("a.jsonl:line:1", "from a"), ("a.jsonl:line:2", "named"), ("b.txt:line:1", "from b")]


GOOD = b'{"text": "good"}\n'


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", b"", "is empty"),
        ("blank.txt", b"\n \n\n", "no document"),
        ("blank.jsonl", b"\n\n", "no document"),
        ("header.csv", b"text\n", "no document"),
        ("zero.txt", b"abc\nde\0f", "zero byte in line 2"),
        ("latin.txt", "ok\ncafé\n".encode("latin-1"), "byte 0xe9 at position 4 of line 2"),
        ("utf16.txt", "hello".encode("utf-16"), "not text|not UTF-8"),
        ("broken.jsonl", GOOD + b'{"text": "cut\n', "line 2: not JSON"),
        ("array.jsonl", GOOD + b"[1]\n", "line 2: '.1.' is not a JSON object"),
        ("string.jsonl", b'"text"\n', "line 1: .* not a JSON object"),
        ("other.jsonl", b'{"label": 1, "score": 2}\n', "no text column among 'label', 'score'"),
        ("lacks.jsonl", GOOD + b'{"content": "x"}\n', "line 2: no 'text'"),
        ("number.jsonl", GOOD + b'{"text": 5}\n', r"line 2: the text is '5' \(int\)"),
        ("deep.jsonl", GOOD + b"[" * 200_000, "line 2: (JSON nested|not JSON)"),
        ("notext.csv", b"label;text\n1;2\n", "no text column among 'label;text'"),
        ("quote.csv", b'text\n"never closed\n', "broken CSV"),
        ("short.csv", b"id,text\n1,a\n2\n", "line 3: 1 fields"),
        ("no.parquet", b"PAR1 but not really", "cannot be read as parquet"),
        ("empty.parquet", b"", "cannot be read as parquet"),
        ("no.jsonl.gz", GOOD, "broken gzip"),
        ("cut.jsonl.gz", gzip.compress(GOOD * 1000, mtime=0)[:-20], "broken gzip"),
        (
            "bits.jsonl.gz",
            gzip.compress(bytes(range(256)) * 50, mtime=0)[:60] + b"\xff" * 60,
            "broken gzip|not (UTF-8 )?text",
        ),
        ("paper.pdf", b"%PDF", "'.pdf' are not read"),
        ("rows.parquet.gz", b"x", "'.parquet.gz' are not read"),
        ("plain", b"x", "'without suffix' are not read"),
    ],
)
def test_a_file_that_does_not_do_is_named_in_one_line(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        draw_documents(path)
    assert name in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nothing.jsonl", "no such file or folder"),
        ("pubmd", "did you mean `pubmed`"),
        ("Sample", "did you mean `sample`"),
        ("biomed-enrich", "did you mean `biomed-enriched`"),
        ("some/thing", "write `hf:some/thing`"),
        ("", "empty"),
        ("a\0b", "not a path|no such file"),
        ("x" * 5000, "not a path|no such file"),
        ("hf:", "write hf:ID"),
        ("hf:a:b:c:d:e", "write hf:ID"),
        ("biomed-enriched:both", "no split 'both'"),
    ],
)
def test_a_spec_that_names_nothing_says_what_would(spec, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message) as error:
        draw_documents(spec)
    assert "\n" not in str(error.value)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="a folder without"):
        draw_documents(tmp_path)


def test_files_are_streamed(tmp_path):
    path = tmp_path / "many.jsonl"
    path.write_text("".join(json.dumps({"text": f"{number}"}) + "\n" for number in range(10)) + "broken")
    stream = stream_documents(path)
    assert [next(stream).text for _ in range(10)] == [str(number) for number in range(10)]
    with pytest.raises(UserError, match="line 11"):
        next(stream)


def test_a_stream_of_nothing_is_refused_when_it_is_asked_for():
    with pytest.raises(UserError, match="no such file"):
        stream_documents("nothing.jsonl")
