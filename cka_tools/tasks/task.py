"""A task spec → labelled texts in splits, with everything checked before a model runs."""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from cka_tools.bundled import bundled_data
from cka_tools.documents import Document
from cka_tools.documents.corpus_spec import open_corpus
from cka_tools.errors import UserError, one_line, reason_of
from cka_tools.formatting import counted, quoted
from cka_tools.settings import Reading
from cka_tools.tasks.bio import types_of

TRAIN, DEV, TEST = "train", "dev", "test"
SPLITS = {TRAIN: TRAIN, "training": TRAIN, DEV: DEV, "validation": DEV, "valid": DEV, "val": DEV, TEST: TEST}
"""What a split may be called."""

LEAST_EXAMPLES = 10
"""Of train and of test: with fewer there is nothing to fit or to score."""

WHOLE_SPLIT = 10**12
"""Rows to ask a hub data set for, which reads all and keeps the labels."""

FIELDS = {"title", "kind", "data", TRAIN, DEV, TEST, "text", "label", "labels", "split", "classes", "metric",
          "licence", "source", "hub", "note"}  # fmt: skip
FACTS = ("title", "metric", "licence", "source", "hub", "note")
"""What a record keeps of a spec besides."""


Kind = Literal["label", "labels", "tags"]
"""One class a text, any number of them, or one BIO tag a word."""


@dataclass(frozen=True)
class Example:
    """A text with its labels.

    Attributes:
        labels: its class; or its classes, none or more; or the BIO tag of each word ("O", "B-Disease", …).
        words: of a task of tags: `text` is these, joined by spaces.
    """

    id: str
    text: str
    labels: tuple[str, ...]
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Task:
    """Labelled texts.

    Attributes:
        spec: as it was given. name: of a named task, or of its file.
        kind: what its labels are.
        classes: all of them, in order; of tags the types of entity, without B- and I-.
        train, dev, test: the examples; dev may be empty.
        facts: title, metric, licence, source, where they are known.
        fingerprint: sha256 (hex) over all texts and labels.
        notes: plain sentences for the user.
    """

    spec: str
    name: str
    kind: Kind
    classes: tuple[str, ...]
    train: Sequence[Example]
    dev: Sequence[Example]
    test: Sequence[Example]
    facts: dict[str, str] = field(default_factory=dict)
    fingerprint: str = ""
    notes: tuple[str, ...] = ()

    def record(self) -> dict[str, Any]:
        """What is kept of a task, as JSON data; none of its text."""
        sizes = {name: len(getattr(self, name)) for name in (TRAIN, DEV, TEST)}
        kept = {"spec": self.spec, "name": self.name, "kind": self.kind}
        return kept | sizes | {"classes": list(self.classes), "fingerprint": self.fingerprint} | self.facts


