"""Scoring given documents: the retriever's scores, in the frame that came."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest

from pyterrier_merge.encoding.encoded_vector import EncodedVector
from pyterrier_merge.retrieval.dense.index import FaissIndex

DIM = 24


def vectors(n: int, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, DIM)).astype(np.float32)


@pytest.fixture(params=["float32", "float16"])
def index(request, tmp_path) -> FaissIndex:
    docs = [{"docno": f"d{i * 7 % 200}", "doc_vec": vector} for i, vector in enumerate(vectors(200))]
    return FaissIndex(tmp_path / "index", dtype=request.param, verbose=False).index(docs)


def queries(n: int) -> pd.DataFrame:
    return pd.DataFrame({"qid": [f"q{i}" for i in range(n)], "query": "x", "query_vec": list(vectors(n, seed=1))})


def test_scores_are_the_retrievers_to_the_bit(index, monkeypatch):
    monkeypatch.setattr("pyterrier_merge.retrieval.dense.ranking.BLOCK_BYTES", DIM * 4 * 7)  # seven documents at once
    exact = index.retriever(200)(queries(5))
    given = exact[["qid", "query", "query_vec", "docno"]].sample(frac=1, random_state=0)
    found = index.scorer()(given)
    for qid, expected in exact.groupby("qid"):
        rows = found[found["qid"] == qid]
        assert rows["docno"].tolist() == expected["docno"].tolist()
        assert rows["score"].tolist() == expected["score"].tolist()
        assert rows["rank"].tolist() == list(range(200))
    assert found["qid"].drop_duplicates().tolist() == given["qid"].drop_duplicates().tolist()


def test_other_columns_stay_and_scores_are_replaced(index):
    given = queries(1).merge(
        pd.DataFrame({"docno": ["d3", "d1", "d2"], "text": ["three", "one", "two"], "score": 1.0, "rank": [0, 1, 2]}),
        how="cross",
    )
    found = index.scorer(drop_query_vec=True)(given)
    assert found.columns.tolist() == ["qid", "query", "docno", "text", "score", "rank"]
    assert dict(zip(found["docno"], found["text"], strict=True)) == {"d1": "one", "d2": "two", "d3": "three"}
    stored = {f"d{i * 7 % 200}": vector for i, vector in enumerate(vectors(200))}
    expected = {docno: float(stored[docno] @ vectors(1, seed=1)[0]) for docno in ("d1", "d2", "d3")}
    np.testing.assert_allclose(found["score"], [expected[docno] for docno in found["docno"]], rtol=2e-3)
    assert found["docno"].tolist() == sorted(expected, key=expected.get, reverse=True)
    assert pt.model.add_ranks(found.copy())["rank"].tolist() == found["rank"].tolist() == [0, 1, 2]


def test_equal_scores_are_ordered_by_docno(tmp_path):
    same = vectors(1)[0]
    docs = [{"docno": docno, "doc_vec": same} for docno in ("b", "ä", "a", "文", "ab")]
    index = FaissIndex(tmp_path / "index", verbose=False).index(docs)
    found = index.scorer()(queries(2).merge(pd.DataFrame({"docno": ["文", "b", "ab", "a", "ä"]}), how="cross"))
    assert found["docno"].tolist() == sorted(["b", "ä", "a", "文", "ab"]) * 2


def test_unknown_documents_are_named(index):
    given = queries(1).merge(pd.DataFrame({"docno": ["d1", "nowhere", "d", 7, "d1999", "x"]}), how="cross")
    with pytest.raises(ValueError, match=r"5 of 6 rows have documents that are not in .*: 'nowhere', 'd', 7 "):
        index.scorer()(given)


def test_refuses_broken_vectors_and_other_encoders(index, tmp_path):
    given = queries(1).assign(docno="d1")
    with pytest.raises(ValueError, match=r"query 'q0' has a vector of shape \(3,\)"):
        index.scorer()(given.assign(query_vec=[np.zeros(3)]))
    with pytest.raises(FileNotFoundError, match="no finished index"):
        FaissIndex(tmp_path / "missing").scorer()(given)
    encoded = FaissIndex(tmp_path / "encoded", verbose=False)
    encoded.indexer(encoder=NamedEncoder("one")).index([{"docno": "d1", "text": "t"}])
    with pytest.raises(ValueError, match="encoded with one, the queries with two"):
        encoded.scorer()(given.assign(query_vec=EncodedVector.of(given["query_vec"], "two")))
    with pytest.raises(ValueError, match="encoded with one, the queries with two"):
        (NamedEncoder("two") >> encoded.scorer()).compile()


def test_an_empty_frame_opens_nothing(tmp_path):
    scorer = FaissIndex(tmp_path / "missing").scorer()
    found = scorer(pd.DataFrame(columns=["qid", "query_vec", "docno", "score"]))
    assert found.columns.tolist() == ["qid", "query_vec", "docno", "score", "rank"]
    assert len(found) == 0
    assert "query_vec" not in FaissIndex(tmp_path / "missing").scorer(drop_query_vec=True)(
        pd.DataFrame(columns=["qid", "query_vec", "docno"])
    )


def test_identity_and_pickling(index):
    scorer = index.scorer()
    assert scorer == FaissIndex(index.path).scorer() == pickle.loads(pickle.dumps(scorer))
    assert hash(scorer) == hash(FaissIndex(index.path).scorer())
    assert scorer != index.scorer(drop_query_vec=True)
    assert scorer != index.retriever()


class NamedEncoder(pt.Transformer):
    def __init__(self, fingerprint: str) -> None:
        self.fingerprint = fingerprint

    def encode_docs(self, texts, batch_size=None):
        return vectors(len(texts))

    def transform(self, inp):
        return inp.assign(doc_vec=list(self.encode_docs(inp["text"].tolist())))


ScorerCase = pt.testing.transformer_test_class(lambda: FaissIndex("missing").scorer())
