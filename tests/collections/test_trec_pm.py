"""TREC PM 2017: the real topics and judgements, and abstracts in the layout that ir_datasets caches."""

from __future__ import annotations

import shutil

import published
import pytest

from pyterrier_merge.collections import get_collection
from pyterrier_merge.collections.trec_pm import trec_cds_2017, trec_pm_2017


@pytest.fixture
def medline(irds_home):
    """Five parts of MEDLINE with a citation each, and an abstract of a conference."""
    changed = pytest.MonkeyPatch()
    extra = published.conference({"ASCO_1-1": {"title": "A trial", "abstract": "It worked."}})
    published.put(changed, irds_home, "medline", "2017/aacr_asco_extra", extra)
    for number in range(1, 6):
        docno, title = str(number) * 8, "<i>In vitro</i>" if number == 2 else f"On part{number}"
        content = published.citations({docno: {"title": title, "abstract": f"Abstract of {docno}."}})
        published.put(changed, irds_home, "medline", f"2017/part{number}", content)
    yield irds_home / "medline" / "2017"
    changed.undo()
    shutil.rmtree(irds_home / "medline" / "2017")


def test_abstracts(medline):
    documents = {doc["docno"]: doc["text"] for doc in trec_pm_2017().corpus_iter()}
    assert documents == {
        "ASCO_1-1": "A trial It worked.",
        "11111111": "On part1 Abstract of 11111111.",
        "22222222": "Abstract of 22222222.",  # ir_datasets loses a title that begins with markup
        **{f"{n}" * 8: f"On part{n} Abstract of {str(n) * 8}." for n in (3, 4, 5)},
    }
    assert trec_pm_2017().num_docs == 6


def test_a_truncated_archive_is_not_taken_for_a_whole_one(medline):
    """A tar stream that ends early reads like one that ends: the size and the checksum must be looked at."""
    part = medline / "part3.tar.gz"
    part.write_bytes(part.read_bytes()[:-40])
    with pytest.raises(RuntimeError, match=r"part3\.tar\.gz is truncated or another file: it has .* MD5 .* delete it"):
        next(trec_pm_2017().corpus_iter())


def test_nothing_large_is_fetched_without_a_yes(monkeypatch, irds_home):
    monkeypatch.delenv("PYTERRIER_MERGE_DOWNLOAD", raising=False)
    monkeypatch.setattr("ir_datasets.util.RequestsDownload.stream", lambda _: pytest.fail("a download began"))
    for attempt in (lambda: next(trec_pm_2017().corpus_iter()), lambda: trec_pm_2017().num_docs):
        with pytest.raises(RuntimeError, match="trec-pm-2017 needs the files of medline/2017") as caught:
            attempt()
        for part in (
            "22.3 GB from https://bionlp",
            "part5.tar.gz",
            "get_collection('trec-pm-2017', download=True)",
            "PYTERRIER_MERGE_DOWNLOAD=1",
            str(irds_home / "medline" / "2017" / "part1.tar.gz"),
        ):
            assert part in str(caught.value)
    assert not (irds_home / "medline" / "2017" / "part1.tar.gz").exists()


def test_real_topics_and_judgements(shared):
    collection = get_collection("trec-pm-2017", path=str(shared / "trec_pm_2017"))
    topics, qrels = collection.topics("test"), collection.qrels("test")
    assert len(topics) == 30
    assert topics["query"][0] == "Liposarcoma CDK4 Amplification 38-year-old male GERD"
    assert topics["query"][2] == "Meningioma NF2 (K322), AKT1(E17K) 45-year-old female"  # its "other" is None
    assert len(qrels) == 22_642
    assert qrels["label"].value_counts().to_dict() == {0: 18_767, 2: 2_022, 1: 1_853}
    short = get_collection("trec-pm-2017", path=str(shared / "trec_pm_2017"), fields=["disease", "gene"])
    assert short.topics("test")["query"][0] == "Liposarcoma CDK4 Amplification"
    assert short.fingerprint == collection.fingerprint


def test_dev_is_2018(shared, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected one file topics2018\.xml in .* found none"):
        trec_pm_2017(path=shared / "trec_pm_2017").topics("dev")
    topic = {"qid": "1", "disease": "melanoma", "gene": "BRAF", "demographic": "64-year-old"}
    (tmp_path / "topics2018.xml").write_text(published.pm_topics([topic]))
    (tmp_path / "qrels-treceval-abstracts-2018-v2.txt").write_text(published.trec_qrels([("1", "7", 2)]))
    collection = trec_pm_2017(path=tmp_path)
    assert collection.topics("dev").values.tolist() == [["1", "melanoma BRAF 64-year-old"]]
    assert collection.qrels("dev").values.tolist() == [["1", "7", 2]]


@pytest.mark.parametrize(
    ("topics", "message"),
    [
        (
            '<topic number="1"><summary>x</summary></topic>',
            "no topic has demographic or disease or gene; there are qid",
        ),
        (
            '<topic number="1"><disease>x</disease><gene>y</gene><demographic>z</demographic></topic>' * 2,
            r"topics2017\.xml: qid '1' occurs twice",
        ),
    ],
)
def test_wrong_topics(tmp_path, topics, message):
    (tmp_path / "topics2017.xml").write_text(f"<topics>{topics}</topics>")
    with pytest.raises(ValueError, match=message):
        trec_pm_2017(path=tmp_path).topics("test")


def test_the_other_name_says_what_it_is():
    assert trec_cds_2017().name == "trec-cds-2017"
    assert trec_cds_2017().title.startswith("TREC Precision Medicine 2017, the successor of the CDS track")
    assert trec_cds_2017().fingerprint == trec_pm_2017().fingerprint


@pytest.mark.parametrize("fields", ["disease", [], ["illness"], ["gene", "gene"]])
def test_wrong_fields(fields):
    with pytest.raises(ValueError, match="fields are some of disease, gene, demographic, other, each once, found"):
        trec_pm_2017(fields=fields)


def test_wrong_places(tmp_path):
    with pytest.raises(ValueError, match="'other' alone makes no query"):
        trec_pm_2017(fields=["other"])
    with pytest.raises(FileNotFoundError, match=r"trec-pm-2017: there is no folder .*nowhere"):
        trec_pm_2017(path=tmp_path / "nowhere")