def read_task(spec: str) -> Task:
    """Read and check a task.

    Args:
        spec: a name ("sections"), a named task with its file ("hoc=FILE"), a .toml file that describes one, or
            a file or `hf:` data set whose columns are `text`, `label` or `labels`, and `split`.

    Raises:
        UserError: in one line: no such task, columns or splits that are lacking, labels that do not fit, too
            few examples.
    """
    if not isinstance(spec, str) or not spec.strip():
        raise UserError(f"task {spec!r} is empty: name one, or a file with text and label")
    described, place = _described(spec)
    folder, name = place
    if unknown := sorted(set(described) - FIELDS):
        near = get_close_matches(unknown[0], FIELDS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose among {', '.join(sorted(FIELDS))}"
        raise UserError(f"task {quoted(spec)}: {unknown[0]!r} is not known: {hint}")
    splits, kind = _examples(spec, described, folder)
    facts = {fact: str(described[fact]) for fact in FACTS if fact in described}
    return check_task(spec, name, splits, kind, described.get("classes"), facts)


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
        if equals:
            if not file:
                raise UserError(f"task {spec!r} names no file: write it like {name}=FILE")
            if not file.startswith("hf:") and not _exists(file):
                raise UserError(f"task {quoted(spec, 200)}: no such file; give one with text, label and split")
            return found | {"data": file}, (Path(), name)
        if "data" not in found:
            where = f" (see the data set {found['hub']} on the hub)" if "hub" in found else ""
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


def _exists(spec: str) -> bool:
    try:
        return Path(spec).expanduser().exists()
    except (OSError, ValueError, RuntimeError):
        return False


def _examples(
    spec: str, described: Mapping[str, Any], folder: Path
) -> tuple[dict[str, list[Example]], Literal["label", "labels"]]:
    """The examples of each split, and the kind of their labels."""
    own = {split: described[split] for split in (TRAIN, DEV, TEST) if split in described}
    if ("data" in described) == bool(own):
        raise UserError(f"task {quoted(spec, 200)}: give either data with a split column, or train and test")
    text = str(described.get("text", "text"))
    found: dict[str, list[Example]] = {TRAIN: [], DEV: [], TEST: []}
    kind = described.get("kind")
    column = next((described[name] for name in ("label", "labels") if name in described), None)
    places: list[tuple[str | None, Any]] = [*own.items()] or [(None, described["data"])]
    for given, place in places:
        for document in _rows(str(place), folder, text):
            facts = document.metadata
            if column is None:
                column = next((name for name in ("label", "labels") if name in facts), None)
            where = f"task {quoted(spec, 200)}, {document.id}"
            if column is None or column not in facts:
                held = ", ".join(map(repr, facts)) or "none but the text"
                lacking = f"no column {column!r}" if column else "no column 'label' or 'labels'"
                raise UserError(f"{where}: {lacking} among {held}: name the column, in a .toml file")
            value = facts[column]
            kind = kind or ("labels" if isinstance(value, list) else "label")
            if kind not in ("label", "labels"):
                raise UserError(f"{where}: kind {quoted(kind)} is not one of label, labels")
            labels = _labels(value, kind == "labels", column, where)
            if not document.text.strip():
                raise UserError(f"{where}: its text is empty: drop the row or fill it")
            split = given or _split(facts, str(described.get("split", "split")), where)
            found[split].append(Example(document.id, document.text, labels))
    return found, "labels" if kind == "labels" else "label"


def _rows(place: str, folder: Path, text: str) -> Iterable[Document]:
    if not place.startswith("hf:"):
        place = str(folder / Path(place).expanduser())
        return open_corpus(Path(place), reading=Reading(column=text)).documents
    return open_corpus(place, WHOLE_SPLIT, 0, Reading(column=text)).documents


def _labels(value: Any, several: bool, column: str, where: str) -> tuple[str, ...]:
    if several != isinstance(value, list):
        wanted = "a list of classes" if several else "one class"
        raise UserError(f"{where}: {column} {quoted(value)} is not {wanted}")
    labels = tuple("" if one is None else str(one) for one in (value if several else [value]))
    if not all(one.strip() for one in labels):
        raise UserError(f"{where}: {column} {quoted(value)} has an empty class: name it or drop the row")
    if len(set(labels)) < len(labels):
        raise UserError(f"{where}: {column} {quoted(value)} names a class twice: name each once")
    return labels


def _split(facts: Mapping[str, Any], column: str, where: str) -> str:
    if column not in facts:
        raise UserError(f"{where}: no column {column!r}, which says train, dev or test: add it, or give files a split")
    if facts[column] not in SPLITS:
        raise UserError(f"{where}: {column} {quoted(facts[column])} is not one of train, dev, test")
    return SPLITS[facts[column]]


def check_task(
    spec: str,
    name: str,
    splits: Mapping[str, Sequence[Example]],
    kind: Kind,
    classes: Sequence[Any] | None = None,
    facts: Mapping[str, str] | None = None,
) -> Task:
    """A task of examples that fit.

    Args:
        classes: all that there are; by default those that occur.

    Raises:
        UserError: too few examples, fewer than two classes, a class without an example or missing in train.
    """
    called = f"task {quoted(spec, 200)}"
    for split in (TRAIN, TEST):
        if (size := len(splits[split])) < LEAST_EXAMPLES:
            raise UserError(f"{called}: {split} has {counted(size, 'example')}, at least {LEAST_EXAMPLES} are needed")
    named = types_of if kind == "tags" else tuple
    counts = {split: Counter(label for one in rows for label in named(one.labels)) for split, rows in splits.items()}
    occurring = sorted(set().union(*counts.values()))
    chosen = occurring if classes is None else [str(one) for one in classes]
    if foreign := sorted(set(occurring) - set(chosen)):
        raise UserError(f"{called}: the class {quoted(foreign[0])} is not among its classes: add it to the list")
    if empty := [one for one in chosen if one not in occurring]:
        raise UserError(f"{called}: the class {quoted(empty[0])} is empty, no example has it: leave it out")
    if lost := [one for one in chosen if not counts[TRAIN][one]]:
        raise UserError(f"{called}: the class {quoted(lost[0])} is missing in train: add examples, or drop the class")
    often = [one for one in chosen if counts[TRAIN][one] > 1]
    if len(often) < (2 if kind == "label" else 1):
        raise UserError(f"{called}: fewer than two classes have two examples in train: too few to fit a probe")
    notes = []
    seen = {one.text for one in splits[TRAIN]}
    if shared := sum(one.text in seen for one in splits[TEST]):
        are = "is" if shared == 1 else "are"
        notes.append(f"{shared:,} of {len(splits[TEST]):,} texts in test {are} in train too: all were kept.")
    if facts and "note" in facts:
        notes.append(facts["note"])
    digest = sha256()
    for split in (TRAIN, DEV, TEST):
        for one in splits[split]:
            digest.update(repr((split, one.words or one.text, one.labels)).encode("utf-8", "surrogatepass"))
    parts = {split: tuple(splits[split]) for split in (TRAIN, DEV, TEST)}
    return Task(
        spec, name, kind, tuple(chosen), **parts, facts=dict(facts or {}), fingerprint=digest.hexdigest(),
        notes=tuple(notes),
    )  # fmt: skip
