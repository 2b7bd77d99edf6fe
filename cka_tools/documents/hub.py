"""The dataset hub: one quick look before anything is read, and its errors in one line."""

import json
import logging
import math
import random
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from cka_tools.documents.document import Corpus, Document, metadata_of
from cka_tools.documents.text_files import class_names, id_column, plain_columns, row_document, row_id, text_columns
from cka_tools.errors import UserError, one_line
from cka_tools.settings import Reading

OFFLINE_CHOICES = "use `sample` or the path of a file, which need no hub"
FIRST_LOOK_SECONDS = 6.0
"""The first request is sent once and waits this long; the libraries' own calls try again for 23 s and
more."""

TRANSPORTS = {"httpx", "httpx2", "httpcore", "requests", "urllib3", "aiohttp"}
"""What carries the requests: it depends on the versions of `huggingface_hub` and `datasets`."""


def look_up(dataset_id: str, spec: str, sizes: bool = False) -> tuple[str, dict[str, int]]:
    """Ask the hub for a dataset's commit and the sizes of its files in bytes, 0 unless `sizes`.

    Raises:
        UserError: the hub cannot be reached, or does not give the dataset.
    """
    from huggingface_hub import HfApi

    with hub_errors(dataset_id, spec):
        info = HfApi().dataset_info(dataset_id, files_metadata=sizes, timeout=FIRST_LOOK_SECONDS)
    return info.sha or "main", {file.rfilename: file.size or 0 for file in info.siblings or []}


@contextmanager
def hub_errors(dataset_id: str, spec: str) -> Iterator[None]:
    """Turn what goes wrong between here and the hub into a `UserError`; leave our own bugs alone.

    The hub's library logs each failed attempt, from every connection; the one line says it once.
    """
    log = logging.getLogger("huggingface_hub.utils._http")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        message = _explain(error, dataset_id)
        if message is None:
            raise
        raise UserError(f"{spec}: {message}") from error
    finally:
        log.setLevel(level)


def _explain(error: Exception, dataset_id: str) -> str | None:
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    kinds = {base.__name__ for raised in chain for base in type(raised).__mro__}
    statuses = {getattr(getattr(raised, "response", None), "status_code", None) for raised in chain}

    if "OfflineModeIsEnabled" in kinds:
        return f"the hub is off (HF_HUB_OFFLINE is set); unset it, or {OFFLINE_CHOICES}"
    if "GatedRepoError" in kinds or "gated dataset" in str(error):
        return f"{dataset_id} is gated; accept the terms on its page, log in (HF_TOKEN), or use another"
    if kinds & {"RepositoryNotFoundError", "DatasetNotFoundError"} or 404 in statuses:
        return f"no dataset {dataset_id} on the hub (if it is private, set HF_TOKEN); {OFFLINE_CHOICES}"
    if statuses & {401, 403}:
        return f"the hub refuses access to {dataset_id}; log in (HF_TOKEN), or {OFFLINE_CHOICES}"
    if "HFValidationError" in kinds:
        return f"{dataset_id!r} is not a dataset id; write `org/name`"
    if found := sorted(status for status in statuses if status):
        return f"the hub answers with error {found[0]}; try again later, or {OFFLINE_CHOICES}"
    said = one_line(error, 200).rstrip(".")
    libraries = {type(raised).__module__.partition(".")[0] for raised in chain}
    if libraries & TRANSPORTS or kinds & {"ConnectionError", "TimeoutError", "gaierror"}:
        return f"the hub cannot be reached ({said}); check the network, or {OFFLINE_CHOICES}"
    # A bad config, data of no known kind, a script of its own: `load_dataset` has no common error for them.
    if libraries & {"datasets", "pyarrow"} or isinstance(error, ValueError | RuntimeError | OSError):
        return f"{dataset_id} cannot be loaded ({said}); use another, or {OFFLINE_CHOICES}"
    return None


def guarded(documents: Iterator[Document], opened: Corpus, dataset_id: str) -> Iterator[Document]:
    """Read on, with the hub's errors in one line also when they come in the middle."""
    with hub_errors(dataset_id, opened.name):
        yield from documents


BIOMED_ENRICHED = "almanach/Biomed-Enriched"
BIOMED_SPLITS = ("commercial", "noncommercial")
SHARDS = 8
LEAST_ROWS = 10_000
ROWS_PER_DOCUMENT = 20


