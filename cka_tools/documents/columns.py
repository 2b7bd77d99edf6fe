"""Which column of a table holds the text, and which the id."""

from collections.abc import Iterable

from cka_tools.errors import UserError

# `contents` before `content`: where a corpus has both (as those made for retrieval), `contents` is title and
# content.
TEXT_COLUMNS = (
    "text",
    "contents",
    "content",
    "abstract",
    "abstract_text",
    "body",
    "document",
    "passage",
    "sentence",
)
ID_COLUMNS = ("id", "pmid", "PMID", "doc_id", "document_id", "_id")


def text_column(columns: Iterable[str], where: str) -> str:
    """Return the first of `TEXT_COLUMNS` among the columns, exactly or but for upper case.

    Raises:
        UserError: there is none; the message names the columns found.
    """
    found = list(columns)
    lowered = {name.lower(): name for name in reversed(found)}
    for name in TEXT_COLUMNS:
        if name in found:
            return name
    for name in TEXT_COLUMNS:
        if name in lowered:
            return lowered[name]
    listed = ", ".join(repr(name) for name in found[:12]) + (", …" if len(found) > 12 else "")
    raise UserError(
        f"{where}: no text column among {listed or 'no columns'}; name one of them "
        f"{', '.join(TEXT_COLUMNS[:4])}"
    )


def id_column(columns: Iterable[str]) -> str | None:
    """Return the first of `ID_COLUMNS` among the columns, or None."""
    found = set(columns)
    return next((name for name in ID_COLUMNS if name in found), None)
