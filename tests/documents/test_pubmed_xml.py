"""MEDLINE/PubMed XML as it comes: labels, markup, books, deletions, versions, and what must be refused."""

import gzip
import tracemalloc

import pytest

from cka_tools.documents import draw_documents, stream_documents
from cka_tools.errors import UserError
from cka_tools.settings import Reading

HEAD = """<?xml version="1.0" encoding="utf-8"?>
<!DOCTYPE PubmedArticleSet PUBLIC "-//NLM//DTD PubMedArticle, 1st January 2025//EN"
 "https://dtd.invalid/pubmed_250101.dtd">
"""


def article(pmid, abstract, title="A title.", version=1, more=""):
    abstract = f"<Abstract>{abstract}<CopyrightInformation>(c) us</CopyrightInformation></Abstract>" if abstract else ""
    return f"""<PubmedArticle>
  <MedlineCitation Status="MEDLINE" Owner="NLM">
    <PMID Version="{version}">{pmid}</PMID>
    <Article PubModel="Print"><Journal><Title>J</Title></Journal><ArticleTitle>{title}</ArticleTitle>
      {abstract}<VernacularTitle>Titre</VernacularTitle></Article>{more}
    <CommentsCorrectionsList><CommentsCorrections><PMID Version="1">999</PMID></CommentsCorrections>
    </CommentsCorrectionsList>
  </MedlineCitation>
  <PubmedData><ArticleIdList><ArticleId IdType="pubmed">{pmid}</ArticleId></ArticleIdList></PubmedData>
</PubmedArticle>"""


def text(words):
    return f"<AbstractText>{words}</AbstractText>"


def write(path, *records, head=HEAD, root="PubmedArticleSet"):
    content = f"{head}<{root}>{''.join(records)}</{root}>".encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def read(path):
    return {document.id: document.text for document in stream_documents(path)}


def test_sections_keep_their_labels_and_markup_keeps_its_text(tmp_path):
    abstract = (
        '<AbstractText Label="BACKGROUND" NlmCategory="BACKGROUND">'
        "CO<sub>2</sub> and <i>E.\n   coli</i>.</AbstractText>"
        '<AbstractText Label="UNLABELLED">x<sup>2</sup> &lt; 5 &#x3b1;, <b>p<i>q</i></b>r</AbstractText>'
        '<AbstractText Label="RESULTS"/>'
        '<AbstractText Label="CONCLUSION"><mml:math xmlns:mml="m"><mml:mi>a</mml:mi>'
        "<mml:mo>=</mml:mo></mml:math> b</AbstractText>"
    )
    path = write(tmp_path / "a.xml", article(1, abstract, title="On <i>BRCA1</i> and H<sub>2</sub>O."))
    assert read(path) == {"1": "On BRCA1 and H2O.\nBACKGROUND: CO2 and E. coli.\nx2 < 5 α, pqr\nCONCLUSION: a= b"}


def test_missing_abstracts_are_counted_and_other_abstracts_are_not_mixed_in(tmp_path):
    other = '<OtherAbstract Type="Publisher" Language="fre"><AbstractText>Autre.</AbstractText></OtherAbstract>'
    records = [article(number, text(f"Abstract {number}."), more=other) for number in range(10, 16)]
    records += [article(20, ""), article(21, "", more=other), article(22, "<AbstractText> </AbstractText>")]
    draw = draw_documents(write(tmp_path / "a.xml", *records))
    assert draw.counts["read"] == 9
    assert draw.counts["no_abstract"] == 3
    assert draw.counts["drawn"] == 6
    assert not any("Autre" in document.text or "(c)" in document.text for document in draw.documents)
    assert any("3 of 9 records have no abstract" in note for note in draw.notes)


BOOK = """<PubmedBookArticle><BookDocument>{}<Abstract>{}</Abstract></BookDocument><PubmedBookData/>
</PubmedBookArticle>"""


def test_book_records_and_bare_citations_are_read(tmp_path):
    of_book = '<PMID Version="1">{}</PMID><Book><BookTitle>Whole <i>book</i></BookTitle></Book>'
    chapter = of_book.format(500) + "<ArticleTitle>A <i>gene</i></ArticleTitle>"
    records = [
        BOOK.format(chapter, '<AbstractText Label="SUMMARY">In short.</AbstractText>'),
        BOOK.format(of_book.format(501), text("All of it.")),
        BOOK.format(of_book.format(502), ""),
    ]
    path = write(tmp_path / "a.xml", *records)
    assert read(path) == {"500": "A gene\nSUMMARY: In short.", "501": "Whole book\nAll of it."}
    citation = f"""<MedlineCitation><PMID>7</PMID><Article><ArticleTitle>Old</ArticleTitle>
      <Abstract>{text("Text.")}</Abstract></Article></MedlineCitation>"""
    assert read(write(tmp_path / "b.xml", citation, root="MedlineCitationSet")) == {"7": "Old\nText."}


def test_deleted_records_and_earlier_versions_are_dropped_and_counted(tmp_path):
    records = [article(number, text(f"Abstract {number}.")) for number in range(1, 9)]
    records += [article(3, text("Corrected."), version=2)]
    records += ["<DeleteCitation><PMID Version='1'>5</PMID><PMID Version='1'>777</PMID></DeleteCitation>"]
    draw = draw_documents(write(tmp_path / "a.xml.gz", *records))
    kept = {document.id: document.text for document in draw.documents}
    assert sorted(kept) == ["1", "2", "3", "4", "6", "7", "8"]
    assert kept["3"] == "A title.\nCorrected."
    counts = draw.counts
    assert (counts["deleted"], counts["replaced"], counts["usable"], counts["read"]) == (1, 1, 7, 9)
    assert draw.source["deletions_listed"] == 2


