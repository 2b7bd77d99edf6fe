"""Documents from MEDLINE/PubMed XML (`.xml`, `.xml.gz`), streamed record by record.

The format: https://dtd.nlm.nih.gov/ncbi/pubmed/doc/out/250101/. A document is the title and, in a new line
each, the sections of the abstract, a section's label kept as `LABEL: text`. Not in it: `OtherAbstract` (other
languages and other authors), the title in the original language, copyright lines. Its metadata are `journal`
and `year`.
"""

import html
import html.entities
import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from cka_tools.documents.document import Corpus, Document
from cka_tools.documents.text_files import open_bytes
from cka_tools.errors import UserError

ARTICLES = frozenset({"PubmedArticle", "PubmedBookArticle", "MedlineCitation"})
DELETIONS = frozenset({"DeleteCitation", "DeleteDocument"})
NO_LABEL = frozenset({"UNLABELLED", "UNLABELED", "UNASSIGNED"})
CHUNK_BYTES = 1 << 16
DELETED = -1


def read_pubmed_xml(files: list[Path], corpus: Corpus) -> Iterator[Document]:
    """Yield one document per PMID that has an abstract and is not deleted; ids are PMIDs.

    The files count as one, in the order given. Two passes: the first learns which PMIDs are deleted and which
    record of a PMID is its last, the second yields the documents. A deletion drops the records of its own
    file and of those before it; of several records of one PMID (its versions) the last one counts. `counts`
    gets `no_abstract`, `deleted` (records dropped), `replaced`; `source` gets `deletions_listed`.

    Raises:
        UserError: XML that does not parse, declares entities, or holds no PubMed record.
    """
    last: dict[str, int] = {}
    listed = position = 0
    for file in files:
        deleted: set[str] = set()
        for record in _records([file]):
            if record.tag in DELETIONS:
                deleted.update(_text(element) for element in record.iter("PMID"))
            else:
                position += 1
                if pmid := _pmid(record):
                    last[pmid] = position
        last.update(dict.fromkeys(deleted, DELETED))
        listed += len(deleted)
    corpus.source["deletions_listed"] = listed

    position = 0
    for record in _records(files):
        if record.tag in DELETIONS:
            continue
        position += 1
        pmid = _pmid(record)
        if pmid and last[pmid] != position:
            corpus.set_aside("deleted" if last[pmid] == DELETED else "replaced")
            continue
        sections = _abstract(record)
        if not sections:
            corpus.set_aside("no_abstract")
            continue
        title = _title(record)
        text = "\n".join([title, *sections] if title else sections)
        yield Document(pmid or f"record:{position}", text, _metadata(record))


def _records(files: list[Path]) -> Iterator[Element]:
    for file in files:
        root: list[str] = []
        found = False
        for record in _parse(file, root):
            found = True
            yield record
        if not found and not root[0].startswith(
            ("PubmedArticle", "PubmedBook", "MedlineCitation", "DeleteCitation")
        ):
            raise UserError(
                f"{file}: no PubMed record in <{root[0]}>; give MEDLINE/PubMed XML, or the text as .txt "
                "or .jsonl"
            )


def _parse(file: Path, root: list[str]) -> Iterator[Element]:
    """Yield the children of the root that are records, each built on its own and then forgotten.

    The document type's DTD is named but never fetched; a declaration of an entity is refused, so that none
    expands.
    """
    parser = expat.ParserCreate()
    parser.buffer_text = True
    finished: list[Element] = []
    path: list[str] = []
    builder: TreeBuilder | None = None

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal builder
        if not path:
            root.append(tag)
        if len(path) <= 1 and builder is None and (tag in ARTICLES or tag in DELETIONS):
            builder = TreeBuilder()
        path.append(tag)
        if builder is not None:
            builder.start(tag, attributes)

    def end(tag: str) -> None:
        nonlocal builder
        path.pop()
        if builder is not None:
            element = builder.end(tag)
            if len(path) <= 1 and (tag in ARTICLES or tag in DELETIONS):
                finished.append(element)
                builder = None

    def data(text: str) -> None:
        if builder is not None:
            builder.data(text)

    def skipped(name: str, is_parameter: bool) -> None:
        # Without its DTD a file may still name a character, as in &nbsp;: the names that HTML has are known.
        if not is_parameter:
            if f"{name};" not in html.entities.html5:
                raise UserError(
                    f"{file}, line {parser.CurrentLineNumber}: unknown entity &{name}; write the character"
                )
            data(html.unescape(f"&{name};"))

    def declared(name: str, *_: object) -> None:
        raise UserError(
            f"{file}: declares the entity {name!r}; entities are not expanded: remove the declaration"
        )

    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = data
    parser.SkippedEntityHandler = skipped
    parser.EntityDeclHandler = declared
    try:
        with open_bytes(file) as source:
            while chunk := source.read(CHUNK_BYTES):
                parser.Parse(chunk, False)
                yield from finished
                finished.clear()
            parser.Parse(b"", True)
            yield from finished
    except expat.ExpatError as error:
        reason = expat.errors.messages.get(error.code, str(error))
        raise UserError(
            f"{file}, line {error.lineno}: XML that does not parse ({reason}); fetch the file again"
        ) from error


def _content(record: Element) -> Element | None:
    """The element that holds PMID and, for a book, the abstract."""
    if record.tag == "MedlineCitation":
        return record
    return record.find("MedlineCitation" if record.tag == "PubmedArticle" else "BookDocument")


def _pmid(record: Element) -> str:
    content = _content(record)
    element = content.find("PMID") if content is not None else None
    return _text(element) if element is not None else ""


def _title(record: Element) -> str:
    for path in (
        "MedlineCitation/Article/ArticleTitle",
        "Article/ArticleTitle",
        "BookDocument/ArticleTitle",
        "BookDocument/Book/BookTitle",
    ):
        element = record.find(path)
        if element is not None and (title := _text(element)):
            return title
    return ""


def _metadata(record: Element) -> dict[str, str | int]:
    """The journal's name and the year of the issue (of a book, its own), where they are given."""
    content = _content(record)
    if content is None:
        return {}
    found: dict[str, str | int] = {}
    if journal := content.findtext("Article/Journal/Title"):
        found["journal"] = " ".join(journal.split())
    for path in ("Article/Journal/JournalIssue/PubDate", "Book/PubDate"):
        # A season or a range is a `MedlineDate`, as in "1998 Dec-1999 Jan".
        date = content.findtext(f"{path}/Year") or content.findtext(f"{path}/MedlineDate") or ""
        if year := re.match(r"\s*(\d{4})\b", date):
            found["year"] = int(year[1])
    return found


def _abstract(record: Element) -> list[str]:
    content = _content(record)
    if content is None:
        return []
    sections = []
    holder = content if record.tag == "PubmedBookArticle" else content.find("Article")
    for element in holder.iterfind("Abstract/AbstractText") if holder is not None else ():
        text = _text(element)
        label = (element.get("Label") or "").strip()
        if text:
            sections.append(f"{label}: {text}" if label and label.upper() not in NO_LABEL else text)
    return sections


def _text(element: Element) -> str:
    """The text of an element and of the markup in it (i, b, sup, sub, MathML), white space run together."""
    return " ".join("".join(element.itertext()).split())
