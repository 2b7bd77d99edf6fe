"""Text, JSON lines, CSV and parquet files, and what is wrong with them."""

import csv
import gzip
import io
import json
import tracemalloc

import pyarrow
import pyarrow.parquet
import pytest

from cka_tools.documents import draw_documents, stream_documents
from cka_tools.documents.corpus_spec import open_corpus
from cka_tools.documents.open_file import standard_input
from cka_tools.errors import UserError
from cka_tools.settings import Reading


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


def packed(content):
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


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
        ("digits.jsonl", b'{"text": "x", "n": ' + b"9" * 5000 + b"}", "line 1: a number of too many digits"),
        ("twice.jsonl", b'{"text": "x", "text": "y"}', "line 1: the name 'text' is given twice"),
        ("many.csv", b"id,text\n1,a\n2,one, two\n", "line 3: 3 fields, the header has 2"),
        ("many.tsv", b"id\ttext\n1\ta\tb\n", "line 2: 3 fields, the header has 2; put a text with a tab"),
        ("twice.csv", b"text,text\na,b\n", "1 column names are there twice, such as 'text'"),
        ("lines.txt", GOOD, "begins as a .jsonl file does"),
        ("article.txt", b"\n<?xml version='1.0'?>\n<a/>", "begins as a .xml file does"),
        ("array.txt", b'[{"text": "a"}]', "begins as a .json file does"),
        ("open.json", b'[{"text": "a"}, {"text": ', "not JSON"),
        ("unclosed.json", b'[{"text": "a"}', "no end"),
        ("behind.json", b'[{"text": "a"} {"text": "b"}]', "behind item 0"),
        ("comma.json", b'[{"text": "a",}]' + b" " * 3_000_000, "item 0: not JSON"),
        ("words.json", b'["a", "b"]', "item 0: .* is not a JSON object"),
        ("object.json", b'{"data":\n [{"text": "a"}]}', "neither a JSON array"),
        ("no.jsonl.zst", GOOD, "broken zstd"),
        ("cut.jsonl.zst", packed(GOOD * 1000)[:-4], "broken zstd"),
        ("rows.parquet.zst", b"x", "'.parquet.zst' are not read"),
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