def open_biomed_enriched(spec: str, candidates: int | None, seed: int) -> Corpus:
    """Open `biomed-enriched[:split]`, the split `commercial` unless said; its documents are paragraphs.

    Raises:
        UserError: no such split, or as `open_hub_dataset`.
    """
    split = spec.partition(":")[2] or BIOMED_SPLITS[0]
    if split not in BIOMED_SPLITS:
        raise UserError(f"{spec}: no split {split!r}; give biomed-enriched:{' or :'.join(BIOMED_SPLITS)}")
    return open_hub_dataset(f"hf:{BIOMED_ENRICHED}::{split}:text", candidates, seed, name=spec)


def open_hub_dataset(
    spec: str, candidates: int | None, seed: int, name: str | None = None, reading: Reading | None = None
) -> Corpus:
    """Open `hf:ID[:config[:split[:column]]]`; a part left empty is chosen: the only split or `train`, the
    text column, which `reading` may name too.

    Raises:
        UserError: the spec does not fit, the hub cannot be reached or does not give the dataset (also while
            reading).
    """
    name = name or spec
    fields = spec.split(":")[1:]
    dataset_id, config, split, column = (*fields, "", "", "", "")[:4]
    if not dataset_id or len(fields) > 4:
        raise UserError(f"{spec!r}: write hf:ID[:config[:split[:column]]], as in hf:org/name::test:text")
    asked = reading.column if reading else None
    if column and asked and column != asked:
        raise UserError(f"column {asked!r}: {spec!r} names the column {column!r}; leave one of them out")
    if Path(dataset_id).exists():  # `load_dataset` would take the folder
        raise UserError(f"{name}: {dataset_id!r} is also a path here; give it without hf:, or run elsewhere")
    revision, _ = look_up(dataset_id, name)
    opened = Corpus(name, source={"kind": "hub", "repository": dataset_id, "revision": revision})
    with hub_errors(dataset_id, name):
        stream = _load(dataset_id, config, split, opened)
    opened.documents = guarded(_read(stream, column or asked, candidates, seed, opened), opened, dataset_id)
    return opened


def _load(dataset_id: str, config: str, split: str, opened: Corpus) -> Any:
    import datasets

    revision = opened.source["revision"]
    splits = datasets.load_dataset(dataset_id, config or None, revision=revision, streaming=True)
    if not split:
        split = "train" if "train" in splits else next(iter(splits))
        if len(splits) > 1:
            opened.notes.append(f"{opened.name}: the draw is from {split!r} of {', '.join(splits)}")
    if split not in splits:
        raise UserError(f"{opened.name}: no split {split!r}; it has {', '.join(splits)}")
    opened.source.update(config=config or None, split=split)
    return splits[split]


