"""The draw: which documents of a corpus are compared on."""

import heapq
import json
from collections.abc import Iterator, Sequence
from hashlib import blake2b, sha256
from os import PathLike
from typing import TYPE_CHECKING

from cka_tools.documents.corpus import Corpus
from cka_tools.documents.corpus_spec import open_corpus
from cka_tools.documents.document import DEFAULT_DOCUMENTS, MINIMUM_DOCUMENTS, Document, DocumentDraw
from cka_tools.documents.shelf import Shelf, Ticket
from cka_tools.errors import UserError

if TYPE_CHECKING:
    import datasets

LARGEST_SEED = 2**63 - 1


def draw_documents(
    corpus: "str | PathLike[str] | Sequence[str] | datasets.Dataset",
    documents: int | None = None,
    seed: int = 42,
) -> DocumentDraw:
    """Draw documents from a corpus: a pure function of its set of texts and the seed.

    Each text gets the key blake2b(text), keyed with the seed, and the documents with the smallest keys are
    drawn, in the order of their keys (bottom-k sampling). So the draw is a simple random sample without
    replacement that does not depend on the order in the file, and draws with different seeds are independent
    of each other. The texts are streamed: only the drawn ones are kept (beyond `TEXT_IN_MEMORY` in a
    temporary file), and 8 bytes (about 100 in a set) of each other one, by which exact duplicates are
    dropped and counted. Of a duplicated text the first id is kept.

    Of `pubmed`, `biomed-enriched` and large `hf:` datasets only a seeded part is read: `source["population"]`
    says of what the draw is a draw.

    Args:
        corpus: a spec (see `corpus_spec`), a path, a list of strings or a `datasets.Dataset`.
        documents: how many; None is `DEFAULT_DOCUMENTS`, or all where there are fewer, with a note.
        seed: a non-negative integer.

    Raises:
        UserError: the corpus cannot be read, has fewer usable documents than asked for or than
            `MINIMUM_DOCUMENTS`, or an argument is out of range.
    """
    wanted = _checked_number(documents)
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= LARGEST_SEED:
        raise UserError(f"seed {seed!r}: give a whole number from 0 to {LARGEST_SEED}")
    opened = open_corpus(corpus, candidates=wanted, seed=seed)
    drawn = _smallest_keys(opened, wanted, seed)
    counts = opened.counts
    for name in ("read", "empty", "duplicates", "usable"):
        counts.setdefault(name, 0)
    counts["drawn"] = len(drawn)
    _check_enough(opened, documents)
    _note_counts(opened, documents)
    return DocumentDraw(
        documents=drawn,
        corpus=opened.name,
        fingerprint=_fingerprint(drawn, counts),
        seed=seed,
        counts=dict(counts),
        source=opened.source,
        notes=opened.notes,
    )


def stream_documents(corpus: "str | PathLike[str] | Sequence[str] | datasets.Dataset") -> Iterator[Document]:
    """Yield every document of a corpus that is not empty, in the corpus's own order, duplicates included.

    Raises:
        UserError: as `draw_documents`, for a corpus that does not exist at once; no document at all.
    """
    return _not_empty(open_corpus(corpus))


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
    if isinstance(documents, bool) or not isinstance(documents, int):
        raise UserError(f"documents {documents!r}: give a whole number of at least {MINIMUM_DOCUMENTS}")
    if documents < MINIMUM_DOCUMENTS:
        raise UserError(
            f"documents {documents}: the debiased estimator needs at least {MINIMUM_DOCUMENTS}; ask for more"
        )
    return documents


def _smallest_keys(opened: Corpus, wanted: int, seed: int) -> Sequence[Document]:
    seen: set[bytes] = set()
    heap: list[tuple[int, Ticket]] = []  # keys negated: the largest kept key is on top, the first to go
    shelf = Shelf()
    secret = seed.to_bytes(8, "big")
    counts = opened.counts
    for document in opened.documents:
        counts["read"] += 1
        if not document.text.strip():
            counts["empty"] += 1
            continue
        try:
            encoded = document.text.encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f"{opened.name}, document {document.id}: character {error.start + 1} is half a surrogate "
                "pair, "
                "which is not text; mend or drop the document"
            ) from error
        digest = blake2b(encoded, digest_size=16, key=secret).digest()
        if digest[:8] in seen:
            counts["duplicates"] += 1
            continue
        seen.add(digest[:8])
        counts["usable"] += 1
        key = int.from_bytes(digest, "big")
        if len(heap) < wanted:
            heapq.heappush(heap, (-key, shelf.put(document)))
        elif key < -heap[0][0]:
            shelf.drop(heap[0][1])
            heapq.heapreplace(heap, (-key, shelf.put(document)))
    heap.sort(key=lambda kept: -kept[0])
    return shelf.arranged([ticket for _, ticket in heap])


def _check_enough(opened: Corpus, documents: int | None) -> None:
    usable = opened.counts["usable"]
    if opened.counts["read"] == 0:
        raise UserError(f"{opened.name}: no document in it; give a corpus with at least {MINIMUM_DOCUMENTS}")
    if usable < MINIMUM_DOCUMENTS:
        raise UserError(
            f"{opened.name}: {_amount(usable, 'usable document')}{_set_aside(opened)}, at least "
            f"{MINIMUM_DOCUMENTS} "
            "are needed; give a larger corpus"
        )
    if documents is not None and usable < documents:
        raise UserError(
            f"{opened.name}: {documents} documents were asked for, it gives {usable} usable ones"
            f"{_set_aside(opened)}; ask for at most {usable}, or give a larger corpus"
        )


_ASIDE = {
    "empty": "empty",
    "duplicates": "exact duplicates",
    "no_abstract": "without abstract",
    "deleted": "deleted",
    "replaced": "replaced by a later version",
}


def _set_aside(opened: Corpus) -> str:
    listed = [f"{opened.counts[name]} {words}" for name, words in _ASIDE.items() if opened.counts[name]]
    return f" of {opened.counts['read']} read ({', '.join(listed)})" if listed else ""


def _note_counts(opened: Corpus, documents: int | None) -> None:
    counts = opened.counts
    if documents is None and counts["usable"] < DEFAULT_DOCUMENTS:
        opened.notes.append(
            f"asked for {DEFAULT_DOCUMENTS} documents by default, the corpus holds {counts['usable']}: "
            "all were taken"
        )
    sentences = {
        "empty": "{} of {} documents were empty or only white space and were left out",
        "duplicates": "{} of {} documents were exact duplicates and were dropped",
        "no_abstract": "{} of {} records have no abstract and were left out",
        "deleted": "{} of {} records are listed as deleted and were left out",
        "replaced": "{} of {} records are replaced by a later version of the same PMID and were left out",
    }
    for name, sentence in sentences.items():
        if counts[name]:
            opened.notes.append(sentence.format(f"{counts[name]:,}", f"{counts['read']:,}"))


def _amount(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _fingerprint(documents: Sequence[Document], counts: dict[str, int]) -> str:
    digest = sha256()
    for document in documents:
        encoded = document.text.encode()
        digest.update(len(encoded).to_bytes(8, "big") + encoded)
    nonzero = {name: value for name, value in counts.items() if value}
    digest.update(json.dumps(nonzero, sort_keys=True).encode())
    return digest.hexdigest()
