"""Drawn documents, in memory up to a limit and beyond it in a temporary file."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any, overload

from cka_tools.documents.document import Document
from cka_tools.nameless_file import nameless_file, write_at

TEXT_IN_MEMORY = 2**30
"""Characters of drawn texts that are kept in memory."""

Ticket = Document | int
"""What a shelf gives for a document: itself, or its place in the file."""

WHAT = "drawn documents"
"""What the file holds, as an error says it."""

_HEAD = struct.Struct("<QQ")


class Shelf:
    """Keeps documents until they are asked for or let go.

    Args:
        limit: characters in memory; documents that come when they are reached go to the file.
    """

    def __init__(self, limit: int | None = None) -> None:
        self._limit = TEXT_IN_MEMORY if limit is None else limit
        self._in_memory = self._end = 0
        self._file: Any = None

    def put(self, document: Document) -> Ticket:
        """Keep a document.

        Raises:
            UserError: the disk is full.
        """
        if self._in_memory + len(document.text) <= self._limit:
            self._in_memory += len(document.text)
            return document
        # An id may be half a surrogate pair; a text cannot, or it would not have been drawn.
        name, text = (part.encode("utf-8", "surrogatepass") for part in (document.id, document.text))
        record = _HEAD.pack(len(name), len(text)) + name + text
        if self._file is None:
            self._file = nameless_file(WHAT)
        place, self._end = self._end, self._end + len(record)
        write_at(self._file, place, record, WHAT, self._end)
        return place

    def drop(self, ticket: Ticket) -> None:
        """Let a document go; its bytes in the file stay."""
        if isinstance(ticket, Document):
            self._in_memory -= len(ticket.text)

    def get(self, ticket: Ticket) -> Document:
        """The document of a ticket."""
        if isinstance(ticket, Document):
            return ticket
        self._file.seek(ticket)
        of_name, of_text = _HEAD.unpack(self._file.read(_HEAD.size))
        both = self._file.read(of_name + of_text)
        return Document(*(part.decode("utf-8", "surrogatepass") for part in (both[:of_name], both[of_name:])))

    def arranged(self, tickets: Sequence[Ticket]) -> Sequence[Document]:
        """Documents in the order of their tickets: a list where all are in memory."""
        in_memory = [ticket for ticket in tickets if isinstance(ticket, Document)]
        return in_memory if len(in_memory) == len(tickets) else _Shelved(self, tickets)


class _Shelved(Sequence[Document]):
    """Documents on a shelf, read when they are asked for."""

    def __init__(self, shelf: Shelf, tickets: Sequence[Ticket]) -> None:
        self._shelf, self._tickets = shelf, tickets

    def __len__(self) -> int:
        return len(self._tickets)

    @overload
    def __getitem__(self, index: int) -> Document: ...
    @overload
    def __getitem__(self, index: slice) -> list[Document]: ...
    def __getitem__(self, index: int | slice) -> Document | list[Document]:
        if isinstance(index, slice):
            return [self._shelf.get(ticket) for ticket in self._tickets[index]]
        return self._shelf.get(self._tickets[index])

    def __iter__(self) -> Iterator[Document]:
        return map(self._shelf.get, self._tickets)
