"""TREC CDS on articles and topics in the published layout, in the folders that ir_datasets caches; and without them."""

from __future__ import annotations

import hashlib
import io
import tarfile

import pytest
from ir_datasets.util import DownloadConfig

from pyterrier_merge.collections import get_collection
from pyterrier_merge.collections.trec_cds import trec_cds_2014, trec_cds_2015, trec_cds_2016

NXML = """<?xml version="1.0"?>
<article><front><journal-meta><journal-title>J. {docno}</journal-title></journal-meta><article-meta>
<title-group><article-title>Title of <italic>{docno}</italic></article-title></title-group>
{abstract}</article-meta></front><body><p>The body
of {docno}.</p></body></article>"""
TOPICS = """<?xml version="1.0" encoding="UTF-8" standalone="no"?>
<topics task="{year} TREC CDS">
  <topic number="1" type="diagnosis">
    {note}<description>Long description
    of {year}</description>
    <summary>Summary of {year}</summary>
  </topic>
</topics>
"""


def tar_gz(docnos):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for docno in docnos:
            abstract = f"<abstract><p>Abstract\nof {docno}.</p></abstract>" if docno != "3" else ""
            content = NXML.format(docno=docno, abstract=abstract).encode()
            member = tarfile.TarInfo(f"pmc-text-00/00/{docno}.nxml")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


@pytest.fixture(scope="module")
def pmc(irds_home):
    """Both snapshots: four archives each, one article an archive; what ir_datasets expects of them is set to them."""
    expected = DownloadConfig.contents()["pmc"]
    changed = pytest.MonkeyPatch()
    for version in ("v1", "v2"):
        for number in range(4):
            entry = expected[f"{version}/source{number}"]
            content = tar_gz([str(number), "9"] if number == 0 else [str(number)])
            path = irds_home / "pmc" / entry["cache_path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            changed.setitem(entry, "size_hint", len(content))
            changed.setitem(entry, "expected_md5", hashlib.md5(content, usedforsecurity=False).hexdigest())
    (irds_home / "pmc" / "v1" / "duplicates-1.txt").write_text("pmc-text-00/00/9.nxml\n")
    (irds_home / "pmc" / "v1" / "duplicates-2.txt").write_text("")
    for year in (2014, 2015, 2016):
        folder = irds_home / "pmc" / f"trec-cds-{year}"
        folder.mkdir()
        note = "<note>78 M w/ pmh of CABG</note>\n" if year == 2016 else ""
        (folder / "queries.xml").write_text(TOPICS.format(year=year, note=note))
        (folder / "qrels").write_text(f"1 0 {year - 2014} 2\n1 0 3 0\n")
    yield irds_home
    changed.undo()


def test_articles(pmc):
    documents = list(trec_cds_2014().corpus_iter())
    assert [doc["docno"] for doc in documents] == ["0", "1", "2", "3"]  # 9 is on the list of duplicates
    assert documents[0] == {
        "docno": "0",
        "title": "Title of 0",
        "journal": "J. 0",
        "text": "Title of 0 Abstract of 0.",
    }
    assert documents[3]["text"] == "Title of 3"
    assert trec_cds_2014().num_docs == 4
    assert trec_cds_2016().num_docs == 5
    assert next(trec_cds_2015(body=True).corpus_iter())["text"] == "Title of 0 Abstract of 0. The body of 0."


def test_topics_and_judgements(pmc):
    assert trec_cds_2014().topics("test").to_dict("records") == [{"qid": "1", "query": "Summary of 2014"}]
    assert trec_cds_2014(topic="description").topics("test")["query"][0] == "Long description of 2014"
    assert trec_cds_2016(topic="note").topics("test")["query"][0] == "78 M w/ pmh of CABG"
    assert trec_cds_2015().qrels("test").values.tolist() == [["1", "1", 2], ["1", "3", 0]]


def test_the_dev_topics_are_another_years(pmc):
    for make, year in ((trec_cds_2014, 2015), (trec_cds_2015, 2014), (trec_cds_2016, 2015)):
        assert make().splits == ("dev", "test")
        assert make().topics("dev")["query"].tolist() == [f"Summary of {year}"]
        assert make().qrels("dev")["docno"].tolist() == [str(year - 2014), "3"]
    assert trec_cds_2016(topic="note").splits == ("test",)


def test_measures_say_what_is_not_computed():
    collection = trec_cds_2014()
    assert [str(measure) for measure in collection.measures] == ["nDCG@10", "P@10", "Rprec"]
    assert "infNDCG" in collection.evaluation


def test_identity_follows_the_text_and_the_snapshot():
    made = [trec_cds_2014(), trec_cds_2015(topic="description"), trec_cds_2014(body=True), trec_cds_2016()]
    assert [made[0].fingerprint == other.fingerprint for other in made] == [True, True, False, False]


def test_unknown_fields_are_refused():
    with pytest.raises(ValueError, match="trec-cds-2014: topic is summary or description, not 'note'"):
        get_collection("trec-cds-2014", topic="note")
    with pytest.raises(ValueError, match="trec-cds-2016: topic is summary or description or note, not 'text'"):
        get_collection("trec-cds-2016", topic="text")
