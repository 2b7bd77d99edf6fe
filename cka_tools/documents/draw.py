"""The seeded draw of documents, kept in memory up to a limit and beyond it in a spill file."""

from __future__ import annotations

import heapq
import json
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b, sha256
from os import PathLike
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from cka_tools.documents.corpus_spec import open_corpus
from cka_tools.documents.document import DEFAULT_DOCUMENTS, MINIMUM_DOCUMENTS, Corpus, Document, DocumentDraw
from cka_tools.errors import UserError
from cka_tools.formatting import counted
from cka_tools.processes import all_gather, from_first, gather, this_process
from cka_tools.settings import LARGEST_SEED, Reading
from cka_tools.spill_file import SpillFile

if TYPE_CHECKING:
    import datasets


TEXT_IN_MEMORY = 2**30
"""Characters of drawn texts and their metadata that are kept in memory."""

Ticket = Document | int
"""What a text buffer gives for a document: itself, or its place in the spill file."""

_LENGTH = struct.Struct("<Q")


class TextBuffer:
    """Keeps documents until they are asked for or let go.

    Args:
        limit: characters in memory; documents that come when they are reached go to a spill file.
    """

    def __init__(self, limit: int | None = None) -> None:
        self._limit = TEXT_IN_MEMORY if limit is None else limit
        self._in_memory = 0
        self._file: SpillFile | None = None

    def put(self, document: Document) -> Ticket:
        """Keep a document.

        Raises:
            UserError: the disk is full.
        """
        size = _characters(document)
        if self._in_memory + size <= self._limit:
            self._in_memory += size
            return document
        fields = [document.id, document.text, dict(document.metadata)]
        # An id may be half a surrogate pair; a text cannot, or it would not have been drawn.
        record = json.dumps(fields, ensure_ascii=False).encode("utf-8", "surrogatepass")
        self._file = self._file or SpillFile("drawn documents")
        return self._file.write(_LENGTH.pack(len(record)) + record)

    def drop(self, ticket: Ticket) -> None:
        """Let a document go; its bytes in the file stay."""
        if isinstance(ticket, Document):
            self._in_memory -= _characters(ticket)

    def get(self, ticket: Ticket) -> Document:
        """The document of a ticket."""
        if isinstance(ticket, Document):
            return ticket
        assert self._file is not None
        (length,) = _LENGTH.unpack(self._file.read(ticket, _LENGTH.size))
        record = self._file.read(ticket + _LENGTH.size, length)
        return Document(*json.loads(record.decode("utf-8", "surrogatepass")))

    def arranged(self, tickets: Sequence[Ticket]) -> Sequence[Document]:
        """Documents in the order of their tickets: a list where all are in memory."""
        in_memory = [ticket for ticket in tickets if isinstance(ticket, Document)]
        return in_memory if len(in_memory) == len(tickets) else _Buffered(self, tickets)


def _characters(document: Document) -> int:
    return len(document.text) + sum(len(str(value)) for value in document.metadata.values())


class _Buffered(Sequence[Document]):
    """Documents in a text buffer, read when they are asked for."""

    def __init__(self, buffer: TextBuffer, tickets: Sequence[Ticket]) -> None:
        self._buffer, self._tickets = buffer, tickets

    def __len__(self) -> int:
        return len(self._tickets)

    @overload
    def __getitem__(self, index: int) -> Document: ...
    @overload
    def __getitem__(self, index: slice) -> list[Document]: ...
    def __getitem__(self, index: int | slice) -> Document | list[Document]:
        if isinstance(index, slice):
            return [self._buffer.get(ticket) for ticket in self._tickets[index]]
        return self._buffer.get(self._tickets[index])


def draw_documents(
    corpus: str | PathLike[str] | Sequence[str | Mapping[str, Any]] | datasets.Dataset,
    documents: int | None = None,
    seed: int = 42,
    reading: Reading | None = None,
) -> DocumentDraw:
    """Draw documents from a corpus: a pure function of its set of texts and the seed.

    Each text gets the key blake2b(text), keyed with the seed, and the documents with the smallest keys are
    drawn, in the order of their keys (bottom-k sampling). So the draw is a simple random sample without
    replacement that does not depend on the order in the file, and draws with different seeds are independent
    of each other. The texts are streamed: only the drawn ones are kept (beyond `TEXT_IN_MEMORY` in a
    spill file), and 8 bytes (about 100 in a set) of each other one, by which exact duplicates are
    dropped and counted. Of a duplicated text the first id and metadata are kept.

    Of several processes each reads a share of the files, and the first one what is in one piece; all get the draw
    that one process makes.

    Of `pubmed`, `biomed-enriched` and large `hf:` datasets only a seeded part is read: `source["population"]`
    says of what the draw is a draw.

    Args:
        corpus: a spec (see `corpus_spec`), a path, a `datasets.Dataset`, or a list of strings or of
            mappings, each with its text and what else is known of it.
        documents: how many; None is `DEFAULT_DOCUMENTS`, or all where there are fewer, with a note.
        seed: a non-negative integer.
        reading: which columns and units of files are documents (`Settings` is one).

    Raises:
        UserError: the corpus cannot be read, has fewer usable documents than asked for or than
            `MINIMUM_DOCUMENTS`, or an argument is out of range.
    """
    wanted = _checked_number(documents)
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= LARGEST_SEED:
        raise UserError(f"seed {seed!r}: give a whole number from 0 to {LARGEST_SEED}")
    opened, drawn = _read_once(lambda: open_corpus(corpus, wanted, seed, reading), wanted, seed)
    counts = {"read": 0, "empty": 0, "duplicates": 0, "usable": 0} | opened.counts | {"drawn": len(drawn)}
    _check_enough(opened, documents)
    notes = opened.notes + _notes_on_counts(counts, documents)
    return DocumentDraw(drawn, opened.name, _fingerprint(drawn, counts), seed, counts, opened.source, notes)


