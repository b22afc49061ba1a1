"""TREC CDS on articles and topics in the published layout, in the folders that ir_datasets caches; and without them."""

from __future__ import annotations

import published
import pytest

from pyterrier_merge.collections import get_collection
from pyterrier_merge.collections.trec_cds import trec_cds_2014, trec_cds_2015, trec_cds_2016


def articles(*docnos):
    return published.articles(
        {
            docno: {
                "title": f"Title of <italic>{docno}</italic>",
                "abstract": f"Abstract\nof {docno}." if docno != "3" else "",
                "body": f"The body\nof {docno}.",
            }
            for docno in docnos
        }
    )


@pytest.fixture(scope="module")
def pmc(irds_home):
    """Both snapshots: four archives each, one article an archive; what ir_datasets expects of them is set to them."""
    changed = pytest.MonkeyPatch()
    for version in ("v1", "v2"):
        for number in range(4):
            content = articles(str(number), "9") if number == 0 else articles(str(number))
            published.put(changed, irds_home, "pmc", f"{version}/source{number}", content)
    (irds_home / "pmc" / "v1" / "duplicates-1.txt").write_text("pmc-text-00/00/9.nxml\n")
    (irds_home / "pmc" / "v1" / "duplicates-2.txt").write_text("")
    for year in (2014, 2015, 2016):
        folder = irds_home / "pmc" / f"trec-cds-{year}"
        folder.mkdir()
        topic = {"qid": "1", "description": f"Long description\n    of {year}", "summary": f"Summary of {year}"}
        topic |= {"note": "78 M w/ pmh of CABG"} if year == 2016 else {}
        (folder / "queries.xml").write_text(published.cds_topics(year, [topic]))
        (folder / "qrels").write_text(published.trec_qrels([("1", str(year - 2014), 2), ("1", "3", 0)]))
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
