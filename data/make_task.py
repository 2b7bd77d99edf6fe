"""Write the tasks `sections` and `entities`: sentences of the corpus `sample`'s grammar, with their labels.

    python data/make_task.py [--out data/tasks]

Standard library only; the same bytes every time (the tests compare them with the files that ship).
"""

import argparse
import gzip
import io
import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from make_sample import HERE, Abstract, load_grammar

SECTIONS = ("background", "methods", "results", "conclusion")
SEED = 20261

TYPES = {"disease": "Disease", "drug": "Drug", "antimicrobial": "Drug", "gene": "Gene"}
"""Slots of the grammar whose words are entities."""

BEGIN, END = "\ue000", "\ue001"


class Marked(Abstract):
    """An abstract whose entities are marked: BEGIN and the slot behind their first letter, END at their end.

    Behind the first letter, which articles and capitals go by.
    """

    def fill(self, slot: str) -> str:
        """The text for one slot, marked if it is an entity."""
        text, name = super().fill(slot), slot.strip("~2")
        article = re.match(r"(an? )?", text)
        assert article is not None
        at = article.end() + 1
        return f"{text[:at]}{BEGIN}{name}{BEGIN}{text[at:]}{END}" if name in TYPES else text


def new_sentences(name: str, sizes: dict[str, int], write: Callable[[random.Random, int], str | None]) -> list[Any]:
    """(split, its number, sentence) of a task; no sentence twice."""
    seen, found = set[str](), []
    for split, size in sizes.items():
        for number in range(size):
            for attempt in range(100):
                text = write(random.Random(f"{name} {SEED} {split} {number} {attempt}"), number)
                if text is not None and text not in seen:
                    break
            else:
                raise RuntimeError(f"no new sentence for {split} {number}: choose another seed")
            seen.add(text)
            found.append((split, number, text))
    return found


def section_rows() -> list[dict[str, Any]]:
    """Every section equally often in each split."""
    grammar = load_grammar()

    def write(generator: random.Random, number: int) -> str | None:
        kind = generator.choice(grammar["kind"])
        return Abstract(grammar, generator).sentence(kind[SECTIONS[number % len(SECTIONS)]])

    found = new_sentences("sections", {"train": 480, "dev": 120, "test": 240}, write)
    return [
        {"id": f"{split}-{number:03d}", "split": split, "text": text, "label": SECTIONS[number % len(SECTIONS)]}
        for split, number, text in found
    ]


def entity_rows() -> list[dict[str, Any]]:
    """Words and BIO tags of diseases, drugs and genes; every third sentence may have none."""
    grammar = load_grammar()

    def write(generator: random.Random, number: int) -> str | None:
        kind = generator.choice(grammar["kind"])
        text = Marked(grammar, generator).sentence(kind[generator.choice(SECTIONS)])
        return text if text is not None and (BEGIN in text or number % 3 == 0) else None

    rows = []
    for split, number, text in new_sentences("entities", {"train": 360, "dev": 60, "test": 180}, write):
        words, tags = tagged(text)
        rows.append({"id": f"{split}-{number:03d}", "split": split, "tokens": words, "tags": tags})
    return rows


def tagged(text: str) -> tuple[list[str], list[str]]:
    """The words of a marked sentence, and their BIO tags."""
    words: list[str] = []
    tags: list[str] = []
    entity = rf"\w{BEGIN}(\w+){BEGIN}[^{END}]*{END}"
    for part in re.finditer(rf"{entity}|[^{BEGIN}{END}\w]|\w+(?!{BEGIN})\b|\w", text):
        plain = re.sub(rf"{BEGIN}\w+{BEGIN}|{END}", "", part[0])
        found = re.findall(r"\w+|[^\w\s]", plain)
        kind = TYPES[part[1]] if part[1] else None
        words += found
        tags += [f"{'I' if at else 'B'}-{kind}" if kind else "O" for at in range(len(found))]
    return words, tags


TASKS: dict[str, Callable[[], list[dict[str, Any]]]] = {"sections": section_rows, "entities": entity_rows}


def task_bytes(name: str) -> bytes:
    """The JSON lines of a task, uncompressed."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in TASKS[name]()).encode()


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(description="Write the synthetic tasks.")
    parser.add_argument("--out", type=Path, default=HERE / "tasks")
    folder: Path = parser.parse_args().out
    for name in TASKS:
        packed = io.BytesIO()
        with gzip.GzipFile(filename="", fileobj=packed, mode="wb", compresslevel=9, mtime=0) as file:
            file.write(task_bytes(name))
        out = folder / f"{name}.jsonl.gz"
        out.write_bytes(packed.getvalue())
        print(f"{out}: {len(TASKS[name]())} sentences, {len(packed.getvalue()):,} bytes")


if __name__ == "__main__":
    main()
