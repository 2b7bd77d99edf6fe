"""A needle in a haystack: a fact in a long document, and a query that states the same fact or another one.

Touchent and de la Clergerie (2026) ask it of French clinical documents; this is the same task in English, made
from a seed. Facts, queries, labels, places and the order of the haystack's documents are functions of the seed
alone; the tokenizer decides only after which word a haystack ends.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from typing import Any

import numpy as np

from cka_tools.bundled import bundled_data
from cka_tools.documents import Document
from cka_tools.errors import UserError
from cka_tools.formatting import quoted
from cka_tools.tasks.task import DEV, TEST, TRAIN

POSITIONS = ("start", "middle", "end")
"""Thirds of the haystack, by its words."""

SPLITS = (TRAIN, DEV, TEST)

SPARE = 0.25
"""Of a length: words kept beyond what they should take, as text has fewer tokens than its words one by one."""

ROUNDS = 16
"""Of fitting a haystack to its length, at most: two or three are enough for real tokenizers."""


@dataclass(frozen=True)
class Template:
    """A kind of fact: a sentence with slots, and what may stand in each."""

    name: str
    text: str
    slots: Mapping[str, tuple[str, ...]]

    def facts(self, rng: np.random.Generator) -> tuple[dict[str, str], dict[str, str]]:
        """Values of all slots, and other values of all slots."""
        drawn = {name: rng.choice(len(values), 2, replace=False) for name, values in self.slots.items()}
        first, other = ({name: self.slots[name][two[at]] for name, two in drawn.items()} for at in (0, 1))
        return first, other


@cache
def templates() -> dict[str, Template]:
    """All templates by name."""
    described = tomllib.loads((bundled_data() / "tasks" / "needle.toml").read_text(encoding="utf-8"))
    return {
        name: Template(name, one["text"], {slot: _values(of) for slot, of in one.items() if slot != "text"})
        for name, one in described.items()
    }


def _values(of: Any) -> tuple[str, ...]:
    if isinstance(of, list):
        return tuple(of)
    steps = round((of["high"] - of["low"]) / of["step"]) + 1
    digits = 0 if isinstance(of["step"], int) else 1
    return tuple(f"{of['low'] + at * of['step']:.{digits}f} {of['unit']}" for at in range(steps))


@dataclass(frozen=True)
class Example:
    """A haystack with a fact in it, and a query.

    Attributes:
        split: train, dev or test. length: tokens of the pair, at most. position: the third that the fact is in.
        label: whether the query states the fact; where not, all its values are others of the same slots.
        document: the haystack's words with the fact among them. values: of the fact. asked: of the query.
        place: words of the haystack before the fact, as a share of all.
    """

    split: str
    length: int
    position: str
    template: str
    label: bool
    fact: str
    query: str
    document: str
    values: tuple[str, ...]
    asked: tuple[str, ...]
    place: float


@dataclass(frozen=True)
class Asked:
    """What examples are to be made; every split has equally many of each length, position and label.

    Raises:
        UserError: a value that does not fit, quoted.
    """

    lengths: tuple[int, ...]
    positions: tuple[str, ...]
    templates: tuple[str, ...]
    sizes: Mapping[str, int]

    def __post_init__(self) -> None:
        for what, given, known in (
            ("position", self.positions, POSITIONS), ("template", self.templates, tuple(templates())),
        ):  # fmt: skip
            for name in given:
                if name not in known:
                    near = get_close_matches(str(name).lower(), known, n=1)
                    hint = f"did you mean {near[0]!r}?" if near else f"choose among {', '.join(known)}"
                    raise UserError(f"{what} {quoted(name)} is not known: {hint}")
        for length in self.lengths:
            if isinstance(length, bool) or not isinstance(length, int) or length < 1:
                raise UserError(f"length {quoted(length)} is not a number of tokens: give whole numbers such as 512")
        for what, items in (("length", self.lengths), ("position", self.positions), ("template", self.templates)):
            if not items:
                raise UserError(f"{what}s: the list is empty; name at least one, or leave it out")
            if len(set(items)) < len(items):
                raise UserError(f"{what}s {', '.join(map(str, items))}: one is named twice; name each once")

    @property
    def cells(self) -> int:
        """Combinations of length, position and label."""
        return 2 * len(self.lengths) * len(self.positions)

    def number(self, split: str) -> int:
        """Examples of a split: what was asked for, up to the next multiple of `cells`."""
        return -(-self.sizes[split] // self.cells) * self.cells


class Haystacks:
    """Documents of a corpus as words, and how many tokens each word has.

    Args:
        tokenizer: of the model that lengths are measured for.
    """

    def __init__(self, documents: Sequence[Document], tokenizer: Any, corpus: str) -> None:
        self.texts = [" ".join(one.text.split()) for one in documents]
        self.tokenizer, self.corpus = tokenizer, corpus
        self._pieces: dict[int, np.ndarray] = {}

    def pieces(self, at: int) -> np.ndarray:
        """Tokens of each word of a document, (words,)."""
        if at not in self._pieces:
            words = [f" {word}" for word in self.texts[at].split(" ")]
            encoded = self.tokenizer(words, add_special_tokens=False)["input_ids"]
            self._pieces[at] = np.array([len(one) for one in encoded], dtype=np.int64)
        return self._pieces[at]

    def count(self, query: str, text: str) -> int:
        """Tokens of a pair, special ones too."""
        return len(self.tokenizer(query, text, verbose=False)["input_ids"])


def make_examples(haystacks: Haystacks, asked: Asked, seed: int) -> list[Example]:
    """Examples of all splits, which share no document of the corpus.

    An example is a function of the seed, its split and its number: more examples leave the earlier ones as
    they are, unless a split's share of the corpus changes.

    Raises:
        UserError: a length that leaves less haystack than the fact is long, or a corpus too small for one.
    """
    order = np.random.default_rng([seed, len(SPLITS)]).permutation(len(haystacks.texts))
    sizes = np.array([asked.number(split) for split in SPLITS], dtype=np.float64)
    ends = np.round(np.cumsum(sizes) / sizes.sum() * len(order)).astype(int)
    pools = np.split(order, ends[:-1])
    found = []
    for number, (split, pool) in enumerate(zip(SPLITS, pools, strict=True)):
        seen: set[str] = set()
        for at in range(asked.number(split)):
            for again in range(100):
                one = _example(haystacks, asked, split, pool, at, np.random.default_rng([seed, number, at, again]))
                if one.document not in seen:
                    break
            else:
                raise UserError(f"{_small(haystacks, split, pool)} too few for {asked.number(split):,} that differ")
            seen.add(one.document)
            found.append(one)
    return found


def _small(haystacks: Haystacks, split: str, pool: np.ndarray) -> str:
    return f"corpus {quoted(haystacks.corpus, 200)}: of its documents {len(pool):,} are for {split},"


def _example(
    haystacks: Haystacks, asked: Asked, split: str, pool: np.ndarray, at: int, rng: np.random.Generator
) -> Example:
    lengths, positions, names = asked.lengths, asked.positions, asked.templates
    length = lengths[at % len(lengths)]
    position = positions[at // len(lengths) % len(positions)]
    label = at // (len(lengths) * len(positions)) % 2 == 0
    template = templates()[names[at // asked.cells % len(names)]]
    own, others = template.facts(rng)
    said = own if label else others
    fact, query = template.text.format(**own), template.text.format(**said)
    third, share = POSITIONS.index(position), float(rng.random())
    budget = length - haystacks.count(query, fact)
    if budget < (least := len(haystacks.tokenizer(fact, add_special_tokens=False)["input_ids"])):
        needed = length - budget + least
        raise UserError(
            f"length {length} leaves no haystack beside a query and a fact: of the template {template.name!r} that "
            f"takes {needed} tokens or more"
        )
    banned = _standing_alone({*own.values(), *others.values()})
    words, ends = [], np.zeros(0, dtype=np.int64)
    for row in rng.permutation(pool).tolist():
        if banned.search(haystacks.texts[row]):
            continue
        own_words = haystacks.texts[row].split(" ")
        words += [f"{word} " for word in own_words[:-1]] + [f"{own_words[-1]}\n\n"]
        ends = np.concatenate([ends, (ends[-1] if len(ends) else 0) + np.cumsum(haystacks.pieces(row))])
        if ends[-1] > budget + SPARE * length:
            break
    if not len(ends) or ends[-1] < budget:
        raise UserError(
            f"{_small(haystacks, split, pool)} too few for {length} tokens without the fact's own values: give a "
            "larger corpus, more documents, or shorter lengths"
        )

    def written(cut: int) -> tuple[int, str]:
        """With the first words of the haystack: before which of them the fact is, and the document."""
        place = _place(words[:cut], third, share)
        return place, f"{''.join(words[:place])}{fact} {''.join(words[place:cut])}".strip()

    cut = _fitted(ends, budget, lambda cut: length - haystacks.count(query, written(cut)[1]))
    place, document = written(cut)
    if haystacks.count(query, document) > length:
        raise UserError(
            f"corpus {quoted(haystacks.corpus, 200)}: no word of a text fits into {length} tokens beside a query and a "
            "fact: give longer lengths, or a corpus with spaces between words"
        )
    values, said_values = tuple(own.values()), tuple(said.values())
    return Example(
        split, length, position, template.name, label, fact, query, document, values, said_values, place / cut
    )


def _standing_alone(values: Iterable[str]) -> re.Pattern[str]:
    """What finds any of some values, not as a part of a longer word or number."""
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, sorted(values)))})(?!\w)", re.IGNORECASE)


def _place(words: Sequence[str], third: int, share: float) -> int:
    """A place in a third of the words, at the end of a sentence where it has one: how many words are before it."""
    n = len(words)
    low, high = -(-third * n // 3), (third + 1) * n // 3
    inside = [at for at in range(low, high + 1) if at in (0, n) or words[at - 1].rstrip()[-1:] in (".", "!", "?")]
    choices = inside or list(range(low, high + 1)) or [third * n // 3]
    return choices[int(share * len(choices))]


def _fitted(ends: np.ndarray, budget: int, left: Callable[[int], int]) -> int:
    """The most words that leave no token too many, at least one.

    Args:
        ends: tokens of each word and all before it, as they are counted word by word: nearly what a text has.
        budget: tokens that words may have.
        left: how many tokens are left with so many words; negative where they are too many.
    """
    cut, shrunk = max(1, int(np.searchsorted(ends, budget, "right"))), False
    for _ in range(ROUNDS):
        spare = left(cut)
        wanted = max(1, int(np.searchsorted(ends, ends[cut - 1] + spare, "right")))
        if spare < 0:
            cut, shrunk = max(1, min(wanted, cut - 1)), True
        elif wanted > cut and not shrunk:
            cut = wanted
        else:
            return cut
    while cut > 1 and left(cut) < 0:
        cut -= 1
    return cut
