"""Tasks of tags: what is read as BIO, from which files, and what is refused in one line."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from datasets import ClassLabel, Dataset, Features, List, Value
from hypothesis import given, strategies
from seqeval.metrics.sequence_labeling import get_entities

from cka_tools.errors import UserError
from cka_tools.tasks import read_task
from cka_tools.tasks.tags import as_bio, types_of

WORDS = ["Loss", "of", "BRCA1", "in", "breast", "cancer"]
TAGS = ["O", "O", "B-Gene", "O", "B-Disease", "I-Disease"]


def rows(train: int = 12, test: int = 10) -> list[dict[str, Any]]:
    """The same sentence, numbered."""
    return [
        {"split": split, "tokens": [f"{split}{at}", *WORDS], "tags": ["O", *TAGS]}
        for split, n in {"train": train, "test": test}.items()
        for at in range(n)
    ]


def write(path: Path, found: list[dict[str, Any]]) -> str:
    path.write_text("\n".join(json.dumps(row) for row in found), encoding="utf-8")
    return str(path)


def conll(found: list[dict[str, Any]], between: str, more: str = "") -> str:
    """As lines; `more` stands between word and tag."""
    return "\n\n".join(
        "\n".join(f"{word}{more}{between}{tag}" for word, tag in zip(row["tokens"], row["tags"], strict=True))
        for row in found
    )


def test_a_file_a_folder_and_a_description_are_one(tmp_path: Path) -> None:
    alone = read_task(write(tmp_path / "own.jsonl", rows()))
    assert (alone.kind, alone.classes, alone.notes) == ("tags", ("Disease", "Gene"), ())
    first = alone.train[0]
    assert (first.words, first.labels) == (("train0", *WORDS), ("O", *TAGS))
    assert first.text == "train0 Loss of BRCA1 in breast cancer"
    assert alone.record()["classes"] == ["Disease", "Gene"]

    folders = {
        "tabs": (".tsv", conll(rows()[:12], "\t"), conll(rows()[12:], "\t")),
        "spaces": (
            ".conll",
            "-DOCSTART- -X- O\n\n# id 7\n" + conll(rows()[:12], " ", " NN"),
            conll(rows()[12:], " ", " X"),
        ),
        "text": (".txt", "# text = a O\n" + conll(rows()[:12], "\t") + "\n\n\n", conll(rows()[12:], "\t") + "\n"),
    }
    for name, (suffix, train, test) in folders.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / f"train{suffix}").write_text(train)
        (tmp_path / name / f"devel{suffix}").write_text(train)
        with gzip.open(tmp_path / name / f"test{suffix}.gz", "wt") as file:
            file.write(test)
        for spec in (str(tmp_path / name), f"anatem={tmp_path / name}"):
            found = read_task(spec)
            assert [len(part) for part in (found.train, found.dev, found.test)] == [12, 12, 10]
            assert [one.words for one in found.test] == [one.words for one in alone.test]
            assert [one.labels for one in found.train] == [one.labels for one in alone.train]
    (tmp_path / "text" / "train_dev.tsv").write_text("a\tO\n")
    assert "1 other file in the folder, such as 'train_dev.tsv'" in read_task(str(tmp_path / "text")).notes[0]

    parts = {"train": rows()[:12], "test": rows()[12:]}
    for split, found_rows in parts.items():
        write(tmp_path / f"{split}.jsonl", [{"w": row["tokens"], "t": row["tags"]} for row in found_rows])
    (tmp_path / "mine.toml").write_text('train = "train.jsonl"\ntest = "test.jsonl"\ntokens = "w"\ntags = "t"\n')
    assert read_task(str(tmp_path / "mine.toml")).fingerprint == alone.fingerprint
    (tmp_path / "two.toml").write_text('train = "text/train.txt"\ntest = "text/test.txt.gz"\nkind = "tags"\n')
    assert read_task(str(tmp_path / "two.toml")).fingerprint == alone.fingerprint


def test_a_word_may_be_a_number_sign_or_hold_a_space(tmp_path: Path) -> None:
    found = rows()
    found[0] = {"split": "train", "tokens": ["#", "a b", "c"], "tags": ["O", "O", "B-Gene"]}
    for split, part in {"train": found[:12], "test": found[12:]}.items():
        (tmp_path / f"{split}.tsv").write_text("# a comment\twith\tthree\n" + conll(part, "\t"))
    task = read_task(f"anatem={tmp_path}")
    assert (task.train[0].words, task.train[0].text) == (("#", "a b", "c"), "# a b c")


def test_numbers_are_tags_where_the_data_name_them(tmp_path: Path) -> None:
    names = ["O", "B-Gene", "B-Disease", "I-Disease"]
    data = {
        "tokens": [row["tokens"] for row in rows()],
        "ner_tags": [[names.index(tag) for tag in row["tags"]] for row in rows()],
        "split": [row["split"] for row in rows()],
    }
    kinds = Features(
        {"tokens": List(Value("string")), "ner_tags": List(ClassLabel(names=names)), "split": Value("string")}
    )
    Dataset.from_dict(data, features=kinds).to_parquet(str(tmp_path / "named.parquet"))
    task = read_task(str(tmp_path / "named.parquet"))
    assert task.fingerprint == read_task(write(tmp_path / "t.jsonl", rows())).fingerprint
    pyarrow.parquet.write_table(pyarrow.table(data), tmp_path / "bare.parquet")
    with pytest.raises(UserError, match="tag '0' is not text, and the data set does not say what it stands for"):
        read_task(str(tmp_path / "bare.parquet"))
    data["ner_tags"][3][0] = -1
    Dataset.from_dict(data, features=kinds).to_parquet(str(tmp_path / "lost.parquet"))
    with pytest.raises(UserError, match=r"row:4: ner_tags '-1' is not a class of the data set"):
        read_task(str(tmp_path / "lost.parquet"))


SCHEMES = {
    "IOB1": (["I-A", "I-A", "B-A", "O", "I-B", "I-A"], ["B-A", "I-A", "B-A", "O", "B-B", "B-A"]),
    "BIOES": (
        ["B-A", "I-A", "E-A", "S-A", "S-B", "O", "B-A", "E-A"],
        ["B-A", "I-A", "I-A", "B-A", "B-B", "O", "B-A", "I-A"],
    ),
    "BILOU": (["B-A", "L-A", "U-A", "U-A", "O"], ["B-A", "I-A", "B-A", "B-A", "O"]),
    "plain": (["B", "I", "O", "B"], ["B-entity", "I-entity", "O", "B-entity"]),
    "dashes": (["B-cell-line", "I-cell-line"], ["B-cell-line", "I-cell-line"]),
}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_other_schemes_are_read_as_bio(scheme: str) -> None:
    given_tags, wanted = SCHEMES[scheme]
    found, changed = as_bio(given_tags, "here")
    assert list(found) == wanted
    assert changed == sum(a.split("-")[0] != b.split("-")[0] for a, b in zip(given_tags, wanted, strict=True))


letters = strategies.sampled_from(["O", "B-A", "I-A", "B-B", "I-B", "S-A", "E-B"])


@given(strategies.lists(letters.filter(lambda tag: tag[0] in "OBI"), max_size=8))
def test_entities_are_those_that_seqeval_counts(tags: list[str]) -> None:
    assert get_entities(list(as_bio(tags, "")[0])) == get_entities(tags)


@given(strategies.lists(letters, max_size=8))
def test_what_is_bio_stays(tags: list[str]) -> None:
    once, _ = as_bio(tags, "")
    assert as_bio(once, "") == (once, 0)
    assert len(types_of(once)) == len(get_entities(list(once)))


def test_what_was_changed_is_said(tmp_path: Path) -> None:
    found = rows()
    found[0]["tags"] = ["O", "O", "O", "I-Gene", "O", "I-Disease", "I-Disease"]
    task = read_task(write(tmp_path / "t.jsonl", found))
    assert task.train[0].labels == ("O", *TAGS)
    assert task.notes[0].startswith("2 tags of another scheme were read as BIO")


def test_a_sentence_in_train_and_test_is_counted(tmp_path: Path) -> None:
    found = rows()
    found[12]["tokens"] = found[3]["tokens"]
    assert read_task(write(tmp_path / "t.jsonl", found)).notes == (
        "1 of 10 texts in test is in train too: all were kept.",
    )


def changed(at: int, **values: Any) -> list[dict[str, Any]]:
    found = rows()
    found[at] |= values
    return found


BAD: dict[str, tuple[list[dict[str, Any]], str]] = {
    "unequal": (changed(3, tags=TAGS), "line:4: 7 words and 6 tags: give each word one"),
    "no BIO": (changed(3, tags=["Gene", *TAGS]), "line:4: tag 'Gene' is not BIO: write O, B-TYPE or I-TYPE"),
    "lower case": (changed(3, tags=["b-Gene", *TAGS]), "tag 'b-Gene' is not BIO"),
    "BMEWO": (changed(3, tags=["M-Gene", *TAGS]), "tag 'M-Gene' is not BIO"),
    "no type": (changed(3, tags=["B-", *TAGS]), "tag 'B-' is not BIO"),
    "empty tag": (changed(3, tags=["", *TAGS]), "tag '' is not BIO"),
    "null tag": (changed(3, tags=[None, *TAGS]), "tag 'None' is not text"),
    "number": (changed(3, tags=[0] * 7), "tag '0' is not text, and the data set does not say what it stands for"),
    "empty word": (changed(3, tokens=[*WORDS, ""]), "line:4: word 7 is empty ('')"),
    "blank word": (changed(3, tokens=[*WORDS, "\u00a0"]), "word 7 is empty ('\\xa0')"),
    "no words": (changed(3, tokens=[], tags=[]), "the sentence has no words: drop the row"),
    "a text": (changed(3, tokens="Loss of"), "tokens 'Loss of' are not a list"),
    "space behind": (changed(3, tags=["B-Gene ", *TAGS]), "tag 'B-Gene ' is not BIO"),
    "half a pair": (changed(3, tokens=["\ud800", *WORDS]), "line:4: '\\ud800' has half a surrogate pair"),
    "null tags": (changed(3, tags=None), "tags 'None' are not a list"),
    "missing in train": (changed(14, tags=["B-Drug", *TAGS]), "the class 'Drug' is missing in train"),
    "few in train": (rows(train=9), "train has 9 examples, at least 10 are needed"),
    "few in test": (rows(test=9), "test has 9 examples"),
    "no entity in test": (
        [row | {"tags": ["O"] * 7} if row["split"] == "test" else row for row in rows()],
        "test has no entity",
    ),
    "no entity": ([row | {"tags": ["O"] * 7} for row in rows()], "no type has two entities in train"),
    "other split": (changed(3, split="tset"), "split 'tset' is not one of train, dev, test"),
    "no tags": ([{"split": row["split"], "tokens": row["tokens"]} for row in rows()], "no column 'tags' or 'ner_tags'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_rows_are_one_line(case: str, tmp_path: Path) -> None:
    found, said = BAD[case]
    with pytest.raises(UserError) as error:
        read_task(write(tmp_path / "t.jsonl", found))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


LINES = {
    "three columns": ("a\tO\nb\tX\tO\n", "line 2: 3 columns, the first line has 2"),
    "no tag": ("a\n", "'a' has no tag beside it"),
    "nothing": ("# only\n\n-DOCSTART-\tO\n", "no line holds a word and its tag"),
    "not BIO": ("a\tNN\n", "train.tsv, line 1: tag 'NN' is not BIO"),
    "empty word": ("a\tO\n\tO\n", "train.tsv, line 1: word 2 is empty"),
    "few": ("a\tO\n", "train has 1 example, at least 10 are needed"),
}


@pytest.mark.parametrize("case", LINES)
def test_bad_conll_is_one_line(case: str, tmp_path: Path) -> None:
    content, said = LINES[case]
    (tmp_path / "train.tsv").write_text(content)
    (tmp_path / "test.tsv").write_text(conll(rows()[12:], "\t"))
    with pytest.raises(UserError) as error:
        read_task(f"anatem={tmp_path}")
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_one_conll_file_says_nothing_of_splits(tmp_path: Path) -> None:
    (tmp_path / "all.conll").write_text(conll(rows(), "\t"))
    with pytest.raises(UserError, match=r"no column 'split', which says train, dev or test: add it, or give files a"):
        read_task(str(tmp_path / "all.conll"))