def test_compression_that_breaks_is_named_before_what_it_does_to_the_text(tmp_path):
    lines = b"".join(b'{"text": "%d"}\n' % (number * 7919) for number in range(3000))
    content = bytearray(gzip.compress(lines, mtime=0))
    found = []
    for at in range(60, len(content), len(content) // 25):
        damaged = content.copy()
        damaged[at] ^= 0x10
        (tmp_path / "a.jsonl.gz").write_bytes(damaged)
        with pytest.raises(UserError) as error:
            list(stream_documents(tmp_path / "a.jsonl.gz"))
        found.append(str(error.value))
    assert len(found) > 20
    assert all("broken gzip" in message for message in found)


ROWS = [("1", "a, b"), ("2", "c\td"), ("3", "e")]


def write_table(path, delimiter):
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows([("id", "text"), *ROWS])


def write_json(path, form):
    rows = [{"id": name, "text": text} for name, text in ROWS]
    path.write_text("\n".join(map(json.dumps, rows)) if form == "lines" else json.dumps(rows, indent=form))


@pytest.mark.parametrize(
    ("name", "write", "how"),
    [
        ("a.csv", write_table, ","),
        ("a.tsv", write_table, "\t"),
        ("a.ndjson", write_json, "lines"),
        ("a.json", write_json, "lines"),
        ("a.json", write_json, None),
        ("a.json", write_json, 2),
    ],
)
def test_one_table_in_every_form_and_compression_gives_the_same_documents(tmp_path, name, write, how):
    path = tmp_path / name
    write(path, how)
    assert read(path) == ROWS
    content = path.read_bytes()
    for suffix, squeeze in ((".gz", gzip.compress), (".zst", packed)):
        squeezed = tmp_path / f"{name}{suffix}"
        squeezed.write_bytes(squeeze(content))
        assert read(squeezed) == ROWS
    path.write_bytes(packed(content))  # whatever its name says
    assert read(path) == ROWS


@pytest.mark.parametrize("piece", [1, 7, 64, 1 << 18])
def test_a_json_array_is_read_in_pieces_of_any_size(tmp_path, piece, monkeypatch):
    monkeypatch.setattr("cka_tools.documents.text_files.JSON_BYTES", piece)
    texts = ["é" * 50, 'quotes " and \\', "[{", "", "x" * 500, "\U0001f600"]
    path = tmp_path / "a.json"
    path.write_text(
        json.dumps([{"text": text, "n": [1.5, None, True]} for text in texts], ensure_ascii=False, indent=1)
    )
    assert [text for _, text in read(path)] == [text for text in texts if text]


def test_a_title_goes_before_its_abstract_as_in_xml(tmp_path):
    path = tmp_path / "a.jsonl"
    rows = [{"abstract": "A.", "title": "T."}, {"abstract": "B.", "title": None}]
    rows.append({"abstract": "", "title": "alone"})
    path.write_text("\n".join(map(json.dumps, rows)))
    assert [text for _, text in read(path)] == ["T.\nA.", "B."]
    for asked, texts in (("abstract", ["A.", "B."]), ("abstract,title", ["A.\nT.", "alone"])):
        assert [d.text for d in stream_documents(path, Reading(column=asked))] == texts
    with pytest.raises(UserError, match="no column 'body'; it has 'abstract', 'title'"):
        list(stream_documents(path, Reading(column="body")))


@pytest.mark.parametrize("write", [pyarrow.parquet.write_table, None], ids=["parquet", "csv"])
def test_two_columns_of_one_name_are_refused_in_every_table(tmp_path, write):
    path = tmp_path / ("a.parquet" if write else "a.csv")
    if write:
        write(pyarrow.Table.from_arrays([pyarrow.array(["a"])] * 2, names=["text", "text"]), path)
    else:
        path.write_text("text,text\na,b\n")
    with pytest.raises(UserError, match="column names are there twice, such as 'text'"):
        read(path)


WRAPPED = "one\ntwo\n\nthree\n"


@pytest.mark.parametrize(
    ("unit", "texts"),
    [
        ("line", ["one", "two", "three"]),
        ("paragraph", ["one\ntwo", "three"]),
        ("file", ["one\ntwo\n\nthree"]),
        (None, ["one\ntwo", "three"]),
    ],
)
def test_the_unit_of_text_is_what_is_asked_for_and_recorded(tmp_path, unit, texts):
    (tmp_path / "a.txt").write_text(WRAPPED)
    corpus = open_corpus(tmp_path / "a.txt", reading=Reading(text_unit=unit))
    assert [document.text for document in stream_documents(corpus)] == texts
    assert corpus.source["units"] == {"a.txt": f"{unit or 'paragraph'}s"}


def test_a_folder_of_text_files_is_a_document_a_file(tmp_path):
    for name in ("b", "a"):
        (tmp_path / f"{name}.txt").write_text(f"{name}\nhard wrapped\n")
    assert read(tmp_path) == [("a.txt", "a\nhard wrapped"), ("b.txt", "b\nhard wrapped")]
    by_line = stream_documents(tmp_path, Reading(text_unit="line"))
    assert [document.id for document in by_line] == ["a.txt:line:1", "a.txt:line:2", "b.txt:line:1", "b.txt:line:2"]


@pytest.mark.parametrize(
    ("corpus", "reading", "message"),
    [
        ("a.txt", {"column": "text"}, "has no columns"),
        ("a.jsonl", {"text_unit": "line"}, "is for .txt files"),
        ("sample", {"text_unit": "line"}, "is for .txt files"),
        ("sample", {"column": "text"}, "the text of 'sample' is known"),
        ("pubmed", {"column": "text"}, "the text of 'pubmed' is known"),
        (["a"], {"text_unit": "line"}, "is for .txt files"),
        ("hf:a/b:::text", {"column": "body"}, "leave one of them out"),
    ],
)
def test_what_has_nothing_to_choose_from_says_so(tmp_path, monkeypatch, corpus, reading, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "a.jsonl").write_bytes(GOOD)
    with pytest.raises(UserError, match=message):
        list(stream_documents(corpus, Reading(**reading)))


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("a.txt", b""), ("a.jsonl", b'{"text": "'), ("a.csv", b"text\n"), ("quoted.csv", b'text\n"'),
        ("a.json", b'[{"text": "'),
    ],
)  # fmt: skip
@pytest.mark.parametrize("unit", [b"words and words ", b"words and words\n"])
def test_a_document_beyond_the_limit_is_refused_before_it_is_held(tmp_path, name, start, unit):
    path = tmp_path / f"{name}.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(start)
        for _ in range(64):
            file.write(unit * 2**16)
    if unit.endswith(b"\n") and name in ("a.jsonl", "a.csv", "a.json"):
        return  # a line end ends them
    reading = Reading(document_limit="1MiB", **({"text_unit": "paragraph"} if name == "a.txt" else {}))
    tracemalloc.start()
    with pytest.raises(UserError, match=r"longer than 1.0 MiB.*--document-limit"):
        list(stream_documents(path, reading))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 24 * 2**20


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        (b"one\n\ntwo", ["one", "two"]),
        (GOOD + b'{"text": "x"}', ["good", "x"]),
        (b'[{"text": "x"}]', ["x"]),
        (gzip.compress(b"a\nb", mtime=0), ["a", "b"]),
    ],
)
def test_standard_input_is_a_corpus_of_the_kind_that_it_looks_like(monkeypatch, content, texts):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))
    standard_input.cache_clear()
    for _ in range(2):  # three draws of a protocol read it three times
        assert [document.text for document in stream_documents("-")] == texts
    standard_input.cache_clear()


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