def test_a_folder_of_files_is_read_as_one_history(tmp_path):
    write(tmp_path / "n1.xml", *(article(number, text(f"First {number}.")) for number in (1, 2, 3)))
    write(tmp_path / "n2.xml.gz", article(2, text("Second 2.")), "<DeleteCitation><PMID>3</PMID></DeleteCitation>")
    write(tmp_path / "n3.xml", article(3, text("Third 3.")), article(4, ""))
    assert {pmid: words.split("\n")[1] for pmid, words in read(tmp_path).items()} == {
        "1": "First 1.",
        "2": "Second 2.",
        "3": "Third 3.",
    }


def test_the_highest_version_counts_wherever_it_stands(tmp_path):
    records = [article(1, text(f"Version {number}."), version=number) for number in (2, 10, 1)]
    assert read(write(tmp_path / "a.xml", *records)) == {"1": "A title.\nVersion 10."}
    assert (
        draw_documents(write(tmp_path / "b.xml", *records, *(article(n, text(f"{n}")) for n in (2, 3, 4)))).counts[
            "replaced"
        ]
        == 2
    )


def test_a_deletion_of_one_version_deletes_that_one(tmp_path):
    records = [article(1, text(f"Version {number}."), version=number) for number in (1, 2, 3)]
    deletion = "<DeleteCitation><PMID Version='{}'>1</PMID></DeleteCitation>"
    for deleted, left in ((1, 3), (2, 3), (3, 2)):
        path = write(tmp_path / f"{deleted}.xml", *records, deletion.format(deleted))
        assert read(path) == {"1": f"A title.\nVersion {left}."}
    everything = [deletion.format(number) for number in (1, 2, 3)]
    others = [article(n, text(f"{n}")) for n in (2, 3, 4, 5)]
    assert sorted(read(write(tmp_path / "all.xml", *records, *others, *everything))) == ["2", "3", "4", "5"]


@pytest.mark.parametrize("encoding", ["GBK", "UTF-7", "utf-32", "nonsense", "big5"])
def test_an_encoding_that_is_not_read_is_named_in_one_line(tmp_path, encoding):
    path = tmp_path / "a.xml"
    path.write_bytes(f'<?xml version="1.0" encoding="{encoding}"?><PubmedArticleSet/>'.encode())
    with pytest.raises(UserError, match=r"encoding that is not read|does not parse") as error:
        read(path)
    assert "\n" not in str(error.value)


def test_a_record_beyond_the_limit_is_refused_before_it_is_held(tmp_path):
    path = tmp_path / "a.xml.gz"
    with gzip.open(path, "wb") as file:
        file.write(HEAD.encode() + b"<PubmedArticleSet><PubmedArticle><MedlineCitation><PMID>1</PMID>")
        for _ in range(40):
            file.write(b"<a>" * 10_000 + b"words " * 10_000)
    with pytest.raises(UserError, match=r"longer than 1.0 MiB.*--document-limit"):
        list(stream_documents(path, Reading(document_limit="1MiB")))


def test_a_version_that_is_no_number_is_refused(tmp_path):
    with pytest.raises(UserError, match="version 'two', not a number"):
        read(write(tmp_path / "a.xml", article(1, text("x"), version="two")))


def test_html_entity_names_are_characters_where_the_dtd_is_not_read(tmp_path):
    path = write(tmp_path / "a.xml", article(1, text("a&nbsp;b &alpha; &amp;")))
    assert read(path) == {"1": "A title.\na b α &"}
    with pytest.raises(UserError, match="unknown entity &nosuch;"):
        read(write(tmp_path / "b.xml", article(1, text("&nosuch;"))))


BOMB = '<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">'


@pytest.mark.parametrize(
    ("declarations", "words"),
    [
        (BOMB, "&b;"),
        ('<!ENTITY secret SYSTEM "file:///etc/passwd">', "&secret;"),
        ('<!ENTITY % remote SYSTEM "http://127.0.0.1:9/x.dtd"> %remote;', "x"),
    ],
)
def test_declared_entities_are_refused(tmp_path, declarations, words):
    head = f'<?xml version="1.0"?><!DOCTYPE PubmedArticleSet [{declarations}]>'
    with pytest.raises(UserError, match="declares the entity") as error:
        read(write(tmp_path / "a.xml", article(1, text(words)), head=head))
    assert "root:" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"<PubmedArticleSet>\n<PubmedArticle></PubmedArticleSet>", r"line 2: .* \(mismatched tag\)"),
        (b"<PubmedArticleSet>\n<PubmedArticle>", r"line 2: .* \(no element found\)"),
        (b"plain text", r"line 1: .* \(syntax error\)"),
        (b"<html><body>Not found</body></html>", "no PubMed record in <html>"),
        (b"<PubmedArticleSet></PubmedArticleSet>", "no document"),
        (b"\x89PNG\r\n\x1a\n\0\0", "does not parse"),
    ],
)
def test_xml_that_does_not_do_is_named_in_one_line(tmp_path, content, message):
    path = tmp_path / "a.xml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        draw_documents(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_broken_archive_is_named(tmp_path):
    path = write(tmp_path / "a.xml.gz", *(article(number, text("Text.")) for number in range(2000)))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="broken gzip"):
        draw_documents(path)


def test_memory_does_not_grow_with_the_file(tmp_path):
    def peak(records):
        path = write(tmp_path / f"{records}.xml", *(article(n, text("Some words. " * 100)) for n in range(records)))
        tracemalloc.start()
        for _ in stream_documents(path):
            pass
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most, path.stat().st_size

    small, _ = peak(200)
    large, size = peak(2000)
    # Only the PMIDs are kept: about 150 bytes a record, of its 1,700 in the file.
    assert large - small < 1800 * 300 < size / 4
