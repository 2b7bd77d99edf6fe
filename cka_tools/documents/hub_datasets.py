"""`hf:ID[:config[:split[:column]]]` and `biomed-enriched`: hub datasets, streamed, never downloaded whole.

A draw reads at most `rows_to_read` rows: the first ones of up to `SHARDS` seeded files of the split, as many
of each. A split that has fewer rows is read to its end. What was read is in `source["population"]`. Datasets
that need code of their own are not loaded.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cka_tools.documents.columns import id_column, text_column
from cka_tools.documents.corpus import Corpus
from cka_tools.documents.document import Document
from cka_tools.documents.hub import HubDataset, guarded, hub_errors, look_up, row_id, seeded
from cka_tools.documents.text_files import as_text
from cka_tools.errors import UserError

BIOMED_ENRICHED = "almanach/Biomed-Enriched"
BIOMED_SPLITS = ("commercial", "noncommercial")
SHARDS = 8
LEAST_ROWS = 10_000
ROWS_PER_DOCUMENT = 20


def rows_to_read(candidates: int) -> int:
    """How many rows a draw of so many documents reads at most."""
    return max(LEAST_ROWS, ROWS_PER_DOCUMENT * candidates)


def open_biomed_enriched(spec: str, candidates: int | None, seed: int) -> Corpus:
    """Open `biomed-enriched[:split]`, the split `commercial` unless said; its documents are paragraphs.

    Raises:
        UserError: no such split, or as `open_hub_dataset`.
    """
    split = spec.partition(":")[2] or BIOMED_SPLITS[0]
    if split not in BIOMED_SPLITS:
        raise UserError(f"{spec}: no split {split!r}; give biomed-enriched:{' or :'.join(BIOMED_SPLITS)}")
    return open_hub_dataset(f"hf:{BIOMED_ENRICHED}::{split}:text", candidates, seed, name=spec)


def open_hub_dataset(spec: str, candidates: int | None, seed: int, name: str | None = None) -> Corpus:
    """Open `hf:ID[:config[:split[:column]]]`; a part left empty is chosen: the only split or `train`, the
    text column.

    Raises:
        UserError: the spec does not fit, the hub cannot be reached or does not give the dataset (also while
            reading).
    """
    name = name or spec
    fields = spec.split(":")[1:]
    dataset_id, config, split, column = (*fields, "", "", "", "")[:4]
    if not dataset_id or len(fields) > 4:
        raise UserError(f"{spec!r}: write hf:ID[:config[:split[:column]]], as in hf:org/name::test:text")
    if Path(dataset_id).exists():  # `load_dataset` would take the folder
        raise UserError(f"{name}: {dataset_id!r} is also a path here; give it without hf:, or run elsewhere")
    dataset = look_up(dataset_id, name)
    opened = Corpus(name, source={"kind": "hub", "repository": dataset_id, "revision": dataset.revision})
    with hub_errors(dataset_id, name):
        stream = _load(dataset, config, split, opened)
    opened.documents = guarded(_read(stream, column, candidates, seed, opened), opened, dataset_id)
    return opened


def _load(dataset: HubDataset, config: str, split: str, opened: Corpus) -> Any:
    import datasets

    splits = datasets.load_dataset(dataset.id, config or None, revision=dataset.revision, streaming=True)
    if not split:
        split = "train" if "train" in splits else next(iter(splits))
        if len(splits) > 1:
            opened.notes.append(f"{opened.name}: the draw is from {split!r} of {', '.join(splits)}")
    if split not in splits:
        raise UserError(f"{opened.name}: no split {split!r}; it has {', '.join(splits)}")
    opened.source.update(config=config or None, split=split)
    return splits[split]


def _read(stream: Any, column: str, candidates: int | None, seed: int, opened: Corpus) -> Iterator[Document]:
    names = stream.column_names or list(next(iter(stream), {}))
    if column and column not in names:
        raise UserError(f"{opened.name}: no column {column!r}; it has {', '.join(names)}")
    column = column or text_column(names, opened.name)
    id_name = id_column(names)
    opened.source["column"] = column
    stream = stream.select_columns([column, *([id_name] if id_name else [])])
    files = list(range(stream.num_shards))
    rows_left = rows_per_file = None
    if candidates is not None:
        seeded(opened.source["repository"], seed).shuffle(files)
        rows_left = rows_to_read(candidates)
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
            if rows_left is not None:
                rows_left -= 1
            where = f"file:{index}:row:{number}"
            yield Document(row_id(row, id_name, where), as_text(row[column], f"{opened.name}, {where}"))
    if candidates is not None:
        _record_population(whole, opened_files, len(files), rows_per_file, opened)


def _record_population(
    whole: bool, opened_files: list[int], files: int, rows_per_file: int | None, opened: Corpus
) -> None:
    if whole:
        opened.source["population"] = "all rows of the split"
        return
    population = f"the first rows (at most {rows_per_file:,}) of {len(opened_files)} seeded files of {files}"
    opened.source.update(population=population, files_read=sorted(opened_files))
    opened.notes.append(f"{opened.name} was not read whole: the draw is from {population} of its split")
