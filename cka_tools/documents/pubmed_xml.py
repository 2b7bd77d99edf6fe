"""Documents from MEDLINE/PubMed XML (`.xml`, `.xml.gz`), streamed record by record.

The format: https://dtd.nlm.nih.gov/ncbi/pubmed/doc/out/250101/. A document is the title and, in a new line
each, the sections of the abstract, a section's label kept as `LABEL: text`. Not in it: `OtherAbstract` (other
languages and other authors), the title in the original language, copyright lines. Its metadata are `journal`
and `year`.
"""

import html.entities
import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from cka_tools.documents.document import Corpus, Document
from cka_tools.documents.open_file import TooLarge, open_bytes
from cka_tools.errors import UserError, one_line
from cka_tools.settings import Reading

ARTICLES = frozenset({"PubmedArticle", "PubmedBookArticle", "MedlineCitation"})
DELETIONS = frozenset({"DeleteCitation", "DeleteDocument"})
NO_LABEL = frozenset({"UNLABELLED", "UNLABELED", "UNASSIGNED"})
CHUNK_BYTES = 1 << 16
TAG_BYTES = 64
"""What an element takes beside its text."""

DELETED = -1


def read_pubmed_xml(files: list[Path], corpus: Corpus, reading: Reading) -> Iterator[Document]:
    """Yield one document per PMID that has an abstract and is not deleted; ids are PMIDs.

    The files count as one, in the order given. Two passes: the first learns what is deleted and which record
    of a PMID counts, the second yields the documents. A citation is known by PMID and version (1 where none is
    given): a deletion drops the records of that version in its own file and in those before it, and of several
    records of one version the last one counts. Of the versions of a PMID that are left the highest counts,
    wherever it stands (NLM Technical Bulletin 384, 2012, e6: numbers rise, single versions may be deleted, and
    PubMed shows the most recent one). `counts` gets `no_abstract`, `deleted` (records dropped), `replaced`;
    `source` gets `deletions_listed`.

    Raises:
        UserError: XML that does not parse, declares entities, or holds no PubMed record.
    """
    last: dict[tuple[str, int], int] = {}
    several: dict[str, set[int]] = {}  # versions of the PMIDs that have others than 1
    listed = position = 0
    limit = reading.document_bytes
    for file in files:
        deleted: set[tuple[str, int]] = set()
        for record in _records(file, limit):
            if record.tag in DELETIONS:
                deleted.update(_citation(element, file) for element in record.iter("PMID"))
                continue
            position += 1
            pmid, version = _citation(_content(record).find("PMID"), file)
            if pmid:
                last[pmid, version] = position
                if version != 1:
                    several.setdefault(pmid, {1}).add(version)
        last.update(dict.fromkeys(deleted, DELETED))
        listed += len(deleted)
    newest = {
        pmid: max((v for v in versions if last.get((pmid, v), DELETED) != DELETED), default=1)
        for pmid, versions in several.items()
    }
    for file in files:
        corpus.source.setdefault("units", {})[file.name] = "titles with abstracts"
    corpus.source["deletions_listed"] = listed

    position = 0
    for file, record in ((one, record) for one in files for record in _records(one, limit)):
        if record.tag in DELETIONS:
            continue
        position += 1
        content = _content(record)
        (pmid, version), sections = _citation(content.find("PMID"), file), _abstract(content)
        counts = last[pmid, version] if pmid else position
        if counts == DELETED:
            corpus.set_aside("deleted")
        elif counts != position or version != newest.get(pmid, version):
            corpus.set_aside("replaced")
        elif not sections:
            corpus.set_aside("no_abstract")
        else:
            text = "\n".join(filter(None, [_title(content), *sections]))
            yield Document(pmid or f"record:{position}", text, _metadata(content))


def _citation(pmid: Element | None, file: Path) -> tuple[str, int]:
    """A PMID, "" where there is none, and its version."""
    version = "1" if pmid is None else pmid.get("Version", "1").strip()
    if not re.fullmatch("[0-9]{1,9}", version):
        raise UserError(f"{file}: PMID {_text(pmid)[:20]!r} has the version {version[:20]!r}, not a number; fix it")
    return _text(pmid), int(version)