def stream_documents(
    corpus: str | PathLike[str] | Sequence[str | Mapping[str, Any]] | datasets.Dataset | Corpus,
    reading: Reading | None = None,
) -> Iterator[Document]:
    """Yield every document of a corpus that is not empty, in the corpus's own order, duplicates included.

    Raises:
        UserError: as `draw_documents`, for a corpus that does not exist at once; no document at all.
    """
    return _not_empty(corpus if isinstance(corpus, Corpus) else open_corpus(corpus, reading=reading))


def _not_empty(opened: Corpus) -> Iterator[Document]:
    found = False
    for document in opened.documents:
        if document.text.strip():
            found = True
            yield document
    if not found:
        raise UserError(f"{opened.name}: no document in it; give a corpus with text")


def _checked_number(documents: int | None) -> int:
    if documents is None:
        return DEFAULT_DOCUMENTS
    if isinstance(documents, bool) or not isinstance(documents, int) or documents < MINIMUM_DOCUMENTS:
        raise UserError(f"documents {documents!r}: give a whole number of at least {MINIMUM_DOCUMENTS}")
    return documents


@dataclass
class _Share:
    """The smallest keys of what one process has read.

    Attributes:
        kept: ascending, each with the place of its document in the corpus (part, and number within it).
        seen: the first 8 bytes of the keys of all distinct texts.
    """

    kept: list[tuple[int, tuple[int, int], Ticket]]
    seen: set[bytes]
    buffer: TextBuffer


def _smallest_keys(opened: Corpus, parts: Mapping[int, Iterator[Document]], wanted: int, seed: int) -> _Share:
    seen: set[bytes] = set()
    heap: list[tuple[int, tuple[int, int], Ticket]] = []  # keys negated: the largest is on top, the first to go
    buffer = TextBuffer()
    secret = seed.to_bytes(8, "big")
    counts = opened.counts
    placed = ((part, at, document) for part, read in parts.items() for at, document in enumerate(read))
    for part, at, document in placed:
        counts["read"] += 1
        if not document.text.strip():
            counts["empty"] += 1
            continue
        try:
            encoded = document.text.encode()
        except UnicodeEncodeError as error:
            problem = f"character {error.start + 1} is half a surrogate pair, which is not text"
            where = f"{opened.name}, document {document.id}"
            raise UserError(f"{where}: {problem}; fix or drop the document") from error
        digest = blake2b(encoded, digest_size=16, key=secret).digest()
        if digest[:8] in seen:
            counts["duplicates"] += 1
            continue
        seen.add(digest[:8])
        counts["usable"] += 1
        key = int.from_bytes(digest, "big")
        if len(heap) < wanted:
            heapq.heappush(heap, (-key, (part, at), buffer.put(document)))
        elif key < -heap[0][0]:
            buffer.drop(heap[0][2])
            heapq.heapreplace(heap, (-key, (part, at), buffer.put(document)))
    return _Share(sorted((-key, place, ticket) for key, place, ticket in heap), seen, buffer)


def _read_once(find: Callable[[], Corpus], wanted: int, seed: int) -> tuple[Corpus, Sequence[Document]]:
    """The corpus, read to its end once by all processes together, and the draw.

    Args:
        find: opens the corpus; called beside the first process only where there are parts for others.
    """
    process = this_process()
    opened = Corpus("")

    def first() -> int:
        nonlocal opened
        opened = find()
        return len(opened.parts)

    shared = from_first(first) > 1
    if process.world == 1:
        share = _smallest_keys(opened, {0: opened.documents}, wanted, seed)
        return opened, share.buffer.arranged([ticket for _, _, ticket in share.kept])
    reached, problem = 0, None

    def told(at: int, part: Iterator[Document]) -> Iterator[Document]:
        nonlocal reached
        reached = at
        yield from part

    share = _Share([], set(), TextBuffer())
    try:
        if shared and not process.first:
            opened = find()
        parts = opened.parts if shared else [opened.documents]
        own = {at: told(at, part) for at, part in enumerate(parts) if at % process.world == process.rank}
        share = _smallest_keys(opened, own, wanted, seed)
    except UserError as error:
        problem = (reached, str(error))
    if problems := [one for one in all_gather(problem) if one is not None]:
        raise UserError(min(problems)[1])  # that of the earliest file, as where one process reads all
    return _merged(opened, share, wanted)