def _read(stream: Any, asked: str | None, candidates: int | None, seed: int, opened: Corpus) -> Iterator[Document]:
    names = stream.column_names or list(next(iter(stream), {}))
    columns, id_name = text_columns(names, opened.name, asked), id_column(names)
    opened.source["column"] = " + ".join(columns)
    if stream.features:
        opened.classes |= class_names(stream.features.to_dict())
    # Metadata is for a draw: where all is read, as for training, further columns are not fetched.
    others = plain_columns(stream.features.arrow_schema) if stream.features and candidates is not None else []
    if candidates is None or stream.features:
        stream = stream.select_columns([name for name in names if name in (*columns, id_name, *others)])
    files = list(range(stream.num_shards))
    rows_left = rows_per_file = math.inf
    if candidates is not None:
        random.Random(f"{opened.source['repository']} {seed}").shuffle(files)
        rows_left = max(LEAST_ROWS, ROWS_PER_DOCUMENT * candidates)
        rows_per_file = -(-rows_left // min(SHARDS, len(files)))
    opened_files: list[int] = []
    whole = True
    for index in files:
        if rows_left == 0:
            whole = False
            break
        opened_files.append(index)
        part = stream.shard(num_shards=len(files), index=index) if len(files) > 1 else stream
        for number, row in enumerate(part):
            if number == rows_per_file or rows_left == 0:
                whole = False
                break
            rows_left -= 1
            where = f"file:{index}:row:{number}"
            yield row_document(row, columns, id_name, where, f"{opened.name}, {where}")
    if candidates is not None and whole:
        opened.source["population"] = "all rows of the split"
    elif candidates is not None:
        seen = f"{len(opened_files)} seeded files of {len(files)}"
        population = f"the first rows (at most {rows_per_file:,}) of {seen}"
        opened.source.update(population=population, files_read=sorted(opened_files))
        opened.notes.append(f"{opened.name} was not read whole: the draw is from {population} of its split")


DATASET = "MedRAG/pubmed"
TEXT = "contents"  # title and abstract
ABSTRACT = "content"
WINDOW_BYTES = 32 * 1024  # a line holds title and abstract twice: 3 kB on average
CONNECTIONS = 8
ATTEMPTS_PER_LINE = 4

_NEXT_LINE = re.compile(rb"\n([^\S\n]*\S[^\n]*)\n")  # that is not blank

ReadRange = Callable[[int, int], bytes]
"""(first byte, byte after the last) -> those bytes."""


def open_pubmed(candidates: int | None, seed: int) -> Corpus:
    """Open `pubmed`: a seeded part large enough for a draw of `candidates`, or all of it, in order, for None.

    Raises:
        UserError: the hub cannot be reached or does not give the dataset (also while reading).
    """
    if candidates is None:
        return open_hub_dataset(f"hf:{DATASET}:::{TEXT}", None, seed, name="pubmed")
    revision, files = look_up(DATASET, "pubmed", sizes=True)
    sizes = {name: size for name, size in sorted(files.items()) if name.endswith(".jsonl") and size > 0}
    if not sizes:
        raise UserError(f"pubmed: no jsonl parts in {DATASET} at {revision}; use the path of a file")
    opened = Corpus("pubmed", source={"kind": "hub", "repository": DATASET, "revision": revision})
    opened.documents = guarded(_draw_lines(sizes, candidates, seed, opened), opened, DATASET)
    return opened


def _draw_lines(sizes: dict[str, int], candidates: int, seed: int, opened: Corpus) -> Iterator[Document]:
    wanted = candidates + candidates // 10 + 16  # some are empty or duplicates
    generator = random.Random(f"pubmed {seed}")
    parts = generator.sample(list(sizes), min(len(sizes), wanted))
    population = f"up to {wanted:,} seeded lines of {len(parts):,} seeded parts of {len(sizes):,}"
    opened.notes.append(f"pubmed was not read whole: the draw is from {population}")
    opened.source.update(column=TEXT, parts_total=len(sizes), parts=sorted(parts), population=population)
    turns = islice(cycle(parts), wanted * ATTEMPTS_PER_LINE)
    offsets = [(part, generator.randrange(sizes[part])) for part in turns]
    taken: set[tuple[str, int]] = set()
    pool = ThreadPoolExecutor(CONNECTIONS)
    try:
        # In rounds, and in the order of the offsets: the draw does not depend on which answer is first.
        for begin in range(0, len(offsets), wanted):
            batch = offsets[begin : begin + wanted]
            found = pool.map(lambda at: _fetch_line(opened.source["revision"], sizes, *at), batch)
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
        raise UserError(f"pubmed: {where} of {DATASET} is not a row with {TEXT!r}; use the path of a file") from error
    metadata = metadata_of(row.items(), (TEXT, ABSTRACT, "title", "PMID", "id"))  # the title is in the text
    return Document(row_id(row, "PMID", row_id(row, "id", where)), text, metadata)


def _fetch_line(revision: str, sizes: dict[str, int], part: str, offset: int) -> tuple[int, bytes]:
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_backoff

    url = hf_hub_url(DATASET, part, repo_type="dataset", revision=revision)

    def read(begin: int, end: int) -> bytes:
        # Uncompressed: the range is one of the file's own bytes.
        headers = {**build_hf_headers(), "Range": f"bytes={begin}-{end - 1}", "Accept-Encoding": "identity"}
        response = http_backoff("GET", url, headers=headers, timeout=10, max_retries=2)
        hf_raise_for_status(response)
        content: bytes = response.content
        # A server that ignores ranges sends the file.
        return content if response.status_code == 206 else content[begin:end]

    return line_behind(read, sizes[part], offset)


def line_behind(read: ReadRange, size: int, offset: int) -> tuple[int, bytes]:
    """Return (its first byte, the line) of the first whole line that starts behind an offset.

    Behind the start of the last line comes the first line of the file, so every line has a line before it.

    Args:
        read: reads a range of the file's bytes.
        size: of the file, in bytes.
        offset: 0 <= offset < size.
    """
    # The first line of the file lies behind the byte before it, as if that were a line's end.
    for begin, held in ((offset, b""), (-1, b"\n")):
        while (end := begin + len(held)) < size:
            stop = min(size, end + WINDOW_BYTES)
            held += read(end, stop)
            # The last line may lack its end.
            if line := _NEXT_LINE.search(held + b"\n" if stop == size else held):
                return begin + line.start(1), line[1]
    return 0, b""
