"""`pubmed`: a seeded draw from `MedRAG/pubmed` (23.9 million abstracts in about 1,100 jsonl parts), never all
of it.

First the parts are drawn, then lines within them: a line is the first whole one behind a seeded byte offset,
fetched by a range request of `WINDOW_BYTES`. So a draw of 500 moves about 20 MB and touches up to 500 parts
of PubMed's history. A line's chance to be taken is proportional to the length of the line before it, not to
its own.
"""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from cka_tools.documents.corpus import Corpus
from cka_tools.documents.document import Document
from cka_tools.documents.hub import HubDataset, guarded, look_up, row_id, seeded
from cka_tools.errors import UserError

DATASET = "MedRAG/pubmed"
TEXT = "contents"  # title and abstract
ABSTRACT = "content"
WINDOW_BYTES = 32 * 1024  # a line holds title and abstract twice: 3 kB on average
CONNECTIONS = 8
ATTEMPTS_PER_LINE = 4

ReadRange = Callable[[int, int], bytes]
"""(first byte, byte after the last) -> those bytes."""


def open_pubmed(candidates: int | None, seed: int) -> Corpus:
    """Open `pubmed`: a seeded part large enough for a draw of `candidates`, or all of it, in order, for None.

    Raises:
        UserError: the hub cannot be reached or does not give the dataset (also while reading).
    """
    if candidates is None:
        from cka_tools.documents.hub_datasets import open_hub_dataset

        return open_hub_dataset(f"hf:{DATASET}:::{TEXT}", None, seed, name="pubmed")
    dataset = look_up(DATASET, "pubmed", sizes=True)
    parts = sorted(name for name, size in dataset.files.items() if name.endswith(".jsonl") and size > 0)
    if not parts:
        raise UserError(f"pubmed: no jsonl parts in {DATASET} at {dataset.revision}; use the path of a file")
    opened = Corpus("pubmed")
    opened.documents = guarded(_draw_lines(dataset, parts, candidates, seed, opened), opened, DATASET)
    return opened


def _draw_lines(
    dataset: HubDataset, parts: list[str], candidates: int, seed: int, opened: Corpus
) -> Iterator[Document]:
    wanted = candidates + candidates // 10 + 16  # some are empty or duplicates
    generator = seeded("pubmed", seed)
    drawn_parts = generator.sample(parts, min(len(parts), wanted))
    population = f"up to {wanted:,} seeded lines of {len(drawn_parts):,} seeded parts of {len(parts):,}"
    opened.notes.append(f"pubmed was not read whole: the draw is from {population}")
    opened.source.update(
        kind="hub",
        repository=DATASET,
        revision=dataset.revision,
        column=TEXT,
        parts_total=len(parts),
        parts=sorted(drawn_parts),
        population=population,
    )
    offsets = [
        (part, generator.randrange(dataset.files[part]))
        for part in (drawn_parts[turn % len(drawn_parts)] for turn in range(wanted * ATTEMPTS_PER_LINE))
    ]
    taken: set[tuple[str, int]] = set()
    pool = ThreadPoolExecutor(CONNECTIONS)
    try:
        # In rounds, and in the order of the offsets: the draw does not depend on which answer is first.
        for begin in range(0, len(offsets), wanted):
            batch = offsets[begin : begin + wanted]
            found = pool.map(lambda at: _fetch_line(dataset, *at), batch)
            for (part, _), (start, line) in zip(batch, found, strict=True):
                if (part, start) not in taken:
                    taken.add((part, start))
                    yield _as_document(line, f"{part}:byte:{start}")
                if len(taken) == wanted:
                    return
    finally:
        pool.shutdown(cancel_futures=True)  # after an error, or Ctrl-C, no further request


def _as_document(line: bytes, where: str) -> Document:
    try:
        row = json.loads(line)
        text = row[TEXT] if row.get(ABSTRACT, row[TEXT]).strip() else ""
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"pubmed: {where} of {DATASET} is no row with {TEXT!r}; use the path of a file"
        ) from error
    return Document(row_id(row, "PMID", row_id(row, "id", where)), text)


def _fetch_line(dataset: HubDataset, part: str, offset: int) -> tuple[int, bytes]:
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_backoff

    url = hf_hub_url(dataset.id, part, repo_type="dataset", revision=dataset.revision)

    def read(begin: int, end: int) -> bytes:
        # Uncompressed: the range is one of the file's own bytes.
        headers = {**build_hf_headers(), "Range": f"bytes={begin}-{end - 1}", "Accept-Encoding": "identity"}
        response = http_backoff("GET", url, headers=headers, timeout=10, max_retries=2)
        hf_raise_for_status(response)
        content: bytes = response.content
        if response.status_code == 206:
            return content
        return content[begin:end]  # a server that ignores ranges sends the file

    return line_behind(read, dataset.files[part], offset)


def line_behind(read: ReadRange, size: int, offset: int) -> tuple[int, bytes]:
    """Return (its first byte, the line) of the first whole line that starts behind an offset.

    Behind the start of the last line comes the first line of the file, so every line has a line before it.

    Args:
        read: reads a range of the file's bytes.
        size: of the file, in bytes.
        offset: 0 <= offset < size.
    """
    begin, held = offset, b""
    whole_line = False  # `held` starts with a line's first byte
    while True:
        end = min(size, begin + len(held) + WINDOW_BYTES)
        held += read(begin + len(held), end)
        if not whole_line:
            cut = held.find(b"\n") + 1
            if cut:
                begin, held, whole_line = begin + cut, held[cut:], True
            elif end < size:
                begin, held = end, b""
                continue
        if whole_line and held.strip():
            stop = held.find(b"\n")
            if stop >= 0 and held[:stop].strip():
                return begin, held[:stop]
            if stop >= 0:  # a blank line
                begin, held = begin + stop + 1, held[stop + 1 :]
                continue
            if end >= size:
                return begin, held
            continue
        if end >= size:
            if begin == 0 and whole_line:
                return 0, b""
            begin, held, whole_line = 0, b"", True