def _merged(opened: Corpus, share: _Share, wanted: int) -> tuple[Corpus, Sequence[Document]]:
    """What one process would have drawn, from the shares of all."""
    kept = [(key >> 64, key & _LOW, *place) for key, place, _ in share.kept]
    counted_here = Corpus(opened.name, counts=opened.counts, source=opened.source, notes=opened.notes)
    shares = gather((np.array(kept, dtype=np.uint64).reshape(-1, 4), b"".join(share.seen), counted_here))
    opened, where = from_first(lambda: _merge(shares, wanted))
    tickets, buffer = [ticket for *_, ticket in share.kept], TextBuffer()
    drawn: list[Ticket] = []
    for start in range(0, len(where), _TOLD):
        chunk = enumerate(where[start : start + _TOLD].tolist())
        mine = {at: share.buffer.get(tickets[row]) for at, (rank, row) in chunk if rank == this_process().rank}
        found = {at: document for part in all_gather(mine) for at, document in part.items()}
        drawn += [buffer.put(found[at]) for at in sorted(found)]
    return opened, buffer.arranged(drawn)


_LOW = 2**64 - 1

_TOLD = 1024
"""Drawn documents that processes tell each other at once."""


def _merge(shares: Sequence[tuple[np.ndarray, bytes, Corpus]], wanted: int) -> tuple[Corpus, np.ndarray]:
    """The corpus with what all have counted, and of each drawn document (rank, row of its share)."""
    keys = np.concatenate([kept for kept, _, _ in shares])
    ranks = [np.stack([np.full(len(kept), rank), np.arange(len(kept))], axis=1)
             for rank, (kept, _, _) in enumerate(shares)]  # fmt: skip
    order = np.lexsort(keys.T[::-1])
    order = order[np.unique(keys[order, 0], return_index=True)[1]]  # of a text its first place
    whole = Corpus(shares[0][2].name)
    for _, _, part in shares:
        whole.counts.update(part.counts)
        whole.notes += [note for note in part.notes if note not in whole.notes]
        for name, value in part.source.items():
            whole.source[name] = whole.source.get(name, {}) | value if isinstance(value, dict) else value
    distinct = len(np.unique(np.frombuffer(b"".join(seen for _, seen, _ in shares), np.uint64)))
    whole.counts["duplicates"] += whole.counts["usable"] - distinct
    whole.counts["usable"] = distinct
    return whole, np.concatenate(ranks)[order][:wanted]


def _check_enough(opened: Corpus, documents: int | None) -> None:
    usable, read = opened.counts["usable"], opened.counts["read"]
    if read == 0:
        raise UserError(f"{opened.name}: no document in it; give a corpus with at least {MINIMUM_DOCUMENTS}")
    aside = [f"{opened.counts[name]} {words}" for name, (words, _) in _ASIDE.items() if opened.counts[name]]
    of_all = f" of {read} read ({', '.join(aside)})" if aside else ""
    if usable < MINIMUM_DOCUMENTS:
        found = f"{counted(usable, 'usable document')}{of_all}"
        raise UserError(f"{opened.name}: {found}, at least {MINIMUM_DOCUMENTS} are needed; give a larger corpus")
    if documents is not None and usable < documents:
        raise UserError(
            f"{opened.name}: {documents} documents were asked for, it gives {usable} usable ones{of_all}; "
            f"ask for at most {usable}, or give a larger corpus"
        )


_ASIDE = {
    "empty": ("empty", "documents were empty or only white space and were left out"),
    "duplicates": ("exact duplicates", "documents were exact duplicates and were dropped"),
    "no_abstract": ("without abstract", "records have no abstract and were left out"),
    "deleted": ("deleted", "records are listed as deleted and were left out"),
    "replaced": (
        "replaced by a later version",
        "records are replaced by a later version of the same PMID and were left out",
    ),
}
"""Why a record is not in the draw, in an error and in a note."""


def _notes_on_counts(counts: Mapping[str, int], documents: int | None) -> list[str]:
    notes = []
    if documents is None and counts["usable"] < DEFAULT_DOCUMENTS:
        held = f"the corpus holds {counts['usable']}"
        notes.append(f"asked for {DEFAULT_DOCUMENTS} documents by default, {held}: all were taken")
    for name, (_, words) in _ASIDE.items():
        if counts.get(name):
            notes.append(f"{counts[name]:,} of {counts['read']:,} {words}")
    return notes


def _fingerprint(documents: Sequence[Document], counts: dict[str, int]) -> str:
    digest = sha256()
    for document in documents:
        encoded = document.text.encode()
        digest.update(len(encoded).to_bytes(8, "big") + encoded)
    nonzero = {name: value for name, value in counts.items() if value}
    digest.update(json.dumps(nonzero, sort_keys=True).encode())
    return digest.hexdigest()