def _records(file: Path, limit: int) -> Iterator[Element]:
    """Yield the children of the root that are records, each built on its own and then forgotten.

    The document type's DTD is named but never fetched; a declaration of an entity is refused, so that none
    expands.

    Args:
        limit: bytes of a record.
    """
    parser = expat.ParserCreate()
    parser.buffer_text = True
    finished: list[Element] = []
    root, depth, records, held = "", 0, 0, 0
    builder: TreeBuilder | None = None

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal builder, depth, records, root, held
        root = root or tag
        if depth <= 1 and builder is None and tag in ARTICLES | DELETIONS:
            builder = TreeBuilder()
            records, held = records + 1, 0
        depth += 1
        if builder is not None:
            builder.start(tag, attributes)
            count(TAG_BYTES + sum(map(len, attributes.values())))

    def count(size: int) -> None:
        nonlocal held
        held += size
        if held > limit and builder is not None:
            raise TooLarge(f"{file}, line {parser.CurrentLineNumber}", limit)

    def end(tag: str) -> None:
        nonlocal builder, depth
        depth -= 1
        if builder is not None:
            element = builder.end(tag)
            if depth <= 1 and tag in ARTICLES | DELETIONS:
                finished.append(element)
                builder = None

    def data(text: str) -> None:
        if builder is not None:
            builder.data(text)
            count(len(text))

    def skipped(name: str, is_parameter: bool) -> None:
        # Without its DTD a file may still name a character, as in &nbsp;: the names that HTML has are known.
        if not is_parameter and f"{name};" not in html.entities.html5:
            where = f"{file}, line {parser.CurrentLineNumber}"
            raise UserError(f"{where}: unknown entity &{name}; write the character")
        if not is_parameter:
            data(html.entities.html5[f"{name};"])

    def declared(name: str, *_: object) -> None:
        problem = f"declares the entity {name!r}; entities are not expanded"
        raise UserError(f"{file}: {problem}: remove the declaration")

    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = data
    parser.SkippedEntityHandler = skipped
    parser.EntityDeclHandler = declared
    try:
        with open_bytes(file) as source:
            chunk = None
            while chunk != b"":
                chunk = source.read(CHUNK_BYTES)
                parser.Parse(chunk, not chunk)
                yield from finished
                finished.clear()
    except UserError:
        raise
    except (ValueError, LookupError) as error:
        raise UserError(
            f"{file}: declares an encoding that is not read ({one_line(error)}); convert the file to UTF-8"
        ) from error
    except expat.ExpatError as error:
        reason = expat.errors.messages.get(error.code, str(error))
        where = f"{file}, line {error.lineno}"
        raise UserError(f"{where}: XML that does not parse ({reason}); fetch the file again") from error
    if not records and not re.match("Pubmed(Article|Book)|(Medline|Delete)Citation", root):
        raise UserError(f"{file}: no PubMed record in <{root}>; give MEDLINE/PubMed XML, or the text as .txt or .jsonl")


def _content(record: Element) -> Element:
    """The element that holds PMID and, for a book, the abstract; an empty one where there is none."""
    if record.tag == "MedlineCitation":
        return record
    found = record.find("MedlineCitation" if record.tag == "PubmedArticle" else "BookDocument")
    return Element("none") if found is None else found


def _title(content: Element) -> str:
    paths = ("Article/ArticleTitle", "ArticleTitle", "Book/BookTitle")
    return next(filter(None, (_text(content.find(path)) for path in paths)), "")


def _metadata(content: Element) -> dict[str, str | int]:
    """The journal's name and the year of the issue (of a book, its own), where they are given."""
    found: dict[str, str | int] = {}
    if journal := _text(content.find("Article/Journal/Title")):
        found["journal"] = journal
    for path in ("Article/Journal/JournalIssue/PubDate", "Book/PubDate"):
        # A season or a range is a `MedlineDate`, as in "1998 Dec-1999 Jan".
        date = content.findtext(f"{path}/Year") or content.findtext(f"{path}/MedlineDate") or ""
        if year := re.match(r"\s*(\d{4})\b", date):
            found["year"] = int(year[1])
    return found


def _abstract(content: Element) -> list[str]:
    sections = []
    place = "Abstract" if content.tag == "BookDocument" else "Article/Abstract"
    for element in content.iterfind(f"{place}/AbstractText"):
        label = (element.get("Label") or "").strip()
        if text := _text(element):
            sections.append(f"{label}: {text}" if label and label.upper() not in NO_LABEL else text)
    return sections


def _text(element: Element | None) -> str:
    """The text of an element and of the markup in it (i, b, sup, sub, MathML), white space run together."""
    return "" if element is None else " ".join("".join(element.itertext()).split())
