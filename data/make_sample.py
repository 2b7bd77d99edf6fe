"""Write the corpus `sample`: synthetic abstracts, expanded from `sample_grammar.toml` with a fixed seed.

    python data/make_sample.py [--out data/sample.jsonl.gz]

Standard library only; the same bytes every time (the tests compare them with the file that ships).
"""

import argparse
import gzip
import io
import json
import random
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
DOCUMENTS = 2400
SEED = 20260
LEAST_WORDS, MOST_WORDS = 80, 400

SECTIONS = ("background", "aim", "methods", "results", "conclusion")
LABELS = (
    ("BACKGROUND", "OBJECTIVE", "METHODS", "RESULTS", "CONCLUSION"),
    ("INTRODUCTION", "AIM", "MATERIALS AND METHODS", "RESULTS", "CONCLUSIONS"),
    ("BACKGROUND", "PURPOSE", "METHODS", "FINDINGS", "INTERPRETATION"),
    ("CONTEXT", "OBJECTIVE", "DESIGN", "MAIN RESULTS", "IMPLICATIONS"),
)
MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
          "November", "December")  # fmt: skip

Grammar = dict[str, Any]


def load_grammar() -> Grammar:
    """Read the grammar; a word list is one string, its words between bars."""
    grammar = tomllib.loads((HERE / "sample_grammar.toml").read_text(encoding="utf-8"))
    grammar["words"] = {name: words.split("|") for name, words in grammar["words"].items()}
    return grammar


class Abstract:
    """One document being written: its words stay the same from the first sentence to the last."""

    def __init__(self, grammar: Grammar, generator: random.Random) -> None:
        self.words: dict[str, list[str]] = grammar["words"]
        self.generator = generator
        self.bound: dict[str, str] = {}
        self.used: set[str] = set()
        first = generator.randint(1994, 2019)
        self.bound["year"], self.bound["year2"] = str(first), str(first + generator.randint(1, 6))

    def sentence(self, patterns: list[str]) -> str | None:
        """Expand a pattern that this document has not used yet; None if there is none left."""
        fresh = [pattern for pattern in patterns if pattern not in self.used]
        if not fresh:
            return None
        pattern = self.generator.choice(fresh)
        self.used.add(pattern)
        return self.expand(pattern)

    def expand(self, pattern: str) -> str:
        """Fill in choices, slots and articles, and begin with a capital."""
        while match := re.search(r"\[([^\[\]]*)\]", pattern):
            choice = self.generator.choice(match[1].split("|"))
            pattern = pattern[: match.start()] + choice + pattern[match.end() :]
        text = re.sub(r"\{([^{}]*)\}", lambda match: self.fill(match[1]), pattern)
        text = re.sub(r"\b([aA])\(n\) (?=(8|11\b|18\b|[aeiouAEIO])?)", _article, text)
        return text[0].upper() + text[1:]

    def fill(self, slot: str) -> str:
        """The text for one slot."""
        if slot.startswith("~"):
            return self.generator.choice(self.words[slot[1:]])
        if slot in NUMBERS:
            return NUMBERS[slot](self.generator)
        if ":" in slot:
            kind, low, high = re.split("[:-]", slot)
            if kind == "number":
                value = self.generator.randint(int(low), int(high))
                return f"{value:,}" if value > 9999 else str(value)
            digits = len(low.partition(".")[2])
            return f"{self.generator.uniform(float(low), float(high)):.{digits}f}"
        if slot not in self.bound:
            taken = set(self.bound.values())
            words = [word for word in self.words[slot.rstrip("2")] if word not in taken]
            self.bound[slot] = self.generator.choice(words)
        return self.bound[slot]


def _article(match: re.Match[str]) -> str:
    return f"{match[1]}n " if match[2] else f"{match[1]} "


def _interval(generator: random.Random, low: float, high: float, digits: int, unit: str = "") -> str:
    middle = generator.uniform(low, high)
    half = generator.uniform(0.08, 0.45) * (abs(middle) + 0.05)
    return f"{middle:.{digits}f}{unit} (95% CI {middle - half:.{digits}f} to {middle + half:.{digits}f})"


