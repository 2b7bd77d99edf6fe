"""A task spec → labelled texts in splits, with everything checked before a model runs."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import chain
from pathlib import Path
from typing import Any, get_args

from cka_tools.bundled import bundled_data
from cka_tools.documents.corpus_spec import open_corpus
from cka_tools.documents.document import Corpus, Document
from cka_tools.errors import UserError, one_line, reason_of
from cka_tools.formatting import counted, is_text, quoted
from cka_tools.planning import was_read
from cka_tools.settings import Reading
from cka_tools.tasks.tags import as_bio, is_conll, read_conll
from cka_tools.tasks.task import DEV, TEST, TRAIN, Example, Kind, Task, check_task

SPLITS = dict.fromkeys((TRAIN, "training"), TRAIN) | dict.fromkeys((DEV, "devel", "validation", "valid", "val"), DEV)
SPLITS |= {TEST: TEST}
"""What a split may be called."""

WHOLE_SPLIT = 10**12
"""Rows to ask a hub data set for, which reads all and keeps the labels."""

FACTS = ("title", "metric", "licence", "source", "hub", "note")
"""What a record keeps of a spec besides."""

METRICS = dict.fromkeys(("label", "labels"), ("F1", "micro F1", "accuracy")) | {"tags": ("entity F1",)}
"""By which score tasks of a kind may be read; F1 is macro F1."""

FIELDS = {"kind", "data", TRAIN, DEV, TEST, "text", "tokens", "label", "labels", "tags", "split", "classes", *FACTS}


def read_task(spec: str) -> Task:
    """Read and check a task.

    Args:
        spec: a name ("sections"), a named task with its file ("hoc=FILE"), a .toml file that describes one, or
            a file or `hf:` data set whose columns are `text`, `label` or `labels`, and `split`; of tags
            `tokens`, `tags` and `split`; or a folder of files named train, dev and test, also of CoNLL.

    Raises:
        UserError: in one line: no such task, columns or splits that are lacking, labels or tags that do not
            fit, too few examples.
    """
    if not isinstance(spec, str) or not spec.strip():
        raise UserError(f"task {spec!r} is empty: name one, or a file with text and label, or tokens and tags")
    described, place = _described(spec)
    folder, name = place
    if unknown := sorted(set(described) - FIELDS):
        near = get_close_matches(unknown[0], FIELDS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose among {', '.join(sorted(FIELDS))}"
        raise UserError(f"task {quoted(spec)}: {unknown[0]!r} is not known: {hint}")
    _check_values(f"task {quoted(spec, 200)}", described)
    splits, kind, notes = _examples(spec, described, folder)
    if "metric" in described and described["metric"] not in METRICS[kind]:
        known = ", ".join(METRICS[kind])
        raise UserError(f"task {quoted(spec, 200)}: metric {quoted(described['metric'])} is not one of {known}")
    facts = {fact: str(described[fact]) for fact in FACTS if fact in described}
    task = check_task(spec, name, splits, kind, described.get("classes"), facts, notes)
    was_read(f"task {spec}", task.fingerprint)
    return task


def task_names() -> list[str]:
    """The names of named tasks."""
    return list(_named())


def _named() -> dict[str, dict[str, Any]]:
    return tomllib.loads((bundled_data() / "tasks" / "tasks.toml").read_text(encoding="utf-8"))


def _described(spec: str) -> tuple[dict[str, Any], tuple[Path, str]]:
    """What describes a task, where its files lie, and its name."""
    named = _named()
    name, equals, file = spec.partition("=")
    if name in named and (equals or not Path(spec).exists()):
        found, folder = dict(named[name]), bundled_data() / "tasks"
        form = found.pop("form", None)
        if equals:
            if not file:
                raise UserError(f"task {spec!r} names no file: write it like {name}=FILE")
            if not file.startswith("hf:") and not _exists(file):
                raise UserError(f"task {quoted(spec, 200)}: no such file; give one with its labels and split")
            return found | {"data": file}, (Path(), name)
        if "data" not in found:
            where = f" (on the hub {found['hub']} has {form})" if "hub" in found else ""
            raise UserError(f"task {spec!r} does not ship with its data{where}: give a file, as {name}=FILE")
        return found, (folder, name)
    if spec.endswith(".toml"):
        path = Path(spec).expanduser()
        try:
            return tomllib.loads(path.read_text(encoding="utf-8")), (path.parent, path.stem)
        except (OSError, ValueError) as error:
            reason = reason_of(error) if isinstance(error, OSError) else one_line(error)
            raise UserError(f"task {quoted(spec, 200)} cannot be read ({reason}): give a TOML file") from error
    if not spec.startswith("hf:") and not _exists(spec):
        near = get_close_matches(spec.lower(), named, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose among {', '.join(named)}, or name a file"
        raise UserError(f"task {quoted(spec, 200)} is not known, and no such file exists: {hint}")
    return {"data": spec}, (Path(), Path(spec).name.split(".")[0] if not spec.startswith("hf:") else spec)


def _check_values(called: str, described: Mapping[str, Any]) -> None:
    """Refuse what a description cannot mean.

    Raises:
        UserError: a value that is not text, a list of classes that is not one.
    """
    for name in described:
        value = described[name]
        if name == "classes":
            if not isinstance(value, list) or any(isinstance(one, list | dict) for one in value):
                raise UserError(f"{called}: classes {quoted(value)} is not a list of names: write it like ['a', 'b']")
            if len({str(one) for one in value}) < len(value):
                raise UserError(f"{called}: classes {quoted(value)} names one twice: name each once")
        elif not isinstance(value, str) or not value.strip():
            raise UserError(f"{called}: {name} {quoted(value)} is not text: write it in quotes, or leave it out")


def _exists(spec: str) -> bool:
    try:
        return Path(spec).expanduser().exists()
    except (OSError, ValueError, RuntimeError):
        return False


def _examples(
    spec: str, described: Mapping[str, Any], folder: Path
) -> tuple[dict[str, list[Example]], Kind, list[str]]:
    """The examples of each split, the kind of their labels, and notes."""
    called = f"task {quoted(spec, 200)}"
    own = {split: described[split] for split in (TRAIN, DEV, TEST) if split in described}
    if ("data" in described) == bool(own):
        raise UserError(f"{called}: give either data with a split column, or train and test")
    kind: Any = described.get("kind") or ("tags" if {"tokens", "tags"} & set(described) else None)
    if kind not in (None, *get_args(Kind)):
        raise UserError(f"{called}: kind {quoted(kind)} is not one of {', '.join(get_args(Kind))}")
    notes: list[str] = []
    named: dict[str | None, Any] = dict(own.items()) or {None: described["data"]}
    places = {split: _place(str(name), folder) for split, name in named.items()}
    whole = places.get(None)
    if isinstance(whole, Path):
        places = _split_files(whole, called, notes) or places
    found: dict[str, list[Example]] = {TRAIN: [], DEV: [], TEST: []}
    changed = 0
    for given, place in places.items():
        for row in _rows(place, kind, described, called):
            kind = row.kind
            labels, others = as_bio(row.labels, row.where) if kind == "tags" else (row.labels, 0)
            changed += others
            if lone := next((one for one in row.words or (row.text,) if not is_text(one)), None):
                raise UserError(f"{row.where}: {quoted(lone)} has half a surrogate pair, which is not text: fix it")
            split = given or _split(row.facts, str(described.get("split", "split")), row.where)
            found[split].append(Example(row.id, row.text, labels, row.words))
    if changed:
        notes.append(
            f"{counted(changed, 'tag')} of another scheme {'was' if changed == 1 else 'were'} read as BIO: an I that "
            "continues no entity begins one, E and L continue one, S and U are one of a single word."
        )
    return found, kind or "label", notes


@dataclass(frozen=True)
class _Row:
    """An example as it is read: `where` names it, `facts` are its columns beside the text."""

    id: str
    where: str
    kind: Kind
    text: str
    labels: tuple[str, ...]
    facts: Mapping[str, Any]
    words: tuple[str, ...] = ()


def _place(name: str, folder: Path) -> Path | str:
    return name if name.startswith("hf:") else folder / Path(name).expanduser()


def _split_files(folder: Path, called: str, notes: list[str]) -> dict[str | None, Path | str]:
    """The files of a folder that are named as splits are; none where train and test are not among them."""
    files = sorted(file for file in folder.iterdir() if file.is_file()) if folder.is_dir() else []
    found: dict[str | None, Path | str] = {}
    for file in files:
        split = SPLITS.get(file.name.split(".")[0].lower())
        if split in found:
            names = f"{Path(found[split]).name!r} and {file.name!r}"
            raise UserError(f"{called}: {names} are both of the split {split}: keep one, or name it in a .toml file")
        if split is not None:
            found[split] = file
    if not {TRAIN, TEST} <= set(found):
        return {}
    if others := [file.name for file in files if file not in found.values()]:
        notes.append(f"{counted(len(others), 'other file')} in the folder, such as {others[0]!r}: not read.")
    return found


def _rows(place: Path | str, kind: Kind | None, described: Mapping[str, Any], called: str) -> Iterator[_Row]:
    if isinstance(place, Path) and is_conll(place, kind):
        for number, words, tags in read_conll(place):
            where = f"{called}, {place.name}, line {number}"
            yield _tagged(f"{place.name}:line:{number}", where, words, tags, {})
        return
    corpus, documents, kind, text = _table(place, kind, described)
    names = [str(described[name]) for name in ("tags", "label", "labels") if name in described]
    names = names[:1] or (["tags", "ner_tags"] if kind == "tags" else ["label", "labels"])
    column = None
    for document in documents:
        facts, where = document.metadata, f"{called}, {document.id}"
        column = column or next((name for name in names if name in facts), None)
        if column is None or column not in facts:
            held = ", ".join(map(repr, facts)) or "none but the text"
            lacking = f"no column {' or '.join(map(repr, [column] if column else names))}"
            raise UserError(f"{where}: {lacking} among {held}: name the column, in a .toml file")
        value = _in_words(facts[column], corpus.classes.get(column), column, where)
        if kind == "tags":
            yield _tagged(document.id, where, facts.get(text, document.text), value, facts)
            continue
        kind = kind or ("labels" if isinstance(value, list) else "label")
        labels = _labels(value, kind == "labels", column, where)
        if not document.text.strip():
            raise UserError(f"{where}: its text is empty: drop the row or fill it")
        yield _Row(document.id, where, kind, document.text, labels, facts)


def _table(
    place: Path | str, kind: Kind | None, described: Mapping[str, Any]
) -> tuple[Corpus, Iterator[Document], Kind | None, str]:
    """A file or a hub data set with columns: text, or tokens where there is no text and nothing else is said."""
    columns = {name: str(described.get(name, name)) for name in ("text", "tokens")}
    if kind is not None or "text" in described:
        del columns["text" if kind == "tags" else "tokens"]
    problem = None
    for name, column in columns.items():
        try:
            size = WHOLE_SPLIT if isinstance(place, str) else None
            corpus = open_corpus(place, size, 0, Reading(column=column))
            rest = iter(corpus.documents)
            first = next(rest, None)
        except UserError as error:
            problem = problem or error
            continue
        return corpus, chain([first] if first else [], rest), "tags" if name == "tokens" else kind, column
    assert problem is not None
    raise problem


def _tagged(name: str, where: str, words: Any, tags: Any, facts: Mapping[str, Any]) -> _Row:
    """A sentence of words with their tags, of any scheme."""
    if not isinstance(words, list) or not isinstance(tags, list):
        given = f"tokens {quoted(words)} are" if not isinstance(words, list) else f"tags {quoted(tags)} are"
        raise UserError(f"{where}: {given} not a list: give a list of words and one of their tags")
    if len(words) != len(tags):
        raise UserError(f"{where}: {counted(len(words), 'word')} and {counted(len(tags), 'tag')}: give each word one")
    if not words:
        raise UserError(f"{where}: the sentence has no words: drop the row")
    if blank := [at for at, word in enumerate(words) if not word.strip()]:
        raise UserError(f"{where}: word {blank[0] + 1} is empty ({words[blank[0]]!r}): drop it with its tag")
    if number := [one for one in tags if not isinstance(one, str)]:
        raise UserError(
            f"{where}: tag {quoted(number[0])} is not text, and the data set does not say what it stands for: "
            "write O, B-TYPE or I-TYPE"
        )
    return _Row(name, where, "tags", " ".join(words), tuple(tags), facts, tuple(words))


def _in_words(value: Any, names: Sequence[str] | None, column: str, where: str) -> Any:
    """Numbers of classes as the names that the data set gives them."""
    if names is None:
        return value
    given = value if isinstance(value, list) else [value]
    if lost := [one for one in given if not isinstance(one, int) or not 0 <= one < len(names)]:
        raise UserError(f"{where}: {column} {quoted(lost[0])} is not a class of the data set: drop the row")
    found = [names[one] for one in given]
    return found if isinstance(value, list) else found[0]


def _labels(value: Any, several: bool, column: str, where: str) -> tuple[str, ...]:
    if several != isinstance(value, list):
        wanted = "a list of classes" if several else "one class"
        raise UserError(f"{where}: {column} {quoted(value)} is not {wanted}")
    # A number that is none stands for a lacking value.
    labels = tuple("" if one is None or one != one else str(one) for one in (value if several else [value]))
    if not all(one.strip() for one in labels):
        raise UserError(f"{where}: {column} {quoted(value)} has an empty class: name it or drop the row")
    if len(set(labels)) < len(labels):
        raise UserError(f"{where}: {column} {quoted(value)} names a class twice: name each once")
    return labels


def _split(facts: Mapping[str, Any], column: str, where: str) -> str:
    if column not in facts:
        raise UserError(f"{where}: no column {column!r}, which says train, dev or test: add it, or give files a split")
    if not isinstance(facts[column], str) or facts[column] not in SPLITS:
        raise UserError(f"{where}: {column} {quoted(facts[column])} is not one of train, dev, test")
    return SPLITS[facts[column]]
