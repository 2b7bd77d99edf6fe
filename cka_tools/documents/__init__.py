"""Corpora: from a spec or a path to documents.

The way of a document: `corpus_spec` opens a corpus, a reader (`text_files`, `pubmed_xml`,
`hub`) yields its documents, `draw` keeps those of a seeded draw.
"""

from cka_tools.documents.document import DEFAULT_DOCUMENTS, MINIMUM_DOCUMENTS, Document, DocumentDraw
from cka_tools.documents.draw import draw_documents, stream_documents

__all__ = ["DEFAULT_DOCUMENTS", "MINIMUM_DOCUMENTS", "Document", "DocumentDraw", "draw_documents", "stream_documents"]
