"""Write the task `sections`: sentences of the corpus `sample`'s grammar, each with the section that it is from.

    python data/make_task.py [--out data/tasks/sections.jsonl.gz]

Standard library only; the same bytes every time (the tests compare them with the file that ships).
"""

import argparse
import gzip
import io
import json
import random
from pathlib import Path

from make_sample import HERE, Abstract, load_grammar

SIZES = {"train": 480, "dev": 120, "test": 240}
SECTIONS = ("background", "methods", "results", "conclusion")
SEED = 20261


def task_bytes() -> bytes:
    """The JSON lines, uncompressed: no text twice, and every section equally often in each split."""
    grammar, seen, rows = load_grammar(), set[str](), []
    for split, size in SIZES.items():
        for number in range(size):
            label = SECTIONS[number % len(SECTIONS)]
            for attempt in range(100):
                generator = random.Random(f"sections {SEED} {split} {number} {attempt}")
                kind = generator.choice(grammar["kind"])
                text = Abstract(grammar, generator).sentence(kind[label])
                if text is not None and text not in seen:
                    break
            else:
                raise RuntimeError(f"no new sentence for {split} {number}: choose another seed")
            seen.add(text)
            rows.append({"id": f"{split}-{number:03d}", "split": split, "text": text, "label": label})
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description="Write the synthetic task `sections`.")
    parser.add_argument("--out", type=Path, default=HERE / "tasks" / "sections.jsonl.gz")
    out: Path = parser.parse_args().out
    packed = io.BytesIO()
    with gzip.GzipFile(filename="", fileobj=packed, mode="wb", compresslevel=9, mtime=0) as file:
        file.write(task_bytes())
    out.write_bytes(packed.getvalue())
    print(f"{out}: {sum(SIZES.values())} sentences, {len(packed.getvalue()):,} bytes")


if __name__ == "__main__":
    main()