NUMBERS: dict[str, Callable[[random.Random], str]] = {
    "pct": lambda generator: f"{generator.uniform(1, 98):.{generator.randint(0, 1)}f}%",
    "p": lambda generator: generator.choice(
        ["p < 0.001", f"p = {generator.uniform(0.001, 0.05):.3f}", f"p = {generator.uniform(0.05, 0.95):.2f}"]
    ),
    "hr": lambda generator: _interval(generator, 0.35, 2.8, 2).replace(" to ", "-"),
    "hr_high": lambda generator: _interval(generator, 3, 19, 1).replace(" to ", "-"),
    "auc": lambda generator: f"0.{generator.randint(58, 97)}",
    "ci_diff": lambda generator: "difference " + _interval(generator, -6, 9, 1),
    "ci_pct": lambda generator: (lambda low: f"{low:.1f}-{low + generator.uniform(1, 12):.1f}%")(
        generator.uniform(2, 70)
    ),
    "month": lambda generator: generator.choice(MONTHS),
}  # fmt: skip


def write_abstract(grammar: Grammar, generator: random.Random) -> str:
    """Write one abstract of `LEAST_WORDS` to `MOST_WORDS` words: a kind of study, its sections, a style."""
    kind = generator.choice(grammar["kind"])
    shared = grammar["shared"]
    abstract = Abstract(grammar, generator)
    target = generator.triangular(LEAST_WORDS + 5, MOST_WORDS - 45, 190)
    title = abstract.expand(generator.choice(kind["about"]))
    sections: dict[str, list[str]] = {name: [] for name in SECTIONS}
    for name in SECTIONS:  # every abstract has all of them
        if sentence := abstract.sentence(kind[name]):
            sections[name].append(sentence)
    pools = {
        "background": (kind["background"], 1.0),
        "methods": (kind["methods"], 2.5),
        "results": (kind["results"], 3.5),
        "conclusion": (kind["conclusion"], 0.6),
        "statistics": (shared["statistics"], 0.7),
        "discussion": (shared["discussion"], 0.6),
        "extra": (shared["extra"], 1.2),
    }
    into = {"statistics": "methods", "discussion": "conclusion", "extra": "results"}
    while sum(len(sentence.split()) for lines in sections.values() for sentence in lines) < target:
        name = generator.choices(list(pools), [weight for _, weight in pools.values()])[0]
        if sentence := abstract.sentence(pools[name][0]):
            sections[into.get(name, name)].append(sentence)
        else:
            del pools[name]
    style = generator.random()
    if style < 0.4:
        labels = generator.choice(LABELS)
        text = " ".join(f"{label}: {' '.join(sections[name])}" for label, name in zip(labels, SECTIONS, strict=True))
    else:
        if style > 0.85:  # the conclusion first
            sections = {"conclusion": sections.pop("conclusion"), **sections}
        text = " ".join(" ".join(lines) for lines in sections.values())
    return f"{title}. {text}" if generator.random() < 0.5 else text


def sample_rows() -> Iterator[dict[str, Any]]:
    """Yield the rows of the corpus; the first ones are the same for any `DOCUMENTS`."""
    grammar = load_grammar()
    seen: set[str] = set()
    while len(seen) < DOCUMENTS:
        # A generator for each document: `random.Random` of a string is the same on every platform.
        text = write_abstract(grammar, random.Random(f"sample {SEED} {len(seen)}"))
        if text in seen or not LEAST_WORDS <= len(text.split()) <= MOST_WORDS:
            raise RuntimeError(f"document {len(seen) + 1} is a duplicate or out of length: choose another seed")
        seen.add(text)
        yield {"id": f"sample-{len(seen):04d}", "text": text, "synthetic": True}


def sample_bytes() -> bytes:
    """The JSON lines, uncompressed."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in sample_rows()).encode()


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description="Write the synthetic corpus `sample`.")
    parser.add_argument("--out", type=Path, default=HERE / "sample.jsonl.gz")
    out: Path = parser.parse_args().out
    packed = io.BytesIO()
    with gzip.GzipFile(filename="", fileobj=packed, mode="wb", compresslevel=9, mtime=0) as file:
        file.write(sample_bytes())
    out.write_bytes(packed.getvalue())
    print(f"{out}: {DOCUMENTS} documents, {len(packed.getvalue()):,} bytes")


if __name__ == "__main__":
    main()
