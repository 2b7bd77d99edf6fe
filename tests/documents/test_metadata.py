"""What a corpus says of its documents beside their text comes through the draw, and changes nothing else."""

import csv
import datetime
import json

import datasets
import numpy as np
import pandas as pd
import pytest

from cka_tools.documents import draw, draw_documents

ROWS = [
    {"id": f"d{number}", "text": f"text {number}", "label": number % 3, "group": f"g{number % 5}", "x": 0.5}
    for number in range(30)
]
PLAIN = [{"id": row["id"], "text": row["text"]} for row in ROWS]
EXPECTED = {row["id"]: {name: row[name] for name in ("label", "group", "x")} for row in ROWS}


def of_each(corpus, documents=12):
    drawn = draw_documents(corpus, documents)
    return {document.id: dict(document.metadata) for document in drawn.documents}


def as_jsonl(folder):
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def as_csv(folder):
    with (folder / "rows.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(ROWS[0]))
        writer.writeheader()
        writer.writerows(ROWS)
    return folder / "rows.csv"


def as_parquet(folder):
    pd.DataFrame(ROWS).to_parquet(folder / "rows.parquet")
    return folder / "rows.parquet"


KINDS = {
    "jsonl": as_jsonl,
    "parquet": as_parquet,
    "list": lambda _: ROWS,
    "dataset": lambda _: datasets.Dataset.from_list(ROWS),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("limit", [2**30, 0])
def test_the_other_fields_of_a_row_are_its_metadata(tmp_path, monkeypatch, kind, limit):
    monkeypatch.setattr(draw, "TEXT_IN_MEMORY", limit)
    found = of_each(KINDS[kind](tmp_path))
    assert len(found) == 12
    assert found == {name: EXPECTED[name] for name in found}


def test_of_csv_every_value_is_text(tmp_path):
    found = of_each(as_csv(tmp_path))
    assert found == {name: {k: str(v) for k, v in EXPECTED[name].items()} for name in found}


@pytest.mark.parametrize("kind", KINDS)
def test_metadata_change_neither_the_draw_nor_its_fingerprint(tmp_path, kind):
    with_metadata, without = draw_documents(KINDS[kind](tmp_path), 12), draw_documents(PLAIN, 12)
    assert [d.id for d in with_metadata.documents] == [d.id for d in without.documents]
    assert with_metadata.fingerprint == without.fingerprint
    assert all(document.metadata == {} for document in without.documents)
    assert len(set(with_metadata.documents)) == 12


def test_of_duplicates_the_first_ones_metadata_stay():
    rows = [*ROWS[:6], *({**row, "id": "later", "label": "later"} for row in ROWS[:6])]
    found = of_each(rows, 6)
    assert found == {name: EXPECTED[name] for name in list(EXPECTED)[:6]}


def test_texts_alone_have_none(tmp_path):
    (tmp_path / "a.txt").write_text("".join(f"line {number}\n" for number in range(9)))
    for corpus in (tmp_path / "a.txt", [f"line {number}" for number in range(9)]):
        assert {str(metadata) for metadata in of_each(corpus, 9).values()} == {"{}"}


def test_files_of_a_folder_keep_theirs(tmp_path):
    as_jsonl(tmp_path)
    (tmp_path / "more.jsonl").write_text('{"text": "one more", "label": "x"}\n')
    found = of_each(tmp_path, 31)
    assert found == EXPECTED | {"more.jsonl:line:1": {"label": "x"}}


def test_dates_are_iso_text_and_nested_or_binary_values_are_left_out(tmp_path):
    day, moment = datetime.date(2021, 3, 4), datetime.datetime(2021, 3, 4, 5, 6)
    rows = [
        {
            "text": f"text {number}",
            "date": day,
            "moment": moment,
            "mesh": ["a", "b"],
            "count": np.int64(3),
            "vector": np.array([1.0, 2.0]),
            "nested": {"a": 1},
            "pairs": [{"a": 1}],
            "image": b"\x00",
            "none": None,
        }
        for number in range(4)
    ]
    expected = {
        "date": "2021-03-04",
        "moment": "2021-03-04T05:06:00",
        "mesh": ["a", "b"],
        "count": 3,
        "vector": [1.0, 2.0],
        "none": None,
    }
    pd.DataFrame(rows).to_parquet(tmp_path / "rows.parquet")
    for corpus in (rows, datasets.Dataset.from_list(rows), tmp_path / "rows.parquet"):
        for metadata in of_each(corpus, 4).values():
            assert metadata == expected
            json.dumps(metadata)


def test_a_pubmed_record_has_its_journal_and_year(tmp_path):
    def article(pmid, date):
        return (
            f"<PubmedArticle><MedlineCitation><PMID>{pmid}</PMID><Article><Journal><JournalIssue><PubDate>"
            f"{date}</PubDate></JournalIssue><Title>The  Journal</Title></Journal>"
            f"<Abstract><AbstractText>Text {pmid}.</AbstractText></Abstract></Article></MedlineCitation>"
            "</PubmedArticle>"
        )

    book = (
        "<PubmedBookArticle><BookDocument><PMID>5</PMID><Book><PubDate><Year>1999</Year></PubDate></Book>"
        "<Abstract><AbstractText>Of a book.</AbstractText></Abstract></BookDocument></PubmedBookArticle>"
    )
    records = [
        article(1, "<Year>2003</Year><Month>May</Month>"),
        article(2, "<MedlineDate>1998 Dec-1999 Jan</MedlineDate>"),
        article(3, "<MedlineDate>Winter</MedlineDate>"),
        book,
    ]
    (tmp_path / "a.xml").write_text(f"<PubmedArticleSet>{''.join(records)}</PubmedArticleSet>")
    journal = {"journal": "The Journal"}
    assert of_each(tmp_path / "a.xml", 4) == {
        "1": journal | {"year": 2003},
        "2": journal | {"year": 1998},
        "3": journal,
        "5": {"year": 1999},
    }
