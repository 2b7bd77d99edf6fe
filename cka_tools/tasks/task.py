"""Labelled texts in splits, and what they must hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Literal

from cka_tools.errors import UserError
from cka_tools.formatting import counted, quoted
from cka_tools.tasks.tags import types_of

TRAIN, DEV, TEST = "train", "dev", "test"

LEAST_EXAMPLES = 10
"""Of train and of test: with fewer there is nothing to fit or to score."""

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


def check_task(
    spec: str,
    name: str,
    splits: Mapping[str, Sequence[Example]],
    kind: Kind,
    classes: Sequence[Any] | None = None,
    facts: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
) -> Task:
    """A task of examples that fit.

    Args:
        classes: all that there are; by default those that occur. notes: on how they were read.

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
        few = "no type has two entities" if kind == "tags" else "fewer than two classes have two examples"
        raise UserError(f"{called}: {few} in train: too few to fit a probe")
    if kind == "tags" and not counts[TEST]:
        raise UserError(f"{called}: test has no entity: there is nothing to find")
    notes = list(notes)
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
