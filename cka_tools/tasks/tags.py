"""Tags of words: BIO and what is read as it (IOB1, BIOES and BILOU say the same in other letters), and CoNLL files.

A CoNLL file has a word and its tag a line (first and last column), and a blank line between sentences.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

from cka_tools.documents.open_file import bare_name, read_lines
from cka_tools.errors import UserError
from cka_tools.formatting import quoted
from cka_tools.settings import Reading

UNTYPED = "entity"
"""The type of entities whose tags are plain B and I."""

TAG = re.compile(r"O|([BIESLU])(?:-(\S(?:.*\S)?))?")


def as_bio(tags: Sequence[str], where: str) -> tuple[tuple[str, ...], int]:
    """The BIO tags of a sentence, and how many other tags were changed to them.

    A tag I that continues no entity of its type begins one (as in IOB1, and as seqeval and conlleval count);
    E and L end, S and U are an entity of one word. Plain B and I get the type "entity".

    Raises:
        UserError: a tag of another form.
    """
    found, changed, inside = [], 0, None
    for tag in tags:
        parts = TAG.fullmatch(tag)
        if parts is None:
            raise UserError(f"{where}: tag {quoted(tag)} is not BIO: write O, B-TYPE or I-TYPE")
        letter, kind = parts[1], parts[2] or UNTYPED
        if letter is None:
            found.append("O")
            inside = None
            continue
        begins = letter in "BSU" or inside != kind
        found.append(f"{'B' if begins else 'I'}-{kind}")
        changed += letter != ("B" if begins else "I")
        inside = None if letter in "ESLU" else kind
    return tuple(found), changed


def types_of(tags: Sequence[str]) -> list[str]:
    """The type of each entity of a sentence in BIO, in order."""
    return [tag[2:] for tag in tags if tag.startswith("B-")]


SUFFIXES = (".conll", ".iob", ".iob2", ".bio", ".bioes")
"""Always read as CoNLL."""

MAY_BE = (".tsv", ".txt")
"""Read as CoNLL where a task is known to be of tags, or the first line ends with a tag."""

START = "-DOCSTART-"


def is_conll(path: Path, kind: str | None) -> bool:
    """Whether a file of a task of this kind, None where it is not known, is read as CoNLL."""
    suffix = Path(bare_name(path).lower()).suffix
    if suffix in SUFFIXES:
        return True
    if suffix not in MAY_BE or kind not in (None, "tags") or not path.is_file():
        return False
    return kind == "tags" or TAG.fullmatch(_first(path)[0][-1]) is not None


def read_conll(path: Path) -> Iterator[tuple[int, list[str], list[str]]]:
    """Yield (number of its first line, words, tags) of each sentence.

    Columns are separated by tabs, where the first line has one, or by spaces. Lines that begin with "#" and
    do not have the other lines' columns are comments; -DOCSTART- is skipped.

    Raises:
        UserError: a line with another number of columns than the first one, a file without words.
    """
    first, tabs = _first(path)
    width = len(first)
    if width < 2:
        raise UserError(f"{path}: {quoted(first[0])} has no tag beside it: give a word and its tag a line")

    def lines() -> Iterator[tuple[int, list[str]]]:
        for number, line in read_lines(path, Reading().document_bytes):
            fields = _fields(line, tabs)
            comment = line.startswith("#") and not (len(fields) == width and TAG.fullmatch(fields[-1]))
            if comment or fields[0] == START:
                continue
            yield number, fields if line.strip() else []

    for filled, sentence in groupby(lines(), key=lambda line: bool(line[1])):
        if not filled:
            continue
        numbers, rows = zip(*sentence, strict=True)
        for number, row in zip(numbers, rows, strict=True):
            if len(row) != width:
                raise UserError(
                    f"{path}, line {number}: {len(row)} columns, the first line has {width}: give a word and its tag"
                )
        yield numbers[0], [row[0] for row in rows], [row[-1] for row in rows]


def _first(path: Path) -> tuple[list[str], bool]:
    """The columns of the first line that holds a word and is no comment, and whether tabs separate them."""
    for _, line in read_lines(path, Reading().document_bytes):
        if line.strip() and not line.startswith(("#", START)):
            tabs = "\t" in line
            return _fields(line, tabs), tabs
    raise UserError(f"{path}: no line holds a word and its tag: give a CoNLL file")


def _fields(line: str, tabs: bool) -> list[str]:
    if tabs:
        *others, tag = line.rstrip("\r\n").split("\t")
        return [*others, tag.strip()]
    return re.split(r"[ \t]+", line.strip(" \t\r\n"))
